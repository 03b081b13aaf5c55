package sched_test

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"

	"golang.org/x/sys/unix"
)

// lastCPU is one that interrupts of devices come to less than to the first.
const lastCPU = 1

// seconds is how long a load runs: so long, half of it on emulated kernels, or, by CULPRIT_TEST_TIMES, longer.
func seconds(n int) time.Duration {
	d := time.Duration(n) * time.Second
	if times, err := strconv.Atoi(os.Getenv("CULPRIT_TEST_TIMES")); err == nil {
		d *= time.Duration(times)
	}
	if testing.Short() {
		d /= 2
	}
	return d
}

// The sum of what a process's waits were charged with is what the kernel counted for it, and so it is over all.
func TestAudit(t *testing.T) {
	w := newWatch(t, owner.Options{}, sched.Options{ByProcess: true})
	d := seconds(6)
	for i, what := range []string{"spin", "spin", "spin"} {
		load(t, []string{"hog0", "hog1", "hog2"}[i], i&1, 5*i, what)
	}
	ticker := load(t, "ticker", lastCPU, 0, "2000")
	quick := load(t, "quick", 0, 0, "150")
	storm := background(t, "sh", "-c", "while :; do /bin/true; done")
	if !testing.Short() { // virtual machines lack these
		background(t, "stress-ng", "--quiet", "--timeout", "100s", "--switch", "1", "--cpu", "1", "--fork", "1")
		background(t, "perf", "bench", "sched", "messaging", "-g", "1", "-l", "1000000")
		background(t, "go", "build", "-a", "-o", "/dev/null", "culprit/cmd/culprit")
	}
	time.Sleep(300 * time.Millisecond)
	pids := map[string]int{"ticker": ticker.Process.Pid, "quick": quick.Process.Pid, "sh": storm.Process.Pid}
	kernel := func() map[string]uint64 {
		sums := map[string]uint64{}
		for comm, pid := range pids {
			sums[comm] = schedstat(t, pid)
		}
		return sums
	}
	// Reading takes a while on a busy machine: the kernel's sums are taken before and after.
	earliest := kernel()
	w.read()
	early := kernel()
	w.sleep(d)
	late := kernel()
	s := w.read()
	latest := kernel()
	for comm := range pids {
		r, least, most := rowOf(t, s, pids[comm]), late[comm]-early[comm], latest[comm]-earliest[comm]
		log(t, r)
		tolerance := max(most/100, 1e6)
		if wait := r.Wait(); wait+tolerance < least || wait > most+tolerance {
			t.Errorf("%s: waited %d ns, by the kernel's count %d to %d", comm, wait, least, most)
		}
		t.Logf("%s: waited %d ns, by the kernel's count %d to %d", comm, r.Wait(), least, most)
	}
	var culprits uint64
	for _, r := range s.Rows {
		culprits += r.Wait()
	}
	a := s.Kernel
	t.Logf("all: waited %d ns, by the kernel's count %d, residual %d, skew %d; %d rows", a.WaitNS, a.KernelWaitNS, a.ResidualNS(), a.SkewNS, len(s.Rows))
	w.checkBooks(s, 0)
	if uint64(int64(a.WaitNS)+a.SkewNS) != culprits {
		t.Errorf("the culprits add up to %d ns, the waits to %d with a skew of %d", culprits, a.WaitNS, a.SkewNS)
	}
	if a.WaitNS < uint64(d) {
		t.Errorf("all waited for %d ns only: the load was not what it should be", a.WaitNS)
	}
}

