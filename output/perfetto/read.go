package perfetto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

// Read gives back the batches that a Writer wrote. Of a file that was cut it gives what is in whole packets before the cut. An error
// of each ends it. What is not as it was written:
//
//   - There are no events of the kinds in Lacks.
//   - Threads have neither those without a number nor those without a process; losses neither those of which there were none.
//   - Events of a kind are in the order of time, those of several CPUs at the same time in any.
//   - Of switches of one CPU at the same ns, the threads that go off it can be taken for each other.
func Read(from io.Reader, each func(snapshot.Trace) error) error {
	in := bufio.NewReaderSize(from, 1<<16)
	r := &reader{
		each: each, tracks: trackKinds(), kinds: newKinds(), cpus: map[int32]*reading{},
		known: map[int32]snapshot.Thread{}, lost: map[string]uint64{}, texts: map[uint64]string{},
	}
	var packet bytes.Buffer
	for n := 1; ; n++ {
		err := next(in, &packet)
		switch {
		case errors.Is(err, io.EOF): // what is left of a packet was cut
			return r.end()
		case err != nil:
		case n == 1:
			err = r.begin(packet.Bytes())
		default:
			err = r.packet(packet.Bytes())
		}
		if err != nil {
			return fmt.Errorf("packet %d of a trace: %w", n, err)
		}
	}
}

// longest is how long a packet can be: much longer than any that a Writer writes.
const longest = 4 * longBundle

// next reads a packet; io.EOF where the file ends, be it within one.
func next(in *bufio.Reader, packet *bytes.Buffer) error {
	packet.Reset()
	tag, err := in.ReadByte()
	if err != nil {
		return err
	}
	if want := protowire.EncodeTag(tracePacket, protowire.BytesType); uint64(tag) != want {
		return fmt.Errorf("it begins with %#x, not %#x as those of Perfetto's traces do", tag, want)
	}
	length, err := binary.ReadUvarint(in)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case err != nil:
		return err
	case length > longest:
		return fmt.Errorf("it would be %d bytes long, more than culprit writes", length)
	}
	// The memory is for what is there, not for what the file says.
	if _, err := io.CopyN(packet, in, int64(length)); err != nil {
		return err
	}
	return nil
}

// reader collects the batch that it is in.
type reader struct {
	each  func(snapshot.Trace) error
	t     snapshot.Trace
	begun bool  // there is a batch
	err   error // in the packet at work

	tracks map[string]*trackKind // by category
	texts  map[uint64]string     // by their numbers
	open   openSlice

	kinds kinds
	cpus  map[int32]*reading
	known map[int32]snapshot.Thread // as Writer has them

	lost map[string]uint64 // since the trace began
}

func (r *reader) scan(message []byte) scan { return scan{rest: message, err: &r.err} }

// begin takes the first packet, which says that the trace is culprit's.
func (r *reader) begin(packet []byte) error {
	var found string
	for s := r.scan(packet); s.next(); {
		if s.number != packetSystemInfo {
			continue
		}
		for s := r.scan(s.bytes); s.next(); {
			if s.number == systemVersion {
				found = string(s.bytes)
			}
		}
	}
	if r.err == nil && found != schema {
		return fmt.Errorf("its schema is %q, not %q: culprit has not written it", found, schema)
	}
	return r.err
}

func (r *reader) packet(packet []byte) error {
	var at int64
	var of, flags uint64
	var kind protowire.Number
	var content, texts []byte
	for s := r.scan(packet); s.next(); {
		switch s.number {
		case packetTimestamp:
			at = int64(s.value)
		case packetSequence:
			of = s.value
		case packetFlags:
			flags = s.value
		case packetInterned:
			texts = s.bytes
		default:
			kind, content = s.number, s.bytes
		}
	}
	if flags&flagCleared != 0 {
		clear(r.texts)
	}
	r.intern(texts)
	switch {
	case r.err != nil:
	case kind == packetClocks:
		if err := r.end(); err != nil {
			return err
		}
		r.clocks(at, content)
	case !r.begun:
		return errors.New("it does not say what time it is, as the second packet does")
	case kind == packetProcesses && of == sequence:
		r.threads(content)
	case kind == packetTrackEvent:
		r.event(at, content)
	case kind == packetFtrace:
		r.bundle(content)
	}
	return r.err
}

// clocks begins a batch.
func (r *reader) clocks(start int64, message []byte) {
	r.begun, r.t.Start = true, start
	for s := r.scan(message); s.next(); {
		if s.number != clocksClock {
			continue
		}
		var id uint64
		var at int64
		for s := r.scan(s.bytes); s.next(); {
			switch s.number {
			case clockID:
				id = s.value
			case clockTime:
				at = int64(s.value)
			}
		}
		switch id {
		case clockBoottime:
			r.t.End = at
		case clockRealtime:
			r.t.RealTime = at
		}
	}
}

