// Package perfetto writes traces in the format of Perfetto, which its user interface and its trace processor read: one
// packet after the other, so that a file that ends anywhere is good up to there.
package perfetto

import (
	"fmt"
	"io"

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
	to    io.Writer
	out   message           // what the Write at work has so far
	cpus  []*cpu            // by number; nil: nothing was there yet
	calls map[int32]int32   // system call that a thread is in
	begun map[int32]int64   // of the Write at work: when a thread began
	lost  map[string]uint64 // counters of losses at the last Write
}

// sequence is what all packets are of: one writer's, in the order that they have.
const sequence = 1

// New begins a trace.
func New(to io.Writer, head Head) (*Writer, error) {
	w := &Writer{to: to, calls: map[int32]int32{}, begun: map[int32]int64{}, lost: map[string]uint64{}}
	w.packet(0, packetSystemInfo, func(m *message) {
		uts := m.begin(systemUtsname)
		m.string(utsSysname, "Linux")
		m.string(utsRelease, head.Release)
		m.string(utsMachine, head.Machine)
		m.end(uts)
	})
	return w, w.flush()
}

// Write appends what t has.
func (w *Writer) Write(t snapshot.Trace) error {
	w.clocks(t)
	w.threads(t)
	w.sched(t)
	w.interrupts(t)
	w.processes(t)
	w.memory(t)
	w.syscalls(t)
	w.bundles(w.losses(t))
	return w.flush()
}

// Close ends the trace. It has no end of its own, and nothing is held back between calls of Write.
func (w *Writer) Close() error { return nil }

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
	packet := w.out.begin(tracePacket)
	if at != 0 {
		w.out.int(packetTimestamp, at)
	}
	w.out.varint(packetSequence, sequence)
	m := w.out.begin(field)
	body(&w.out)
	w.out.end(m)
	w.out.end(packet)
}

// Clocks, as protos/perfetto/common/builtin_clock.proto numbers them.
const (
	clockRealtime = 1
	clockBoottime = 6
)

// clocks says what time it is at the end of t, and that the times of the trace are CLOCK_BOOTTIME.
func (w *Writer) clocks(t snapshot.Trace) {
	w.packet(t.End, packetClocks, func(m *message) {
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
	}
	for _, thread := range t.Threads {
		if thread.TID == 0 || thread.PID == 0 { // idle, or unknown
			continue
		}
		at := t.Start
		if begun, ok := w.begun[thread.TID]; ok {
			at = begun + 1
		}
		w.packet(at, packetProcesses, func(m *message) {
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
}

// Losses are on a track of their own.
const (
	lossTrack   = 1
	typeInstant = 3 // TrackEvent.Type
)

// losses says by how much the counters of losses grew, and whether one did.
func (w *Writer) losses(t snapshot.Trace) (more bool) {
	for _, l := range t.Loss {
		n := l.Count - w.lost[l.Name]
		if n == 0 {
			continue
		}
		more = true
		w.lost[l.Name] = l.Count
		w.packet(0, packetDescription, func(m *message) {
			m.varint(trackUUID, lossTrack)
			m.string(trackName, "culprit")
		})
		w.packet(t.End, packetTrackEvent, func(m *message) {
			m.varint(instantType, typeInstant)
			m.varint(instantTrack, lossTrack)
			m.string(instantName, fmt.Sprintf("lost: %s=%d", l.Name, n))
		})
	}
	return more
}
