// Package bpfmap reads BPF maps as Go values.
package bpfmap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Array reads an mmapable array map without system calls. T is the type that
// bpf2go made from the map's value type: plain integers in C layout. It can be
// used by several goroutines.
//
// What is mapped counts as the process's memory, used or not (remap_vmalloc_range(),
// mm/vmalloc.c): so parts of the array are, from when they are first asked for.
type Array[T any] struct {
	parts  *parts
	stride int
	n      uint32
}

// NewArray makes one of m, which must have been created with BPF_F_MMAPABLE.
func NewArray[T any](m *ebpf.Map) (*Array[T], error) {
	if want := uint32(unsafe.Sizeof(*new(T))); m.ValueSize() != want {
		return nil, fmt.Errorf("map %s: values of %d bytes, not %d", m, m.ValueSize(), want)
	}
	// Elements are 8-byte aligned (array_map_alloc(), kernel/bpf/arraymap.c).
	stride := int(m.ValueSize()+7) &^ 7
	own, err := m.Clone() // m can be closed meanwhile
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", m, err)
	}
	p := newParts(own, stride, int(m.MaxEntries()))
	a := &Array[T]{p, stride, m.MaxEntries()}
	runtime.AddCleanup(a, (*parts).close, p)
	if a.n > 0 {
		if _, err := p.part(0); err != nil { // that it can be mapped
			return nil, fmt.Errorf("mapping %s: %w", m, err)
		}
	}
	return a, nil
}

// Len is the number of elements.
func (a *Array[T]) Len() uint32 { return a.n }

// at is the memory of element i and what follows it in its part.
func (a *Array[T]) at(i uint32) []byte {
	if i >= a.n {
		panic(fmt.Sprintf("element %d of %d", i, a.n))
	}
	mem, err := a.parts.at(int(i) * a.stride)
	if err != nil {
		panic(fmt.Sprintf("mapping element %d of %d: %v", i, a.n, err)) // no memory for page tables
	}
	return mem
}

// Get copies element i, which must be below Len. Each 64-bit word of it is read whole; several
// words can be of different moments.
func (a *Array[T]) Get(i uint32) (v T) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)), a.at(i))
	runtime.KeepAlive(a)
	return v
}

// Read copies what of element i begins at an offset. It may be of several moments.
func (a *Array[T]) Read(i uint32, offset uintptr, buf []byte) {
	if int(offset)+len(buf) > a.stride {
		panic(fmt.Sprintf("%d bytes from %d of element %d", len(buf), offset, i))
	}
	copy(buf, a.at(i)[offset:])
	runtime.KeepAlive(a)
}

// Set writes element i. Nothing in the kernel may be using it.
func (a *Array[T]) Set(i uint32, v T) {
	copy(a.at(i), unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)))
	runtime.KeepAlive(a)
}

// partSize is how much of an array is mapped at a time: a multiple of any page's size.
const partSize = 256 << 10

// parts are the mapped parts of an array, each with as much of the next one as an element can be in.
type parts struct {
	m      *ebpf.Map
	stride int
	size   int // of the array, in whole pages
	mapped []atomic.Pointer[[]byte]
	making sync.Mutex
}

func newParts(m *ebpf.Map, stride, n int) *parts {
	page := os.Getpagesize()
	size := (stride*n + page - 1) / page * page
	return &parts{m: m, stride: stride, size: size, mapped: make([]atomic.Pointer[[]byte], (size+partSize-1)/partSize)}
}

// at is the memory at an offset, at which an element begins.
func (p *parts) at(offset int) ([]byte, error) {
	mem, err := p.part(offset / partSize)
	if err != nil {
		return nil, err
	}
	return mem[offset%partSize:], nil
}

func (p *parts) part(n int) ([]byte, error) {
	if mem := p.mapped[n].Load(); mem != nil {
		return *mem, nil
	}
	p.making.Lock()
	defer p.making.Unlock()
	if mem := p.mapped[n].Load(); mem != nil {
		return *mem, nil
	}
	page := os.Getpagesize()
	length := min(partSize+(p.stride+page-1)/page*page, p.size-n*partSize)
	mem, err := unix.Mmap(p.m.FD(), int64(n*partSize), length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	p.mapped[n].Store(&mem)
	return mem, nil
}

// close is for when nobody has the array any more.
func (p *parts) close() {
	for i := range p.mapped {
		if mem := p.mapped[i].Load(); mem != nil {
			unix.Munmap(*mem) // fails for what is not mapped alone
		}
	}
	p.m.Close()
}

// All reads a hash map whole. Entries that come or go meanwhile may be in it or not;
// none that stays is missed.
func All[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	const batch = 512
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
