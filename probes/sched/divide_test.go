package sched

import (
	"math"
	"testing"

	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// The rows add up to the time of all softirqs, whatever of it no packet was seen in.
func TestSoftirqsAreDivided(t *testing.T) {
	p := &Probe{table: &owner.Table{}}
	nobody, others := p.who(uint32(bpfOwnerOWNER_UNATTRIBUTED_PACKET)).App, snapshot.Softirqs
	for _, c := range []struct {
		name       string
		caused     []uint64
		net, other uint64
		want       map[string]uint64
	}{
		{"nothing", []uint64{0}, 0, 0, map[string]uint64{"a": 0}},
		{"no packet", []uint64{0}, 7, 0, map[string]uint64{"a": 0, nobody: 7}},
		{"no row", nil, 7, 5, map[string]uint64{nobody: 7, others: 5}},
		{"all in packets", []uint64{3, 4}, 7, 5, map[string]uint64{"a": 3, "b": 4, others: 5}},
		{"as much again", []uint64{30, 0, 10}, 80, 0, map[string]uint64{"a": 60, "b": 0, "c": 20}},
		{"as much as can be theirs", []uint64{30, 0, 10}, 160, 0, map[string]uint64{"a": 120, "b": 0, "c": 40}},
		{"more than that", []uint64{30, 0, 10}, 180, 5, map[string]uint64{"a": 120, "b": 0, "c": 40, nobody: 20, others: 5}},
		{"what rounding leaves is the most's", []uint64{1, 1, 2}, 7, 0, map[string]uint64{"a": 1, "b": 1, "c": 5}},
		{"the end of a softirq is yet to come", []uint64{6, 2}, 4, 0, map[string]uint64{"a": 3, "b": 1}},
		{"large", []uint64{math.MaxUint64 / 2, math.MaxUint64 / 2}, math.MaxUint64, 1, map[string]uint64{"a": math.MaxUint64/2 + 1, "b": math.MaxUint64 / 2, others: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var rows []snapshot.SchedRow
			for i, ns := range c.caused {
				rows = append(rows, snapshot.SchedRow{Process: snapshot.Process{App: string(rune('a' + i))}, SoftirqCaused: ns})
			}
			got := map[string]uint64{}
			for _, r := range p.divideSoftirqs(rows, c.net, c.other) {
				got[r.App] += r.SoftirqCaused
			}
			for app, want := range c.want {
				if got[app] != want {
					t.Errorf("%s has %d, want %d", app, got[app], want)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("rows %v, want %v", got, c.want)
			}
		})
	}
}

// What is nobody's stays in one row.
func TestWhatIsNobodysIsOneRow(t *testing.T) {
	p := &Probe{table: &owner.Table{}}
	nobody := p.who(uint32(bpfOwnerOWNER_UNATTRIBUTED_PACKET))
	rows := p.divideSoftirqs([]snapshot.SchedRow{{Process: nobody, SoftirqCaused: 3}}, 100, 0)
	if len(rows) != 1 || rows[0].SoftirqCaused != 100 {
		t.Errorf("rows %v", rows)
	}
}
