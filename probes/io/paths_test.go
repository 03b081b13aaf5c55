package io_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// fioDirect runs one job on a file, past the page cache.
func fioDirect(t *testing.T, file string, options ...string) {
	t.Helper()
	livetest.Command(t, "fio", append([]string{"--name=job", "--filename=" + file, "--size=64m", "--direct=1", "--output=/dev/null",
		"--allow_file_create=0"}, options...)...)
}

// Direct I/O is the submitter's, whichever way it is submitted, and every operation has its latency.
func TestDirect(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 256)
	file := disk.Path("file")
	size := uint64(livetest.Less(16)) * mib
	count := size / 4096
	livetest.Do(t, "layout", "write", file, 64*mib)
	w := livetest.CommonWatch(t)
	for _, engine := range []struct {
		name    string
		options []string
	}{
		{"psync", []string{"--ioengine=psync"}},
		{"libaio", []string{"--ioengine=libaio", "--iodepth=16"}},
		{"io_uring", []string{"--ioengine=io_uring", "--iodepth=16"}},
		{"io_uring workers", []string{"--ioengine=io_uring", "--iodepth=16", "--force_async=1"}},
		{"io_uring sqpoll", []string{"--ioengine=io_uring", "--iodepth=16", "--sqthread_poll=1"}},
	} {
		t.Run(engine.name, func(t *testing.T) {
			for rw, name := range map[string]string{"randread": "read", "randwrite": "write"} {
				w.Measure(func(int) {
					fioDirect(t, file, append(engine.options, "--rw="+rw, "--bs=4k", fmt.Sprint("--io_size=", size))...)
				})
				w.Balance()
				r := w.Row("fio", disk.Name)
				bytes, ops, latency := r.ReadVia.Direct, r.Reads, r.ReadLatency
				if name == "write" {
					bytes, ops, latency = r.WriteVia.Direct, r.Writes, r.WriteLatency
				}
				if bytes != size {
					t.Errorf("%s: fio has %d bytes, want %d", name, bytes, size)
				}
				// Neighbours can be merged, and a write changes the file's time in the journal.
				if ops < count*97/100 || ops > count+16 {
					t.Errorf("%s: fio has %d operations, want about %d", name, ops, count)
				}
				for part, h := range map[string]snapshot.Histogram{"all": latency.Total, "queue": latency.Queue, "device": latency.Device} {
					if h.Count() != ops {
						t.Errorf("%s: %d latencies (%s) of %d operations", name, h.Count(), part, ops)
					}
				}
				if mean, most := latency.Total.Mean(), latency.Total.Max; mean == 0 || mean > most || most > uint64(10*time.Second) {
					t.Errorf("%s: mean %d ns, maximum %d ns", name, mean, most)
				}
				if t.Failed() {
					w.LogRows(disk.Name, 8)
				}
			}
		})
	}
}

// A reader that does nothing else sleeps for I/O alone: its blocked time is the time in which it
// neither ran nor waited for a CPU.
func TestBlockedTime(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 256)
	livetest.Do(t, "layout", "write", disk.Path("file"), 64*mib)
	w := livetest.CommonWatch(t)
	w.Forget()
	slept := livetest.Do(t, "blocked", "direct", disk.Path("file"), 2*time.Second)
	w.Read()
	ours := time.Duration(w.Row("blocked", "").BlockedNS)
	off := 100 * (float64(ours)/float64(slept) - 1)
	t.Logf("blocked for %v, slept for %v (%+.1f %%); %d reads", ours, slept, off, w.Row("blocked", disk.Name).Reads)
	if off < -20 || off > 20 {
		t.Errorf("blocked for %v, %+.1f %% off the %v that it slept", ours, off, slept)
	}
	if throttled := w.Row("blocked", "").ThrottledNS; throttled != 0 {
		t.Errorf("a reader was throttled for %v", time.Duration(throttled))
	}
}

