// Package perfetto writes traces in the format of Perfetto, which its user interface and its trace processor read: one
// packet after the other, so that a file that ends anywhere is good up to there.
//
// A request to a disk is there once, from its beginning to its end, with how long it waited and how long the disk took.
// That a disk is given a request (io.issue) is no event of its own, as it is in other formats; io.queue is in counters of
// what is in flight.
package perfetto

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"culprit/probes/snapshot"
)

// Head is what a trace says of the machine that it is of.
type Head struct {
	Release string // of the kernel, as uname -r has it: by that the states of threads are read
	Machine string // as uname -m has it: by that the names of system calls are found
}

// Writer writes one trace. Its CPUs, and what else it remembers from one Write to the next, are those of that trace.
type Writer struct {
	to     io.Writer
	out    message           // what the Write at work has so far
	cpus   []*cpu            // by number; nil: nothing was there yet
	calls  map[int32]int32   // system call that a thread is in
	begun  map[int32]int64   // of the Write at work: when a thread began
	lost   map[string]uint64 // counters of losses at the last Write
	losing bool              // they grew since

	process map[int32]int32           // of threads that have a name and did not end
	known   map[int32]snapshot.Thread // those of them that a trace has the names of
	kinds   kinds

	tracks       uint64            // how many there are
	tops         map[string]uint64 // that are below none, by name
	threadTracks map[threadID]uint64
	disks        map[string]*disk        // by name
	apps         map[string]*connections // by application
	flows        uint64                  // how many there are

	requests map[request]int64 // in flight, with their bytes
	changes  []delta           // that wait to be counted

	numbers map[interned]uint64 // of texts in the Write at work
	texts   message             // of them, those that no packet explains yet
	flags   uint64              // of the packet at work
}

// Sequences are what packets are of: one writer's, in the order that they have. Readers take the thread that the last
// description of a thread's track is of for the writer, and give it to all events of the sequence that are of no thread.
const (
	sequence        = 1
	threadsSequence = 2
)

// schema is what Read can read, as what the tracing service would say of itself.
const schema = "culprit.trace/1"

// New begins a trace.
func New(to io.Writer, head Head) (*Writer, error) {
	w := &Writer{
		to: to, calls: map[int32]int32{}, begun: map[int32]int64{}, lost: map[string]uint64{},
		process: map[int32]int32{}, known: map[int32]snapshot.Thread{}, kinds: newKinds(), tops: map[string]uint64{}, threadTracks: map[threadID]uint64{},
		disks: map[string]*disk{}, apps: map[string]*connections{},
		requests: map[request]int64{}, numbers: map[interned]uint64{},
	}
	w.packet(0, packetSystemInfo, func(m *message) {
		uts := m.begin(systemUtsname)
		m.string(utsSysname, "Linux")
		m.string(utsRelease, head.Release)
		m.string(utsMachine, head.Machine)
		m.end(uts)
		m.string(systemVersion, schema)
	})
	return w, w.flush()
}

// Write appends what t has.
func (w *Writer) Write(t snapshot.Trace) error {
	clear(w.numbers)
	losses := w.newLosses(t)
	w.losing = len(losses) > 0
	if w.losing {
		w.nobodyRuns()
	}
	w.clocks(t)
	w.threads(t)
	w.sched(t)
	w.throttled(t)
	w.interrupts(t)
	w.processes(t)
	w.memory(t)
	w.syscalls(t)
	w.timers(t)
	w.io(t)
	w.tcp(t)
	w.ended(t)
	w.losses(t.End, losses)
	w.bundles()
	return w.flush()
}

// Close ends the trace: with the last values of counters, all else is there already.
func (w *Writer) Close() error {
	w.count(math.MaxInt64)
	return w.flush()
}

func (w *Writer) flush() error {
	_, err := w.to.Write(w.out)
	w.out = w.out[:0]
	if err != nil {
		return fmt.Errorf("writing a perfetto trace: %w", err)
	}
	return nil
}

