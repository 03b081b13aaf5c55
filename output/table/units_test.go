package table

import (
	"math"
	"math/rand/v2"
	"testing"
	"unicode/utf8"
)

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		f    func(uint64) string
		n    uint64
		want string
	}{
		{size, 0, "-"}, {size, 1, "1 B"}, {size, 4096, "4.0 KiB"}, {size, 1<<20 - 1, "1024KiB"}, {size, 1023 << 20, "1023MiB"},
		{size, 64 << 20, "64 MiB"}, {size, math.MaxUint64, "16 EiB"},
		{count, 0, "-"}, {count, 999_999, "999999"}, {count, 1_000_000, "1M"}, {count, 1_250_000, "1.2M"}, {count, math.MaxUint64, "18.4E"},
		{duration, 0, "-"}, {duration, 999, "999ns"}, {duration, 1000, "1.00µs"}, {duration, 9_994, "9.99µs"}, {duration, 9_996, "10.0µs"},
		{duration, 99_960, "100µs"}, {duration, 999_499, "999µs"}, {duration, 999_500, "1.00ms"}, {duration, 2_500_000_000, "2.50s"},
		{duration, 9_999_000_000_000, "9999s"}, {duration, 10_000_000_000_000, "2.78h"}, {duration, math.MaxUint64, "585y"},
	} {
		if got := tt.f(tt.n); got != tt.want {
			t.Errorf("%d is %q, want %q", tt.n, got, tt.want)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		n := r.Uint64() >> r.IntN(64)
		for name, w := range map[string]int{size(n): bytesWidth, count(n): countWidth, duration(n): durationWidth} {
			if utf8.RuneCountInString(name) > w {
				t.Fatalf("%d is %q, wider than %d", n, name, w)
			}
		}
	}
}

func TestPercent(t *testing.T) {
	for _, tt := range []struct {
		part, whole uint64
		want        int
	}{{1, 1, 100}, {999, 1000, 99}, {0, 7, 0}, {math.MaxUint64 - 1, math.MaxUint64, 99}} {
		if got := percent(tt.part, tt.whole); got != tt.want {
			t.Errorf("%d of %d is %d %%, want %d %%", tt.part, tt.whole, got, tt.want)
		}
	}
}

func TestShare(t *testing.T) {
	for _, tt := range []struct {
		part, whole uint64
		want        string
	}{{0, 0, "-"}, {0, 7, "-"}, {7, 7, "100.0"}, {1, 8, "12.5"}, {1, 1 << 40, "<0.1"}, {9999, 10_000, "99.9"}, {8, 7, "99.9"}, {1, 0, "99.9"},
		{math.MaxUint64 - 1, math.MaxUint64, "99.9"}} {
		if got := share(tt.part, tt.whole); got != tt.want || len(got) > shareWidth {
			t.Errorf("%d of %d is %s %%, want %s %%", tt.part, tt.whole, got, tt.want)
		}
	}
}