// A writer that the kernel slows down is throttled, not blocked.
func TestThrottledTime(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 1024)
	w := livetest.CommonWatch(t)
	w.Forget()
	livetest.DirtyLimit(t, 8*mib)
	slept := livetest.Do(t, "throttled", "write", disk.Path("file"), 512*mib)
	w.Read()
	r := w.Row("throttled", "")
	throttled, blocked := time.Duration(r.ThrottledNS), time.Duration(r.BlockedNS)
	t.Logf("throttled for %v, blocked for %v, slept for %v", throttled, blocked, slept)
	if throttled == 0 {
		t.Error("the writer was not throttled")
	}
	if blocked > throttled {
		t.Errorf("blocked for %v, which is more than throttled, %v", blocked, throttled)
	}
	if both := throttled + blocked; both < slept*8/10 || both > slept*12/10 {
		t.Errorf("throttled and blocked for %v, want the %v that it slept", both, slept)
	}
	w.Balance()
}

// Reads are whoever's asked, readahead and the file system's own reads included.
func TestReads(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs, func(t *testing.T) {
			disk := livetest.NewDisk(t, fs, 512)
			bytes := uint64(livetest.Less(64)) * mib
			livetest.Do(t, "layout", "write", disk.Path("file"), bytes)
			livetest.Do(t, "layout", "files", disk.Path("tree"), 2000, 4096)
			w := livetest.CommonWatch(t)
			for _, job := range []string{"read", "mmapread"} {
				w.Measure(func(int) {
					livetest.DropCaches(t, disk.Path("file"))
					livetest.Do(t, "reader", job, disk.Path("file"))
				})
				r := w.Row("reader", disk.Name)
				if r.ReadVia.File != bytes || r.ReadVia.Direct != 0 {
					t.Errorf("%s: %+v, want %d bytes of a file", job, r.ReadVia, bytes)
					w.LogRows(disk.Name, 5)
				}
				if d := w.Device(disk.Name); r.ReadBytes() != d.Ours.ReadBytes {
					t.Errorf("%s: the reader has %d bytes of %d", job, r.ReadBytes(), d.Ours.ReadBytes)
					w.LogRows(disk.Name, 5)
				}
			}
			w.Measure(func(int) {
				disk.Remount(t) // to drop the caches would leave btrfs's trees where they are
				livetest.Command(t, "find", disk.Path("tree"), "-size", "+1000")
			})
			r := w.Row("find", disk.Name)
			t.Logf("find reads %d bytes of metadata", r.ReadVia.Metadata)
			if r.ReadVia.Metadata < 2000*100 || r.ReadVia.Direct+r.ReadVia.File != 0 {
				t.Errorf("find: %+v, want metadata alone, at least 100 bytes a file", r.ReadVia)
				w.LogRows(disk.Name, 5)
			}
			w.Balance()
		})
	}
}

// What fstrim discards is fstrim's, and each fsync of a file whose data has changed flushes once.
func TestDiscardsAndFlushes(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 512)
	livetest.Do(t, "layout", "unlinked", disk.Path("file"), 128*mib)
	w := livetest.CommonWatch(t)
	w.Forget()
	livetest.Command(t, "fstrim", disk.Dir)
	w.Balance()
	r, d := w.Row("fstrim", disk.Name), w.Device(disk.Name)
	t.Logf("fstrim discards %d bytes in %d operations", r.DiscardBytes, r.Discards)
	if r.DiscardBytes < 128*mib || r.DiscardBytes != d.Kernel.DiscardBytes || r.Discards != d.Kernel.Discards {
		t.Errorf("fstrim has %d bytes in %d discards, the kernel counts %d in %d", r.DiscardBytes, r.Discards, d.Kernel.DiscardBytes, d.Kernel.Discards)
		w.LogRows(disk.Name, 5)
	}

	livetest.Do(t, "layout", "fsyncs", disk.Path("synced"), 1)
	w.Forget()
	livetest.Do(t, "syncing", "fsyncs", disk.Path("synced"), 211)
	w.Balance()
	d = w.Device(disk.Name)
	t.Logf("211 fsyncs: %d flushes of the process, %d of the device", w.Row("syncing", disk.Name).Flushes, d.Kernel.Flushes)
	if d.Kernel.Flushes < 211 || d.Ours.Flushes != d.Kernel.Flushes {
		t.Errorf("%d flushes, the kernel counts %d", d.Ours.Flushes, d.Kernel.Flushes)
	}
	if got := w.Row("syncing", disk.Name).Flushes; got < 200 {
		t.Errorf("the process has %d flushes of %d", got, d.Ours.Flushes)
		w.LogRows(disk.Name, 5)
	}
}