// Every moment of a thread is spent somewhere, and a thread that gets no CPU is seen to wait.
func TestTimeIsAccountedFor(t *testing.T) {
	w := newCommonWatch(t)
	d := seconds(4)
	load(t, "hog", lastCPU, 0, "spin")
	load(t, "starved", lastCPU, 19, "spin")
	load(t, "ticker", 0, 0, "2000")
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	w.read()
	between := time.Now()
	w.sleep(d)
	shortest := time.Since(between)
	s := w.read()
	longest := time.Since(began)
	took := s.End.Sub(s.Start)
	for _, comm := range []string{"hog", "starved", "ticker"} {
		r := row(t, s, comm)
		log(t, r)
		// Each thread's time is of a moment within the two readings, which a busy machine makes wait.
		if wall := float64(r.Wall()); wall < 0.98*float64(shortest) || wall > 1.02*float64(longest) {
			t.Errorf("%s: %d ns are accounted for, of %d, at least %d, at most %d", comm, r.Wall(), took, shortest, longest)
		}
	}
	if r := row(t, s, "ticker"); float64(r.Asleep) < 0.8*float64(uint64(took)-r.Wait()) {
		t.Errorf("ticker slept for %d ns of %d in which it did not wait", r.Asleep, uint64(took)-r.Wait())
	}
	if r := row(t, s, "starved"); float64(r.Wait()+r.Waiting-r.Before) < 0.7*float64(took) {
		t.Errorf("starved waited for %d ns of %d, and waits for %d", r.Wait(), took, r.Waiting)
	}
}

// What a thread slept for is known, also if nobody saw it come back.
func TestSleepsThatEndUnseen(t *testing.T) {
	livetest.NeedRoot(t)
	const sleeps, sees = 1.2, 500 * time.Millisecond
	w := newWatch(t, owner.Options{}, sched.Options{})
	sleeper := exec.Command("taskset", "-c", fmt.Sprint(lastCPU), "sh", "-c", fmt.Sprintf("sleep %v; while :; do :; done", sleeps))
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sleeper.Process.Kill()
		sleeper.Wait()
	})
	began := time.Now()
	time.Sleep(sees)
	err := w.probe.WhileBlind(func() { time.Sleep(time.Until(began.Add(sleeps*1e9 + 2*sees))) })
	if err != nil {
		t.Fatal(err)
	}
	// At once: until it goes off its CPU, and that can be long, there is nobody to say that it had come on it.
	var asleep, ran uint64
	for range 2 {
		r := livetest.Row(t, w.read().Rows, "the sleeper", func(r snapshot.SchedRow) bool { return r.PID == sleeper.Process.Pid })
		log(t, r)
		asleep, ran = asleep+r.Asleep, ran+r.OnCPU
		if want := sleeps * 1e9; float64(asleep) < 0.9*want || float64(asleep) > 1.3*want {
			t.Errorf("sleeper slept for %d ns, want %.0f", asleep, want)
		}
		w.sleep(sees)
	}
	if all := asleep + ran; float64(ran) < 0.7*float64(3*sees) || float64(all) > 1.3*(sleeps*1e9+float64(3*sees)) {
		t.Errorf("sleeper ran for %d ns after it had slept for %d, want %d", ran, asleep, 3*sees)
	}
}

