package bpfmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Ring reads the records of a ring buffer. T is the type that bpf2go made from theirs, of which a record may lack the end: that is 0. A nil
// one has none.
type Ring[T any] struct{ reader *ringbuf.Reader }

// NewRing reads m.
func NewRing[T any](m *ebpf.Map) (*Ring[T], error) {
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("preparing to read %s: %w", m, err)
	}
	return &Ring[T]{reader}, nil
}

// Take calls f for each record that is there, in order, and waits for none.
func (r *Ring[T]) Take(f func(T)) error {
	if r == nil {
		return nil
	}
	var record ringbuf.Record
	whole := make([]byte, binary.Size(*new(T)))
	r.reader.SetDeadline(time.Now())
	for {
		err := r.reader.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a ring buffer: %w", err)
		}
		clear(whole[copy(whole, record.RawSample):])
		var v T
		if err := binary.Read(bytes.NewReader(whole), binary.LittleEndian, &v); err != nil {
			return fmt.Errorf("reading a record: %w", err)
		}
		f(v)
	}
}

// Close frees what reading takes, not the map.
func (r *Ring[T]) Close() error {
	if r == nil {
		return nil
	}
	return r.reader.Close()
}
