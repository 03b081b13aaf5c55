package owner_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

func TestMain(m *testing.M) { livetest.Main(m, nil) }

// processes are the rows of all processes called comm.
func processes(w *livetest.Watch, disk livetest.Disk, comm string) []snapshot.IORow {
	var out []snapshot.IORow
	for _, r := range w.Rows(snapshot.ByPID, disk.Name) {
		if strings.HasPrefix(r.Comm, comm) && r.Device != "" {
			out = append(out, r)
		}
	}
	return out
}

// known are the numbers that stand for processes whose name begins with comm.
func known(w *livetest.Watch, comm string) []uint32 {
	var out []uint32
	for o := owner.First; o < w.Table.Processes(); o++ {
		if strings.HasPrefix(w.Table.Process(o).Comm, comm) {
			out = append(out, o)
		}
	}
	return out
}

// ownCgroup is this process's cgroup by DESIGN.md's rule: v2's if it is not the root, else that of
// the hierarchy name=systemd, else memory's.
func ownCgroup(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			for controller := range strings.SplitSeq(parts[1], ",") {
				paths[controller] = parts[2]
			}
		}
	}
	for _, hierarchy := range []string{"", "name=systemd", "memory"} {
		if p := paths[hierarchy]; p != "" && p != "/" {
			return p
		}
	}
	return "/"
}

// A process that lives for a millisecond is known completely, long after it has gone.
func TestShortLife(t *testing.T) {
	program := livetest.Compile(t, "lives", livetest.Lives)
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.CommonWatch(t)
	var before time.Time
	var parent int
	w.Measure(func(int) {
		before = time.Now()
		cmd := exec.Command(program, "brief", "0", "1", disk.Dir)
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		parent = cmd.Process.Pid
		w.Collect(5)
	})
	rows := processes(w, disk, "brief")
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	p := rows[0].Process
	if p.Comm != "brief0" || p.App != "lives" || p.Exe != program || p.PPID != parent || p.User != "root" || p.Cgroup != ownCgroup(t) {
		t.Errorf("got %+v, want brief0 of %s, child of %d, cgroup %s", p, program, parent, ownCgroup(t))
	}
	if started := p.Started; started.Before(before.Add(-20*time.Millisecond)) || started.After(time.Now()) {
		t.Errorf("started %v, want it after %v", started, before)
	}
}

// A process has the name of what it runs now; what it did before is its own all the same.
func TestExecChangesName(t *testing.T) {
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.CommonWatch(t)
	var pid int
	w.Measure(func(try int) {
		// The shell writes the first file itself: echo is its own.
		script := fmt.Sprintf("echo x > %s; exec dd if=/dev/zero of=%s bs=4096 count=3", disk.Path(fmt.Sprint("a", try)), disk.Path(fmt.Sprint("b", try)))
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		pid = cmd.Process.Pid
		w.Sync()
	})
	var rows []snapshot.IORow
	for _, r := range w.Rows(snapshot.ByPID, disk.Name) {
		if r.PID == pid && r.Device != "" {
			rows = append(rows, r)
		}
	}
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1: %+v", len(rows), rows)
	}
	r := rows[0]
	if r.Comm != "dd" || filepath.Base(r.Exe) != "dd" || r.App != "dd" || r.WriteVia.Writeback != 4*4096 {
		t.Errorf("%s (%s, %s) has %d bytes of writeback, want dd with %d", r.Comm, r.App, r.Exe, r.WriteVia.Writeback, 4*4096)
	}
}