// Devices without requests that hand their bios to others: each one's books balance, and what was
// written and read is its process's on all of them.
func TestStacks(t *testing.T) {
	for name, stack := range map[string]func(*testing.T) (top livetest.Disk, lower []livetest.Disk){
		"linear": func(t *testing.T) (livetest.Disk, []livetest.Disk) {
			disk := livetest.NewDisk(t, "", 512)
			return livetest.NewLinear(t, disk), []livetest.Disk{disk}
		},
		"mirror": func(t *testing.T) (livetest.Disk, []livetest.Disk) {
			livetest.NeedConfig(t, "CONFIG_BLK_DEV_MD")
			a, b := livetest.NewDisk(t, "", 512), livetest.NewDisk(t, "", 512)
			return livetest.NewMirror(t, a, b), []livetest.Disk{a, b}
		},
	} {
		t.Run(name, func(t *testing.T) {
			top, lower := stack(t)
			top.Mount(t, "ext4")
			w := livetest.CommonWatch(t)
			w.Measure(func(try int) {
				file := top.Path(fmt.Sprint("file", try))
				livetest.Do(t, "writer", "write", file, 16*mib)
				w.Sync()
				livetest.DropCaches(t, file)
				livetest.Do(t, "reader", "read", file)
			})
			w.Balance()
			if got := w.Row("writer", top.Name).WriteVia.Writeback; got != 16*mib {
				t.Errorf("the writer has %d bytes on %s, want %d", got, top.Name, 16*mib)
			}
			if got := w.Row("reader", top.Name).ReadVia.File; got != 16*mib {
				t.Errorf("the reader has %d bytes on %s, want %d", got, top.Name, 16*mib)
			}
			var read uint64
			for _, d := range lower {
				if got := w.Row("writer", d.Name).WriteVia.Writeback; got != 16*mib {
					t.Errorf("the writer has %d bytes on %s, want %d", got, d.Name, 16*mib)
				}
				read += w.Row("reader", d.Name).ReadVia.File
			}
			if read != 16*mib {
				t.Errorf("the reader has %d bytes below, want %d", read, 16*mib)
			}
			if t.Failed() {
				for _, d := range append(lower, top) {
					w.LogRows(d.Name, 5)
				}
			}
		})
	}
}

// A fast commit is written by the process that syncs, and is its journal.
func TestFastCommits(t *testing.T) {
	const syncs = 211
	disk := livetest.NewDisk(t, "ext4", 512, "-O", "fast_commit")
	w := livetest.CommonWatch(t)
	w.Measure(func(try int) {
		livetest.Command(t, "dd", "if=/dev/zero", "of="+disk.Path(fmt.Sprint("synced", try)), "bs=4k", fmt.Sprint("count=", syncs), "oflag=dsync")
	})
	w.Balance()
	info, err := os.ReadFile("/proc/fs/ext4/" + disk.Name + "/fc_info")
	if err != nil {
		t.Fatal(err)
	}
	var commits int
	if _, err := fmt.Sscanf(string(info), "fc stats:\n%d commits", &commits); err != nil || commits < syncs/2 {
		t.Fatalf("%d fast commits of %d syncs (%v): nothing was tested\n%s", commits, syncs, err, info)
	}
	r := w.Row("dd", disk.Name)
	t.Logf("%d fast commits, %d bytes of the journal", commits, r.WriteVia.Journal)
	if r.WriteVia.Journal < uint64(syncs)/2*4096 || r.WriteVia.Direct != 0 || r.WriteVia.Writeback != syncs*4096 {
		t.Errorf("ways of what it wrote: %+v", r.WriteVia)
		w.LogRows(disk.Name, 5)
	}
}

