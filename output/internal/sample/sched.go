package sample

import (
	"math"
	"time"

	"culprit/probes/snapshot"
)

// More owners, and what is charged for waits beside them.
var (
	kworker    = snapshot.Process{PID: 2, Started: start.Add(-time.Hour), Comm: "kworker/u8:1", User: "root", App: "[kworker]"}
	interrupts = snapshot.Process{App: snapshot.Interrupts}
	softirqs   = snapshot.Process{App: snapshot.Softirqs}
	wakeUp     = snapshot.Process{App: snapshot.WakeUpPath}
	ownQuota   = snapshot.Process{App: snapshot.OwnQuota}
	older      = snapshot.Process{App: snapshot.OlderWaits}
	tableFull  = snapshot.Process{App: "[unattributed: culprit table full]"}
)

func because(p snapshot.Process, ns uint64) snapshot.Culprit {
	return snapshot.Culprit{Process: p, NS: ns}
}

// waits are the rows as a probe makes them, for a second.
func waits() []snapshot.SchedRow {
	rows := []snapshot.SchedRow{
		{Process: postgres, Threads: 3, Switches: 21_000, OnCPU: 410 * ms, IRQStolen: 3 * ms, SoftirqStolen: 9 * ms, SoftirqCaused: 14 * ms,
			Culprits: []snapshot.Culprit{because(dd, 298*ms), because(walwriter, 31*ms+7), because(softirqs, 12*ms), because(interrupts, 2*ms),
				because(wakeUp, 1_250_000), because(older, 17*ms), because(tableFull, 400_000)},
			Waiting: 4 * ms, Latency: hist(9000, 1<<14), Disk: 731 * ms, Blocked: ms, Asleep: 1480*ms + 349_993, Migrations: 812},
		{Process: walwriter, Threads: 1, Switches: 400, OnCPU: 30 * ms, Culprits: []snapshot.Culprit{because(postgres, 20*ms), because(wakeUp, 300_001)},
			Latency: hist(400, 1<<13), Disk: 42 * ms, Asleep: 907*ms + 699_999},
		{Process: dd, Threads: 1, Switches: 5200, OnCPU: 601 * ms, IRQStolen: 5 * ms, Culprits: []snapshot.Culprit{because(postgres, 211*ms),
			because(kworker, 44*ms)}, Latency: hist(130, 1<<20), Disk: 100 * ms, Uncounted: 39 * ms, Migrations: 3},
		{Process: container, Threads: 11, Switches: 1_200_000, OnCPU: 200 * ms, Culprits: []snapshot.Culprit{because(ownQuota, 700*ms),
			because(container, 99*ms)}, Latency: hist(88, 1<<22), Asleep: 10_001 * ms, NUMAPages: 512},
		{Process: kworker, Threads: 4, Switches: 77, OnCPU: 50 * ms, Asleep: 3950 * ms},
		{Process: fstrim, Threads: 1, Waiting: 980 * ms, Disk: 20 * ms},
		{Process: sleepy, Threads: 8, Asleep: 8000 * ms},
		{Process: softirqs, SoftirqCaused: 6 * ms},
	}
	for i := range rows {
		rows[i].KernelWait = rows[i].Wait()
	}
	return rows
}

// waitsAudit is that of rows whose books balance.
func waitsAudit(rows []snapshot.SchedRow) (a snapshot.SchedAudit) {
	for _, r := range rows {
		a.WaitNS += r.Wait()
		a.KernelWaitNS += r.KernelWait
	}
	return a
}

// Sched is a second in which several owners wanted two CPUs, with books that
// balance and nothing lost.
func Sched(by snapshot.By) snapshot.Sched {
	rows := waits()
	return snapshot.Sched{
		Start: start, End: start.Add(time.Second), Rows: rows, Kernel: waitsAudit(rows),
		Worst: []snapshot.SchedWait{
			{Process: container, TID: 9004, At: start.Add(700 * time.Millisecond), CPU: 1, Wait: 93 * ms,
				Ran: []snapshot.SchedRan{{Process: container, TID: 9002, NS: 3 * ms}, {Process: ownQuota, NS: 90 * ms}}},
			{Process: postgres, TID: 812, At: start.Add(400 * time.Millisecond), CPU: 127, Wait: 12_345_678,
				Ran: []snapshot.SchedRan{{Process: dd, TID: dd.PID, NS: 8 * ms}, {Process: softirqs, NS: 345_678}, {Process: dd, TID: dd.PID, NS: 4 * ms}}},
		},
		Loss: []snapshot.Loss{{Name: "culprit_table_full"}, {Name: "threads_full"}},
	}.Group(by)
}

// SchedThreads is Sched with the rows of some threads.
func SchedThreads(by snapshot.By) snapshot.Sched {
	s := Sched(by)
	for i, r := range waits()[:4] {
		r.Threads = 1
		s.Threads = append(s.Threads, snapshot.SchedThread{SchedRow: r, TID: r.PID + i, Name: "worker-thread-" + string(rune('0'+i))})
	}
	return s
}

// SchedUnbalanced is Sched with a residual, skew and losses.
func SchedUnbalanced(by snapshot.By) snapshot.Sched {
	s := Sched(by)
	s.Kernel.KernelWaitNS -= 1234
	s.Kernel.SkewNS = 56_789
	for i := range s.Loss {
		s.Loss[i].Count = uint64(i+1) * 1_000_003
	}
	return s
}

// SchedIdle is two seconds in which nothing ran.
func SchedIdle() snapshot.Sched {
	return snapshot.Sched{Start: start, End: start.Add(2 * time.Second), By: snapshot.ByApp, Loss: []snapshot.Loss{{Name: "threads_full"}}}
}

// SchedNasty has NastyNames wherever a name can stand, and the largest numbers.
func SchedNasty(by snapshot.By) snapshot.Sched {
	s := snapshot.Sched{Start: start, End: start.Add(time.Second),
		Kernel: snapshot.SchedAudit{WaitNS: math.MaxUint64, KernelWaitNS: math.MaxUint64 / 2, SkewNS: math.MinInt64}}
	const most = math.MaxUint64
	for i, n := range NastyNames {
		p := nasty(i, n)
		r := snapshot.SchedRow{Process: p, Threads: math.MaxInt, Switches: most, OnCPU: most, IRQStolen: most / 2, SoftirqStolen: most / 2,
			SoftirqCaused: most, Waiting: most, Latency: huge(), KernelWait: most, Disk: most, Blocked: most, Asleep: most, Uncounted: most,
			Migrations: most, NUMAPages: most, Culprits: []snapshot.Culprit{because(p, most/64), because(ownQuota, most/64),
				because(snapshot.Process{App: "[unattributed: " + n + "]"}, most/64)}}
		s.Rows = append(s.Rows, r)
		s.Threads = append(s.Threads, snapshot.SchedThread{SchedRow: r, TID: p.PID, Name: n})
		s.Worst = append(s.Worst, snapshot.SchedWait{Process: p, TID: p.PID, At: start, CPU: 8191, Wait: most, Ran: []snapshot.SchedRan{
			{Process: p, TID: p.PID, NS: most}, {Process: older, NS: most}}})
		s.Loss = append(s.Loss, snapshot.Loss{Name: n, Count: most})
	}
	return s.Group(by)
}

// AllSched are all of culprit sched, in every grouping.
func AllSched() []snapshot.Sched {
	return all(SchedIdle(), SchedThreads, SchedUnbalanced, SchedNasty)
}