// A wait is charged to whom it was because of: a hog on the same CPU.
func TestWho(t *testing.T) {
	w := newWatch(t, owner.Options{}, sched.Options{Worst: true})
	d := seconds(4)
	hog := load(t, "hog", lastCPU, -10, "spin") // so that waits are long, and others' part of them small
	load(t, "victim", lastCPU, 19, "2000")
	time.Sleep(200 * time.Millisecond)
	before := w.read()
	w.sleep(d)
	s := w.read()
	r := row(t, s, "victim")
	log(t, r)
	wait, hogs := r.Wait()-charged(r, snapshot.WakeUpPath), charged(r, "hog")
	without := missed(t, hog)
	t.Logf("the hog is charged with %d of %d ns, and missed the CPU for %d", hogs, wait, without)
	// On any machine: where interrupts or others are charged instead, the hog found the CPU taken,
	if hogs+without < wait {
		t.Errorf("the hog is charged with %d of %d ns, but missed the CPU for %d only", hogs, wait, without)
	}
	// and interrupts took it from whoever ran, since before the interval, where a wait had begun by then.
	interrupts, taken := charged(r, snapshot.Interrupts)+charged(r, snapshot.Softirqs), uint64(0)
	for _, r := range slices.Concat(before.Rows, s.Rows) {
		taken += r.IRQStolen + r.SoftirqStolen
	}
	t.Logf("interrupts are charged with %d ns, and took %d", interrupts, taken)
	if interrupts > taken {
		t.Errorf("interrupts are charged with %d ns, but took %d only", interrupts, taken)
	}
	rest := wait - interrupts
	if !quiet(t, s, "hog", "victim") || testing.Short() {
		rest -= others(r, "hog")
	}
	if float64(hogs) < 0.99*float64(rest) {
		t.Errorf("the hog is charged with %d of %d ns that no interrupts had", hogs, rest)
	}
	ledgers := 0
	for _, l := range s.Group(snapshot.ByComm).Worst {
		if l.Comm != "victim" {
			continue
		}
		ledgers++
		var hog, sum uint64
		for _, ran := range l.Ran {
			sum += ran.NS
			if ran.Comm == "hog" {
				hog += ran.NS
			}
		}
		t.Logf("%v: waited %d ns on CPU %d: %d pieces, %d ns of the hog", l.At, l.Wait, l.CPU, len(l.Ran), hog)
		if hog < l.Wait/2 && quiet(t, s, "hog", "victim") || sum != l.Wait {
			t.Errorf("a wait of %d ns: the hog has %d of %d: %+v", l.Wait, hog, sum, l.Ran)
		}
	}
	if ledgers == 0 {
		t.Error("no wait of the victim is among the worst")
	}
}

// On an idle CPU, what a waking thread waits for is the CPU itself.
func TestIdle(t *testing.T) {
	w := newCommonWatch(t)
	d := seconds(4)
	load(t, "sleeper", lastCPU, 0, "5000")
	time.Sleep(200 * time.Millisecond)
	w.read()
	w.sleep(d)
	s := w.read()
	r := row(t, s, "sleeper")
	log(t, r)
	for _, c := range r.Culprits {
		// Others do run now and then.
		if name := c.Name(snapshot.ByComm); !strings.HasPrefix(name, "[") && c.NS > row(t, s, name).OnCPU {
			t.Errorf("%s ran for %d ns, and is charged with %d", name, row(t, s, name).OnCPU, c.NS)
		}
	}
	if charged(r, snapshot.WakeUpPath) == 0 && quiet(t, s, "sleeper") {
		t.Error("the wake-up path is charged with nothing")
	}
}

// Nearly all of even the long waits lies within the run history.
func TestDepth(t *testing.T) {
	for name, args := range map[string][]string{
		"messages": {"perf", "bench", "sched", "messaging", "-g", "10", "-l", "100000"},
		"switches": {"stress-ng", "--quiet", "--switch", "8", "--timeout", "100s"},
		"build":    {"go", "build", "-a", "-o", "/dev/null", "culprit/cmd/culprit"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCommonWatch(t)
			background(t, args...)
			w.sleep(time.Second / 2) // until those waits are over that began before the probe did
			w.read()
			w.sleep(seconds(3))
			s := w.read()
			var older, all uint64
			for _, r := range s.Rows {
				older += charged(r, snapshot.OlderWaits)
				all += r.Wait()
			}
			a := s.Kernel
			t.Logf("%d of %d ns are older than history (%.3f %%); residual %d, skew %d", older, all, 100*float64(older)/float64(all), a.ResidualNS(), a.SkewNS)
			for i, r := range s.Group(snapshot.ByApp).Rows {
				if i < 3 {
					log(t, r)
				}
			}
			if older*50 > all {
				t.Errorf("%d of %d ns are older than history", older, all)
			}
			if all < uint64(time.Second) {
				t.Errorf("all waited for %d ns only: the load was not what it should be", all)
			}
		})
	}
}

