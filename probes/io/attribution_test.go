package io_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
	"culprit/probes/snapshot"
)

const mib = 1 << 20

var fileSystems = []string{"ext4", "xfs", "btrfs"}

// wrote holds a process to exactly so many bytes of writeback on a device.
func wrote(t *testing.T, w *livetest.Watch, comm, device string, want uint64) {
	t.Helper()
	if got := w.Row(comm, device).WriteVia.Writeback; got != want {
		t.Errorf("%s on %s: %d bytes of writeback, want %d (off by %d)", comm, device, got, want, int64(got-want))
		w.LogRows(device, 8)
		t.Logf("lost: %v", w.Losses())
	}
}

// Whoever dirtied a file is charged its writeback, to the byte, when it has long exited and
// another process has everything written.
func TestWritebackIsTheDirtiers(t *testing.T) {
	size := livetest.Less(64 * mib)
	for _, fs := range fileSystems {
		t.Run(fs, func(t *testing.T) {
			disk := livetest.NewDisk(t, fs, 1024)
			w := livetest.CommonWatch(t)
			both := func(t *testing.T, job string, args func(which int, name string) []any) {
				w.Measure(func(try int) {
					name := disk.Path(fmt.Sprint(job, try))
					a := livetest.Start(t, "writer-a", job, args(0, name)...)
					b := livetest.Start(t, "writer-b", job, args(1, name)...)
					a.Wait()
					b.Wait()
					w.Collect(3)
					w.Sync()
					disk.Clear(t)
				})
			}
			t.Run("own files", func(t *testing.T) {
				both(t, "write", func(which int, name string) []any { return []any{fmt.Sprint(name, "-", which), size} })
				wrote(t, w, "writer-a", disk.Name, uint64(size))
				wrote(t, w, "writer-b", disk.Name, uint64(size))
				wrote(t, w, "syncer", disk.Name, 0)
			})
			t.Run("one file", func(t *testing.T) {
				both(t, "pieces", func(which int, name string) []any { return []any{name, 64 << 10, which, 2, 2 * size} })
				wrote(t, w, "writer-a", disk.Name, uint64(size))
				wrote(t, w, "writer-b", disk.Name, uint64(size))
				wrote(t, w, "syncer", disk.Name, 0)
			})
			t.Run("one file, one after the other", func(t *testing.T) {
				w.Measure(func(try int) {
					name := disk.Path(fmt.Sprint("later", try))
					livetest.Do(t, "writer-a", "pieces", name, 64<<10, 0, 2, 2*size)
					livetest.Do(t, "writer-b", "pieces", name, 64<<10, 1, 2, 2*size)
					w.Sync()
					disk.Clear(t)
				})
				wrote(t, w, "writer-a", disk.Name, uint64(size))
				wrote(t, w, "writer-b", disk.Name, uint64(size))
			})
			t.Run("mmap", func(t *testing.T) {
				both(t, "mmap", func(which int, name string) []any { return []any{fmt.Sprint(name, "-", which), size} })
				wrote(t, w, "writer-a", disk.Name, uint64(size))
				wrote(t, w, "writer-b", disk.Name, uint64(size))
				wrote(t, w, "syncer", disk.Name, 0)
			})
			t.Run("deleted", func(t *testing.T) {
				both(t, "unlinked", func(which int, name string) []any { return []any{fmt.Sprint(name, "-", which), 16 * mib} })
				wrote(t, w, "writer-a", disk.Name, 0)
				wrote(t, w, "writer-b", disk.Name, 0)
			})
			t.Run("written again by another", func(t *testing.T) {
				// Once it has been clean, a page is the next dirtier's.
				w.Measure(func(try int) {
					livetest.Do(t, "writer-a", "write", disk.Path("again"), 16*mib)
					w.Sync()
					livetest.Do(t, "writer-b", "write", disk.Path("again"), 8*mib)
					w.Sync()
					disk.Clear(t)
				})
				wrote(t, w, "writer-a", disk.Name, 16*mib)
				wrote(t, w, "writer-b", disk.Name, 8*mib)
			})
			w.Balance()
		})
	}
}

