package hist

import (
	"bytes"
	"culprit/probes/snapshot"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bucketsInC compiles the kernel side's rule for the host and applies it to values.
func bucketsInC(t *testing.T, values []uint64) []uint32 {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "rule.c")
	header, err := filepath.Abs("../../bpf/lib/hist_rule.h")
	if err != nil {
		t.Fatal(err)
	}
	program := `#include <stdio.h>
#include "` + header + `"
int main(void)
{
	unsigned long long v;
	while (fread(&v, 8, 1, stdin) == 1) {
		unsigned int b = hist_bucket(v);
		fwrite(&b, 4, 1, stdout);
	}
	return 0;
}
`
	if err := os.WriteFile(source, []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	binaryPath := filepath.Join(dir, "rule")
	if out, err := exec.Command("cc", "-O1", "-Wall", "-Werror", "-o", binaryPath, source).CombinedOutput(); err != nil {
		t.Fatalf("compiling the rule: %v\n%s", err, out)
	}
	var in bytes.Buffer
	binary.Write(&in, binary.LittleEndian, values)
	cmd := exec.Command(binaryPath)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	buckets := make([]uint32, len(values))
	if _, err := binary.Decode(out, binary.LittleEndian, buckets); err != nil {
		t.Fatal(err)
	}
	return buckets
}

// The rule is written in C; what Go believes of it must hold for every value.
func TestBoundsAreTheRule(t *testing.T) {
	var values []uint64
	for v := range uint64(1 << 12) {
		values = append(values, v)
	}
	for bit := range 64 {
		for d := range uint64(5) {
			values = append(values, uint64(1)<<bit+d-2)
		}
	}
	for range 200000 {
		values = append(values, rand.Uint64()>>rand.IntN(64))
	}
	values = append(values, math.MaxUint64)
	for i, bucket := range bucketsInC(t, values) {
		v := values[i]
		if bucket >= snapshot.BucketOctaves*snapshot.BucketSubs {
			t.Fatalf("%d ns is in bucket %d of %d", v, bucket, snapshot.BucketOctaves*snapshot.BucketSubs)
		}
		lower, upper := snapshot.BucketBounds(uint16(bucket))
		if v < lower || v >= upper && upper != math.MaxUint64 {
			t.Fatalf("%d ns is in bucket %d, which Bounds says is [%d, %d)", v, bucket, lower, upper)
		}
		if v >= 256 && upper != math.MaxUint64 {
			if mid := lower + (upper-lower)/2; math.Abs(float64(mid)-float64(v)) > 0.032*float64(v) {
				t.Fatalf("%d ns is shown as %d, off by more than 3.2 %%", v, mid)
			}
		}
	}
}

func TestSince(t *testing.T) {
	earlier := Counts{{3, 5}, {20, math.MaxUint32}, {40, 7}}
	later := Counts{{3, 6}, {10, 2}, {20, 3}, {40, 7}} // bucket 20 wrapped
	h := later.Since(earlier)
	if n := h.Count(); n != 1+2+4 {
		t.Fatalf("%d values, want 7: %v", n, h.Buckets)
	}
	if len(h.Buckets) != 3 {
		t.Fatalf("an unchanged bucket is in %v", h.Buckets)
	}
}

// What was counted after the reading of an interval began may have left its maximum in the next one.
func TestMax(t *testing.T) {
	counted := Counts{{3, 1}, {snapshot.BucketSubs, 1}}.Since(nil)
	lower, _ := snapshot.BucketBounds(snapshot.BucketSubs)
	for kept, want := range map[uint64]uint64{lower - 1: lower, lower + 1: lower + 1} {
		if got := Max(counted, [2]uint64{4<<maxBits | kept, 5<<maxBits | 9*lower}, 4); got != want {
			t.Errorf("%d kept: got %d, want %d", kept, got, want)
		}
	}
}

// A maximum holds the number of its interval above the value: only the interval asked for has one.
func TestIntervalMax(t *testing.T) {
	pack := func(interval uint32, ns uint64) uint64 { return uint64(interval)<<maxBits | ns }
	for _, c := range []struct {
		at       [2]uint64
		interval uint32
		want     uint64
	}{
		{[2]uint64{0, 0}, 1, 0},
		{[2]uint64{pack(4, 100), pack(5, 200)}, 4, 100},
		{[2]uint64{pack(4, 100), pack(5, 200)}, 5, 200},
		{[2]uint64{pack(4, 100), pack(5, 200)}, 6, 0},
		{[2]uint64{pack(4, 100), pack(5, 200)}, 7, 0},
		{[2]uint64{pack(2, 1<<maxBits-1), 0}, 2, 1<<maxBits - 1},
		{[2]uint64{pack(1<<16+2, 7), 0}, 1<<16 + 2, 7}, // the number is kept modulo 2^16
	} {
		if got := intervalMax(c.at, c.interval); got != c.want {
			t.Errorf("%x in interval %d: got %d, want %d", c.at, c.interval, got, c.want)
		}
	}
}