// What a cgroup's quota withholds is told apart from what others take.
func TestQuota(t *testing.T) {
	w := newCommonWatch(t)
	d := seconds(4)
	limited := livetest.NewCPUGroup(t, 20)
	spender := load(t, "spender", lastCPU, 0, "spin")
	limited.Add(spender.Process.Pid)
	time.Sleep(500 * time.Millisecond)
	w.read()
	before := limited.Throttled()
	w.sleep(d)
	throttled := limited.Throttled() - before
	s := w.read()
	r := row(t, s, "spender")
	log(t, r)
	t.Logf("throttled for %d ns by the kernel's count, %d by ours", throttled, r.Quota())
	// A period is 100 ms: the one that the readings cut is in one of them only.
	if off := math.Abs(float64(r.Quota()) - float64(throttled)); off > 0.05*float64(throttled)+100e6 {
		t.Errorf("throttled for %d ns, by the kernel's count %d", r.Quota(), throttled)
	}
	contention := r.Wait() - r.Quota() - charged(r, snapshot.WakeUpPath)
	t.Logf("%d of %d ns are called contention", contention, r.Wait())
	if quiet(t, s, "spender") { // else it has to wait for others, too, and uses up its quota later
		if float64(throttled) < 0.6*float64(d) {
			t.Errorf("throttled for %d ns only: the quota is not what it should be", throttled)
		}
		if float64(contention) > 0.03*float64(r.Wait()) {
			t.Errorf("%d of %d ns are called contention", contention, r.Wait())
		}
	} else if throttled == 0 {
		t.Error("it was never throttled")
	}

	// Without a limit, but with company.
	limited.Unlimit()
	load(t, "hog", lastCPU, 0, "spin")
	time.Sleep(500 * time.Millisecond)
	w.read()
	w.sleep(d / 2)
	r = row(t, w.read(), "spender")
	log(t, r)
	if r.Quota() != 0 {
		t.Errorf("%d ns are the quota's, but there is none", r.Quota())
	}
	if charged(r, "hog") < uint64(d)/8 {
		t.Errorf("the hog is charged with %d ns only", charged(r, "hog"))
	}
}

// Against the rows of perf sched timehist: the quantiles of the waits of one process that is preempted, and of one
// that wakes up. They wait for milliseconds, because each of perf's events takes microseconds itself.
func TestAgainstPerf(t *testing.T) {
	mountTracing(t)
	w := newCommonWatch(t)
	d := seconds(4)
	load(t, "hog0", lastCPU, 0, "spin")
	load(t, "hog1", lastCPU, 0, "spin")
	events := filepath.Join(t.TempDir(), "events")
	w.read()
	// The victims live within both windows.
	livetest.Command(t, "perf", "sched", "record", "-o", events, "sh", "-c", `"$0" runner $1 0 $2 spin & "$0" waker $1 19 $2 5000; wait`,
		loadsProgram(t), strconv.Itoa(lastCPU), fmt.Sprint(d.Seconds()))
	s := w.read()
	rows := livetest.Command(t, "perf", "sched", "timehist", "-i", events)
	const waitTime, schedDelay = 3, 4 // columns: since it was preempted (or fell asleep), and since it woke up
	for comm, column := range map[string]int{"runner": waitTime, "waker": schedDelay} {
		var r snapshot.SchedRow
		for _, r = range s.Rows {
			if r.Comm == comm && r.PID != 0 {
				break
			}
		}
		log(t, r)
		var perf []float64 // ns
		for line := range strings.Lines(rows) {
			fields := strings.Fields(line)
			if len(fields) != 6 || !strings.HasSuffix(fields[2], fmt.Sprintf("[%d]", r.PID)) {
				continue
			}
			ms, err := strconv.ParseFloat(fields[column], 64)
			if err != nil {
				t.Fatal(err)
			}
			perf = append(perf, ms*1e6)
		}
		slices.Sort(perf)
		if len(perf) < 100 || math.Abs(float64(len(perf))-float64(r.Latency.Count())) > 2+float64(len(perf))/50 {
			t.Fatalf("perf has %d waits of %d, we have %d", len(perf), r.PID, r.Latency.Count())
		}
		for _, q := range []float64{.5, .9, .99, 1} {
			theirs := perf[int(math.Ceil(q*float64(len(perf))))-1]
			ours := float64(r.Latency.Quantile(q))
			if q == 1 {
				ours = float64(r.Latency.Max)
			}
			t.Logf("%s p%g: %.0f ns, by perf %.0f", comm, 100*q, ours, theirs)
			if math.Abs(ours-theirs) > 0.032*theirs+20_000 {
				t.Errorf("%s p%g: %.0f ns, by perf %.0f", comm, 100*q, ours, theirs)
			}
		}
	}
}