// packet appends a packet that has one message, which body fills; at 0, it has no time.
func (w *Writer) packet(at int64, field protowire.Number, body func(*message)) {
	w.packetOf(sequence, at, field, body)
}

// packetOf is packet, of a sequence.
func (w *Writer) packetOf(of uint64, at int64, field protowire.Number, body func(*message)) {
	packet := w.out.begin(tracePacket)
	if at != 0 {
		w.out.int(packetTimestamp, at)
	}
	w.out.varint(packetSequence, of)
	m := w.out.begin(field)
	body(&w.out)
	w.out.end(m)
	w.numbered()
	w.out.end(packet)
}

// Clocks, as protos/perfetto/common/builtin_clock.proto numbers them.
const (
	clockRealtime = 1
	clockBoottime = 6
)

// clocks says what time it is at the end of t, and that the times of the trace are CLOCK_BOOTTIME. Of such packets, readers
// do without the time: it says when t starts.
func (w *Writer) clocks(t snapshot.Trace) {
	w.packet(t.Start, packetClocks, func(m *message) {
		m.clock(clockBoottime, t.End)
		m.clock(clockRealtime, t.RealTime)
		m.varint(clocksPrimary, clockBoottime)
	})
}

func (m *message) clock(id uint64, at int64) {
	clock := m.begin(clocksClock)
	m.varint(clockID, id)
	m.int(clockTime, at)
	m.end(clock)
}

// threads says what the new threads of t are called and whose they are. Those that were there before t are named from
// its start on; those that begin in t not before that, since a number can have been another thread's. A process is called
// what its main thread is, by the event of a rename: a ProcessTree.Process would have to have the right parent, too, since
// readers take one with another parent for another process.
func (w *Writer) threads(t snapshot.Trace) {
	clear(w.begun)
	for _, b := range t.Begun {
		w.begun[b.TID] = b.At
		delete(w.threadTracks, threadID{b.TID, b.PID})
	}
	for _, thread := range t.Threads {
		if thread.TID == 0 || thread.PID == 0 { // idle, or unknown
			continue
		}
		at := t.Start
		if begun, ok := w.begun[thread.TID]; ok {
			at = begun + 1
		}
		w.known[thread.TID] = thread
		w.named(sequence, at, thread)
	}
}

// named says what a thread is called, and whose it is, in a packet of a sequence: Read takes those of the first for the trace's.
func (w *Writer) named(of uint64, at int64, thread snapshot.Thread) {
	w.process[thread.TID] = thread.PID
	w.packetOf(of, at, packetProcesses, func(m *message) {
		tree := m.begin(treeThread)
		m.int(threadTID, int64(thread.TID))
		m.string(threadName, thread.Comm)
		m.int(threadPID, int64(thread.PID))
		m.end(tree)
	})
	if thread.TID == thread.PID {
		w.cpu(0).renamed(at+1, thread)
	}
}

// ended forgets threads that ended in t.
func (w *Writer) ended(t snapshot.Trace) {
	for _, e := range t.Ended {
		delete(w.process, e.TID)
		delete(w.known, e.TID)
	}
}

// newLosses are the counters that grew since the last Write, by how much.
func (w *Writer) newLosses(t snapshot.Trace) (grown []snapshot.Loss) {
	for _, l := range t.Loss {
		if n := l.Count - w.lost[l.Name]; n > 0 {
			grown = append(grown, snapshot.Loss{Name: l.Name, Count: n})
			w.lost[l.Name] = l.Count
		}
	}
	return grown
}

// lossTitle is what events of losses are called, before what was lost and how many.
const lossTitle = "lost: "

func (w *Writer) losses(at int64, grown []snapshot.Loss) {
	for _, l := range grown {
		if l.Name == "events_overwritten" || l.Name == "events_missed" {
			w.forget(at)
		}
		w.event(at, typeInstant, w.top("culprit"), func() {
			w.out.string(markName, lossTitle+l.Name+"="+strconv.FormatUint(l.Count, 10))
		})
	}
}