// A name is kept as long as a dirty page refers to it, and given back when nothing does any more.
func TestNamesOfTheDead(t *testing.T) {
	program := livetest.Compile(t, "lives", livetest.Lives)
	// On XFS alone, because ext4's journal refers to its owners for long.
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.CommonWatch(t)
	const lives = 7
	var dirty []uint32
	w.Measure(func(try int) {
		dir := disk.Path(strconv.Itoa(try))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		livetest.Command(t, program, "departed", "0", strconv.Itoa(lives), dir, "dirty")
		w.Collect(10)
		if dirty = known(w, "departed"); len(dirty) < lives {
			t.Fatalf("%d names are left of %d while dirty pages refer to them", len(dirty), lives)
		}
		w.Sync()
	})
	written := func(when string) {
		rows := processes(w, disk, "departed")
		for _, r := range rows {
			if r.WriteVia.Writeback != 4096 {
				t.Errorf("%s, %s has %d bytes of writeback, want 4096", when, r.Comm, r.WriteVia.Writeback)
			}
		}
		if len(rows) != lives {
			t.Errorf("%s, %d processes have rows, want %d", when, len(rows), lives)
		}
	}
	written("after the sync")
	w.Collect(10)
	if left := known(w, "departed"); len(left) != 0 {
		t.Errorf("nothing refers to %v, and they are still known", left)
	}
	w.Read()
	written("after the numbers were given back")
}

// Processes that cause no event take no place.
func TestForkStormWithoutIO(t *testing.T) {
	const places = 512
	lives := livetest.Less(5000)
	program := livetest.Compile(t, "lives", livetest.Lives)
	w := livetest.NewWatch(t, owner.Options{Processes: places}, ioprobe.Options{})
	w.Forget()
	begin := time.Now()
	w.During(500*time.Millisecond, func() { livetest.Command(t, program, "storm", "0", strconv.Itoa(lives)) })
	w.Read()
	t.Logf("%d processes in %v", lives, time.Since(begin).Round(time.Millisecond))
	if n := w.Loss("process_table_full"); n != 0 {
		t.Errorf("%d processes did not fit", n)
	}
	if n := len(known(w, "storm")); n > places/10 {
		t.Errorf("%d processes that did nothing have a place", n)
	}
}

// Places are given to others when their processes are gone and nothing refers to them: many more
// processes than places do I/O one after the other, and none is lost, and none takes another's name.
func TestPlacesAreGivenAgain(t *testing.T) {
	const lives, places = 150, 512
	rounds := 12
	if testing.Short() {
		rounds = 4 // more lives than places nevertheless
	}
	program := livetest.Compile(t, "lives", livetest.Lives)
	disk := livetest.NewDisk(t, "xfs", 512) // ext4's journal refers to its owners for long
	w := livetest.NewWatch(t, owner.Options{Processes: places}, ioprobe.Options{})
	w.Measure(func(try int) {
		dir := disk.Path(strconv.Itoa(try))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for round := range rounds {
			livetest.Command(t, program, "again", strconv.Itoa(round*lives), strconv.Itoa(lives), dir)
			w.Collect(6)
			if round%2 == 0 {
				w.Read()
			}
		}
	})
	names := map[string]bool{}
	for _, r := range processes(w, disk, "again") {
		if names[r.Comm] || r.WriteVia.Writeback != 4096 {
			t.Errorf("%s, pid %d: %d bytes of writeback", r.Comm, r.PID, r.WriteVia.Writeback)
		}
		names[r.Comm] = true
	}
	if len(names) != rounds*lives {
		t.Errorf("%d processes, want %d; lost: %v", len(names), rounds*lives, w.Losses())
	}
	if n := w.Loss("process_table_full"); n != 0 {
		t.Errorf("%d times there was no place", n)
	}
	w.Balance()
}

// No more numbers are in use, and so looked at each second, than there were processes at once, however many come and go.
func TestNumbersAreUsedAgain(t *testing.T) {
	const lives = 50
	program := livetest.Compile(t, "lives", livetest.Lives)
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.NewWatch(t, owner.Options{}, ioprobe.Options{})
	var highest []uint32
	for range 8 {
		livetest.Command(t, program, "brief", "0", strconv.Itoa(lives), disk.Dir)
		w.Sync()
		highest = append(highest, slices.Max(slices.Collect(w.Table.Owners())))
		w.Collect(6)
	}
	t.Logf("the highest numbers: %v", highest)
	if more := highest[7] - highest[1]; more > 2*lives {
		t.Errorf("%d numbers more after six times %d processes", more, lives)
	}
}

