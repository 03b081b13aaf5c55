package bpfmap

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

// What is given back is handed out again after a whole sweep, in its order, and none twice or never, even where the queue had no room.
func TestPoolRests(t *testing.T) {
	queue, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Queue, ValueSize: 4, MaxEntries: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	p := NewPool(queue)
	sweep := func(full bool) {
		if err := p.Sweep(); (err != nil) != full {
			t.Fatalf("sweeping: %v", err)
		}
	}
	next := func(want uint32) {
		var n uint32
		if err := queue.LookupAndDelete(nil, &n); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
		if n != want {
			t.Errorf("%d is handed out, want %d", n, want)
		}
	}
	p.Give(5)
	sweep(false)
	next(0)
	p.Give(6)
	p.Give(7)
	sweep(false)
	next(5)
	next(0)
	p.Give(8)
	sweep(false)
	p.Give(9)
	sweep(true)
	next(6)
	next(7)
	sweep(false)
	next(8)
	sweep(false)
	next(9)
	next(0)
}
