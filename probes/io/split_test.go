package io

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func sum(values []uint64) (s uint64) {
	for _, v := range values {
		s += v
	}
	return s
}

// Parts add up to the whole, each is off its exact share by less than one, and equal weights get
// parts that differ by at most one.
func TestApportion(t *testing.T) {
	cases := []struct {
		total   uint64
		weights []uint64
		want    []uint64
	}{
		{10, []uint64{1}, []uint64{10}},
		{0, []uint64{3, 4}, []uint64{0, 0}},
		{10, []uint64{1, 1, 1}, []uint64{4, 3, 3}},
		{1, []uint64{1, 2}, []uint64{0, 1}},
		{7, []uint64{0, 5, 0}, []uint64{0, 7, 0}},
		{4096, []uint64{3, 1}, []uint64{3072, 1024}},
		{math.MaxUint64, []uint64{1, 1}, []uint64{1 << 63, 1<<63 - 1}},
		{math.MaxUint64, []uint64{math.MaxUint64 - 1, 1}, []uint64{math.MaxUint64 - 1, 1}},
	}
	for _, c := range cases {
		if got := apportion(c.total, c.weights); !slices.Equal(got, c.want) {
			t.Errorf("%d by %v: got %v, want %v", c.total, c.weights, got, c.want)
		}
	}
	random := rand.New(rand.NewPCG(7919, 104729))
	for range 20000 {
		weights := make([]uint64, 1+random.IntN(9))
		for i := range weights {
			weights[i] = random.Uint64() >> (8 + random.IntN(56))
		}
		if sum(weights) == 0 {
			weights[0] = 1
		}
		total := random.Uint64() >> random.IntN(64)
		parts := apportion(total, weights)
		if sum(parts) != total {
			t.Fatalf("%d by %v: %v add up to %d", total, weights, parts, sum(parts))
		}
		for i, p := range parts {
			exact := float64(total) * (float64(weights[i]) / float64(sum(weights)))
			if math.Abs(float64(p)-exact) > 1+exact*1e-12 {
				t.Fatalf("%d by %v: part %d is %d, want %f", total, weights, i, p, exact)
			}
			if weights[i] == 0 && p != 0 {
				t.Fatalf("%d by %v: nothing gets %d", total, weights, p)
			}
		}
	}
}

const (
	journal    = bpfTransactionWriteTRANSACTION_JOURNAL
	checkpoint = bpfTransactionWriteTRANSACTION_CHECKPOINT
)

// splitSums are the bytes by owner, and whether all of the kind went to that device.
func splitSums(t *testing.T, parts []part, kind int, device uint32) map[uint32]uint64 {
	t.Helper()
	out := map[uint32]uint64{}
	for _, p := range parts {
		if p.bytes[kind] == 0 {
			continue
		}
		if p.device != device {
			t.Errorf("a part of owner %d is on device %d, want %d", p.owner, p.device, device)
		}
		out[p.owner] += p.bytes[kind]
	}
	return out
}