// Tables are looked through whole now and then where few processes end, and at once where many do.
func TestCollect(t *testing.T) {
	const places = 1024 // and "many" are 5
	program := livetest.Compile(t, "lives", livetest.Lives)
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.NewWatch(t, owner.Options{Processes: places}, ioprobe.Options{})
	until := func(comm string, lives, most int) {
		livetest.Command(t, program, comm, "0", strconv.Itoa(lives), disk.Dir)
		w.Sync()
		if n := len(known(w, comm)); n != lives {
			t.Fatalf("%d of %d processes are known", n, lives)
		}
		for n := 1; ; n++ {
			if err := w.Table.Collect(); err != nil {
				t.Fatal(err)
			}
			if left := len(known(w, comm)); left == 0 {
				t.Logf("%d processes were forgotten by the %dth", lives, n)
				return
			} else if n == most {
				t.Fatalf("%d of %d processes are still known after %d", left, lives, n)
			}
		}
	}
	until("few", 2, 64)
	until("many", 100, 7)
}

// threads is a program whose second thread alone writes, and whose main thread ends last.
const threads = `#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>
static void *writer(void *path)
{
	int f = open(path, O_WRONLY | O_CREAT, 0600);
	if (write(f, "x", 1) != 1 || fsync(f)) _exit(1);
	close(f);
	return 0;
}
int main(int n, char **v)
{
	pthread_t t;
	return pthread_create(&t, 0, writer, v[1]) || pthread_join(t, 0);
}
`

// The thread that ends a process's life need not be one that caused an event: places are given
// again all the same.
func TestLastThreadDidNothing(t *testing.T) {
	const lives, places = 120, 96
	program := livetest.Compile(t, "threads", threads)
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.NewWatch(t, owner.Options{Processes: places}, ioprobe.Options{})
	w.Measure(func(try int) {
		for life := range lives {
			livetest.Command(t, program, disk.Path(fmt.Sprint(try, "-", life)))
			if life%20 == 19 {
				w.Collect(6)
			}
		}
	})
	if n := w.Loss("process_table_full"); n != 0 {
		t.Errorf("%d times there was no place for one of %d processes, one after the other", n, lives)
	}
}

// A process that is moved to another cgroup is in that one.
func TestCgroupMove(t *testing.T) {
	dir, path := newCgroup(t)
	disk := livetest.NewDisk(t, "xfs", 512)
	w := livetest.CommonWatch(t)
	w.Measure(func(try int) {
		// The first write makes the process known, in its first cgroup.
		script := fmt.Sprintf("echo x > %s; echo $$ > %s/cgroup.procs; echo x > %s; exec sleep 0", disk.Path(fmt.Sprint("a", try)), dir, disk.Path(fmt.Sprint("b", try)))
		livetest.Command(t, "sh", "-c", script)
		w.Sync()
	})
	rows := processes(w, disk, "sleep")
	if len(rows) == 0 {
		t.Fatal("the process has no row")
	}
	for _, r := range rows {
		if r.Cgroup != path {
			t.Errorf("cgroup %q, want %q", r.Cgroup, path)
		}
	}
}

// newCgroup makes a cgroup in the hierarchy that names this machine's processes: v2's, or
// name=systemd where v2 is not mounted.
func newCgroup(t *testing.T) (dir, path string) {
	t.Helper()
	livetest.NeedRoot(t)
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 3 && (f[2] == "cgroup2" || f[2] == "cgroup" && strings.Contains(f[3], "name=systemd")) && (dir == "" || f[2] == "cgroup2") {
			dir = f[1]
		}
	}
	if dir == "" {
		t.Fatal("no cgroup hierarchy of version 2 or name=systemd is mounted")
	}
	name := fmt.Sprint("culprit-test-", os.Getpid())
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir, "/" + name
}