// mountTracing has what perf needs mounted, until the test ends.
func mountTracing(t testing.TB) {
	t.Helper()
	const tracing = "/sys/kernel/tracing"
	if _, err := os.Stat(tracing + "/events"); err == nil {
		return
	}
	if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(tracing, 0) })
}

// What waits when the probe is attached, on a CPU that has not switched since, is charged all the same.
func TestFirstWait(t *testing.T) {
	var victims []*exec.Cmd
	for i := range 5 {
		victims = append(victims, load(t, fmt.Sprintf("victim%d", i), lastCPU, 0, "spin"))
	}
	n := testnet.NewVeth(t)
	hog := n.Client.Run("hog", testnet.Spin{End: testnet.End{CPUs: []int{lastCPU}}, For: 2 * time.Second, RealTime: true})
	time.Sleep(100 * time.Millisecond)
	w := newWatch(t, owner.Options{}, sched.Options{})
	hog.Wait()
	w.sleep(500 * time.Millisecond)
	for _, v := range victims { // so that nothing moves while it is read
		v.Process.Kill()
		v.Wait()
	}
	s := w.read()
	for i := range victims {
		r := row(t, s, fmt.Sprintf("victim%d", i))
		t.Logf("%s waited %v, by the kernel's count %v", r.Comm, time.Duration(r.Wait()), time.Duration(r.KernelWait))
		if r.Wait() != r.KernelWait || r.Wait() == 0 {
			t.Errorf("%s: %v are charged, of %v", r.Comm, time.Duration(r.Wait()), time.Duration(r.KernelWait))
		}
	}
}