// Devices without requests are counted bio by bio, and theirs are the submitters'.
func TestZram(t *testing.T) {
	disk := livetest.NewZram(t, 256)
	w := livetest.CommonWatch(t)
	w.Forget()
	livetest.Command(t, "dd", "if=/dev/zero", "of="+disk.Dev, "bs=1M", "count=32", "oflag=direct")
	livetest.Command(t, "dd", "if="+disk.Dev, "of=/dev/null", "bs=64k", "count=256", "iflag=direct")
	w.Balance()
	r := w.Row("dd", disk.Name)
	if r.WriteVia.Direct != 32*mib || r.ReadVia.Direct != 16*mib {
		t.Errorf("dd: %+v, %+v, want %d read and %d written", r.ReadVia, r.WriteVia, 16*mib, 32*mib)
		w.LogRows(disk.Name, 5)
	}
	if n := r.ReadLatency.Total.Count(); n != r.Reads || n == 0 {
		t.Errorf("%d latencies of %d reads", n, r.Reads)
	}

	w.Forget()
	livetest.Command(t, "mkfs.ext4", "-q", "-F", disk.Dev)
	livetest.Command(t, "dd", "if=/dev/zero", "of="+disk.Dev, "bs=64k", "count=128", "seek=1024", "conv=fsync")
	w.Balance()
	if got := w.Row("dd", disk.Name).WriteVia.Writeback; got != 8*mib {
		t.Errorf("dd has %d bytes of writeback, want %d", got, 8*mib)
		w.LogRows(disk.Name, 5)
	}
	d := w.Device(disk.Name)
	t.Logf("ours %+v, kernel %+v", d.Ours, d.Kernel)
	if d.Ours.WriteBytes == 0 || d.UnattributedBytes != 0 {
		t.Errorf("%d bytes written, %d unattributed", d.Ours.WriteBytes, d.UnattributedBytes)
	}
}

// The books balance on all disks at once, under everything at once.
func TestBooks(t *testing.T) {
	disks := map[string]livetest.Disk{}
	dirs := map[string]string{"the machine's own": t.TempDir()}
	for _, fs := range fileSystems {
		disks[fs] = livetest.NewDisk(t, fs, 1024)
		dirs[fs] = disks[fs].Dir
	}
	w := livetest.NewWatch(t, owner.Options{}, ioprobe.Options{Files: true, Worst: true})
	w.Forget()
	everything(t, w, dirs)
	w.Balance()
	for fs, disk := range disks {
		d := w.Device(disk.Name)
		t.Logf("%-5s %s: %+v, %d bytes unattributed, skew %d", fs, disk.Name, d.Ours, d.UnattributedBytes, d.SkewBytes)
		for what, n := range map[string]uint64{"reads": d.Ours.Reads, "writes": d.Ours.Writes, "discards": d.Ours.Discards, "flushes": d.Ours.Flushes} {
			if n == 0 {
				t.Errorf("%s: no %s: the load was not what it should be", fs, what)
			}
		}
		// Only what reached no program can have no owner here, and that is little: a request for each event at most
		// (kernels that preempt programs count those, of those that hide some the completions tell), and else a thousandth.
		unattributed, hidden := d.UnattributedBytes, w.Loss("events_missed")+w.Loss(livetest.Unseen)
		for _, r := range w.Rows(snapshot.ByApp, disk.Name) {
			switch {
			case !strings.HasPrefix(r.App, "[unattributed: "):
			case r.App == "[unattributed: completion not seen]" && w.Loss(livetest.Unseen) > 0:
			case r.App == "[unattributed: no owner seen before attach]" && r.Reads+r.Writes+r.Discards+r.Flushes <= hidden:
				unattributed -= r.Bytes()
			default:
				t.Errorf("%s: %d bytes are %s", fs, r.Bytes(), r.App)
			}
		}
		// What merged into a request whose completion was hidden has no owner either: a few bytes for each of its own.
		ops := d.Ours.Reads + d.Ours.Writes
		most := max(0.001, 4*float64(w.Loss(livetest.Unseen))/float64(ops))
		if all := float64(d.Ours.ReadBytes + d.Ours.WriteBytes); float64(unattributed) > most*all {
			t.Errorf("%s: %d of %.0f bytes are unattributed", fs, unattributed, all)
		}
		w.LogRows(disk.Name, 8)
	}
	t.Logf("lost: %v", w.Losses())
}

