package sample

import (
	"math"
	"net/netip"
	"time"

	"culprit/probes/snapshot"
)

// More owners, and the ends of connections.
var (
	curl         = snapshot.Process{PID: 31337, PPID: 4000, Started: start, Comm: "curl", Exe: "/usr/bin/curl", User: "ann", App: "curl"}
	kernelSocket = snapshot.Process{App: "[kernel: socket]"}
	apiEnd       = netip.MustParseAddrPort("10.244.17.203:41234")
	dbEnd        = netip.MustParseAddrPort("10.244.3.7:5432")
	webEnd       = netip.MustParseAddrPort("[2001:db8:4711:1::80]:443")
	curlEnd      = netip.MustParseAddrPort("[2001:db8:4711:1:5a2c:91ff:fe03:7d9e]:60404")
	linkEnd      = netip.MustParseAddrPort("[fe80::5a2c:91ff:fe03:7d9e%enp0s31f6]:873")
	closedPort   = netip.MustParseAddrPort("127.0.0.1:9")
)

func remote(end netip.AddrPort, sent, received uint64) snapshot.TCPRemote {
	return snapshot.TCPRemote{Address: end.Addr(), Port: end.Port(), Sent: sent, Received: received}
}

func paused(cause snapshot.Cause, count, total, most uint64) snapshot.TCPStalls {
	return snapshot.TCPStalls{Cause: cause, Count: count, Total: total, Max: most}
}

// traffic are the rows as a probe makes them.
func traffic() []snapshot.TCPRow {
	return []snapshot.TCPRow{
		{Process: postgres, TCPTraffic: snapshot.TCPTraffic{Sent: 96 * mib, Received: 700 * kib, SegmentsOut: 3000, SegmentsIn: 2900, Retransmits: 7},
			Accepted: 12, Closed: 3, Open: 40, RTT: hist(2800, 1<<17), FirstByte: hist(12, 1<<18), Life: hist(3, 1<<29),
			Stalls: []snapshot.TCPStalls{paused(snapshot.DelayedACK, 58, 2400*ms, 44*ms), paused(snapshot.FastRetransmit, 2, 18*ms, 11*ms)},
			// Of connections that were accepted, the other port is nobody's service.
			Remotes: []snapshot.TCPRemote{remote(netip.AddrPortFrom(apiEnd.Addr(), 0), 96*mib, 600*kib),
				remote(netip.AddrPortFrom(linkEnd.Addr(), 0), 12*kib, 100*kib)}},
		{Process: walwriter, TCPTraffic: snapshot.TCPTraffic{Sent: 24 * kib, SegmentsOut: 30, SegmentsIn: 30}, Open: 1, RTT: hist(30, 1<<16),
			Stalls:  []snapshot.TCPStalls{paused(snapshot.DelayedACK, 1, 40*ms, 40*ms)},
			Remotes: []snapshot.TCPRemote{remote(linkEnd, 24*kib, 0)}},
		{Process: container, TCPTraffic: snapshot.TCPTraffic{Sent: 12 * kib, Received: 64 * mib, SegmentsOut: 1500, SegmentsIn: 1600, Retransmits: 3, RetransmitsFailed: 1},
			UDP:    snapshot.UDPTraffic{Sent: 40 * kib, Received: 120 * kib, DatagramsOut: 1200, DatagramsIn: 1199},
			Opened: 1200, Refused: 4, TimedOut: 2, Closed: 1198, Open: 2, Connect: hist(1200, 1<<19), FirstByte: hist(1190, 1<<21), Life: hist(1198, 1<<22),
			RTT: hist(1400, 1<<18), Stalls: []snapshot.TCPStalls{
				paused(snapshot.NagleDelayedACK, 58, 2500*ms, 44_100_000), paused(snapshot.ReaderNotScheduled, 4, 131*ms, 60*ms),
				paused(snapshot.RTO, 1, 204*ms, 204*ms)},
			Remotes: []snapshot.TCPRemote{remote(dbEnd, 10*kib, 64*mib), remote(webEnd, 2*kib, 9*kib)}},
		{Process: curl, TCPTraffic: snapshot.TCPTraffic{Sent: 312, Received: 1023 * kib, SegmentsOut: 60, SegmentsIn: 80}, Opened: 1, Refused: 1, Aborted: 1,
			UDP: snapshot.UDPTraffic{Sent: 62, Received: 190, DatagramsOut: 2, DatagramsIn: 2}, Open: 1, Connect: hist(1, 1<<24), FirstByte: hist(1, 1<<25), RTT: hist(50, 1<<24),
			Remotes: []snapshot.TCPRemote{remote(webEnd, 312, 1023*kib)}},
		{Process: sleepy, Open: 3},
		{Process: fstrim},
		{Process: dd, UDP: snapshot.UDPTraffic{Sent: 38, Received: 41 * mib, DatagramsOut: 38, DatagramsIn: 42, Drops: 93}},
		{Process: kernelSocket, TCPTraffic: snapshot.TCPTraffic{Sent: 8 * mib, SegmentsOut: 700}, Open: 1,
			Remotes: []snapshot.TCPRemote{remote(netip.MustParseAddrPort("10.244.3.9:2049"), 8*mib, 0)}},
		{Process: unknown, TCPTraffic: snapshot.TCPTraffic{Sent: 4 * kib, Received: 2 * mib}, Open: 1,
			UDP: snapshot.UDPTraffic{Drops: 1}},
	}
}

