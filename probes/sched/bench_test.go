package sched_test

import (
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/sched"
)

const (
	benchRounds = 7
	roundTrips  = 150_000
)

var (
	runqlat = livetest.Tool(3, "runqlat", "-P", "3600")
	culprit = livetest.Culprit("culprit", func(t *owner.Table) (io.Closer, error) { return sched.Load(t, sched.Options{}) })
)

// pipe has two processes on one CPU wake each other, and tells how long a round trip takes: two switches.
func pipe(tb testing.TB) time.Duration {
	tb.Helper()
	out := livetest.Command(tb, "taskset", "-c", "1", "perf", "bench", "-f", "simple", "sched", "pipe", "-l", strconv.Itoa(roundTrips))
	seconds, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		tb.Fatal(err)
	}
	return time.Duration(seconds * 1e9 / roundTrips)
}

// BenchmarkSwitch measures the time in BPF programs for each context switch beside runqlat of libbpf-tools, with what wakeups cost it.
func BenchmarkSwitch(b *testing.B) {
	livetest.NeedRoot(b)
	hooks := livetest.PerEvent(b, benchRounds, []livetest.Tracer{runqlat, culprit}, "switch", 2*roundTrips, func() { pipe(b) })
	for tool, ns := range hooks {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/switch")
	}
	b.ReportMetric(livetest.Median(hooks[culprit.Name])/livetest.Median(hooks[runqlat.Name]), "culprit/runqlat")
}

// BenchmarkSlowdown measures how much longer a round trip takes under each tracer, without statistics, which cost too.
func BenchmarkSlowdown(b *testing.B) {
	livetest.NeedRoot(b)
	took := livetest.InTurn(b, benchRounds, []livetest.Tracer{livetest.Untraced, runqlat, culprit},
		func(string, int) float64 { return float64(pipe(b)) })
	for tool, ns := range took {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/round-trip")
	}
	none := livetest.Median(took[livetest.Untraced.Name])
	b.ReportMetric((livetest.Median(took[culprit.Name])-none)/(livetest.Median(took[runqlat.Name])-none), "culprit/runqlat-slowdown")
}

// BenchmarkPacket measures the time in BPF programs for each packet that a softirq receives, of small requests and replies: what tells
// whose it is, and what notes whose the connection is when somebody reads from it.
func BenchmarkPacket(b *testing.B) {
	livetest.NeedRoot(b)
	n := testnet.NewVeth(b)
	at := netip.AddrPortFrom(n.Server.IPv4, 5001)
	livetest.EnableStats(b)
	pid, stop := culprit.Start(b)
	defer stop()
	spent := livetest.During(b, pid, func() {
		n.Server.Run("answer", testnet.Answer{End: testnet.End{Address: at, Listen: true}, Requests: []int{64}, Reply: 64})
		n.Client.Run("asker", testnet.Exchange{End: testnet.End{Address: at}, Count: roundTrips, Writes: []int{64}, Reply: 64}).Wait()
	})
	for _, program := range []string{"packet_in", "flow_read"} {
		s := spent[program]
		b.ReportMetric(float64(s.NS)/float64(s.Runs), program+"-ns")
	}
}
