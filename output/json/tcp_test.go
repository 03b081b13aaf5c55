package json_test

import (
	stdjson "encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/json"
	"culprit/probes/snapshot"
)

func TestTCPGolden(t *testing.T) {
	checkGolden(t, "tcp.json", json.TCP, json.Options{Top: 2},
		sample.TCPUnbalanced(snapshot.ByPID), sample.TCPConnections(snapshot.ByApp), sample.TCPIdle())
}

// The contract, field by field, as other programs rely on it.
var (
	contractTCPReport = []string{"schema", "start", "end", "seconds", "by", "min_stall_ns", "rows", "omitted_rows", "exemplars", "kernel", "audit", "loss"}
	contractTraffic   = []string{"sent_bytes", "received_bytes", "segments_out", "segments_in", "retransmits", "retransmits_failed"}
	contractUDP       = []string{"udp_sent_bytes", "udp_received_bytes", "udp_sent_datagrams", "udp_received_datagrams", "udp_drops"}
	contractTCPRow    = slices.Concat(contractIdentity, contractTraffic, contractUDP, []string{"opened", "accepted", "failed", "refused", "timed_out", "aborted",
		"closed", "open", "connect", "first_byte", "life", "rtt", "stalled_ns", "stalls", "remotes"})
	contractStalls     = []string{"cause", "count", "total_ns", "max_ns"}
	contractEnds       = []string{"namespace", "local", "remote"}
	contractConnection = slices.Concat(contractIdentity, contractEnds, contractTraffic,
		[]string{"state", "direction", "since", "rtt_ns", "stalled_ns", "stalls"})
	contractTCPExemplar = slices.Concat(contractEnds, []string{"at", "app", "pid", "started", "cause", "duration_ns", "waiting_bytes", "remedy", "ran"})
)

// dividesStalled checks that the stalls of a row or connection add up to their time.
func dividesStalled(t *testing.T, o object) {
	t.Helper()
	var sum uint64
	for _, s := range list(t, o, "stalls", contractStalls) {
		sum += num(t, s, "total_ns")
	}
	if sum != num(t, o, "stalled_ns") {
		t.Errorf("stalls sum to %d of %v", sum, o["stalled_ns"])
	}
}

func TestTCPContract(t *testing.T) {
	for _, s := range append(sample.AllTCP(), snapshot.TCP{}) {
		report := fields(t, "report", decode(t, encode(t, json.TCP, s, json.Options{})), contractTCPReport, "connections")
		heading(t, report, "culprit.tcp/1", !s.Start.IsZero())
		for i, row := range listOf(t, report, "rows", len(s.Rows), contractTCPRow) {
			dividesStalled(t, row)
			named(t, row, s.Rows[i].Process, s.By)
			for _, l := range []string{"connect", "first_byte", "life", "rtt"} {
				fields(t, l, row[l], contractWaits)
			}
			if got, want := num(t, row, "refused")+num(t, row, "timed_out")+num(t, row, "aborted"), num(t, row, "failed"); got != want {
				t.Errorf("%d failed, of %d", got, want)
			}
			list(t, row, "remotes", []string{"address", "port", "sent_bytes", "received_bytes"})
		}
		for _, c := range optionalList(t, report, "connections", len(s.Connections), contractConnection) {
			dividesStalled(t, c)
		}
		for i, e := range list(t, report, "exemplars", contractTCPExemplar) {
			list(t, e, "ran", []string{"app", "pid", "started", "tid", "ns"})
			if known := slices.Contains(snapshot.Causes, s.Worst[i].Cause); known == (e["remedy"] == "") {
				t.Errorf("the remedy of %v is %q", e["cause"], e["remedy"])
			}
		}
		kernel := report["kernel"].(object)
		for _, a := range list(t, report, "audit", []string{"name", "ours", "kernel", "residual", "audit_skew"}) {
			if kernel[a["name"].(string)] != a["kernel"] {
				t.Errorf("%v: audited against %v, the kernel has %v", a["name"], a["kernel"], kernel[a["name"].(string)])
			}
		}
	}
}

// The kernel's counters have its names and its order, and residuals have signs.
func TestTCPAudit(t *testing.T) {
	line := encode(t, json.TCP, sample.TCPUnbalanced(snapshot.ByApp), json.Options{})
	for _, want := range []string{
		`"kernel":{"ActiveOpens":1206,"PassiveOpens":12,"AttemptFails":8,"RetransSegs":1244,"UdpOutDatagrams":1240,"UdpInDatagrams":1243,"UdpRcvbufErrors":94}`,
		`{"name":"ActiveOpens","ours":1209,"kernel":1206,"residual":-3,"audit_skew":0}`,
		`{"name":"RetransSegs","ours":10,"kernel":1244,"residual":1234,"audit_skew":56}`,
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
}

// Stalls are named by what the report is grouped by, and told with both ends as people write them.
func TestTCPNames(t *testing.T) {
	report := decode(t, encode(t, json.TCP, sample.TCP(snapshot.ByUser), json.Options{}))
	e := report["exemplars"].([]any)[0].(object)
	want := []any{"postgres", stdjson.Number("815"), "[2001:db8:4711:1:5a2c:91ff:fe03:7d9e]:60404", "[fe80::5a2c:91ff:fe03:7d9e%enp0s31f6]:873"}
	if got := []any{e["app"], e["pid"], e["local"], e["remote"]}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if ran := report["exemplars"].([]any)[1].(object)["ran"].([]any); ran[0].(object)["app"] != "ann" {
		t.Errorf("ran %v", ran)
	}
}

func TestTCPTop(t *testing.T) {
	s := sample.TCPConnections(snapshot.ByApp)
	o := decode(t, encode(t, json.TCP, s, json.Options{Top: 1}))
	if num(t, o, "omitted_rows") != uint64(len(s.Rows)-1) {
		t.Errorf("%v omitted", o["omitted_rows"])
	}
	for f, want := range map[string]int{"rows": 1, "connections": 1, "exemplars": 2} {
		if n := len(o[f].([]any)); n != want {
			t.Errorf("%d %s, want %d", n, f, want)
		}
	}
	if ends := o["rows"].([]any)[0].(object)["remotes"].([]any); len(ends) != 1 {
		t.Errorf("remotes %v", ends)
	}
}

func TestTCPClosedPipe(t *testing.T) {
	if err := json.TCP(closed{}, sample.TCPIdle(), json.Options{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