// tcpCounters are the audit of books that balance.
func tcpCounters() []snapshot.TCPCounter {
	out := []snapshot.TCPCounter{
		{Name: "ActiveOpens", Ours: 1209}, {Name: "PassiveOpens", Ours: 12}, {Name: "AttemptFails", Ours: 8}, {Name: "RetransSegs", Ours: 10},
		{Name: "UdpOutDatagrams", Ours: 1240}, {Name: "UdpInDatagrams", Ours: 1243}, {Name: "UdpRcvbufErrors", Ours: 94},
	}
	for i := range out {
		out[i].Kernel = out[i].Ours
	}
	return out
}

// TCP is a second in which several owners talked TCP, with books that balance
// and nothing lost.
func TCP(by snapshot.By) snapshot.TCP {
	return snapshot.TCP{
		Start: start, End: start.Add(time.Second), MinStall: 5 * ms, Rows: traffic(), Kernel: tcpCounters(),
		Worst: []snapshot.TCPStall{
			{Process: container, Cause: snapshot.NagleDelayedACK, At: start.Add(300 * time.Millisecond), Duration: 44_100_000, Namespace: 4026532008,
				Local: apiEnd, Remote: dbEnd, Waiting: 100},
			{Process: container, Cause: snapshot.ReaderNotScheduled, At: start.Add(700 * time.Millisecond), Duration: 60 * ms, Namespace: 4026532008,
				Local: apiEnd, Remote: dbEnd, Waiting: 4 * kib, Ran: []snapshot.SchedRan{
					{Process: dd, TID: dd.PID, NS: 40 * ms}, {Process: softirqs, NS: 3 * ms}, {Process: older, NS: 17 * ms}}},
			{Process: container, Cause: snapshot.NagleDelayedACK, At: start.Add(350 * time.Millisecond), Duration: 43 * ms, Namespace: 4026532008,
				Local: apiEnd, Remote: dbEnd, Waiting: 100},
			{Process: postgres, Cause: snapshot.DelayedACK, At: start.Add(300 * time.Millisecond), Duration: 44 * ms, Namespace: 4026531840,
				Local: dbEnd, Remote: apiEnd},
			{Process: walwriter, Cause: snapshot.RTO, At: start.Add(900 * time.Millisecond), Duration: 204 * ms, Namespace: 4026531840,
				Local: curlEnd, Remote: linkEnd, Waiting: 24 * kib},
		},
		Loss: []snapshot.Loss{{Name: "connections_full"}, {Name: "stalls_lost"}},
	}.Group(by)
}

// TCPConnections is TCP with its connections.
func TCPConnections(by snapshot.By) snapshot.TCP {
	s := TCP(by)
	s.Connections = []snapshot.TCPConnection{
		{Process: curl, TCPTraffic: snapshot.TCPTraffic{Sent: 312, Received: 1023 * kib, SegmentsOut: 60, SegmentsIn: 80}, Namespace: 4026531840,
			Local: curlEnd, Remote: webEnd, State: "ESTABLISHED", Since: start.Add(10 * time.Millisecond), RTT: 17 * ms},
		{Process: container, TCPTraffic: snapshot.TCPTraffic{Sent: 10 * kib, Received: 64 * mib, Retransmits: 3}, Namespace: 4026532008,
			Local: apiEnd, Remote: dbEnd, State: "ESTABLISHED", Since: start.Add(-time.Minute), RTT: 250_000,
			Stalls: []snapshot.TCPStalls{paused(snapshot.NagleDelayedACK, 58, 2500*ms, 44_100_000), paused(snapshot.ReaderNotScheduled, 4, 131*ms, 60*ms)}},
		{Process: container, Namespace: 4026532008, Local: apiEnd, Remote: closedPort, State: "CLOSE"},
		{Process: postgres, TCPTraffic: snapshot.TCPTraffic{Sent: 96 * mib, Received: 600 * kib, Retransmits: 7}, Namespace: 4026531840, Local: dbEnd, Remote: apiEnd,
			State: "CLOSE-WAIT", Accepted: true, Since: start.Add(-time.Minute), RTT: 131_072, Stalls: []snapshot.TCPStalls{paused(snapshot.DelayedACK, 58, 2400*ms, 44*ms)}},
		{Process: walwriter, TCPTraffic: snapshot.TCPTraffic{Sent: 24 * kib}, Namespace: 4026531840, Local: curlEnd, Remote: linkEnd, State: "FIN-WAIT-1", RTT: 65_536},
		{Process: unknown, TCPTraffic: snapshot.TCPTraffic{Sent: 4 * kib, Received: 2 * mib}, Namespace: 4026531840, Local: dbEnd, Remote: linkEnd, State: "ESTABLISHED"},
	}
	return s.Group(by)
}

