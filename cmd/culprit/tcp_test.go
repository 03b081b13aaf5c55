package main

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"culprit/probes/snapshot"
)

// The help has a line for every cause.
func TestTCPHelpExplainsCauses(t *testing.T) {
	help := newTCP().Long
	for _, c := range snapshot.Causes {
		if !strings.Contains(help, "\n  "+string(c)+" ") {
			t.Errorf("nothing about %s", c)
		}
	}
}

func TestTCPMatch(t *testing.T) {
	for _, tt := range []struct {
		ports         []int
		remotes       []string
		local, remote string
		want          bool
	}{
		{[]int{80}, nil, "10.0.0.1:80", "10.0.0.2:4000", true},
		{[]int{80}, nil, "10.0.0.1:4000", "10.0.0.2:80", true},
		{[]int{443, 80}, nil, "[::1]:4000", "[::1]:443", true},
		{[]int{80}, nil, "10.0.0.1:4000", "10.0.0.2:8080", false},
		{nil, []string{"10.0.0.2"}, "10.0.0.1:80", "10.0.0.2:4000", true},
		{nil, []string{"10.0.0.1"}, "10.0.0.1:80", "10.0.0.2:4000", false}, // the local end
		{nil, []string{"192.0.2.1", "10.0.0.0/8"}, "10.0.0.1:80", "10.9.9.9:4000", true},
		{nil, []string{"10.1.2.3/8"}, "10.0.0.1:80", "10.9.9.9:4000", true},
		{nil, []string{"10.0.0.0/8"}, "[::1]:80", "[::ffff:10.9.9.9]:4000", true},
		{nil, []string{"::ffff:10.9.9.9"}, "10.0.0.1:80", "10.9.9.9:4000", true},
		{nil, []string{"fe80::/10"}, "[fe80::1%eth0]:80", "[fe80::2%eth0]:4000", true},
		{nil, []string{"2001:db8::/32"}, "10.0.0.1:80", "10.0.0.2:4000", false},
		{[]int{80}, []string{"10.0.0.2"}, "10.0.0.1:80", "10.0.0.2:4000", true},
		{[]int{80}, []string{"10.0.0.2"}, "10.0.0.1:81", "10.0.0.2:4000", false},
		{[]int{80}, []string{"10.0.0.2"}, "10.0.0.1:80", "10.0.0.3:4000", false},
	} {
		f := tcpFlags{ports: tt.ports, remotes: tt.remotes}
		if err := f.checkEnds(); err != nil {
			t.Fatal(err)
		}
		if got := f.match()(netip.MustParseAddrPort(tt.local), netip.MustParseAddrPort(tt.remote)); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	if (&tcpFlags{}).match() != nil {
		t.Error("all connections are matched one by one")
	}
}

// TestTCPBooks decodes what users' programs decode, and does the sums that DESIGN.md promises.
func TestTCPBooks(t *testing.T) {
	needRoot(t)
	inBackground(t, talking())
	eachReport(t, []string{"tcp", "--json", "-n", "0", "--connections"}, func(t *testing.T, out []byte) {
		type stall struct {
			Cause string
			Count uint64
			Total uint64 `json:"total_ns"`
			Max   uint64 `json:"max_ns"`
		}
		var report struct {
			Schema string
			Rows   []struct {
				App, Comm, User                            string
				Sent                                       uint64 `json:"sent_bytes"`
				Received                                   uint64 `json:"received_bytes"`
				Opened, Accepted, Failed, Refused, Aborted uint64
				TimedOut                                   uint64 `json:"timed_out"`
				Stalled                                    uint64 `json:"stalled_ns"`
				Stalls                                     []stall
				RTT                                        struct{ Count uint64 }
			}
			Connections []struct{ Local, Remote string }
			Exemplars   []struct {
				Cause    string
				Duration uint64 `json:"duration_ns"`
				Remedy   string
			}
			Kernel map[string]uint64
			Audit  []struct {
				Name         string
				Ours, Kernel uint64
				Residual     int64
				Skew         uint64 `json:"audit_skew"`
			}
		}
		if err := json.Unmarshal(out, &report); err != nil {
			t.Fatal(err)
		}
		var nagle uint64
		for _, r := range report.Rows {
			var sum uint64
			for _, s := range r.Stalls {
				sum += s.Total
				if s.Cause == string(snapshot.NagleDelayedACK) {
					nagle += s.Count
				}
				if s.Max > s.Total || s.Total > s.Count*s.Max {
					t.Errorf("%s: %+v", r.App, s)
				}
			}
			if sum != r.Stalled || r.Refused+r.TimedOut+r.Aborted != r.Failed {
				t.Errorf("stalls of %d ns: %+v", sum, r)
			}
		}
		if report.Schema != "culprit.tcp/1" || nagle < 5 || len(report.Connections) == 0 || len(report.Exemplars) == 0 || len(report.Audit) == 0 {
			t.Errorf("%s: %d Nagle's, %d connections, %d exemplars, %d counters", report.Schema, nagle, len(report.Connections), len(report.Exemplars), len(report.Audit))
		}
		for _, e := range report.Exemplars {
			if e.Remedy == "" || e.Duration < uint64(defaultMinStall) {
				t.Errorf("%+v", e)
			}
		}
		for _, a := range report.Audit {
			most := int64(a.Skew)
			if strings.HasPrefix(a.Name, "Udp") {
				most++ // the kernel has counted a datagram, and its only sender has not come to where that is told of
			}
			if a.Kernel != report.Kernel[a.Name] || int64(a.Kernel-a.Ours) != a.Residual || max(a.Residual, -a.Residual) > most {
				t.Errorf("%+v, the kernel's counter is %d", a, report.Kernel[a.Name])
			}
		}
	})
}
