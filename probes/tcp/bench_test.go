package tcp_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"culprit/probes/internal/livetest"
	"culprit/probes/owner"
	"culprit/probes/tcp"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	benchRounds = 7
	roundTrips  = 100_000
	bulkBytes   = 2 << 30
)

// The source of a program of two processes on CPUs 0 and 1, with a connection over loopback: talk round-trips COUNT, of 64 bytes each
// way, or talk bulk BYTES. It prints how many seconds that took.
const talk = `
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		exit(2);
}

static void all(int fd, char *buf, int n, int writes)
{
	for (int done = 0, m; done < n; done += m) {
		m = writes ? write(fd, buf + done, n - done) : read(fd, buf + done, n - done);
		if (m <= 0)
			exit(writes ? 3 : 0);
	}
}

int main(int argc, char **argv)
{
	static char buf[65536];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(to);
	long long count = atoll(argv[2]);
	int bulk = !strcmp(argv[1], "bulk"), listening = socket(AF_INET, SOCK_STREAM, 0), fd, one = 1;
	struct timespec a, b;

	if (bind(listening, (void *)&to, len) || getsockname(listening, (void *)&to, &len) || listen(listening, 1))
		return 1;
	if (!fork()) {
		pin(1);
		fd = accept(listening, 0, 0);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		for (;;) {
			all(fd, buf, bulk ? 1 : 64, 0);
			if (bulk) {
				while (read(fd, buf, sizeof(buf)) > 0)
					;
				return 0;
			}
			all(fd, buf, 64, 1);
		}
	}
	pin(0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (void *)&to, len))
		return 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (bulk) {
		for (; count > 0; count -= sizeof(buf))
			all(fd, buf, sizeof(buf), 1);
		shutdown(fd, SHUT_WR);
		while (read(fd, buf, sizeof(buf)) > 0)
			;
	}
	while (!bulk && count--) {
		all(fd, buf, 64, 1);
		all(fd, buf, 64, 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%f\n", b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) / 1e9);
	return 0;
}
`

var (
	tcplife = livetest.Tool(1, "tcplife")
	culprit = livetest.Culprit("culprit", func(t *owner.Table) (io.Closer, error) { return tcp.Load(t, tcp.Options{}) })
)

// counter is a program that does nothing but count segments: what there is to pay for any program there.
var counter = livetest.Tracer{Name: "counter", Start: func(tb testing.TB) (int, func()) {
	tb.Helper()
	sum, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		tb.Fatal(err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "counter", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "tcp_probe", License: "Dual MIT/GPL",
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R1, sum.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		tb.Fatal(err)
	}
	return os.Getpid(), func() { l.Close(); program.Close(); sum.Close() }
}}

// needTracefs mounts what tcplife attaches through, unless somebody has.
func needTracefs(tb testing.TB) {
	tb.Helper()
	const tracing = "/sys/kernel/tracing"
	if _, err := os.Stat(filepath.Join(tracing, "events")); err == nil {
		return
	}
	if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Unmount(tracing, 0) })
}

// talks is how many ns each of n takes.
func talks(tb testing.TB, what string, n int) float64 {
	tb.Helper()
	out := livetest.Command(tb, livetest.Compile(tb, "talk", talk), what, strconv.Itoa(n))
	seconds, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		tb.Fatal(err)
	}
	return seconds * 1e9 / float64(n)
}

// BenchmarkSegment measures the time in BPF programs for each segment of round trips of 64 bytes: two each, of which each is sent by one
// socket and received by another. So of what it costs, a host whose peers are elsewhere pays half.
func BenchmarkSegment(b *testing.B) {
	livetest.NeedRoot(b)
	needTracefs(b)
	hooks := livetest.PerEvent(b, benchRounds, []livetest.Tracer{tcplife, counter, culprit}, "segment", 2*roundTrips,
		func() { talks(b, "round-trips", roundTrips) })
	for tool, ns := range hooks {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/segment")
	}
}

// BenchmarkBulkTime measures the same for each 64 KiB of a stream, beside how long these take: what BenchmarkBulk measures varies by ten percent on
// many a machine, with and without programs.
func BenchmarkBulkTime(b *testing.B) {
	livetest.NeedRoot(b)
	const piece = 1 << 16
	var took []float64
	hooks := livetest.PerEvent(b, benchRounds, []livetest.Tracer{counter, culprit}, "64 KiB", bulkBytes/piece,
		func() { took = append(took, piece*talks(b, "bulk", bulkBytes)) })
	for tool, ns := range hooks {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/64KiB")
	}
	b.ReportMetric(livetest.Median(took), "ns/64KiB")
}

// BenchmarkRoundTrip measures how much longer a round trip takes, without statistics, which cost too.
func BenchmarkRoundTrip(b *testing.B) { slower(b, "round-trips", roundTrips) }

// BenchmarkBulk measures the same of a stream.
func BenchmarkBulk(b *testing.B) { slower(b, "bulk", bulkBytes) }

func slower(b *testing.B, what string, n int) {
	livetest.NeedRoot(b)
	needTracefs(b)
	took := livetest.InTurn(b, benchRounds, []livetest.Tracer{livetest.Untraced, tcplife, counter, culprit},
		func(string, int) float64 { return talks(b, what, n) })
	none := livetest.Median(took[livetest.Untraced.Name])
	for _, tool := range []livetest.Tracer{tcplife, counter, culprit} {
		b.ReportMetric(100*(livetest.Median(took[tool.Name])/none-1), "%-slower-"+tool.Name)
	}
	b.ReportMetric(none, "none-ns")
}
