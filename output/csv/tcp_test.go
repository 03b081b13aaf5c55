package csv_test

import (
	"testing"

	"culprit/output/csv"
	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

func TestTCPGolden(t *testing.T) {
	out := printed(t, csv.Options{Top: 2}, (*csv.Writer).TCP,
		sample.TCPUnbalanced(snapshot.ByPID), sample.TCPConnections(snapshot.ByApp), sample.TCPIdle())
	golden.Check(t, "tcp.csv", out.Bytes())
}

func TestTCPRectangular(t *testing.T) {
	all := sample.AllTCP()
	want := map[string]int{}
	for _, s := range all {
		want["row"] += len(s.Rows)
		for _, r := range s.Rows {
			want["stall"] += len(r.Stalls)
			want["remote"] += len(r.Remotes)
		}
		want["connection"] += len(s.Connections)
		want["exemplar"] += len(s.Worst)
		for _, e := range s.Worst {
			want["ran"] += len(e.Ran)
		}
		want["audit"] += len(s.Kernel)
		want["loss"] += lost(s.Loss)
	}
	rectangular(t, printed(t, csv.Options{}, (*csv.Writer).TCP, all...), want)
}

// The causes of a row's stalls divide their time, and its other ends what it exchanged.
func TestTCPSums(t *testing.T) {
	_, records := read(t, printed(t, csv.Options{}, (*csv.Writer).TCP, sample.TCP(snapshot.ByApp)))
	var stalled, sent [2]int // of rows, and of their parts
	for _, r := range records {
		if r["app"] != "shop/checkout-7d9f/api" {
			continue
		}
		switch r["record"] {
		case "row":
			stalled[0] += number(t, r["stalled_ns"])
			sent[0] += number(t, r["sent_bytes"])
		case "stall":
			stalled[1] += number(t, r["total_ns"])
		case "remote":
			sent[1] += number(t, r["sent_bytes"])
		}
	}
	if stalled[0] != stalled[1] || sent[0] != sent[1] || stalled[0] == 0 || sent[0] == 0 {
		t.Errorf("stalled %v, sent %v", stalled, sent)
	}
}
