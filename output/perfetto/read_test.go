package perfetto

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"culprit/output/internal/sample"
	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

func readAll(t testing.TB, content []byte) (out []snapshot.Trace) {
	t.Helper()
	err := Read(bytes.NewReader(content), func(batch snapshot.Trace) error {
		out = append(out, batch)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// readable is what Read says that it gives back of a batch.
func readable(b snapshot.Trace) snapshot.Trace {
	b.IOQueued, b.IOIssued, b.IOMerged = nil, nil, nil
	b.Threads = slices.DeleteFunc(slices.Clone(b.Threads), func(t snapshot.Thread) bool { return t.TID == 0 || t.PID == 0 })
	b.Loss = slices.DeleteFunc(slices.Clone(b.Loss), func(l snapshot.Loss) bool { return l.Count == 0 })
	ofCPUs(b.Switches)
	ofCPUs(b.Wakeups)
	ofCPUs(b.Migrations)
	ofCPUs(b.Begun)
	ofCPUs(b.Executed)
	ofCPUs(b.Ended)
	ofCPUs(b.IRQs)
	ofCPUs(b.Softirqs)
	ofCPUs(b.Signals)
	ofCPUs(b.OOMKills)
	ofCPUs(b.Faults)
	ofCPUs(b.Syscalls)
	return b
}

// ofCPUs puts events of the same time in the order of their CPUs.
func ofCPUs[E event](events []E) {
	cpu := func(e E) int64 { return reflect.ValueOf(e).FieldByName("CPU").Int() }
	slices.SortStableFunc(events, func(a, b E) int { return cmp.Or(cmp.Compare(a.Time(), b.Time()), cmp.Compare(cpu(a), cpu(b))) })
}

// roundTrip fails if what is read is not what was written.
func roundTrip(t *testing.T, batches ...snapshot.Trace) {
	t.Helper()
	got := readAll(t, write(t, batches...))
	if len(got) != len(batches) {
		t.Fatalf("%d batches became %d", len(batches), len(got))
	}
	for n := range batches {
		got, want := readable(got[n]), readable(batches[n])
		for _, k := range append([]traced.Rows{traced.Threads}, kindsRows()...) {
			if k.Len(&got) != k.Len(&want) {
				t.Errorf("batch %d: %d of %s, want %d", n, k.Len(&got), k.Name, k.Len(&want))
				continue
			}
			for i := range k.Len(&want) {
				if got, want := reflect.ValueOf(k.Row(&got, i)).Elem().Interface(), reflect.ValueOf(k.Row(&want, i)).Elem().Interface(); got != want {
					t.Errorf("batch %d: %s %d is\n%+v, want\n%+v", n, k.Name, i, got, want)
					break
				}
			}
		}
		if got.Start != want.Start || got.End != want.End || got.RealTime != want.RealTime || !slices.Equal(got.Loss, want.Loss) {
			t.Errorf("batch %d is from %d to %d, at %d, with the losses %v; want from %d to %d, at %d, with %v",
				n, got.Start, got.End, got.RealTime, got.Loss, want.Start, want.End, want.RealTime, want.Loss)
		}
	}
}

func kindsRows() (out []traced.Rows) {
	for _, k := range traced.Kinds {
		out = append(out, k.Rows)
	}
	return out
}

func TestReadStory(t *testing.T) { roundTrip(t, story...) }

// Not only what can be true comes back.
func TestReadSamples(t *testing.T) {
	batches := sample.Traces(20)
	roundTrip(t, batches...)
	for _, k := range traced.Kinds {
		if lacks := readable(batches[0]); slices.Contains(Lacks, k.Name) != (k.Len(&lacks) == 0) {
			t.Errorf("%d events of %s", k.Len(&lacks), k.Name)
		}
	}
}

func TestReadSchedules(t *testing.T) {
	roundTrip(t, schedule(5, 400)...)
	batches, _ := load(6, 100_000_000, 20_000_000)
	roundTrip(t, batches...)
	roundTrip(t, sample.Switches(100_000))
}

// machine makes batches of all kinds of events, as a machine does whose threads begin, are renamed and end, and whose numbers come back.
func machine(seed uint64, batches, events int) (out []snapshot.Trace) {
	const cpus, length = 4, 1_000_000
	r := rand.New(rand.NewPCG(seed, 0))
	type named struct {
		since int64
		snapshot.Thread
	}
	names := map[int32][]named{}
	var fresh []snapshot.Thread
	call := func(at int64, thread snapshot.Thread) {
		names[thread.TID] = append(names[thread.TID], named{at, thread})
		fresh = append(fresh, thread)
	}
	word := func() string {
		return []string{"postgres", "swapper", "sh", "", "a name of fifteen", "caf\xc3", "日本", "kworker/0:1"}[r.IntN(8)]
	}
	for tid := int32(1); tid < 30; tid++ {
		call(0, snapshot.Thread{TID: tid, PID: tid - tid%3, Comm: word()}) // of which some have no process
	}
	var on [cpus]int32
	who := func(cpu, tid int32) snapshot.Thread {
		if tid == 0 {
			return snapshot.Thread{Comm: fmt.Sprint("swapper/", cpu)}
		}
		if all := names[tid]; len(all) > 0 {
			return all[len(all)-1].Thread
		}
		return snapshot.Thread{TID: tid}
	}
	lost := uint64(0)
	for b := range int64(batches) {
		out = append(out, snapshot.Trace{Start: start + b*length, End: start + (b+1)*length, RealTime: 7 + b*length})
		t := &out[b]
		at := t.Start - r.Int64N(length/2) // some are late
		for range events {
			at += 1 + r.Int64N(2*length/int64(events))
			cpu := r.Int32N(cpus)
			m := snapshot.Moment{At: at, CPU: cpu}
			current := who(cpu, on[cpu])
			other := who(cpu, r.Int32N(40)) // of which some have no name
			causer := snapshot.Causer{PID: other.PID, Comm: other.Comm, App: word()}
			ends := snapshot.Ends{Local: "10.0.0.1:80", Remote: "[::1]:1", Namespace: r.Int64N(1 << 32)}
			request := snapshot.Request{Device: "sda", Op: "read", Sector: r.Int64(), Bytes: 4096, Number: r.Int64N(1 << 40)}
			switch r.IntN(24) {
			case 0, 1, 2, 3, 4:
				if r.IntN(20) == 0 { // switches that are not in the trace
					current = other
				}
				next := who(cpu, r.Int32N(35))
				t.Switches = append(t.Switches, snapshot.SchedSwitch{Moment: m, PrevTID: current.TID, PrevPID: current.PID, PrevComm: current.Comm,
					PrevState: []string{"R", "S", "D", "I", "P", "T", "t", "R+", "X", "Z"}[r.IntN(10)],
					NextTID:   next.TID, NextPID: next.PID, NextComm: next.Comm, NextPrio: r.Int32N(141) - 1})
				on[cpu] = next.TID
			case 5, 6, 7:
				t.Wakeups = append(t.Wakeups, snapshot.SchedWakeup{Moment: m, Thread: other, TargetCPU: r.Int32N(cpus), WakerTID: current.TID,
					WakerPID: current.PID, WakerComm: current.Comm, ByInterrupt: r.IntN(2) == 0})
			case 8:
				t.Migrations = append(t.Migrations, snapshot.SchedMigrate{Moment: m, Thread: other, FromCPU: cpu, ToCPU: r.Int32N(cpus)})
			case 9:
				t.Throttled = append(t.Throttled, snapshot.SchedThrottle{Moment: m, Thread: current})
			case 10:
				begun := snapshot.Thread{TID: 1 + r.Int32N(40), PID: 1 + r.Int32N(40), Comm: word()}
				call(at, begun)
				t.Begun = append(t.Begun, snapshot.ProcessBegin{Moment: m, Thread: begun, ParentTID: current.TID, ParentPID: current.PID, ParentComm: current.Comm})
			case 11:
				current.Comm = word()
				call(at, current)
				t.Executed = append(t.Executed, snapshot.ProcessExec{Moment: m, Thread: current})
			case 12:
				t.Ended = append(t.Ended, snapshot.ProcessEnd{Moment: m, Thread: current, ExitCode: []int32{0, 9, 256}[r.IntN(3)]})
			case 13:
				t.IRQs = append(t.IRQs, snapshot.IRQ{Moment: m, Number: r.Int32N(100), Duration: r.Int64N(10_000), TID: current.TID})
				t.Softirqs = append(t.Softirqs, snapshot.Softirq{Moment: m, Name: append(snapshot.SoftirqNames, "10")[r.IntN(11)], Duration: r.Int64N(10_000), TID: current.TID})
			case 14:
				t.Signals = append(t.Signals, snapshot.Signal{Moment: m, Thread: other, Number: r.Int32N(64), Code: r.Int32N(10) - 5,
					Result: append(snapshot.SignalResults, "5")[r.IntN(6)], SenderTID: current.TID, SenderPID: current.PID, SenderComm: current.Comm})
				t.OOMKills = append(t.OOMKills, snapshot.OOMKill{Moment: m, Thread: other})
			case 15:
				t.Faults = append(t.Faults, snapshot.PageFault{Moment: m, Thread: current, Address: r.Uint64(), User: r.IntN(2) == 0})
			case 16:
				t.Syscalls = append(t.Syscalls, snapshot.Syscall{Moment: m, Thread: current, Number: r.Int32N(300)})
			case 17:
				t.Syscalls = append(t.Syscalls, snapshot.Syscall{Moment: m, Thread: current, Number: -1, Ends: true, Result: r.Int64N(100) - 50})
			case 18:
				t.Timers = append(t.Timers, snapshot.Timer{Moment: m, Function: word(), HighRes: r.IntN(2) == 0, Duration: r.Int64N(10_000), TID: current.TID})
			case 19:
				t.IOQueued = append(t.IOQueued, snapshot.IOQueue{Moment: m, Thread: current, Request: request})
				t.IOIssued = append(t.IOIssued, snapshot.IOIssue{Moment: m, Thread: current, Request: request})
				t.IOMerged = append(t.IOMerged, snapshot.IOMerge{Moment: m, Thread: current, Request: request})
			case 20:
				t.IOCompleted = append(t.IOCompleted, snapshot.IOComplete{Moment: m, Causer: causer, Request: request, Via: "direct", TID: current.TID,
					Queued: r.Int64N(100_000), InDevice: r.Int64N(100_000)})
			case 21:
				t.IOThrottled = append(t.IOThrottled, snapshot.IOThrottle{Moment: m, Thread: current, Pause: r.Int64N(1000)})
				t.TCPStates = append(t.TCPStates, snapshot.TCPStateChange{Moment: m, Causer: causer, Ends: ends, From: "ESTAB", To: word()})
			case 22:
				t.TCPRetransmissions = append(t.TCPRetransmissions, snapshot.TCPRetransmit{Moment: m, Causer: causer, Ends: ends, State: "ESTAB"})
				t.TCPStalls = append(t.TCPStalls, snapshot.TCPStallEnd{Moment: m, Causer: causer, Ends: ends, Cause: "rto", Duration: r.Int64N(100_000),
					Waiting: r.Int64N(1000), ReaderTID: current.TID})
			case 23:
				thread := snapshot.Thread{TID: 1 + r.Int32N(40), PID: 1 + r.Int32N(40), Comm: word()}
				call(at, thread) // without an event
			}
		}
		if r.IntN(4) == 0 {
			lost += r.Uint64N(10)
		}
		t.Loss = []snapshot.Loss{{Name: "events_overwritten", Count: lost}, {Name: "unseen=switches", Count: uint64(b / 3)}}
		t.Threads, fresh = fresh, nil
	}
	return out
}

func TestReadMachine(t *testing.T) {
	for seed := range uint64(30) {
		if roundTrip(t, machine(seed, 20, 400)...); t.Failed() {
			t.Fatalf("of seed %d", seed)
		}
	}
}

// A switch that is older than others of its CPU's in the batch before changes nothing for those that come; and an idle task may be
// called as those are that the Writer makes up where switches are missing.
func TestReadOddSwitches(t *testing.T) {
	idle := snapshot.Thread{Comm: idleName}
	roundTrip(t, snapshot.Trace{Start: start, End: start + 10_000, Threads: []snapshot.Thread{server, worker, db}, Switches: []snapshot.SchedSwitch{
		change(1000, 0, idle, "R", server, 120), change(2000, 0, server, "S", idle, 120), change(2001, 0, db, "S", idle, 120),
		change(2002, 0, idle, "R", db, 120), change(6000, 0, worker, "S", db, 120),
	}}, snapshot.Trace{Start: start + 10_000, End: start + 20_000, Switches: []snapshot.SchedSwitch{
		change(5000, 0, server, "S", worker, 120), change(11_000, 0, db, "S", server, 120), change(15_000, 0, idle, "R", db, 120),
	}})
}

// Of switches of one CPU at the same time, what the file has of each is there.
func TestReadSameTime(t *testing.T) {
	batch := snapshot.Trace{Start: start, End: start + 10_000, Switches: []snapshot.SchedSwitch{
		change(1000, 0, idle0, "R", server, 120), change(2000, 0, server, "S", worker, 120),
		change(3000, 0, worker, "S", db, 49), change(3000, 0, server, "D", shell, 50), change(3000, 0, shell, "R+", idle0, 120),
		change(4000, 0, idle0, "R", server, 120),
	}}
	lines := func(b snapshot.Trace) (out []string) {
		for _, s := range b.Switches {
			out = append(out, fmt.Sprintln(s.At, s.CPU, s.PrevState, s.NextTID, s.NextPrio, s.NextComm))
		}
		slices.Sort(out)
		return out
	}
	got := readAll(t, write(t, batch))[0]
	if !slices.Equal(lines(got), lines(batch)) {
		t.Errorf("got %v, want %v", lines(got), lines(batch))
	}
	if last := len(got.Switches) - 1; got.Switches[last] != batch.Switches[last] {
		t.Errorf("the next is %+v, want %+v", got.Switches[last], batch.Switches[last])
	}
}

// A bundle that gets long is ended, and who is on the CPU stays known.
func TestReadLongBundles(t *testing.T) {
	batch := sample.Switches(800_000)
	n := 0
	batch.Switches = slices.DeleteFunc(batch.Switches, func(snapshot.SchedSwitch) bool { // for the longer events where some are missing
		n++
		return n%2 == 0
	})
	batch.Loss = []snapshot.Loss{{Name: "events_overwritten", Count: 1}}
	content := write(t, batch)
	bundles, marked, most := 0, 0, 0
	for _, packet := range parse(t, content)[tracePacket] {
		for _, b := range parse(t, packet.bytes)[packetFtrace] {
			bundles++
			most = max(most, len(b.bytes))
			marked += len(parse(t, b.bytes)[bundleLost])
		}
	}
	if bundles < 8 || marked != 4 || most > longest/2 {
		t.Errorf("%d bundles, of which %d tell of a loss, the longest with %d bytes", bundles, marked, most)
	}
	roundTrip(t, batch)
}

// Wherever a file is cut, the whole packets before the cut are read.
func TestReadCut(t *testing.T) {
	batches := append(slices.Clone(story), machine(1, 1, 100)...)
	content := write(t, batches...)
	whole := readAll(t, content)
	written := map[any]bool{}
	events := func(batches []snapshot.Trace, f func(any)) (n int) {
		for i := range batches {
			for _, k := range append([]traced.Rows{traced.Threads}, kindsRows()...) {
				for j := range k.Len(&batches[i]) {
					f(reflect.ValueOf(k.Row(&batches[i], j)).Elem().Interface())
					n++
				}
			}
		}
		return n
	}
	all := events(whole, func(e any) { written[e] = true })
	ends := map[int]bool{} // of packets
	for rest := content; len(rest) > 0; {
		_, _, tag := protowire.ConsumeTag(rest)
		_, n := protowire.ConsumeBytes(rest[tag:])
		rest = rest[tag+n:]
		ends[len(content)-len(rest)] = true
	}
	last := 0
	for cut := range len(content) + 1 {
		n := events(readAll(t, content[:cut]), func(e any) {
			if !written[e] {
				t.Fatalf("cut at %d: %+v was not written", cut, e)
			}
		})
		if n < last || n > last && !ends[cut] {
			t.Fatalf("cut at %d of %d: %d events after %d", cut, len(content), n, last)
		}
		last = n
	}
	if last != all || last < 100 {
		t.Errorf("%d events, want %d", last, all)
	}
}

// framed is a file of packets.
func framed(packets ...[]byte) []byte {
	var m message
	for _, p := range packets {
		m.bytes(tracePacket, p)
	}
	return m
}

func TestReadWhatIsNoTrace(t *testing.T) {
	system := func(version string) (m message) {
		at := m.begin(packetSystemInfo)
		m.string(systemVersion, version)
		m.end(at)
		return m
	}
	ours := system(schema)
	clocks := protowire.AppendBytes(protowire.AppendTag(nil, packetClocks, protowire.BytesType), nil)
	bundle := func(fill func(*message)) (m message) {
		at := m.begin(packetFtrace)
		fill(&m)
		m.end(at)
		return m
	}
	sched := func(fill func(*message)) message {
		return bundle(func(m *message) {
			at := m.begin(bundleSched)
			fill(m)
			m.end(at)
		})
	}
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"text":       {[]byte("hello\n"), "packet 1 of a trace: it begins with 0x68, not 0xa as those of Perfetto's traces do"},
		"perfetto's": {framed(system("Perfetto v47.0")), `packet 1 of a trace: its schema is "Perfetto v47.0", not "culprit.trace/1"`},
		"nobody's":   {framed(nil), `packet 1 of a trace: its schema is "", not`},
		"huge":       {protowire.AppendVarint(append(framed(ours), 0x0a), math.MaxUint64), "packet 2 of a trace: it would be 18446744073709551615 bytes long"},
		"long":       {append(framed(ours), "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"...), "packet 2 of a trace: binary: varint overflows"},
		"broken":     {framed(ours, []byte{0xff}), "packet 2 of a trace: unexpected EOF"},
		"no clock":   {framed(ours, bundle(func(*message) {})), "packet 2 of a trace: it does not say what time it is"},
		"no CPU":     {framed(ours, clocks, bundle(func(m *message) { m.varint(bundleCPU, 1<<40) })), "packet 3 of a trace: a bundle of a CPU that there is not"},
		"no name":    {framed(ours, clocks, sched(func(m *message) { column(m, schedSwitchTime, schedNextName, 1) })), "packet 3 of a trace: a number of a name"},
		"no column":  {framed(ours, clocks, sched(func(m *message) { column(m, schedSwitchTime, schedNextPrio, 1) })), "packet 3 of a trace: columns of switches"},
	} {
		err := Read(bytes.NewReader(c.content), func(snapshot.Trace) error { return nil })
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	stop := errors.New("enough")
	if err := Read(bytes.NewReader(write(t, story...)), func(snapshot.Trace) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped with %v", err)
	}
}

// column appends columns from the first to the last, with a value each.
func column(m *message, first, last protowire.Number, value byte) {
	for field := first; field <= last; field++ {
		m.bytes(field, []byte{value})
	}
}

// FuzzRead reads what nobody has written, with no more memory than the file has use for.
func FuzzRead(f *testing.F) {
	f.Add(write(f, story...))
	f.Add(write(f, machine(1, 1, 60)...))
	f.Add([]byte{})
	f.Add(protowire.AppendVarint([]byte{0x0a}, longest))
	f.Fuzz(func(t *testing.T, content []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_ = Read(bytes.NewReader(content), func(snapshot.Trace) error { return nil })
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20+uint64(len(content))*2000 {
			t.Errorf("%d bytes for a file of %d", used, len(content))
		}
	})
}
