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

	"golang.org/x/sys/unix"
)

// Other things run on the machine: what is compared runs in turn, several
// times, and medians are taken. One iteration of a benchmark is all of its rounds.
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

// BenchmarkSegment measures the time in BPF programs for each segment of round trips of 64 bytes: two each.
func BenchmarkSegment(b *testing.B) {
	livetest.NeedRoot(b)
	needTracefs(b)
	livetest.EnableStats(b)
	hooks := map[string][]float64{}
	for b.Loop() {
		for range benchRounds {
			for _, tool := range []livetest.Tracer{tcplife, culprit} {
				pid, stop := tool.Start(b)
				sum := 0.0
				cost := livetest.During(b, pid, func() { talks(b, "round-trips", roundTrips) })
				stop()
				for name, s := range cost {
					each := float64(s.NS) / (2 * roundTrips)
					if each >= 1 {
						b.Logf("%-8s %-16s %6.1f ns per segment, %d runs of %.1f ns", tool.Name, name, each, s.Runs, float64(s.NS)/float64(s.Runs))
					}
					sum += each
				}
				hooks[tool.Name] = append(hooks[tool.Name], sum)
			}
		}
	}
	for tool, ns := range hooks {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/segment")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRoundTrip measures how much longer a round trip takes, without statistics, which cost too.
func BenchmarkRoundTrip(b *testing.B) { slower(b, "round-trips", roundTrips) }

// BenchmarkBulk measures the same of a stream.
func BenchmarkBulk(b *testing.B) { slower(b, "bulk", bulkBytes) }

func slower(b *testing.B, what string, n int) {
	livetest.NeedRoot(b)
	needTracefs(b)
	took := map[string][]float64{}
	for b.Loop() {
		for range benchRounds {
			for _, tool := range []livetest.Tracer{livetest.Untraced, tcplife, culprit} {
				_, stop := tool.Start(b)
				took[tool.Name] = append(took[tool.Name], talks(b, what, n))
				stop()
			}
		}
	}
	none := livetest.Median(took[livetest.Untraced.Name])
	for _, tool := range []livetest.Tracer{tcplife, culprit} {
		b.ReportMetric(100*(livetest.Median(took[tool.Name])/none-1), "%-slower-"+tool.Name)
	}
	b.ReportMetric(none, "none-ns")
	b.ReportMetric(0, "ns/op")
}