func TestSplitTransaction(t *testing.T) {
	key := bpfTransactionKey{Device: 9, Tid: 77}
	share := func(owner uint32, blocks int32, restarts uint32) (bpfShareKey, bpfShare) {
		return bpfShareKey{Device: 9, Tid: 77, Owner: owner}, bpfShare{Blocks: blocks, Restarts: restarts}
	}
	shares := func(of ...[3]int) map[bpfShareKey]bpfShare {
		m := map[bpfShareKey]bpfShare{
			// Other transactions' do not matter.
			{Device: 9, Tid: 78, Owner: 40}: {Blocks: 1000},
			{Device: 8, Tid: 77, Owner: 41}: {Blocks: 1000},
		}
		for _, s := range of {
			k, v := share(uint32(s[0]), int32(s[1]), uint32(s[2]))
			m[k] = v
		}
		return m
	}
	now := bpfTransaction{Owner: 32, Blocks: 40, RsBlocks: 40}
	now.Device[journal], now.Device[checkpoint] = 5, 6
	now.Bytes[journal], now.Bytes[checkpoint] = 4000, 401

	for _, c := range []struct {
		name       string
		rsBlocks   uint32
		blocks     int64
		shares     map[bpfShareKey]bpfShare
		wantJ      map[uint32]uint64
		wantSecond map[uint32]uint64
	}{
		{"by blocks", 40, 40, shares([3]int{32, 30, 0}, [3]int{33, 10, 0}), map[uint32]uint64{32: 3000, 33: 1000}, map[uint32]uint64{32: 301, 33: 100}},
		{"nobody's are the first owner's", 0, 0, shares(), map[uint32]uint64{32: 4000}, map[uint32]uint64{32: 401}},
		{"all gave back", 0, 0, shares([3]int{33, -4, 0}), map[uint32]uint64{32: 4000}, map[uint32]uint64{32: 401}},
		{"one gave back", 36, 36, shares([3]int{32, 40, 0}, [3]int{33, -4, 0}), map[uint32]uint64{32: 4000}, map[uint32]uint64{32: 401}},
		{"restarts share what is missing", 80, 40, shares([3]int{32, 40, 0}, [3]int{33, 0, 3}, [3]int{34, 0, 1}),
			map[uint32]uint64{32: 2000, 33: 1500, 34: 500}, map[uint32]uint64{32: 201, 33: 150, 34: 50}},
		{"nothing is missing", 40, 40, shares([3]int{32, 40, 0}, [3]int{33, 0, 3}), map[uint32]uint64{32: 4000}, map[uint32]uint64{32: 401}},
		{"missing, and nobody restarted", 80, 40, shares([3]int{32, 30, 0}, [3]int{33, 10, 0}), map[uint32]uint64{32: 3000, 33: 1000}, map[uint32]uint64{32: 301, 33: 100}},
		{"not yet committed", 0, 40, shares([3]int{32, 30, 2}, [3]int{33, 10, 0}), map[uint32]uint64{32: 3000, 33: 1000}, map[uint32]uint64{32: 301, 33: 100}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := now
			n.RsBlocks, n.Blocks = c.rsBlocks, c.blocks
			parts := splitTransaction(key, bpfTransaction{}, n, c.shares)
			for kind, want := range map[int]map[uint32]uint64{int(journal): c.wantJ, int(checkpoint): c.wantSecond} {
				got := splitSums(t, parts, kind, n.Device[kind])
				if len(got) != len(want) {
					t.Errorf("kind %d: got %v, want %v", kind, got, want)
				}
				for owner, bytes := range want {
					if got[owner] != bytes {
						t.Errorf("kind %d, owner %d: got %d, want %d", kind, owner, got[owner], bytes)
					}
				}
			}
		})
	}
}

// However often a transaction is read while it is written, everything is divided exactly once.
func TestSplitTransactionIsConserved(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	key := bpfTransactionKey{Device: 1, Tid: 2}
	var was bpfTransaction
	now := bpfTransaction{Owner: 50}
	shares := map[bpfShareKey]bpfShare{}
	var got uint64
	for range 1000 {
		now.Bytes[random.IntN(2)] += random.Uint64N(1 << 20)
		k := bpfShareKey{Device: 1, Tid: 2, Owner: 50 + random.Uint32N(7)}
		s := shares[k]
		blocks := int32(random.IntN(9)) - 2
		s.Blocks += blocks
		s.Restarts += random.Uint32N(2)
		now.Blocks += int64(blocks)
		now.RsBlocks += random.Uint32N(12)
		shares[k] = s
		for _, p := range splitTransaction(key, was, now, shares) {
			got += p.bytes[0] + p.bytes[1]
		}
		was = now
	}
	if want := now.Bytes[0] + now.Bytes[1]; got != want {
		t.Errorf("%d bytes were divided, want %d", got, want)
	}
}