// Two hogs share the blame as they share the CPU.
func TestTwoHogs(t *testing.T) {
	w := newCommonWatch(t)
	d := seconds(6)
	hogs := map[string]*exec.Cmd{
		"hog0":  load(t, "hog0", lastCPU, 0, "spin"),
		"hog10": load(t, "hog10", lastCPU, 10, "spin"),
	}
	load(t, "victim", lastCPU, 5, "spin")
	time.Sleep(300 * time.Millisecond)
	ran := func() map[string]float64 {
		out := map[string]float64{}
		for comm, cmd := range hogs {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if out[comm], err = strconv.ParseFloat(strings.Fields(string(text))[0], 64); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	// A reading takes its time, too, and is of some moment meanwhile.
	widest := ran()
	w.read()
	narrowest := ran()
	w.sleep(d)
	for comm, ns := range ran() {
		narrowest[comm] = ns - narrowest[comm]
	}
	r := row(t, w.read(), "victim")
	for comm, ns := range ran() {
		widest[comm] = ns - widest[comm]
	}
	log(t, r)
	least, most := narrowest["hog10"]/widest["hog0"], widest["hog10"]/narrowest["hog0"]
	ours := float64(charged(r, "hog10")) / float64(charged(r, "hog0"))
	t.Logf("the nicer one ran for %.4f to %.4f of the other one's time, and has %.4f of its blame", least, most, ours)
	if ours < least*0.95 || ours > most*1.05 {
		t.Errorf("the nicer one ran for %.4f to %.4f of the other one's time, and has %.4f of its blame", least, most, ours)
	}
}

// What has no room is counted, and the sums stay equal.
func TestLossesAreSeen(t *testing.T) {
	for _, c := range []struct {
		loss    string
		owners  owner.Options
		options sched.Options
	}{
		{"thread_table_full", owner.Options{}, sched.Options{Threads: 16}},
		{"culprit_table_full", owner.Options{}, sched.Options{Pairs: 1}},
		{"histogram_full", owner.Options{}, sched.Options{Buckets: 8}},
		{"flow_table_full", owner.Options{}, sched.Options{Flows: 2}},
		{"process_table_full", owner.Options{Processes: 40}, sched.Options{}},
	} {
		t.Run(c.loss, func(t *testing.T) {
			n := testnet.NewVeth(t)
			w := newWatch(t, c.owners, c.options)
			for i := range 12 {
				load(t, fmt.Sprint("tick", i), lastCPU, 0, fmt.Sprint(500+i))
			}
			hold := testnet.Hold{End: testnet.End{Address: netip.AddrPortFrom(n.Server.IPv4, 5001), Listen: true}, Count: 4}
			n.Server.Run("server", hold)
			hold.Listen = false
			n.Client.Run("client", hold)
			w.sleep(seconds(2))
			s := w.read()
			if livetest.Lost(s.Loss, c.loss) == 0 {
				t.Errorf("%s is not counted", c.loss)
			}
			var culprits uint64
			for _, r := range s.Rows {
				culprits += r.Wait()
			}
			a := s.Kernel
			t.Logf("%d ns, culprits %d, residual %d, skew %d", a.WaitNS, culprits, a.ResidualNS(), a.SkewNS)
			if uint64(int64(a.WaitNS)+a.SkewNS) != culprits {
				t.Errorf("the culprits add up to %d ns, the waits to %d (skew %d)", culprits, a.WaitNS, a.SkewNS)
			}
			w.checkBooks(s, 0)
		})
	}
}

// The source of a program of many threads: crowd PROCESSES THREADS BORN SECONDS. Each thread wakes up once a second, and BORN processes a
// second are born and end.
const crowd = `
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

static void *life(void *arg)
{
	unsigned seed = (unsigned long)arg;

	usleep(rand_r(&seed) % 1000000);
	for (;;)
		usleep(1000000);
	return 0;
}

int main(int argc, char **argv)
{
	int processes = atoi(argv[1]), threads = atoi(argv[2]), born = atoi(argv[3]), seconds = atoi(argv[4]);
	pthread_attr_t small;
	pthread_t t;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (int i = 0; i < processes; i++) {
		if (fork())
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int j = 1; j < threads; j++)
			if (pthread_create(&t, &small, life, (void *)(unsigned long)(i * threads + j)))
				return 1;
		life((void *)(unsigned long)(i * threads));
	}
	signal(SIGCHLD, SIG_IGN);
	for (int i = 0; i < born * seconds; i++) {
		if (!fork())
			_exit(0);
		usleep(1000000 / born);
	}
	return 0;
}
`

// Ten thousand threads, and processes that come and go: nothing is lost, and a report a second costs little.
func TestScale(t *testing.T) {
	const processes, threads, born = 1000, 10, 200
	path := livetest.Compile(t, "crowd", crowd)
	background(t, path, strconv.Itoa(processes), strconv.Itoa(threads), strconv.Itoa(born), "100")
	time.Sleep(3 * time.Second)
	w := newWatch(t, owner.Options{}, sched.Options{Worst: true})
	memory, err := w.probe.Memory()
	if err != nil {
		t.Fatal(err)
	}
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin, before := time.Now(), used()
	most := 0
	for range 5 {
		w.sleep(time.Second)
		read := w.read()
		w.checkBooks(read, 1e6)
		s := read.Group(snapshot.ByApp)
		for _, r := range s.Rows {
			most = max(most, r.Threads)
		}
		for _, l := range s.Loss {
			if strings.HasSuffix(l.Name, "_full") && l.Count > 0 {
				t.Errorf("%s: %d", l.Name, l.Count)
			}
		}
	}
	share := float64(used()-before) / float64(time.Since(begin))
	t.Logf("%d threads of the crowd, %.1f %% of a CPU, %d MiB in the kernel", most, 100*share, memory>>20)
	if most < processes*threads {
		t.Errorf("%d threads were seen, want %d", most, processes*threads)
	}
}

// A thread other than the first one that executes a program becomes the first one, with its number, and keeps its slot.
func TestThreadedExec(t *testing.T) {
	w := newCommonWatch(t)
	path := livetest.Compile(t, "execs", execs)
	child := background(t, path)
	for range 6 {
		w.sleep(200 * time.Millisecond)
		w.read()
	}
	load(t, "hog", lastCPU, 0, "spin")
	earliest := schedstat(t, child.Process.Pid)
	w.read()
	early := schedstat(t, child.Process.Pid)
	w.sleep(seconds(2))
	late := schedstat(t, child.Process.Pid)
	s := w.read()
	least, most := late-early, schedstat(t, child.Process.Pid)-earliest
	r := row(t, s, "executed")
	log(t, r)
	const tolerance = 1e6
	if r.Threads != 1 || r.Wait()+tolerance < least || r.Wait() > most+tolerance {
		t.Errorf("%d threads waited for %d ns, by the kernel's count %d to %d", r.Threads, r.Wait(), least, most)
	}
	if r.Latency.Count() == 0 || r.Latency.Mean() == 0 {
		t.Errorf("%d waits of %d ns on average", r.Latency.Count(), r.Latency.Mean())
	}
}

// Softirqs of a stream that another process receives are told as stolen from whom they interrupt.
func TestSoftirq(t *testing.T) {
	w := newCommonWatch(t)
	d := seconds(4)
	path := livetest.Compile(t, "stream", stream)
	const ns = "culprit-test"
	livetest.Command(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { livetest.Command(t, "ip", "netns", "del", ns) })
	livetest.Command(t, "ip", "link", "add", "culprit-a", "type", "veth", "peer", "name", "culprit-b", "netns", ns)
	livetest.Command(t, "ip", "addr", "add", "198.51.100.1/24", "dev", "culprit-a")
	livetest.Command(t, "ip", "link", "set", "culprit-a", "up")
	livetest.Command(t, "ip", "-n", ns, "addr", "add", "198.51.100.2/24", "dev", "culprit-b")
	livetest.Command(t, "ip", "-n", ns, "link", "set", "culprit-b", "up")
	// What the sender's CPU would do for the receiver goes to the other one (RPS).
	livetest.Command(t, "ip", "netns", "exec", ns, "sh", "-c", fmt.Sprintf("echo %x > /sys/class/net/culprit-b/queues/rx-0/rps_cpus", 1<<lastCPU))
	background(t, "ip", "netns", "exec", ns, "taskset", "-c", strconv.Itoa(lastCPU), path, "receive", "5001")
	background(t, "taskset", "-c", "0", path, "send", "198.51.100.2", "5001")
	load(t, "computer", lastCPU, 0, "spin")
	time.Sleep(500 * time.Millisecond)
	w.read()
	before := softirqs(t, lastCPU)
	w.sleep(d)
	kernel := softirqs(t, lastCPU) - before
	s := w.read()
	r := row(t, s, "computer")
	log(t, r)
	var stolen uint64
	for _, r := range s.Rows {
		stolen += r.SoftirqStolen
	}
	t.Logf("%v of softirqs were stolen from computer, %v from all; the kernel counts %v on its CPU, in ticks", time.Duration(r.SoftirqStolen), time.Duration(stolen), kernel)
	if r.SoftirqStolen < r.OnCPU/100 {
		t.Errorf("%d ns were stolen, beside %d: the load was not what it should be", r.SoftirqStolen, r.OnCPU)
	}
}

// softirqs is a CPU's softirq time by /proc/stat, which samples it at each tick.
func softirqs(t testing.TB, cpu int) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 7 && fields[0] == fmt.Sprintf("cpu%d", cpu) {
			ticks, err := strconv.Atoi(fields[7])
			if err != nil {
				t.Fatal(err)
			}
			return time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	t.Fatalf("no CPU %d", cpu)
	return 0
}
