package perfetto

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/perfetto/processor"
	"culprit/probes/snapshot"
)

var (
	journal = snapshot.Thread{TID: 400, PID: 400, Comm: "jbd2/sda1-8"}
	flusher = snapshot.Thread{TID: 401, PID: 401, Comm: "kworker/u8:1"}
)

// submitter is a thread that submits a request, and whose that is; and the thread that an arrow leads from, 0: none does.
type submitter struct {
	tid    int32
	owner  snapshot.Causer
	source int32
}

var submitters = []submitter{
	{100, snapshot.Causer{PID: 100, Comm: "server", App: "web.service"}, 100},
	{101, snapshot.Causer{PID: 100, Comm: "server", App: "web.service"}, 101},
	{101, snapshot.Causer{PID: 200, Comm: "db", App: "db.service"}, 200}, // for another process
	{401, snapshot.Causer{PID: 200, Comm: "db", App: "db.service"}, 200}, // a worker of the kernel
	{0, snapshot.Causer{PID: 100, Comm: "server", App: "web.service"}, 100},
	{400, snapshot.Causer{PID: 999, Comm: "gone", App: "gone.service"}, 999}, // that ended before the trace
	{400, snapshot.Causer{App: "[unattributed: no owner seen before attach]"}, 0},
}

// span is how long a request is in flight.
type span struct{ begin, end, bytes int64 }

// load is what two disks do at random in batches, of which some events come a little late; and of each disk, the requests
// that are known to be in flight.
func load(batches int, batch, pause int64) (out []snapshot.Trace, inFlight map[string][]span) {
	r := rand.New(rand.NewPCG(5, 6))
	inFlight = map[string][]span{}
	times := map[int64]bool{}
	unique := func(at int64) int64 {
		for times[at] {
			at++
		}
		times[at] = true
		return at
	}
	for b := range int64(batches) {
		out = append(out, snapshot.Trace{Start: start + b*batch, End: start + (b+1)*batch, RealTime: b * batch})
	}
	out[0].Threads = []snapshot.Thread{server, worker, db, journal, flusher}
	out[0].Switches = []snapshot.SchedSwitch{
		change(1000, 0, idle0, "R", server, 120), change(2000, 0, server, "S", worker, 120), change(3000, 0, worker, "S", db, 120),
		change(4000, 0, db, "S", journal, 120), change(5000, 0, journal, "S", flusher, 120), change(6000, 0, flusher, "S", idle0, 120),
	}
	in := func(at int64) *snapshot.Trace { // the batch of that time, or the next
		return &out[max(0, min(int64(batches)-1, (at-start+r.Int64N(2)*r.Int64N(20_000_000))/batch))]
	}
	end := start + int64(batches)*batch
	number := int64(0)
	for _, disk := range []string{"sda", "nvme0n1"} {
		for range 8 {
			for begin := unique(start - r.Int64N(10_000_000)); begin < end; {
				number++
				by := submitters[r.IntN(len(submitters))]
				c := snapshot.IOComplete{Causer: by.owner, TID: by.tid, Via: []string{"direct", "writeback"}[r.IntN(2)], Request: snapshot.Request{
					Device: disk, Op: []string{"read", "write", "flush"}[r.IntN(3)], Sector: r.Int64N(1 << 35), Bytes: r.Int64N(256) << 12, Number: number,
				}}
				c.At = unique(begin + 1000 + r.Int64N(30_000_000))
				if r.IntN(10) > 0 { // else the kernel keeps no times
					c.Queued = r.Int64N(c.At - begin)
					c.InDevice = c.At - begin - c.Queued
				}
				next := unique(c.At + 1 + r.Int64N(pause))
				completed, merged := r.IntN(20) > 0, r.IntN(2) == 0
				if completed && c.At >= start {
					t := in(c.At)
					t.IOCompleted = append(t.IOCompleted, c)
				}
				if begin >= start { // else nobody saw it begin
					t := in(begin)
					t.IOQueued = append(t.IOQueued, snapshot.IOQueue{Moment: snapshot.Moment{At: begin}, Request: c.Request})
					s := span{begin, c.At, c.Bytes}
					if !completed && merged {
						t := in(c.At)
						t.IOMerged = append(t.IOMerged, snapshot.IOMerge{Moment: snapshot.Moment{At: c.At}, Request: c.Request})
					} else if !completed { // as far as is known
						s.end = math.MaxInt64
					}
					inFlight[disk] = append(inFlight[disk], s)
				}
				begin = next
			}
		}
	}
	for i := range out {
		slices.SortFunc(out[i].IOQueued, func(a, b snapshot.IOQueue) int { return cmp.Compare(a.At, b.At) })
		slices.SortFunc(out[i].IOMerged, func(a, b snapshot.IOMerge) int { return cmp.Compare(a.At, b.At) })
		slices.SortFunc(out[i].IOCompleted, func(a, b snapshot.IOComplete) int { return cmp.Compare(a.At, b.At) })
	}
	return out, inFlight
}

