// Package metrics serves what applications do as metrics for Prometheus: counters and native histograms, per application, that grow
// as long as the process lives.
package metrics

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"culprit/probes/snapshot"
)

// Other is the application that stands for those beyond the limit.
const Other = "other"

// Metrics are what was added up so far. They are a prometheus.Collector.
type Metrics struct {
	mu       sync.Mutex
	most     int
	apps     map[string]bool // that have series of their own
	folded   map[string]bool // that are Other
	families []*family

	readBytes, writtenBytes, discardedBytes     *family
	reads, writes, discards, flushes            *family
	readTime, writeTime                         *family
	blocked, throttled                          *family
	kernelRead, kernelWritten, kernelDiscarded  *family
	diskResidual                                *family
	cpu, wait, caused, waits, switches          *family
	kernelWait                                  *family
	sent, received, retransmits                 *family
	opened, accepted, failed, closed, open, rtt *family
	stalls, stallTime                           *family
	udpSent, udpReceived, udpDrops              *family
	lost                                        *family
}

// New makes metrics with series of their own for so many applications; those that come later are one.
func New(mostApps int) *Metrics {
	m := &Metrics{most: mostApps, apps: map[string]bool{}, folded: map[string]bool{}}
	on := []string{"app", "device"}
	m.readBytes = m.counter("disk_read_bytes_total", "Bytes read from disks, by who caused it.", bytes, on...)
	m.writtenBytes = m.counter("disk_written_bytes_total", "Bytes written to disks, by who caused it, writeback included.", bytes, on...)
	m.discardedBytes = m.counter("disk_discarded_bytes_total", "Bytes discarded on disks.", bytes, on...)
	m.reads = m.counter("disk_reads_completed_total", "Read requests that disks completed.", count, on...)
	m.writes = m.counter("disk_writes_completed_total", "Write requests that disks completed.", count, on...)
	m.discards = m.counter("disk_discards_completed_total", "Discard requests that disks completed.", count, on...)
	m.flushes = m.counter("disk_flushes_completed_total", "Flushes that disks completed.", count, on...)
	m.readTime = m.histogram("disk_read_duration_seconds", "Time from the making of a read request to its completion.", on...)
	m.writeTime = m.histogram("disk_write_duration_seconds", "Time from the making of a write request to its completion.", on...)
	m.blocked = m.counter("disk_blocked_seconds_total", "Time that threads slept for disk I/O.", seconds, "app")
	m.throttled = m.counter("disk_throttled_seconds_total", "Time that threads were put to sleep for dirtying memory too fast.", seconds, "app")
	m.kernelRead = m.counter("disk_kernel_read_bytes_total", "Bytes read by the kernel's own count (/proc/diskstats).", bytes, "device")
	m.kernelWritten = m.counter("disk_kernel_written_bytes_total", "Bytes written by the kernel's own count.", bytes, "device")
	m.kernelDiscarded = m.counter("disk_kernel_discarded_bytes_total", "Bytes discarded by the kernel's own count.", bytes, "device")
	m.diskResidual = m.counter("disk_residual_bytes_total", "Differences between culprit's sums and the kernel's own counts.", bytes, "device")

	m.cpu = m.counter("cpu_seconds_total", "Time on CPUs, without interrupts.", seconds, "app")
	m.wait = m.counter("cpu_wait_seconds_total", "Time that threads waited for a CPU, by who waited.", seconds, "app")
	m.caused = m.counter("cpu_wait_caused_seconds_total", "Time that threads waited for a CPU, by what had it.", seconds, "culprit")
	m.waits = m.histogram("cpu_wait_duration_seconds", "How long single waits for a CPU were.", "app")
	m.switches = m.counter("cpu_context_switches_total", "Context switches.", count, "app")
	m.kernelWait = m.counter("cpu_kernel_wait_seconds_total", "Time that all threads waited for a CPU by the kernel's own count.", seconds)

	m.sent = m.counter("tcp_sent_bytes_total", "Payload sent over TCP.", bytes, "app")
	m.received = m.counter("tcp_received_bytes_total", "Payload received over TCP.", bytes, "app")
	m.retransmits = m.counter("tcp_retransmits_total", "TCP segments sent again.", count, "app")
	m.opened = m.counter("tcp_connections_opened_total", "TCP connections opened.", count, "app")
	m.accepted = m.counter("tcp_connections_accepted_total", "TCP connections accepted.", count, "app")
	m.failed = m.counter("tcp_connections_failed_total", "Attempts to open a TCP connection that failed.", count, "app")
	m.closed = m.counter("tcp_connections_closed_total", "TCP connections that ended.", count, "app")
	m.open = m.gauge("tcp_connections_open", "TCP connections that are open.", "app")
	m.rtt = m.histogram("tcp_round_trip_duration_seconds", "Round-trip times, as the kernel samples them.", "app")
	m.stalls = m.counter("tcp_stalls_total", "Times that a TCP connection with something to do made no progress.", count, "app", "cause")
	m.stallTime = m.counter("tcp_stall_seconds_total", "Time that TCP connections with something to do made no progress.", seconds, "app", "cause")
	m.udpSent = m.counter("udp_sent_bytes_total", "Payload sent over UDP.", bytes, "app")
	m.udpReceived = m.counter("udp_received_bytes_total", "Payload received over UDP.", bytes, "app")
	m.udpDrops = m.counter("udp_drops_total", "Datagrams that found no room in the receive buffer.", count, "app")

	m.lost = m.counter("lost_total", "What culprit lost or could not keep.", count, "probe", "what")
	return m
}

