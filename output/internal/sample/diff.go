package sample

import (
	"time"

	"culprit/probes/snapshot"
)

// Diff is what two spans differ in, with what tables are to be right about: long names, all units, what is new, and what is gone.
func Diff() snapshot.Diff {
	begin := time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)
	return snapshot.Diff{
		By: snapshot.ByApp, Confidence: 0.95, Same: 1234, TooLittle: 56,
		A: snapshot.Span{Name: "before", Start: begin, End: begin.Add(time.Hour), Machines: 1, Blocks: 15, Block: 4 * time.Minute},
		B: snapshot.Span{Name: "/srv/culprit@2026-03-15..", Start: begin.AddDate(0, 0, 1), End: begin.AddDate(0, 0, 1).Add(6 * time.Hour), Machines: 12, Blocks: 90, Block: 4 * time.Minute},
		Changes: []snapshot.Change{
			{Name: "backup.service", Quantity: "read_bytes_per_s", Unit: snapshot.BytesPerSecond, B: snapshot.Estimate{Value: 104857600, Low: 99857600, High: 109857600}, P: 1e-9},
			{Name: "dd", Quantity: "writes_per_s", Unit: snapshot.PerSecond, A: snapshot.Estimate{Value: 0.125, Low: 0.1, High: 0.15}, P: 2e-7},
			{Name: "shop/checkout-7d9f/api\n", Quantity: "retransmits_per_s", Unit: snapshot.PerSecond, A: snapshot.Estimate{Value: 0.01, Low: 0, High: 0.5}, B: snapshot.Estimate{Value: 12.25, Low: 12, High: 13}, P: 3e-6},
			{Name: "postgresql@17-main.service", Quantity: "wait_p99_ns", Unit: snapshot.Nanoseconds, A: snapshot.Estimate{Value: 64_300, Low: 62_000, High: 66_000}, B: snapshot.Estimate{Value: 77_100, Low: 75_000, High: 80_000}, P: 1e-5},
			{Name: "postgresql@17-main.service", Quantity: "oncpu_share", Unit: snapshot.Share, A: snapshot.Estimate{Value: 1.53, Low: 1.5, High: 1.6}, B: snapshot.Estimate{Value: 1.2, Low: 1.1, High: 1.3}, P: 1.2e-5},
		},
	}
}
