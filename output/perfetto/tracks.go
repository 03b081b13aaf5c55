package perfetto

import (
	"google.golang.org/protobuf/encoding/protowire"

	"culprit/probes/snapshot"
)

// Types of events (TrackEvent.Type).
const (
	typeBegin   = 1
	typeEnd     = 2
	typeInstant = 3
	typeCounter = 4
)

// Units of counters (CounterDescriptor.Unit).
const (
	unitCount = 2
	unitBytes = 3
)

// describe appends what a new track is, in a packet of a sequence, and returns its number.
func (w *Writer) describe(of uint64, body func(*message)) (track uint64) {
	w.tracks++
	w.packetOf(of, 0, packetDescription, func(m *message) {
		m.varint(trackUUID, w.tracks)
		body(m)
	})
	return w.tracks
}

// child is a new track below another, or below none at 0.
func (w *Writer) child(parent uint64, name string) (track uint64) {
	return w.describe(sequence, func(m *message) {
		m.string(trackName, name)
		if parent != 0 {
			m.varint(trackParent, parent)
		}
	})
}

// top is the track that has a name and is below none.
func (w *Writer) top(name string) (track uint64) {
	track, ok := w.tops[name]
	if !ok {
		track = w.child(0, name)
		w.tops[name] = track
	}
	return track
}

// counter is a new track of values.
func (w *Writer) counter(parent uint64, name string, unit uint64) (track uint64) {
	return w.describe(sequence, func(m *message) {
		m.string(trackName, name)
		m.varint(trackParent, parent)
		counter := m.begin(trackCounter)
		m.varint(counterUnit, unit)
		m.end(counter)
	})
}

// threadID is a thread of a process.
type threadID struct{ tid, pid int32 }

// thread is the track of a thread, the one that its system calls are on. For readers, a second track of the same thread
// is another thread that got its number; so there is one until a thread begins that has the number.
func (w *Writer) thread(tid, pid int32) (track uint64) {
	if tid <= 0 || pid <= 0 { // as of no process, it would be the idle task's
		return w.top("unknown threads")
	}
	track, ok := w.threadTracks[threadID{tid, pid}]
	if !ok {
		track = w.describe(threadsSequence, func(m *message) {
			thread := m.begin(trackThread)
			m.int(descriptorPID, int64(pid))
			m.int(descriptorTID, int64(tid))
			m.end(thread)
		})
		w.threadTracks[threadID{tid, pid}] = track
	}
	return track
}

// lanes are tracks with slices of one sort, which can overlap: of slices that do on one track, readers end the wrong one.
// Since they have the same name, they are shown as one.
type lanes struct {
	parent uint64
	name   string
	all    []lane
}

type lane struct {
	track uint64
	end   int64 // of its last slice
}

// lane is the one for a slice: of those that are free by then the one that was in use last, so that few are.
func (w *Writer) lane(of *lanes, begin, end int64) (track uint64) {
	best := -1
	for i, l := range of.all {
		if l.end <= begin && (best < 0 || l.end > of.all[best].end) {
			best = i
		}
	}
	if best < 0 {
		best = len(of.all)
		of.all = append(of.all, lane{track: w.child(of.parent, of.name)})
	}
	of.all[best].end = end
	return of.all[best].track
}

// slice appends a slice that ends at a time, with what body says of it, to a lane.
func (w *Writer) slice(of *lanes, at, duration int64, body func()) {
	begin := began(at, duration)
	track := w.lane(of, begin, at)
	w.event(begin, typeBegin, track, func() {
		body()
		if duration != at-begin {
			w.arg("duration_ns", duration)
		}
	})
	w.event(at, typeEnd, track, func() {})
}

// began is when something began that ends at a time: never after that, nor before the clock, whatever a file says.
func began(at, duration int64) int64 {
	return min(at, max(at-max(duration, 0), 1))
}

// event appends an event of a track, with what body says of it.
func (w *Writer) event(at int64, kind, track uint64, body func()) {
	w.packet(at, packetTrackEvent, func(m *message) {
		m.varint(markType, kind)
		m.varint(markTrack, track)
		body()
	})
}

func (w *Writer) value(at int64, track uint64, v int64) {
	w.event(at, typeCounter, track, func() { w.out.int(markValue, v) })
}

// titles are the kinds of events that are on tracks, with the field that they are called by there; "": by none, but by a word.
var titles = map[string]string{
	"sched.throttle": "", "timer": "function", "io.complete": "op", "io.throttle": "", "tcp.state": "new_state", "tcp.retransmit": "", "tcp.stall": "cause",
}

// Lacks are the kinds of events that a timeline has not: a request is one slice there, and what is in flight a counter.
var Lacks = []string{"io.queue", "io.issue", "io.merge"}

// title says of what kind the event at work is, as other formats name that, and what it is called.
func (w *Writer) title(category, name string) {
	w.out.varint(markCategory, w.number(internedCategory, category))
	w.out.varint(markNameNumber, w.number(internedName, name))
}

// arg says a number of the event at work, by the name that it has in the other formats.
func (w *Writer) arg(name string, v int64) {
	w.annotate(name, func(m *message) { m.int(annotationInt, v) })
}

// id is an arg, unless it is 0: unknown, or none.
func (w *Writer) id(name string, v int32) {
	if v != 0 {
		w.arg(name, int64(v))
	}
}

// text is as arg, of a text that is likely there more than once.
func (w *Writer) text(name, v string) {
	if v != "" {
		w.annotate(name, func(m *message) { m.varint(annotationTextNumber, w.number(internedText, v)) })
	}
}

func (w *Writer) annotate(name string, value func(*message)) {
	annotation := w.out.begin(markAnnotation)
	w.out.varint(annotationNameNumber, w.number(internedArg, name))
	value(&w.out)
	w.out.end(annotation)
}

// threadOf says which thread the event at work is of, and where it was.
func (w *Writer) threadOf(m snapshot.Moment, t *snapshot.Thread) {
	w.arg("cpu", int64(m.CPU))
	w.id("tid", t.TID)
	w.id("pid", t.PID)
	w.text("comm", t.Comm)
}

func (w *Writer) causer(c *snapshot.Causer) {
	w.id("pid", c.PID)
	w.text("comm", c.Comm)
	w.text("app", c.App)
}

// interned is a text of a field of InternedData.
type interned struct {
	field protowire.Number
	text  string
}

// number is what stands for a text in events, whose packets are much shorter so. The numbers are of one Write.
func (w *Writer) number(field protowire.Number, text string) uint64 {
	if len(w.numbers) == 0 {
		w.flags |= flagCleared
	}
	w.flags |= flagNeeds
	key := interned{field, text}
	number, ok := w.numbers[key]
	if !ok {
		number = uint64(len(w.numbers)) + 1
		w.numbers[key] = number
		entry := w.texts.begin(field)
		w.texts.varint(internedNumber, number)
		w.texts.string(internedString, text)
		w.texts.end(entry)
	}
	return number
}

// Flags of packets (TracePacket.SequenceFlags).
const (
	flagCleared = 1 // numbers of texts from before are no more
	flagNeeds   = 2 // has such numbers
)

// numbered says in the packet at work that it has numbers of texts, and of which texts if nobody did.
func (w *Writer) numbered() {
	if w.flags == 0 {
		return
	}
	w.out.varint(packetFlags, w.flags)
	if len(w.texts) > 0 {
		w.out.bytes(packetInterned, w.texts)
	}
	w.flags, w.texts = 0, w.texts[:0]
}