// Several processes meet in many fresh files at the same moment: the first dirty pages of an
// inode are where its owner is decided.
func TestManySharedFiles(t *testing.T) {
	const piece, pieces = 64 << 10, 16
	files := livetest.Less(40)
	disk := livetest.NewDisk(t, "ext4", 512)
	w := livetest.CommonWatch(t)
	w.Measure(func(try int) {
		for i := range files {
			var children []*livetest.Child
			for which := range 4 {
				children = append(children, livetest.Start(t, fmt.Sprint("sharer-", which), "pieces",
					disk.Path(fmt.Sprint(try, "-", i)), piece, which, 4, pieces*piece))
			}
			for _, c := range children {
				c.Wait()
			}
		}
		w.Sync()
	})
	for which := range 4 {
		wrote(t, w, fmt.Sprint("sharer-", which), disk.Name, uint64(files*pieces/4*piece))
	}
	w.Balance()
}

// Processes that live for a millisecond each have their name and their bytes.
func TestShortLives(t *testing.T) {
	lives := livetest.Less(2000)
	program := livetest.Compile(t, "lives", livetest.Lives)
	disk := livetest.NewDisk(t, "ext4", 512)
	w := livetest.CommonWatch(t)
	var took time.Duration
	w.Measure(func(try int) {
		dir := disk.Path(strconv.Itoa(try))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		w.During(time.Second, func() {
			done := make(chan error, 2)
			for half := range 2 {
				go func() {
					done <- livetest.Try(program, "life", strconv.Itoa(half*lives/2), strconv.Itoa(lives/2), dir)
				}()
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
		took = time.Since(begin)
		w.Sync()
		w.Collect(5)
	})
	pids, wrong := map[int]bool{}, 0
	for _, r := range w.Rows(snapshot.ByPID, disk.Name) {
		if !strings.HasPrefix(r.Comm, "life") || r.Device == "" {
			continue
		}
		if r.WriteVia.Writeback != 4096 || pids[r.PID] || r.App != "lives" || r.Exe != program {
			if wrong++; wrong < 5 {
				t.Errorf("%s, pid %d: %d bytes of writeback, app %q, exe %q", r.Comm, r.PID, r.WriteVia.Writeback, r.App, r.Exe)
			}
		}
		pids[r.PID] = true
	}
	names := 0
	for _, r := range w.Rows(snapshot.ByComm, disk.Name) {
		if strings.HasPrefix(r.Comm, "life") && r.WriteVia.Writeback == 4096 {
			names++
		}
	}
	if len(pids) != lives || names != lives || wrong != 0 {
		t.Errorf("%d processes and %d names with 4096 bytes, want %d; %d wrong", len(pids), names, lives, wrong)
		w.LogRows(disk.Name, 5)
	}
	if d := w.Device(disk.Name); d.UnattributedBytes != 0 {
		t.Errorf("%d bytes are unattributed, lost: %v", d.UnattributedBytes, w.Losses())
		w.LogRows(disk.Name, 5)
	}
	t.Logf("%d processes in %v, %v each", lives, took.Round(time.Millisecond), (2 * took / time.Duration(lives)).Round(time.Microsecond))
	w.Balance()
}

// Where nearly everything is metadata, it too is its causers'.
func TestMetadataIsTheApplications(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 1024)
	w := livetest.CommonWatch(t)
	w.Measure(func(try int) {
		w.During(time.Second, func() {
			for round := range 3 {
				name := fmt.Sprint("tree", try, "-", round)
				livetest.Do(t, "maker", "files", disk.Path(name), livetest.Less(4000), 6000)
				livetest.Command(t, "tar", "-C", disk.Dir, "-cf", disk.Path(name+".tar"), name)
				livetest.Do(t, "syncer", "sync")
				livetest.Do(t, "remover", "remove", disk.Path(name))
				livetest.Do(t, "syncer", "sync")
			}
		})
		w.Sync()
		disk.Clear(t)
	})
	var all, ours, metadata, ourMetadata uint64
	for _, r := range w.Rows(snapshot.ByPID, disk.Name) {
		m := r.WriteVia.Journal + r.WriteVia.Metadata
		all, metadata = all+r.WriteBytes(), metadata+m
		if livetest.IsApplication(r) {
			ours, ourMetadata = ours+r.WriteBytes(), ourMetadata+m
		}
	}
	percent := func(part, whole uint64) float64 { return 100 * float64(part) / float64(whole) }
	t.Logf("%d bytes written, %.2f %% of them journal and metadata; applications have %.4f %% of all and %.3f %% of these",
		all, percent(metadata, all), percent(ours, all), percent(ourMetadata, metadata))
	w.LogRows(disk.Name, 12)
	if p := percent(ours, all); p < 99.9 {
		t.Errorf("applications have %.4f %% of the bytes, want 99.9 %%", p)
	}
	if p := percent(ourMetadata, metadata); p < 98 {
		t.Errorf("applications have %.3f %% of the journal and metadata bytes, want 98 %%", p)
	}
	w.Balance()
}

// What two processes are charged for the journal and metadata together is about what each
// one is charged alone.
func TestSharesOfTheJournal(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 1024)
	// A commit every 5 s writes more, the longer the processes take: commits are to be those of the syncs.
	if err := unix.Mount("", disk.Dir, "", unix.MS_REMOUNT, "commit=300"); err != nil {
		t.Fatal(err)
	}
	w := livetest.CommonWatch(t)
	start := func(comm, dir string, count int) *livetest.Child {
		return livetest.Start(t, comm, "files", disk.Path(dir), count, 4096)
	}
	metadata := func(comm string) uint64 {
		v := w.Row(comm, disk.Name).WriteVia
		return v.Journal + v.Metadata
	}
	// Directories and inode tables that are made for the first time cost more: that is not a share.
	start("warm-up", "warm", 6000).Wait()
	w.Sync()
	counts := map[string]int{"maker-a": 6000, "maker-b": 3000}
	alone := map[string]uint64{}
	for comm, count := range counts {
		w.Forget()
		start(comm, "alone-"+comm, count).Wait()
		w.Sync()
		w.Sync() // metadata is written in place by the one after the commit
		alone[comm] = metadata(comm)
	}
	// Which of them is first to touch a block of inodes that they share, and is charged with it, is another one each time.
	rounds := 3
	if testing.Short() {
		rounds = 2
	}
	together := map[string]uint64{}
	for round := range rounds {
		w.Forget()
		var children []*livetest.Child
		for comm, count := range counts {
			children = append(children, start(comm, fmt.Sprint("together-", round, "-", comm), count))
		}
		for _, c := range children {
			c.Wait()
		}
		w.Sync()
		w.Sync()
		for comm := range counts {
			bytes := metadata(comm)
			t.Logf("%s: %d bytes together (%+.1f %%)", comm, bytes, 100*(float64(bytes)/float64(alone[comm])-1))
			together[comm] += bytes
		}
	}
	for comm := range counts {
		mean := float64(together[comm]) / float64(rounds)
		off := 100 * (mean/float64(alone[comm]) - 1)
		t.Logf("%s: %d bytes of journal and metadata alone, %.0f together on average (%+.1f %%)", comm, alone[comm], mean, off)
		if off < -15 || off > 15 {
			t.Errorf("%s: together is %+.1f %% off alone, want at most 15 %%", comm, off)
		}
	}
	w.LogRows(disk.Name, 5)
	w.Balance()
}

// A direct write into space that was only reserved changes the file's extents when it completes, in a
// worker of the kernel: that update is the writer's, not the worker's.
func TestExtentsConvertedByWorkers(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 512)
	w := livetest.CommonWatch(t)
	w.Forget()
	livetest.Command(t, "fio", "--name=job", "--filename="+disk.Path("reserved"), "--size=128m", "--direct=1", "--output=/dev/null",
		"--ioengine=libaio", "--iodepth=16", "--rw=randwrite", "--bs=4k", "--io_size=32m", "--fallocate=posix", "--fsync=256")
	w.Sync()
	w.Sync()
	var all, kernel uint64
	for _, r := range w.Rows(snapshot.ByPID, disk.Name) {
		m := r.WriteVia.Journal + r.WriteVia.Metadata
		all += m
		if !livetest.IsApplication(r) && r.PID != 0 {
			kernel += m
		}
	}
	t.Logf("%d of %d bytes of journal and metadata are charged to threads of the kernel", kernel, all)
	if kernel*50 > all {
		t.Errorf("threads of the kernel have %d of %d bytes of journal and metadata, want at most 2 %%", kernel, all)
		w.LogRows(disk.Name, 8)
	}
	w.Balance()
}
