package perfetto

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"culprit/output/perfetto/processor"
	"culprit/probes/snapshot"
)

var head = Head{Release: "6.12.48+deb13-amd64", Machine: "x86_64"}

func write(t testing.TB, batches ...snapshot.Trace) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := New(&b, head)
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range batches {
		if err := w.Write(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trace.pftrace")
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// Times of the story, after its start.
const start = 5_000_000_000_000

func at(ns int64, cpu int32) snapshot.Moment { return snapshot.Moment{At: start + ns, CPU: cpu} }

// Threads of the story.
var (
	idle0   = snapshot.Thread{Comm: "swapper/0"}
	idle1   = snapshot.Thread{Comm: "swapper/1"}
	server  = snapshot.Thread{TID: 100, PID: 100, Comm: "server"}
	worker  = snapshot.Thread{TID: 101, PID: 100, Comm: "worker"}
	db      = snapshot.Thread{TID: 200, PID: 200, Comm: "db"}
	renamed = snapshot.Thread{TID: 101, PID: 100, Comm: "worker-busy"}
	forked  = snapshot.Thread{TID: 300, PID: 300, Comm: "server"}
	shell   = snapshot.Thread{TID: 300, PID: 300, Comm: "sh"}
	helper  = snapshot.Thread{TID: 301, PID: 300, Comm: "sh"}
)

func change(ns int64, cpu int32, prev snapshot.Thread, state string, next snapshot.Thread, prio int32) snapshot.SchedSwitch {
	return snapshot.SchedSwitch{Moment: at(ns, cpu), PrevTID: prev.TID, PrevPID: prev.PID, PrevComm: prev.Comm, PrevState: state,
		NextTID: next.TID, NextPID: next.PID, NextComm: next.Comm, NextPrio: prio}
}

func wakeup(ns int64, cpu int32, thread snapshot.Thread, target int32, waker snapshot.Thread, interrupt bool) snapshot.SchedWakeup {
	return snapshot.SchedWakeup{Moment: at(ns, cpu), Thread: thread, TargetCPU: target, WakerTID: waker.TID, WakerPID: waker.PID,
		WakerComm: waker.Comm, ByInterrupt: interrupt}
}

// The story is of two CPUs: a server wakes a worker, forks and executes a shell, whose helper begins and ends. Its second
// part has events that are older than its beginning, and a new name for the worker.
var story = []snapshot.Trace{{
	Start: start, End: start + 10_000, RealTime: 1_700_000_000_000_000_000,
	Switches: []snapshot.SchedSwitch{
		change(1000, 0, idle0, "R", server, 120),
		change(1500, 1, idle1, "R", db, 120),
		change(2500, 1, db, "R+", worker, 49),
		change(5000, 0, server, "S", idle0, 120),
		change(6000, 1, worker, "D", db, 120),
		change(7000, 0, idle0, "R", worker, 49),
	},
	Wakeups: []snapshot.SchedWakeup{
		wakeup(800, 0, server, 0, idle0, true), // before the first switch
		wakeup(2000, 0, worker, 1, server, false),
		wakeup(6500, 0, worker, 1, idle0, true),
	},
	Migrations: []snapshot.SchedMigrate{{Moment: at(6400, 0), Thread: worker, FromCPU: 1, ToCPU: 0}},
	IRQs:       []snapshot.IRQ{{Moment: at(4000, 1), Number: 24, Duration: 300, TID: 101}},
	Softirqs:   []snapshot.Softirq{{Moment: at(4800, 1), Name: "NET_RX", Duration: 700, TID: 101}, {Moment: at(6600, 0), Name: "RCU", Duration: 250}},
	Threads:    []snapshot.Thread{server, worker, db},
}, {
	Start: start + 10_000, End: start + 20_000, RealTime: 1_700_000_000_000_010_000,
	Switches: []snapshot.SchedSwitch{
		change(9000, 1, db, "S", idle1, 120), // late
		change(11_000, 0, renamed, "S", server, 120),
		change(13_000, 1, idle1, "R", forked, 120),
		change(14_500, 0, server, "S", helper, 120),
		change(15_000, 1, shell, "S", idle1, 120),
		change(16_000, 0, helper, "X", idle0, 120),
		change(17_000, 1, idle1, "R", shell, 120),
		change(18_000, 1, shell, "Z", idle1, 120),
	},
	Wakeups:  []snapshot.SchedWakeup{wakeup(10_500, 0, server, 0, renamed, false), wakeup(16_500, 1, shell, 1, idle1, true)},
	Begun:    []snapshot.ProcessBegin{{Moment: at(12_000, 0), Thread: forked, ParentTID: 100, ParentPID: 100, ParentComm: "server"}, {Moment: at(14_000, 1), Thread: helper, ParentTID: 300, ParentPID: 300, ParentComm: "sh"}},
	Executed: []snapshot.ProcessExec{{Moment: at(13_500, 1), Thread: shell}},
	Ended:    []snapshot.ProcessEnd{{Moment: at(15_900, 0), Thread: helper}, {Moment: at(17_900, 1), Thread: shell, ExitCode: 9}},
	Signals:  []snapshot.Signal{{Moment: at(14_200, 0), Thread: shell, Number: 9, Result: "already pending", SenderTID: 100, SenderPID: 100, SenderComm: "server"}},
	OOMKills: []snapshot.OOMKill{{Moment: at(14_300, 0), Thread: shell}},
	Faults:   []snapshot.PageFault{{Moment: at(13_600, 1), Thread: shell, Address: 0x7fff_dead_b000, User: true}},
	Syscalls: []snapshot.Syscall{
		{Moment: at(11_100, 0), Thread: server, Number: -1, Ends: true, Result: 4}, // began before the trace
		{Moment: at(11_200, 0), Thread: server, Number: 56},
		{Moment: at(12_100, 0), Thread: server, Number: -1, Ends: true, Result: 300},
	},
	Threads: []snapshot.Thread{renamed, shell, helper},
}}

// expect is what rows are to be in the trace processor, from an SQL query with one column of text.
func expect(t *testing.T, p *processor.Processor, file, sql, want string) {
	t.Helper()
	var got []string
	for _, row := range p.Query(t, file, sql) {
		for _, v := range row {
			got = append(got, fmt.Sprint(v))
		}
	}
	if want := strings.TrimSpace(strings.ReplaceAll(want, "\t", "")); strings.Join(got, "\n") != want {
		t.Errorf("%s\ngot:\n%s\nwant:\n%s", sql, strings.Join(got, "\n"), want)
	}
}

const noErrors = "select name || ' ' || value from stats where severity = 'error' and value > 0"

func TestProcessorReadsWhatHappened(t *testing.T) {
	p, path := processor.Start(t), file(t, write(t, story...))
	expect(t, p, path, noErrors, "")
	expect(t, p, path, "select name || ' ' || value from stats where severity = 'data_loss' and value > 0", "")

	// Runs: CPU, from, for (-1: to the end), thread, its state after that, priority.
	expect(t, p, path, `select printf('%d %d %d %s/%d %s %d', cpu, ts - 5000000000000, dur, name, tid, ifnull(end_state, '-'), priority)
		from sched_slice join thread using (utid) order by cpu, ts`, `
		0 1000 4000 server/100 S 120
		0 5000 2000 swapper/0 R 120
		0 7000 4000 worker-busy/101 S 49
		0 11000 3500 server/100 S 120
		0 14500 1500 sh/301 X 120
		0 16000 -1 swapper/0 - 120
		1 1500 1000 db/200 R+ 120
		1 2500 3500 worker-busy/101 D 49
		1 6000 3000 db/200 S 120
		1 9000 4000 swapper/0 R 120
		1 13000 2000 sh/300 S 120
		1 15000 2000 swapper/0 R 120
		1 17000 1000 sh/300 Z 120
		1 18000 -1 swapper/0 - 120`)
	// States: thread, from, for, state, waker, whether it was an interrupt that woke it.
	expect(t, p, path, `select printf('%d %d %d %s %s %s', tid, ts - 5000000000000, dur, state,
		ifnull((select tid from thread w where w.utid = waker_utid), '-'), ifnull(irq_context, '-'))
		from thread_state join thread using (utid) where tid > 0 order by tid, ts`, `
		100 800 200 R 0 -
		100 1000 4000 Running - -
		100 5000 5500 S - -
		100 10500 500 R 101 0
		100 11000 3500 Running - -
		100 14500 -1 S - -
		101 2000 500 R 100 0
		101 2500 3500 Running - -
		101 6000 500 D - -
		101 6500 500 R 0 1
		101 7000 4000 Running - -
		101 11000 -1 S - -
		200 1500 1000 Running - -
		200 2500 3500 R+ - -
		200 6000 3000 Running - -
		200 9000 -1 S - -
		300 12000 1000 R 100 0
		300 13000 2000 Running - -
		300 15000 1500 S - -
		300 16500 500 R 0 1
		300 17000 1000 Running - -
		300 18000 -1 Z - -
		301 14000 500 R 300 0
		301 14500 1500 Running - -
		301 16000 -1 X - -`)
	// Threads: name, process and its name, from, to.
	expect(t, p, path, `select printf('%d %s of %d %s %s %s', tid, thread.name, pid, process.name,
		ifnull(thread.start_ts - 5000000000000, '-'), ifnull(thread.end_ts - 5000000000000, '-'))
		from thread left join process using (upid) where tid > 0 order by tid`, `
		100 server of 100 server - -
		101 worker-busy of 100 server - -
		200 db of 200 db - -
		300 sh of 300 sh 12000 -
		301 sh of 300 sh 14000 16000`)
	expect(t, p, path, `select printf('%d of %d', p.pid, parent.pid)
		from process p join process parent on p.parent_upid = parent.upid`, "300 of 100")
	// Slices: of which CPU or thread, from, for.
	expect(t, p, path, `select printf('%s %d %d %d %s', type,
		ifnull(extract_arg(dimension_arg_set_id, 'cpu'), (select tid from thread where utid = extract_arg(dimension_arg_set_id, 'utid'))),
		ts - 5000000000000, dur, slice.name) from slice join track on track.id = track_id order by ts`, `
		cpu_irq 1 3700 300 IRQ (24)
		cpu_softirq 1 4100 700 NET_RX
		cpu_softirq 0 6350 250 RCU
		thread_execution 100 11200 900 sys_clone
		thread_execution 300 14200 0 signal_generate
		thread_execution 300 14300 0 mem.oom_kill`)
	// Events: CPU, thread. Those that are named as in the other formats say what the next event does not.
	expect(t, p, path, `select printf('%d %d %d %s %s', ts - 5000000000000, cpu, tid, e.name,
		(select group_concat(key || '=' || display_value, ' ') from args a where a.arg_set_id = e.arg_set_id))
		from ftrace_event e join thread using (utid) where e.name not in ('sched_switch', 'sched_waking') order by ts`, `
		1 0 100 task_rename pid=100 newcomm=server
		1 0 200 task_rename pid=200 newcomm=db
		3700 1 101 irq_handler_entry irq=24 name=24
		4000 1 101 irq_handler_exit irq=24 ret=1
		4100 1 101 softirq_entry vec=3
		4800 1 101 softirq_exit vec=3
		6350 0 0 softirq_entry vec=9
		6400 0 0 sched_migrate_task comm=worker pid=101 prio=120 orig_cpu=1 dest_cpu=0
		6600 0 0 softirq_exit vec=9
		10500 0 100 sched.wakeup waker_comm=worker-busy
		11100 0 100 sys_exit id=-1 ret=4
		11200 0 100 sys_enter id=56
		12000 0 100 task_newtask pid=300 comm=server
		12002 0 300 task_rename pid=300 newcomm=sh
		12100 0 100 sys_exit id=56 ret=300
		13500 1 300 task_rename pid=300 newcomm=sh
		13500 1 300 sched_process_exec pid=300
		13600 1 300 page_fault_user address=140736929312768
		14000 1 300 task_newtask pid=301 comm=sh clone_flags=65536
		14200 0 100 signal_generate code=0 comm=sh pid=300 result=2 sig=9
		14300 0 300 mark_victim pid=300
		15000 1 300 sched.switch prev_comm=sh
		15900 0 301 sched_process_exit comm=sh pid=301 tgid=300
		16000 0 301 sched_process_free comm=sh pid=301
		17900 1 300 process.end exit_code=9
		17900 1 300 sched_process_exit comm=sh pid=300 tgid=300`)
	expect(t, p, path, "select str_value from metadata where name in ('system_release', 'system_machine') order by name", head.Machine+"\n"+head.Release)
	expect(t, p, path, "select to_realtime(5000000010000)", "1700000000000000000")
}

// Losses are in the file, and where they leave a gap nobody is said to have run.
func TestProcessorReadsLosses(t *testing.T) {
	loss := func(n uint64) []snapshot.Loss {
		return []snapshot.Loss{{Name: "events_overwritten", Count: n}, {Name: "other"}}
	}
	p, path := processor.Start(t), file(t, write(t, snapshot.Trace{
		Start: start, End: start + 10_000, RealTime: 1, Loss: loss(0),
		Switches: []snapshot.SchedSwitch{change(1000, 0, idle0, "R", server, 120), change(1000, 1, idle1, "R", worker, 120)},
	}, snapshot.Trace{
		Start: start + 10_000, End: start + 20_000, RealTime: 10_001, Loss: loss(7),
		Switches: []snapshot.SchedSwitch{change(15_000, 0, db, "S", idle0, 120)},
		Threads:  []snapshot.Thread{db},
	}, snapshot.Trace{
		Start: start + 20_000, End: start + 30_000, RealTime: 20_001, Loss: loss(7),
		Switches: []snapshot.SchedSwitch{change(21_000, 0, idle0, "R", server, 120)},
	}))
	expect(t, p, path, "select name || ' ' || ifnull(idx, '') || ' ' || value from stats where severity in ('error', 'data_loss') and value > 0", `
		ftrace_cpu_has_data_loss 0 1
		ftrace_cpu_has_data_loss 1 1
		mismatched_sched_switch_tids  1`)
	expect(t, p, path, "select t.name || ' ' || (ts - 5000000000000) || ' ' || s.name from slice s join track t on t.id = track_id", `
		culprit 20000 lost: events_overwritten=7`)
	expect(t, p, path, "select printf('%d %d %d %d', cpu, ts - 5000000000000, dur, tid) from sched_slice join thread using (utid) order by cpu, ts", `
		0 1000 -1 100
		0 15000 6000 0
		0 21000 -1 100
		1 1000 -1 101`)
}

// Where only some processes are traced, switches between others are missing: those are not said to run meanwhile.
func TestProcessorReadsChosenProcesses(t *testing.T) {
	p, path := processor.Start(t), file(t, write(t, snapshot.Trace{
		Start: start, End: start + 20_000, RealTime: 1,
		Switches: []snapshot.SchedSwitch{
			change(1000, 0, idle0, "R", server, 120),
			change(3000, 0, server, "S", db, 120), // db is not chosen, and goes unseen
			change(7000, 0, shell, "R+", server, 120),
			change(9000, 0, server, "S", idle0, 120), // and so does the idle task
			change(12_000, 0, db, "S", worker, 120),
			change(13_000, 0, worker, "D", shell, 120),
		},
	}, snapshot.Trace{
		Start: start + 20_000, End: start + 40_000, RealTime: 20_001,
		Switches: []snapshot.SchedSwitch{
			change(30_000, 0, idle0, "R", server, 120),
			change(31_000, 0, server, "S", idle0, 120),
		},
	}))
	expect(t, p, path, noErrors, "")
	expect(t, p, path, "select printf('%d %d %s %s', ts - 5000000000000, dur, thread.name, end_state) from sched_slice join thread using (utid) where tid <> 0 order by ts", `
		1000 2000 server S
		3000 1 db I
		6999 1 sh R+
		7000 2000 server S
		11999 1 db S
		12000 1000 worker D
		13000 1 sh I
		30000 1000 server S`)
}

// schedule is what CPUs do at random, in batches whose events are some us older than their beginnings.
func schedule(batches, each int) (out []snapshot.Trace) {
	r := rand.New(rand.NewPCG(1, 2))
	const cpus, threads = 3, 40
	var now [cpus]int64
	var on [cpus]snapshot.Thread
	for cpu := range on {
		on[cpu].Comm = fmt.Sprintf("swapper/%d", cpu)
	}
	for b := range int64(batches) {
		t := snapshot.Trace{Start: start + b*1_000_000, End: start + (b+1)*1_000_000, RealTime: b * 1_000_000}
		for range each {
			cpu := r.IntN(cpus)
			next := snapshot.Thread{Comm: fmt.Sprintf("swapper/%d", cpu)}
			if on[cpu].TID == 0 || r.IntN(2) == 0 {
				tid := int32(1000 + threads*cpu + r.IntN(threads)) // that others have not
				next = snapshot.Thread{TID: tid, PID: tid, Comm: fmt.Sprint("thread-", tid)}
			}
			now[cpu] = max(now[cpu]+1+r.Int64N(5000), b*1_000_000-int64(r.IntN(20_000)))
			t.Switches = append(t.Switches, change(now[cpu], int32(cpu), on[cpu], []string{"R", "S", "D", "I", "P", "T", "t", "R+"}[r.IntN(8)], next, int32(r.IntN(140)-1)))
			on[cpu] = next
		}
		slices.SortStableFunc(t.Switches, func(a, b snapshot.SchedSwitch) int { return cmp.Compare(a.At, b.At) })
		out = append(out, t)
	}
	return out
}

func TestProcessorReadsRandomSchedules(t *testing.T) {
	batches := schedule(5, 400)
	byCPU := map[int32][]snapshot.SchedSwitch{}
	for _, b := range batches {
		for _, s := range b.Switches {
			byCPU[s.CPU] = append(byCPU[s.CPU], s)
		}
	}
	var want strings.Builder
	for cpu := range int32(len(byCPU)) {
		for i, s := range byCPU[cpu] {
			length, state := int64(-1), "-"
			if i+1 < len(byCPU[cpu]) {
				length, state = byCPU[cpu][i+1].At-s.At, byCPU[cpu][i+1].PrevState
			}
			fmt.Fprintln(&want, cpu, s.At, length, s.NextTID, state, s.NextPrio)
		}
	}
	p, path := processor.Start(t), file(t, write(t, batches...))
	expect(t, p, path, noErrors, "")
	expect(t, p, path, `select printf('%d %d %d %d %s %d', cpu, ts, dur, tid, ifnull(end_state, '-'), priority)
		from sched_slice join thread using (utid) order by cpu, ts`, want.String())
}

// A file that was cut has what came before that.
func TestProcessorReadsCutFiles(t *testing.T) {
	whole := write(t, schedule(20, 100)...)
	p := processor.Start(t)
	for cut := 997; cut < len(whole); cut += 997 {
		want := 0
		for _, packet := range packets(t, whole[:cut]) {
			want += len(packet.switches)
		}
		path := file(t, whole[:cut])
		expect(t, p, path, "select count() from ftrace_event where name = 'sched_switch'", fmt.Sprint(want))
	}
}