// end ends a batch, if there is one.
func (r *reader) end() error {
	if !r.begun {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(r.lost)) {
		r.t.Loss = append(r.t.Loss, snapshot.Loss{Name: name, Count: r.lost[name]})
	}
	for _, e := range r.t.Ended {
		delete(r.known, e.TID)
	}
	sortByTime(&r.t)
	t := r.t
	r.t, r.begun, r.open = snapshot.Trace{}, false, openSlice{}
	return r.each(t)
}

func (r *reader) threads(message []byte) {
	for s := r.scan(message); s.next(); {
		if s.number != treeThread {
			continue
		}
		var thread snapshot.Thread
		for s := r.scan(s.bytes); s.next(); {
			switch s.number {
			case threadTID:
				thread.TID = int32(s.value)
			case threadName:
				thread.Comm = string(s.bytes)
			case threadPID:
				thread.PID = int32(s.value)
			}
		}
		r.known[thread.TID] = thread
		r.t.Threads = append(r.t.Threads, thread)
	}
}

// intern learns what texts the numbers in events stand for.
func (r *reader) intern(message []byte) {
	for s := r.scan(message); s.next(); {
		var number uint64
		var text string
		for s := r.scan(s.bytes); s.next(); {
			switch s.number {
			case internedNumber:
				number = s.value
			case internedString:
				text = string(s.bytes)
			}
		}
		r.texts[number] = text
	}
}

// trackKind is a kind of event that is on tracks.
type trackKind struct {
	traced.Kind
	properties properties
	title      string // the field that its events are called by; "": none
}

func trackKinds() map[string]*trackKind {
	kinds := map[string]*trackKind{}
	for _, k := range traced.Kinds {
		if title, ok := titles[k.Name]; ok {
			kinds[k.Name] = &trackKind{k, propertiesOf(k.Type), title}
		}
	}
	return kinds
}

// openSlice is one that has begun. Its end is the next event.
type openSlice struct {
	kind  *trackKind // nil: there is none
	row   reflect.Value
	begin int64
	long  bool // it says itself how long it was
}

// event takes one of a track. Those that are of no kind are left out: values of counters, and where arrows begin.
func (r *reader) event(at int64, message []byte) {
	var form uint64
	var kind *trackKind
	var title string
	for s := r.scan(message); s.next(); {
		switch s.number {
		case markType:
			form = s.value
		case markCategory:
			kind = r.tracks[r.texts[s.value]]
		case markNameNumber:
			title = r.texts[s.value]
		case markName:
			r.loss(string(s.bytes))
		}
	}
	if form == typeEnd && r.open.kind != nil {
		if !r.open.long {
			r.open.set("duration_ns", at-r.open.begin)
		}
		r.add(at)
		return
	}
	r.open = openSlice{}
	if kind == nil {
		return
	}
	r.open = openSlice{kind: kind, row: reflect.New(kind.Type).Elem(), begin: at}
	kind.properties.set(r.open.row, kind.title, value{text: title})
	r.annotations(message)
	if form == typeInstant {
		r.add(at)
	}
}

func (o *openSlice) set(name string, number int64) {
	o.kind.properties.set(o.row, name, value{number: uint64(number)})
}

// add adds what is open to the batch.
func (r *reader) add(at int64) {
	r.open.set("at_ns", at)
	reflect.ValueOf(r.open.kind.Grow(&r.t)).Elem().Set(r.open.row)
	r.open = openSlice{}
}

// annotations are most fields of what is open.
func (r *reader) annotations(message []byte) {
	for s := r.scan(message); s.next(); {
		if s.number != markAnnotation {
			continue
		}
		var name string
		var v value
		for s := r.scan(s.bytes); s.next(); {
			switch s.number {
			case annotationNameNumber:
				name = r.texts[s.value]
			case annotationInt:
				v.number = s.value
			case annotationTextNumber:
				v.text = r.texts[s.value]
			}
		}
		r.open.kind.properties.set(r.open.row, name, v)
		r.open.long = r.open.long || name == "duration_ns"
	}
}

// loss takes an event's own name: only losses have one.
func (r *reader) loss(title string) {
	what, ok := strings.CutPrefix(title, lossTitle)
	last := strings.LastIndexByte(what, '=')
	if !ok || last < 0 {
		return
	}
	count, err := strconv.ParseUint(what[last+1:], 10, 64)
	if err != nil {
		r.err = fmt.Errorf("a loss: %w", err)
		return
	}
	r.lost[what[:last]] += count
}