// inOrder are lines as SQL sorts them.
func inOrder(lines []string) string {
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// argsOf is the column with the args of a slice.
const argsOf = `(select group_concat(replace(key, 'debug.', '') || '=' || display_value, ' ') from args a where a.arg_set_id = slice.arg_set_id)`

func TestProcessorReadsRequests(t *testing.T) {
	batches, inFlight := load(6, 100_000_000, 20_000_000)
	p, path := processor.Start(t), file(t, write(t, batches...))
	expect(t, p, path, noErrors, "")

	var requests, owned []string
	for _, b := range batches {
		for _, c := range b.IOCompleted {
			duration := c.Queued + c.InDevice
			args := fmt.Sprintf("cpu=0 device=%s request=%d sector=%d bytes=%d via=%s", c.Device, c.Number, c.Sector, c.Bytes, c.Via)
			if c.TID != 0 {
				args += fmt.Sprint(" tid=", c.TID)
			}
			if c.PID != 0 {
				args += fmt.Sprintf(" pid=%d comm=%s", c.PID, c.Comm)
			}
			requests = append(requests, fmt.Sprintf("disk %s %s %d %d %s app=%s queue_ns=%d device_ns=%d",
				c.Device, c.Op, c.At-duration, duration, args, c.App, c.Queued, c.InDevice))
			i := slices.IndexFunc(submitters, func(s submitter) bool { return s.tid == c.TID && s.owner == c.Causer })
			if source := submitters[i].source; source != 0 {
				owned = append(owned, fmt.Sprintf("%d %s %d to disk %s %s %d %d", source, c.Op, c.At-duration, c.Device, c.Op, c.At-duration, duration))
			}
		}
	}
	if len(requests) < 300 {
		t.Errorf("there are but %d requests", len(requests))
	}
	expect(t, p, path, `select printf('%s %s %d %d %s', disk.name, slice.name, ts, dur, `+argsOf+`) line
		from slice join track on track.id = track_id join track disk on disk.id = track.parent_id
		where category = 'io.complete' and track.name = 'requests' order by line`, inOrder(requests))
	expect(t, p, path, "select count() from slice where category = 'io.complete'", fmt.Sprint(len(requests)))
	expect(t, p, path, `select printf('%d %s %d to %s %s %d %d', tid, source.name, source.ts, disk.name, slice.name, slice.ts, slice.dur) line
		from flow join slice source on source.id = slice_out join thread_track on thread_track.id = source.track_id join thread using (utid)
		join slice on slice.id = slice_in join track on track.id = slice.track_id join track disk on disk.id = track.parent_id
		order by line`, inOrder(owned))
	// Threads are those of the scheduler, with what their names were.
	expect(t, p, path, `select printf('%d %s of %d %s %d', tid, thread.name, pid, process.name, (select count() from sched_slice s where s.utid = thread.utid))
		from thread join process using (upid) where tid > 0 order by tid`, `
		100 server of 100 server 1
		101 worker of 100 server 1
		200 db of 200 db 1
		400 jbd2/sda1-8 of 400 jbd2/sda1-8 1
		401 kworker/u8:1 of 401 kworker/u8:1 1
		999 gone of 999 gone 0`)

	// Counters change when a request begins or ends, and have the number of those that did begin and not end.
	for disk, spans := range inFlight {
		var want []string
		for _, unit := range []struct {
			name string
			of   func(span) int64
		}{
			{"bytes", func(s span) int64 { return s.bytes }},
			{"requests", func(span) int64 { return 1 }},
		} {
			changes := map[int64]int64{}
			for _, s := range spans {
				changes[s.begin] += unit.of(s)
				changes[s.end] -= unit.of(s)
			}
			delete(changes, math.MaxInt64)
			sum := int64(0)
			for _, at := range slices.Sorted(maps.Keys(changes)) {
				sum += changes[at]
				want = append(want, fmt.Sprintf("%s %s in flight %d %d", disk, unit.name, at, sum))
			}
		}
		expect(t, p, path, fmt.Sprintf(`select printf('%%s %%d %%d', name, ts, value) from counter join counter_track on counter_track.id = track_id
			where name glob '%s *' order by name, ts`, disk), strings.Join(want, "\n"))
	}
	expect(t, p, path, `select printf('%s of %s in %s', track.name, disk.name, unit) from counter_track join track using (id) join track disk on disk.id = track.parent_id
		order by track.name`, `
		nvme0n1 bytes in flight of disk nvme0n1 in bytes
		nvme0n1 requests in flight of disk nvme0n1 in count
		sda bytes in flight of disk sda in bytes
		sda requests in flight of disk sda in count`)
}

// What was in flight when events were lost is not known.
func TestLossesEndWhatIsInFlight(t *testing.T) {
	queue := func(at, number int64) snapshot.IOQueue {
		return snapshot.IOQueue{Moment: snapshot.Moment{At: start + at}, Request: snapshot.Request{Device: "sda", Op: "read", Bytes: 4096, Number: number}}
	}
	lost := []snapshot.Loss{{Name: "events_overwritten", Count: 3}}
	p, path := processor.Start(t), file(t, write(t,
		snapshot.Trace{Start: start, End: start + 1000, IOQueued: []snapshot.IOQueue{queue(100, 1), queue(200, 2)}},
		snapshot.Trace{Start: start + 1000, End: start + 2000, Loss: lost},
		snapshot.Trace{Start: start + 2000, End: start + 3000, Loss: lost, IOQueued: []snapshot.IOQueue{queue(2500, 3)},
			IOCompleted: []snapshot.IOComplete{{Moment: snapshot.Moment{At: start + 2600}, Request: queue(0, 2).Request}}},
	))
	expect(t, p, path, fmt.Sprintf(`select printf('%%d %%d', ts - %d, value) from counter join counter_track on counter_track.id = track_id
		where name = 'sda requests in flight' order by ts`, int64(start)), `
		100 1
		200 2
		2000 0
		2500 1`)
}

// Without the beginnings of requests, nobody knows how many are in flight.
func TestNoCountersWithoutBeginnings(t *testing.T) {
	batches, _ := load(2, 100_000_000, 20_000_000)
	for i := range batches {
		batches[i].IOQueued = nil
	}
	p, path := processor.Start(t), file(t, write(t, batches...))
	expect(t, p, path, "select count() from counter_track", "0")
}

// A number of a thread that ended can become that of another process's thread, and a process's that of another process.
func TestProcessorReadsWhoseNumberItWas(t *testing.T) {
	next := snapshot.Thread{TID: 101, PID: 200, Comm: "db-writer"}
	again := snapshot.Thread{TID: 300, PID: 300, Comm: "make"}
	request := func(ns int64, tid, pid int32) snapshot.IOComplete {
		return snapshot.IOComplete{Moment: at(ns, 0), Causer: snapshot.Causer{PID: pid}, TID: tid, InDevice: 100, Request: snapshot.Request{Device: "sda", Op: "read"}}
	}
	p, path := processor.Start(t), file(t, write(t, snapshot.Trace{
		Start: start, End: start + 10_000, RealTime: 1, Threads: []snapshot.Thread{server, worker, db, shell},
		Switches:    []snapshot.SchedSwitch{change(1000, 0, idle0, "R", worker, 120), change(3000, 0, worker, "X", idle0, 120)},
		Ended:       []snapshot.ProcessEnd{{Moment: at(2900, 0), Thread: worker}},
		IOCompleted: []snapshot.IOComplete{request(2000, 101, 100), request(2500, 300, 300)},
	}, snapshot.Trace{
		Start: start + 10_000, End: start + 20_000, RealTime: 10_001, Threads: []snapshot.Thread{next, again},
		Begun: []snapshot.ProcessBegin{
			{Moment: at(11_000, 0), Thread: next, ParentTID: 200, ParentPID: 200, ParentComm: "db"},
			{Moment: at(11_500, 0), Thread: again, ParentTID: 100, ParentPID: 100, ParentComm: "server"},
		},
		Switches:    []snapshot.SchedSwitch{change(12_000, 0, idle0, "R", next, 120), change(14_000, 0, next, "S", idle0, 120)},
		IOCompleted: []snapshot.IOComplete{request(13_000, 101, 200), request(15_000, 101, 100), request(16_000, 300, 300)},
	}))
	expect(t, p, path, noErrors, "")
	expect(t, p, path, `select printf('%d %d %s of %s %d', ts - 5000000000000, tid, thread.name, process.name, (select count() from sched_slice s where s.utid = thread.utid))
		from slice join thread_track on thread_track.id = track_id join thread using (utid) join process using (upid) where category = 'io.begin' order by ts`, `
		1900 101 worker of server 1
		2400 300 sh of sh 0
		12900 101 db-writer of db 1
		14900 100 server of server 0
		15900 300 make of make 0`)
}

func TestProcessorReadsStallsTimersAndThrottling(t *testing.T) {
	causer := snapshot.Causer{PID: 100, Comm: "server", App: "web.service"}
	ends := func(port int) snapshot.Ends {
		return snapshot.Ends{Local: "10.0.0.1:80", Remote: fmt.Sprint("10.0.0.2:", port), Namespace: 4026531840}
	}
	story := snapshot.Trace{
		Start: start, End: start + 100_000, RealTime: 1, Threads: []snapshot.Thread{server, worker},
		Timers: []snapshot.Timer{
			{Moment: at(5000, 0), Function: "tick_nohz_handler", HighRes: true, Duration: 1000, TID: 100},
			{Moment: at(6000, 1), Function: "delayed_work_timer_fn", Duration: 500, TID: 101},
			{Moment: at(7000, 0), Function: "process_timeout", Duration: 3000, TID: 100}, // that the first interrupted, at once
		},
		Throttled: []snapshot.SchedThrottle{{Moment: at(7500, 0), Thread: worker}},
		IOThrottled: []snapshot.IOThrottle{
			{Moment: at(8000, 0), Thread: worker, Pause: 4_000_000},
			{Moment: at(8500, 0), Thread: snapshot.Thread{TID: 555}, Pause: 1},
		},
		Syscalls: []snapshot.Syscall{{Moment: at(7900, 0), Thread: worker, Number: 1}, {Moment: at(8100, 0), Thread: worker, Number: -1, Ends: true}},
		TCPStates: []snapshot.TCPStateChange{
			{Moment: at(1000, 0), Causer: causer, Ends: ends(1), From: "SYN-SENT", To: "ESTAB"},
			{Moment: at(2000, 0), Ends: ends(2), From: "LISTEN", To: "SYN-RECV"},
		},
		TCPRetransmissions: []snapshot.TCPRetransmit{{Moment: at(3000, 1), Causer: causer, Ends: ends(1), State: "ESTAB"}},
	}
	stalls := snapshot.Trace{Start: start + 100_000, End: start + 200_000, RealTime: 100_001}
	r := rand.New(rand.NewPCG(7, 8))
	var want []string
	for i := range 200 {
		s := snapshot.TCPStallEnd{Moment: at(100_000+int64(i)*400+r.Int64N(400), 0), Causer: causer, Ends: ends(i), Cause: []string{"rto", "reader_not_reading"}[i%2],
			Duration: r.Int64N(50_000), Waiting: r.Int64N(1 << 30), ReaderTID: int32(i % 2 * 101)}
		s.App = []string{"web.service", "db.service"}[r.IntN(2)]
		stalls.TCPStalls = append(stalls.TCPStalls, s)
		reader := ""
		if s.ReaderTID != 0 {
			reader = " reader_tid=101"
		}
		want = append(want, fmt.Sprintf("TCP %s %s %d %d waiting_bytes=%d%s cpu=0 pid=100 comm=server app=%[1]s local=%[7]s remote=%s netns=4026531840",
			s.App, s.Cause, s.At-s.Duration, s.Duration, s.Waiting, reader, s.Local, s.Remote))
	}
	p, path := processor.Start(t), file(t, write(t, story, stalls))
	expect(t, p, path, noErrors, "")
	const instants = `select printf('%s %s %d %d %s %s', ifnull(parent.name, '-'), track.name, ts - 5000000000000, dur, slice.name, ` + argsOf + `)
		from slice join track on track.id = track_id left join track parent on parent.id = track.parent_id where category `
	expect(t, p, path, `select printf('%s %s %s %d %d %s', top.name, app.name, slice.name, ts, dur, `+argsOf+`) line
		from slice join track on track.id = track_id join track app on app.id = track.parent_id join track top on top.id = app.parent_id
		where category = 'tcp.stall' and track.name = 'stalls' order by line`, inOrder(want))
	expect(t, p, path, instants+"glob 'tcp.[sr]*' and category != 'tcp.stall' order by ts", `
		web.service events 1000 0 ESTAB old_state=SYN-SENT new_state=ESTAB cpu=0 pid=100 comm=server app=web.service local=10.0.0.1:80 remote=10.0.0.2:1 netns=4026531840
		unknown events 2000 0 SYN-RECV old_state=LISTEN new_state=SYN-RECV cpu=0 local=10.0.0.1:80 remote=10.0.0.2:2 netns=4026531840
		web.service events 3000 0 retransmission state=ESTAB cpu=1 pid=100 comm=server app=web.service local=10.0.0.1:80 remote=10.0.0.2:1 netns=4026531840`)
	expect(t, p, path, instants+"= 'timer' order by ts, dur", `
		timers timers CPU 0 4000 1000 tick_nohz_handler cpu=0 tid=100 high_resolution=1
		timers timers CPU 0 4000 3000 process_timeout cpu=0 tid=100
		timers timers CPU 1 5500 500 delayed_work_timer_fn cpu=1 tid=101`)
	expect(t, p, path, `select printf('%d %d %s %s', ts - 5000000000000, dur, ifnull((select tid from thread_track join thread using (utid) where thread_track.id = track_id), track.name), `+argsOf+`)
		from slice join track on track.id = track_id where category in ('sched.throttle', 'io.throttle') order by ts`, `
		7500 0 101 cpu=0 tid=101 pid=100 comm=worker
		8000 0 101 cpu=0 tid=101 pid=100 comm=worker pause_ns=4000000
		8500 0 unknown threads cpu=0 tid=555 pause_ns=1`)
	expect(t, p, path, "select printf('%d %d', ts - 5000000000000, dur) from slice where name = 'sys_write'", "7900 200")
}

// What is left of a file with tracks says what each is, wherever it was cut.
func TestProcessorReadsCutTracks(t *testing.T) {
	batches, _ := load(3, 100_000_000, 100_000_000)
	for i := range batches {
		batches[i].TCPStalls = []snapshot.TCPStallEnd{{Moment: at(int64(i)*100_000_000+5000, 0), Causer: snapshot.Causer{App: "web.service"}, Duration: 3000, Cause: "rto"}}
		batches[i].Timers = []snapshot.Timer{{Moment: at(int64(i)*100_000_000+5000, 0), Function: "process_timeout", Duration: 100}}
	}
	whole := write(t, batches...)
	p := processor.Start(t)
	for cut := 997; cut < len(whole)+997; cut += 997 {
		var slices, values int
		for _, packet := range packets(t, whole[:min(cut, len(whole))]) {
			for _, event := range packet.fields[packetTrackEvent] {
				switch e := parse(t, event.bytes); e[markType][0].number {
				case typeBegin, typeInstant:
					slices++
				case typeCounter:
					values++
				}
			}
		}
		path := file(t, whole[:min(cut, len(whole))])
		expect(t, p, path, "select count(name) || ' ' || count(category) from slice", fmt.Sprint(slices, " ", slices))
		expect(t, p, path, "select count() from counter", fmt.Sprint(values))
		expect(t, p, path, `select track.name from slice join track on track.id = track_id
			where type != 'thread_execution' and (track.name is null or track.parent_id is null)`, "")
	}
}

// Whatever a file says that is converted, what it has is there, and ends no earlier than it begins.
func TestProcessorReadsHostileTimes(t *testing.T) {
	var batches []snapshot.Trace
	var spans, instants int
	for _, b := range sample.Traces(3) {
		batches = append(batches, snapshot.Trace{
			Start: b.Start, End: b.End, RealTime: b.RealTime, Timers: b.Timers, IOQueued: b.IOQueued, IOIssued: b.IOIssued, IOCompleted: b.IOCompleted,
			IOThrottled: b.IOThrottled, TCPStates: b.TCPStates, TCPRetransmissions: b.TCPRetransmissions, TCPStalls: b.TCPStalls,
		})
		spans += len(b.Timers) + len(b.IOCompleted) + len(b.TCPStalls)
		instants += len(b.IOThrottled) + len(b.TCPStates) + len(b.TCPRetransmissions)
	}
	p, path := processor.Start(t), file(t, write(t, batches...))
	expect(t, p, path, noErrors, "")
	expect(t, p, path, "select count() from slice where category in ('timer', 'io.complete', 'tcp.stall') and dur >= 0", fmt.Sprint(spans))
	expect(t, p, path, "select count() from slice where category in ('io.throttle', 'tcp.state', 'tcp.retransmit') and dur = 0", fmt.Sprint(instants))
}