// everything is a load of all kinds on all disks at once, in so many seconds.
func everything(t *testing.T, w *livetest.Watch, dirs map[string]string) {
	seconds, size := 8, "--size=32m"
	if testing.Short() {
		seconds, size = 3, "--size=8m"
	}
	failed := make(chan error, 100)
	running := 0
	run := func(name string, args ...string) {
		running++
		go func() { failed <- livetest.Try(name, args...) }()
	}
	w.During(700*time.Millisecond, func() {
		var children []*livetest.Child
		for where, dir := range dirs {
			run("fio", "--directory="+dir, size, "--time_based", "--runtime="+strconv.Itoa(seconds), "--output=/dev/null", "--rate=40m",
				"--name=uring", "--ioengine=io_uring", "--iodepth=16", "--direct=1", "--rw=randrw", "--bs=4k",
				"--name=aio", "--ioengine=libaio", "--iodepth=8", "--direct=1", "--rw=randwrite", "--bs=16k",
				"--name=sequential", "--ioengine=io_uring", "--iodepth=32", "--iodepth_batch=16", "--direct=1", "--rw=write", "--bs=4k",
				"--name=buffered", "--ioengine=psync", "--rw=write", "--bs=64k",
				"--name=mapped", "--ioengine=mmap", "--rw=randwrite", "--bs=4k",
				"--name=fsyncs", "--ioengine=psync", "--rw=randwrite", "--bs=4k", "--fsync=1")
			children = append(children, livetest.Start(t, "remaker", "remakefor", dir+"/tree", time.Duration(seconds)*time.Second))
			if where != "the machine's own" {
				children = append(children, livetest.Start(t, "trimmer", "trimfor", dir, time.Duration(seconds)*time.Second))
			}
		}
		for range running {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		for _, c := range children {
			c.Wait()
		}
	})
}

// When every table is as small as it can be, nothing fails, the devices' books balance, and each
// loss is counted.
func TestLossesAreSeen(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 512)
	other := livetest.NewDisk(t, "ext4", 512)
	program := livetest.Compile(t, "lives", livetest.Lives)
	livetest.Do(t, "layout", "write", disk.Path("file"), 64*mib)
	livetest.Do(t, "layout", "write", other.Path("file"), 64*mib)
	for _, c := range []struct {
		lost    string
		table   owner.Options
		options ioprobe.Options
		load    func(t *testing.T)
	}{
		{"process_table_full", owner.Options{Processes: 36}, ioprobe.Options{}, func(t *testing.T) {
			livetest.Command(t, program, "full", "0", "100", disk.Dir)
		}},
		{"name_table_full", owner.Options{Names: 1}, ioprobe.Options{}, func(t *testing.T) {
			livetest.Command(t, program, "full", "0", "2", disk.Dir)
			livetest.Do(t, "another", "write", disk.Path("another"), mib)
		}},
		{"request_slots_full", owner.Options{}, ioprobe.Options{Slots: 64}, func(t *testing.T) {
			fioDirect(t, disk.Path("file"), "--rw=randrw", "--bs=4k", "--io_size=4m", "--ioengine=psync")
		}},
		{"merged_bios_full", owner.Options{}, ioprobe.Options{Bios: 1}, func(t *testing.T) {
			// Submitted in one batch, neighbours are merged while they are plugged.
			fioDirect(t, disk.Path("file"), "--rw=write", "--bs=4k", "--io_size=16m", "--ioengine=io_uring", "--iodepth=64",
				"--iodepth_batch_submit=32", "--iodepth_batch_complete_min=32")
		}},
		{"dirty_inodes_full", owner.Options{}, ioprobe.Options{Inodes: 4}, func(t *testing.T) {
			livetest.Do(t, "maker", "files", disk.Path("inodes"), 500, 4096)
		}},
		{"dirty_folios_full", owner.Options{}, ioprobe.Options{Folios: 4}, func(t *testing.T) {
			for which := range 2 {
				livetest.Do(t, "sharer", "pieces", disk.Path("shared"), 64<<10, which, 2, 8*mib)
			}
		}},
		{"journal_table_full", owner.Options{}, ioprobe.Options{Transactions: 1, Shares: 1}, func(t *testing.T) {
			livetest.Command(t, program, "share", "0", "50", disk.Dir)
		}},
		{"row_table_full", owner.Options{}, ioprobe.Options{Rows: 24}, func(t *testing.T) {
			livetest.Command(t, program, "row", "0", "100", disk.Dir)
		}},
		{"histogram_full", owner.Options{}, ioprobe.Options{Buckets: 4}, func(t *testing.T) {
			livetest.Command(t, program, "hist", "0", "20", disk.Dir)
		}},
		{"", owner.Options{Processes: 36, Names: 4}, ioprobe.Options{
			Rows: 24, Buckets: 8, Inodes: 4, Folios: 4, Bios: 2, Slots: 64, Transactions: 2, Shares: 2, Files: true, Worst: true,
		}, func(t *testing.T) {
			for i, d := range []livetest.Disk{disk, other} {
				livetest.Command(t, program, "all", strconv.Itoa(i), "300", d.Dir)
				fioDirect(t, d.Path("file"), "--rw=randrw", "--bs=4k", "--io_size=4m", "--ioengine=io_uring", "--iodepth=16")
			}
		}},
	} {
		name := c.lost
		if name == "" {
			name = "all at once"
		}
		t.Run(name, func(t *testing.T) {
			w := livetest.NewWatch(t, c.table, c.options)
			for try := 1; ; try++ {
				w.Forget()
				w.During(200*time.Millisecond, func() { c.load(t) })
				w.Sync()
				// A completion that reaches no program is found by its slot; without one, nothing tells of it.
				if c.options.Slots == 0 || try == 5 || w.Balances() {
					break
				}
			}
			w.Balance()
			t.Logf("lost: %v", w.Losses())
			if c.lost != "" && w.Loss(c.lost) == 0 {
				t.Errorf("%s is 0", c.lost)
			}
			if len(w.Losses()) == 0 {
				t.Error("nothing was lost")
			}
			d := w.Device(disk.Name)
			var unattributed uint64
			for _, r := range w.Rows(snapshot.ByApp, disk.Name) {
				if strings.HasPrefix(r.App, "[unattributed: ") {
					unattributed += r.Bytes()
				}
			}
			t.Logf("%d of %d bytes are unattributed", d.UnattributedBytes, d.Ours.ReadBytes+d.Ours.WriteBytes)
			if unattributed != d.UnattributedBytes {
				t.Errorf("unattributed rows hold %d bytes, the audit says %d", unattributed, d.UnattributedBytes)
			}
			costsBytes := c.lost != "name_table_full" && c.lost != "histogram_full"
			if costsBytes == (d.UnattributedBytes == 0) {
				t.Errorf("%d bytes are unattributed", d.UnattributedBytes)
				w.LogRows(disk.Name, 10)
			}
		})
	}
}

