package perfetto

import (
	"cmp"
	"math"
	"slices"

	"culprit/probes/snapshot"
)

// disk is what a trace has of one.
type disk struct {
	name     string
	track    uint64 // that the others are below
	requests lanes

	inFlight, bytesInFlight int64
	counter, bytesCounter   uint64 // their tracks; 0: none yet
}

func (w *Writer) disk(name string) *disk {
	d := w.disks[name]
	if d == nil {
		track := w.child(0, "disk "+name)
		d = &disk{name: name, track: track, requests: lanes{parent: track, name: "requests"}}
		w.disks[name] = d
	}
	return d
}

func (w *Writer) io(t snapshot.Trace) {
	for i := range t.IOCompleted {
		w.completed(&t.IOCompleted[i])
	}
	for i := range t.IOThrottled {
		h := &t.IOThrottled[i]
		// No slice: how long the pause really was is not known, and the thread's next system call can begin earlier.
		w.event(h.At, typeInstant, w.thread(h.TID, h.PID), func() {
			w.title("io.throttle", "throttled")
			w.threadOf(h.Moment, &h.Thread)
			w.arg("pause_ns", h.Pause)
		})
	}
	w.inFlight(t)
}

// completed appends a request from its beginning to its end, with an arrow from its owner's thread.
func (w *Writer) completed(c *snapshot.IOComplete) {
	flow := w.owned(c)
	w.slice(&w.disk(c.Device).requests, c.At, c.Queued+c.InDevice, func() {
		w.title("io.complete", c.Op)
		if flow != 0 {
			w.out.fixed64(markFlowEnd, flow)
		}
		w.arg("cpu", int64(c.CPU))
		w.text("device", c.Device)
		w.arg("request", c.Number)
		w.arg("sector", c.Sector)
		w.arg("bytes", c.Bytes)
		w.text("via", c.Via)
		w.id("tid", c.TID)
		w.causer(&c.Causer)
		w.arg("queue_ns", c.Queued)
		w.arg("device_ns", c.InDevice)
	})
}

// owned appends that a request begins to its owner's thread, and returns the arrow from there; 0: it is nobody's. Where
// another process submitted the request, as one of the kernel's workers, or nobody knows which thread did, that is the
// owner's main thread.
func (w *Writer) owned(c *snapshot.IOComplete) (flow uint64) {
	if c.PID <= 0 {
		return 0
	}
	begin := began(c.At, c.Queued+c.InDevice)
	tid := c.PID
	if w.process[c.TID] == c.PID {
		tid = c.TID
	}
	if w.process[tid] == 0 && c.Comm != "" { // it ended before the trace, or long ago
		w.named(threadsSequence, begin, snapshot.Thread{TID: tid, PID: c.PID, Comm: c.Comm})
	}
	w.flows++
	w.event(begin, typeInstant, w.thread(tid, c.PID), func() {
		w.title("io.begin", c.Op)
		w.out.fixed64(markFlow, w.flows)
	})
	return w.flows
}

// request is one in flight.
type request struct {
	disk   *disk
	number int64
}

// delta is a change of what is in flight.
type delta struct {
	request
	at, bytes int64
	ends      bool
}

// latest is how much later than others an event can be written, with room to spare.
const latest = 50_000_000

// inFlight appends what was in flight at each time. Values of counters build on each other, so they wait until no earlier
// change can come.
func (w *Writer) inFlight(t snapshot.Trace) {
	for i := range t.IOQueued {
		q := &t.IOQueued[i]
		w.changes = append(w.changes, delta{request{w.disk(q.Device), q.Number}, q.At, q.Bytes, false})
	}
	for i := range t.IOCompleted {
		c := &t.IOCompleted[i]
		w.changes = append(w.changes, delta{request{w.disk(c.Device), c.Number}, c.At, 0, true})
	}
	for i := range t.IOMerged {
		m := &t.IOMerged[i]
		w.changes = append(w.changes, delta{request{w.disk(m.Device), m.Number}, m.At, 0, true})
	}
	slices.SortStableFunc(w.changes, func(a, b delta) int { return cmp.Compare(a.at, b.at) })
	w.count(t.End - latest)
}

// count appends values of counters up to a time.
func (w *Writer) count(until int64) {
	done := 0
	for ; done < len(w.changes) && w.changes[done].at < until; done++ {
		c := &w.changes[done]
		if c.ends {
			bytes, known := w.requests[c.request]
			if !known { // it began before the trace
				continue
			}
			delete(w.requests, c.request)
			c.disk.add(-1, -bytes)
		} else {
			if len(w.requests) == mostInFlight { // their ends are not traced
				w.forgetAll()
			}
			w.requests[c.request] = c.bytes
			c.disk.add(1, c.bytes)
		}
		w.inFlightAt(c.at, c.disk)
	}
	w.changes = slices.Delete(w.changes, 0, done)
}

// mostInFlight is more than disks have tags for.
const mostInFlight = 1 << 17

// forget counts anew from nothing: beginnings and ends may have been lost.
func (w *Writer) forget(at int64) {
	w.count(math.MaxInt64)
	w.forgetAll()
	for _, d := range w.disks {
		if d.counter != 0 {
			w.inFlightAt(at, d)
		}
	}
}

func (w *Writer) forgetAll() {
	clear(w.requests)
	for _, d := range w.disks {
		d.inFlight, d.bytesInFlight = 0, 0
	}
}

func (d *disk) add(requests, bytes int64) {
	d.inFlight += requests
	d.bytesInFlight += bytes
}

func (w *Writer) inFlightAt(at int64, d *disk) {
	if d.counter == 0 {
		d.counter = w.counter(d.track, d.name+" requests in flight", unitCount)
		d.bytesCounter = w.counter(d.track, d.name+" bytes in flight", unitBytes)
	}
	w.value(at, d.counter, d.inFlight)
	w.value(at, d.bytesCounter, d.bytesInFlight)
}
