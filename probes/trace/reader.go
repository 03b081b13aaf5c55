package trace

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"culprit/probes/bpfmap"
)

const (
	longest    = uint64(unsafe.Sizeof(bpfTraceRecord{}))
	chunkBytes = uint64(len(bpfTraceChunk{}.Data)) - longest
	wordBytes  = 8
)

// reader follows what one CPU writes (bpf/lib/trace.bpf.h).
type reader struct {
	cpu    uint32
	idle   string // what its idle task is called
	chunks uint64 // that it has
	at     uint64 // the position up to which it was read,
	time   int64  // the time of the record before that,
	count  uint64 // and how many records there were before that
	runs   int32  // the tid that has the CPU then; -1: unknown
	buffer [chunkBytes + longest]byte
}

// record is one as it was read.
type record struct {
	at   int64 // ns, CLOCK_BOOTTIME
	kind bpfTraceKind
	a    uint16
	b, c uint32
	more [len(bpfTraceRecord{}.More)]uint64
}

func (r *reader) chunk(position uint64) uint32 {
	return r.cpu*uint32(r.chunks) + uint32(position/chunkBytes%r.chunks)
}

// isWhole is whether nothing from a position on was overwritten when that many bytes were reserved. The chunk behind may be in the writing.
func (r *reader) isWhole(position, reserved uint64) bool {
	return reserved < position+(r.chunks-1)*chunkBytes
}

// take calls f for each record up to a position, in the order in which they were written, and returns how many were overwritten before that.
func (r *reader) take(cpus *bpfmap.Array[bpfTraceCpu], chunks *bpfmap.Array[bpfTraceChunk], until uint64, f func(record)) (lost uint64, err error) {
	for r.at < until {
		offset := r.at % chunkBytes
		end := min(until-r.at+offset, chunkBytes)
		text := r.buffer[:end-offset+longest]
		chunks.Read(r.chunk(r.at), unsafe.Offsetof(bpfTraceChunk{}.Data)+uintptr(offset), text)
		if !r.isWhole(r.at, cpus.Get(r.cpu).Reserved) {
			n, err := r.skip(cpus, chunks)
			if err != nil {
				return lost, err
			}
			lost += n
			continue
		}
		for i := uint64(0); i < end-offset; {
			one, bytes, ok := r.parse(text[i:])
			if !ok {
				lost += r.pass(chunks, until)
				break
			}
			r.time, r.count, r.at, i = one.at, r.count+1, r.at+bytes, i+bytes
			if one.kind != bpfTraceKindTRACE_CLOCK {
				f(one)
			}
		}
	}
	return lost, nil
}

// parse reads a record. All of them lie within the text. Not ok: that is none.
func (r *reader) parse(text []byte) (one record, bytes uint64, ok bool) {
	le := binary.LittleEndian
	low, kind, words := le.Uint32(text), bpfTraceKind(text[4]), uint64(text[5])
	if bytes = words * wordBytes; bytes < 2*wordBytes || bytes > longest || kind == bpfTraceKindTRACE_NONE || kind >= bpfTraceKindTRACE_KINDS {
		return one, 0, false
	}
	one = record{at: r.time + int64(int32(low-uint32(r.time))), kind: kind, a: le.Uint16(text[6:]), b: le.Uint32(text[8:]), c: le.Uint32(text[12:])}
	if kind == bpfTraceKindTRACE_CLOCK {
		one.at = int64(uint64(one.c)<<32 | uint64(one.b))
	}
	for i := range bytes/wordBytes - 2 {
		one.more[i] = le.Uint64(text[(2+i)*wordBytes:])
	}
	return one, bytes, true
}

// pass leaves out what makes no sense, up to the next chunk or the position, and returns how many records that is, as far as is known.
func (r *reader) pass(chunks *bpfmap.Array[bpfTraceChunk], until uint64) (lost uint64) {
	next := (r.at/chunkBytes + 1) * chunkBytes
	r.runs = -1
	if h, ok := r.head(chunks, next); ok && h.first < until && h.count > r.count {
		lost = h.count - r.count
		r.at, r.time, r.count = h.first, h.at, h.count
		return lost
	}
	r.at, r.count = until, r.count+1
	return 1
}

// skip goes on with half of the ring ahead of the writer, and returns how many that leaves out.
func (r *reader) skip(cpus *bpfmap.Array[bpfTraceCpu], chunks *bpfmap.Array[bpfTraceChunk]) (lost uint64, err error) {
	before := r.count
	err = r.jump(cpus, chunks, r.chunks/2)
	return r.count - before, err
}

// rewind goes back to about the oldest record.
func (r *reader) rewind(cpus *bpfmap.Array[bpfTraceCpu], chunks *bpfmap.Array[bpfTraceChunk]) error {
	reserved := cpus.Get(r.cpu).Reserved
	if r.isWhole(0, reserved+2*chunkBytes) { // with time to read them
		r.at, r.time, r.count, r.runs = 0, 0, 0, -1
		return nil
	}
	return r.jump(cpus, chunks, r.chunks-max(2, r.chunks/8))
}

// jump goes to the first record of the chunk so many before the one that is being written.
func (r *reader) jump(cpus *bpfmap.Array[bpfTraceCpu], chunks *bpfmap.Array[bpfTraceChunk], back uint64) error {
	for range 1000 {
		now := cpus.Get(r.cpu).Reserved / chunkBytes
		h, ok := r.head(chunks, (now-min(now, back))*chunkBytes)
		if ok && r.isWhole(h.first, cpus.Get(r.cpu).Reserved) {
			r.at, r.time, r.count, r.runs = h.first, h.at, h.count, -1
			return nil
		}
	}
	return fmt.Errorf("CPU %d writes its events faster than they can be read", r.cpu)
}

// oldest is about when the oldest record was, of a CPU of which some were overwritten.
func (r *reader) oldest(cpus *bpfmap.Array[bpfTraceCpu], chunks *bpfmap.Array[bpfTraceChunk]) (at int64, overwritten bool) {
	now := cpus.Get(r.cpu).Reserved / chunkBytes
	if now < r.chunks {
		return 0, false
	}
	h, ok := r.head(chunks, (now-r.chunks+1)*chunkBytes)
	return h.at, ok
}

// head is what is known of the first record that begins in a chunk: where, about when, and how many there were before.
type head struct {
	first uint64
	at    int64
	count uint64
}

// head is that of the chunk at a position; not ok: it is another's by now.
func (r *reader) head(chunks *bpfmap.Array[bpfTraceChunk], position uint64) (h head, ok bool) {
	var text [3 * wordBytes]byte
	chunks.Read(r.chunk(position), 0, text[:])
	le := binary.LittleEndian
	h = head{le.Uint64(text[0:]), int64(le.Uint64(text[8:])), le.Uint64(text[16:])}
	return h, h.first/chunkBytes == position/chunkBytes
}