// Where files are dirtied faster than tables are looked through, these are looked through more often.
func TestManyFiles(t *testing.T) {
	const inodes, files, rounds = 512, 150, 5
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.NewWatch(t, owner.Options{}, ioprobe.Options{Inodes: inodes})
	w.Sync() // what else is dirty
	for range 2 {
		if err := w.Table.CollectAll(); err != nil {
			t.Fatal(err)
		}
	}
	w.Forget()
	for round := range rounds {
		livetest.Do(t, "maker", "files", disk.Path(strconv.Itoa(round)), files, 4096)
		w.Sync()
		for range 2 { // the second takes away what the first finds clean
			if err := w.Table.Collect(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := w.Loss("dirty_inodes_full"); n != 0 {
		t.Errorf("%d times of %d there was no room for a file", n, rounds*files)
	}
}

// openPrograms are the ids of the BPF programs that this process has a descriptor of.
func openPrograms(t *testing.T) map[uint32]bool {
	t.Helper()
	out := map[uint32]bool{}
	entries, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err != nil {
			continue // the directory's own
		}
		for line := range strings.Lines(string(text)) {
			if id, ok := strings.CutPrefix(line, "prog_id:"); ok {
				n, err := strconv.ParseUint(strings.TrimSpace(id), 10, 32)
				if err != nil {
					t.Fatal(err)
				}
				out[uint32(n)] = true
			}
		}
	}
	return out
}

// Closing leaves no program behind.
func TestCloseDetaches(t *testing.T) {
	before := openPrograms(t)
	var ours map[uint32]bool
	t.Run("open", func(t *testing.T) {
		begin := time.Now()
		w := livetest.NewWatch(t, owner.Options{}, ioprobe.Options{})
		t.Logf("attached after %v", time.Since(begin))
		w.Read()
		ours = openPrograms(t)
		maps.DeleteFunc(ours, func(id uint32, _ bool) bool { return before[id] })
	})
	if len(ours) < 10 {
		t.Fatalf("only %d programs were loaded: %v", len(ours), ours)
	}
	// The kernel frees programs some time after their last descriptor has gone.
	var left []uint32
	for range 30 {
		left = left[:0]
		for id := range ours {
			if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
				p.Close()
				left = append(left, id)
			} else if !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%d programs are left: %v", len(left), left)
	if open := openPrograms(t); len(open) > len(before) {
		t.Errorf("descriptors of programs are still open: %v", open)
	}
}