// app is the label of an application: Other for those that have no series.
func (m *Metrics) app(name string) string {
	switch {
	case m.apps[name]:
		return name
	case len(m.apps) < m.most:
		m.apps[name] = true
		return name
	case len(m.folded) < mostFolded:
		m.folded[name] = true
	}
	return Other
}

// mostFolded is how many applications without series are counted.
const mostFolded = 1 << 16

// IO adds an interval of disks.
func (m *Metrics) IO(s snapshot.IO) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range s.Group(snapshot.ByApp).Rows {
		app := m.app(r.App)
		m.blocked.add(r.BlockedNS, app)
		m.throttled.add(r.ThrottledNS, app)
		if r.Device == "" {
			continue
		}
		m.readBytes.add(r.ReadBytes(), app, r.Device)
		m.writtenBytes.add(r.WriteBytes(), app, r.Device)
		m.discardedBytes.add(r.DiscardBytes, app, r.Device)
		m.reads.add(r.Reads, app, r.Device)
		m.writes.add(r.Writes, app, r.Device)
		m.discards.add(r.Discards, app, r.Device)
		m.flushes.add(r.Flushes, app, r.Device)
		m.readTime.observe(r.ReadLatency.Total, app, r.Device)
		m.writeTime.observe(r.WriteLatency.Total, app, r.Device)
	}
	for _, d := range s.Devices {
		m.kernelRead.add(d.Kernel.ReadBytes, d.Device)
		m.kernelWritten.add(d.Kernel.WriteBytes, d.Device)
		m.kernelDiscarded.add(d.Kernel.DiscardBytes, d.Device)
		m.diskResidual.add(d.ResidualBytes(), d.Device)
	}
	m.losses("io", s.Loss)
}

// Sched adds an interval of CPUs.
func (m *Metrics) Sched(s snapshot.Sched) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range s.Group(snapshot.ByApp).Rows {
		app := m.app(r.App)
		m.cpu.add(r.OnCPU, app)
		m.wait.add(r.Wait(), app)
		m.switches.add(r.Switches, app)
		m.waits.observe(r.Latency, app)
		for _, c := range r.Culprits {
			m.caused.add(c.NS, m.app(c.App))
		}
	}
	m.kernelWait.add(s.Kernel.KernelWaitNS)
	m.losses("sched", s.Loss)
}

// TCP adds an interval of connections.
func (m *Metrics) TCP(s snapshot.TCP) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open.clear()
	for _, r := range s.Group(snapshot.ByApp).Rows {
		app := m.app(r.App)
		m.sent.add(r.Sent, app)
		m.received.add(r.Received, app)
		m.retransmits.add(r.Retransmits, app)
		m.opened.add(r.Opened, app)
		m.accepted.add(r.Accepted, app)
		m.failed.add(r.Failed(), app)
		m.closed.add(r.Closed, app)
		m.open.add(r.Open, app)
		m.rtt.observe(r.RTT, app)
		for _, stall := range r.Stalls {
			m.stalls.add(stall.Count, app, string(stall.Cause))
			m.stallTime.add(stall.Total, app, string(stall.Cause))
		}
		m.udpSent.add(r.UDP.Sent, app)
		m.udpReceived.add(r.UDP.Received, app)
		m.udpDrops.add(r.UDP.Drops, app)
	}
	m.losses("tcp", s.Loss)
}

func (m *Metrics) losses(probe string, loss []snapshot.Loss) {
	for _, l := range loss {
		m.lost.add(l.Count, probe, l.Name)
	}
}

// Describe says nothing: which series there are is not known before (prometheus.Collector calls that unchecked).
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends all series there are.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.families {
		f.collect(to)
	}
	to <- prometheus.MustNewConstMetric(foldedDesc, prometheus.GaugeValue, float64(len(m.folded)))
}

var foldedDesc = prometheus.NewDesc("culprit_apps_folded", "Applications that have no series of their own, and are the app \""+Other+"\".", nil, nil)

// valid is a label's value: readers refuse a page with bytes that are not UTF-8.
func valid(label string) string { return strings.ToValidUTF8(label, "\uFFFD") }
