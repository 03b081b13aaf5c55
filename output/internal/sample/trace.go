package sample

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"

	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

// Traces are batches of half a second, with events of all kinds whose fields have all sorts of values.
func Traces(batches int) []snapshot.Trace {
	const start, epoch = 5_000_000_000, 1_700_000_000_123_456_789
	r := rand.New(rand.NewPCG(1, 2))
	var out []snapshot.Trace
	for b := range int64(batches) {
		t := snapshot.Trace{Start: start + b*500_000_000, End: start + (b+1)*500_000_000, RealTime: epoch + b*500_000_000}
		for range 3 {
			fill(reflect.ValueOf(traced.Threads.Grow(&t)).Elem(), r)
		}
		for _, k := range traced.Kinds {
			at := t.Start
			for range 1 + r.IntN(100) {
				at += r.Int64N(4_000_000)
				row := reflect.ValueOf(k.Grow(&t)).Elem()
				fill(row, r)
				row.FieldByName("At").SetInt(at)
			}
		}
		if b > 0 {
			t.Loss = []snapshot.Loss{{Name: "late", Count: uint64(1+b) / 2}, {Name: "records_lost", Count: math.MaxUint64}}
		}
		out = append(out, t)
	}
	return out
}

func fill(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	case reflect.String:
		v.SetString([]string{"", "postgres", "kworker/0:1-ev", `a "quoted"`, "Grüße", "日本", "<&>\u2028\t"}[r.IntN(7)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt([]int64{0, -1, math.MinInt32, math.MaxInt32, r.Int64N(4 << 20)}[r.IntN(5)])
	case reflect.Int64:
		v.SetInt([]int64{0, -1, math.MinInt64, math.MaxInt64, r.Int64N(1 << 40)}[r.IntN(5)])
	case reflect.Uint64:
		v.SetUint([]uint64{0, math.MaxUint64, r.Uint64()}[r.IntN(3)])
	}
}

// Switches is a batch of n context switches, as a machine with some CPUs makes them that is neither idle nor full: a few of
// its threads make most of them.
func Switches(n int) snapshot.Trace {
	const cpus, threads = 4, 60
	r := rand.New(rand.NewPCG(3, 4))
	zipf := rand.NewZipf(r, 1.3, 2, threads-1)
	thread := func() (s snapshot.SchedSwitch) {
		i := int32(zipf.Uint64())
		s.NextTID, s.NextPID, s.NextComm, s.NextPrio = 1000+i*37, 1000+i/3*111, fmt.Sprintf("thread-%d", i), 120
		if i%5 == 0 {
			s.NextPID, s.NextComm = s.NextTID, fmt.Sprintf("kworker/%d:%d-ev", i%cpus, i)
		}
		return s
	}
	t := snapshot.Trace{Start: 3_600_000_000_000, RealTime: 1_700_000_000_000_000_000}
	for cpu := range int32(cpus) {
		at := t.Start
		var last snapshot.SchedSwitch
		for range n / cpus {
			at += 1500 + int64(r.ExpFloat64()*20_000)
			var s snapshot.SchedSwitch // to the idle task, after half of all runs
			if last.NextTID == 0 || r.IntN(2) == 0 {
				s = thread()
			}
			s.At, s.CPU = at, cpu
			s.PrevTID, s.PrevPID, s.PrevComm, s.PrevState = last.NextTID, last.NextPID, last.NextComm, "S"
			switch p := r.IntN(20); {
			case last.NextTID == 0:
				s.PrevState = "R"
			case p == 0:
				s.PrevState = "D"
			case p < 4:
				s.PrevState = "R+"
			}
			if s.NextTID == 0 {
				s.NextPrio = 120
			}
			t.Switches = append(t.Switches, s)
			last = s
		}
		t.End = max(t.End, at)
	}
	slices.SortFunc(t.Switches, func(a, b snapshot.SchedSwitch) int { return int(a.At - b.At) })
	return t
}