// TCPUnbalanced is TCP with residuals, skew and losses.
func TCPUnbalanced(by snapshot.By) snapshot.TCP {
	s := TCP(by)
	s.Kernel[0].Kernel -= 3
	s.Kernel[3].Kernel += 1234
	s.Kernel[3].Skew = 56
	for i := range s.Loss {
		s.Loss[i].Count = uint64(i+1) * 1_000_003
	}
	return s
}

// TCPIdle is two seconds without a connection.
func TCPIdle() snapshot.TCP {
	return snapshot.TCP{Start: start, End: start.Add(2 * time.Second), By: snapshot.ByApp, MinStall: 5 * ms,
		Kernel: []snapshot.TCPCounter{{Name: "ActiveOpens"}, {Name: "RetransSegs"}}, Loss: []snapshot.Loss{{Name: "connections_full"}}}
}

// TCPNasty has NastyNames wherever a name can stand, and the largest numbers.
func TCPNasty(by snapshot.By) snapshot.TCP {
	const most = math.MaxUint64
	s := snapshot.TCP{Start: start, End: start.Add(time.Second), MinStall: most}
	for i, n := range NastyNames {
		p, cause := nasty(i, n), snapshot.Cause(n)
		local, remote := netip.AddrPortFrom(curlEnd.Addr().WithZone(n), 65535), linkEnd
		t := snapshot.TCPTraffic{Sent: most, Received: most / 64, SegmentsOut: most, SegmentsIn: most, Retransmits: most, RetransmitsFailed: most}
		stalls := []snapshot.TCPStalls{paused(cause, most, most/64, most), paused(snapshot.ReaderNotScheduled, most, most/64, most)}
		s.Rows = append(s.Rows, snapshot.TCPRow{Process: p, TCPTraffic: t, Opened: most, Accepted: most, Refused: most / 64, TimedOut: most / 64, Aborted: most / 64,
			UDP:    snapshot.UDPTraffic{Sent: most, Received: most / 64, DatagramsOut: most, DatagramsIn: most, Drops: most},
			Closed: most, Open: most, Connect: huge(), FirstByte: huge(), Life: huge(), RTT: huge(), Stalls: stalls,
			Remotes: []snapshot.TCPRemote{{Address: local.Addr(), Port: 65535, Sent: most, Received: most}, {}}},
			snapshot.TCPRow{Process: snapshot.Process{App: "[unattributed: " + n + "]"}, TCPTraffic: snapshot.TCPTraffic{Sent: 1023 * mib}})
		s.Connections = append(s.Connections, snapshot.TCPConnection{Process: p, TCPTraffic: t, Namespace: most, Local: local, Remote: remote, State: n,
			Since: start, RTT: most, Stalls: stalls}, snapshot.TCPConnection{})
		s.Worst = append(s.Worst, snapshot.TCPStall{Process: p, Cause: cause, At: start, Duration: most, Namespace: most, Local: local, Remote: remote,
			Waiting: most, Ran: []snapshot.SchedRan{{Process: p, TID: p.PID, NS: most}, {Process: older, NS: most}}},
			snapshot.TCPStall{Cause: snapshot.SlowStartRestart})
		s.Kernel = append(s.Kernel, snapshot.TCPCounter{Name: n, Ours: most, Kernel: most / 2, Skew: most})
		s.Loss = append(s.Loss, snapshot.Loss{Name: n, Count: most})
	}
	return s.Group(by)
}

// AllTCP are all of culprit tcp, in every grouping.
func AllTCP() []snapshot.TCP { return all(TCPIdle(), TCPConnections, TCPUnbalanced, TCPNasty) }
