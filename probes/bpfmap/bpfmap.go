// Package bpfmap reads BPF maps as Go values.
package bpfmap

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Array reads an mmapable array map without system calls. T is the type that
// bpf2go made from the map's value type: plain integers in C layout.
type Array[T any] struct {
	mem    *ebpf.Memory
	stride int64
	n      uint32
}

// NewArray maps m, which must have been created with BPF_F_MMAPABLE.
func NewArray[T any](m *ebpf.Map) (*Array[T], error) {
	if want := uint32(unsafe.Sizeof(*new(T))); m.ValueSize() != want {
		return nil, fmt.Errorf("map %s: values of %d bytes, not %d", m, m.ValueSize(), want)
	}
	mem, err := m.Memory()
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", m, err)
	}
	// Elements are 8-byte aligned (array_map_alloc(), kernel/bpf/arraymap.c).
	return &Array[T]{mem, int64(m.ValueSize()+7) &^ 7, m.MaxEntries()}, nil
}

// Len is the number of elements.
func (a *Array[T]) Len() uint32 { return a.n }

// Get copies element i, which must be below Len. Each 64-bit word of it is read whole; several
// words can be of different moments.
func (a *Array[T]) Get(i uint32) (v T) {
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))
	if _, err := a.mem.ReadAt(buf, int64(i)*a.stride); err != nil {
		panic(fmt.Sprintf("element %d of %d: %v", i, a.n, err)) // an index out of range
	}
	return v
}

// Read copies what of element i begins at an offset. It may be of several moments.
func (a *Array[T]) Read(i uint32, offset uintptr, buf []byte) {
	if _, err := a.mem.ReadAt(buf, int64(i)*a.stride+int64(offset)); err != nil {
		panic(fmt.Sprintf("%d bytes from %d of element %d of %d: %v", len(buf), offset, i, a.n, err)) // an index out of range
	}
}

// Set writes element i. Nothing in the kernel may be using it.
func (a *Array[T]) Set(i uint32, v T) {
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))
	if _, err := a.mem.WriteAt(buf, int64(i)*a.stride); err != nil {
		panic(fmt.Sprintf("element %d of %d: %v", i, a.n, err))
	}
}

// All reads a hash map whole. Entries that come or go meanwhile may be in it or not;
// none that stays is missed.
func All[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	const batch = 4096
	all := map[K]V{}
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			all[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("reading %s: %w", m, err)
		}
	}
}

// Forget deletes an entry of a hash map, if it is there.
func Forget(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forgetting an entry of %s: %w", m, err)
	}
	return nil
}

// Variable reads a global variable of a loaded object.
func Variable[T any](v *ebpf.Variable) (T, error) {
	var out T
	err := v.Get(&out)
	return out, err
}
