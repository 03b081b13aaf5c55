// Package remedy says what to do about stalls of TCP connections.
package remedy

import "culprit/probes/snapshot"

// of has a line for each cause. Its words are for the application that stalled; "there" is at the other end.
var of = map[snapshot.Cause]string{
	snapshot.RTO: "find where packets are lost (ip -s link, ethtool -S, tc -s qdisc; nstat TcpExtTCPTimeouts); " +
		"on a LAN: ip route … rto_min 50ms",
	snapshot.TailLossProbe:  "find where packets are lost, often in a short queue at the end of a burst: pace (tc qdisc … fq), or ECN on both ends",
	snapshot.FastRetransmit: "find where packets are lost, or take several ways and are reordered (nstat TcpExtTCPSACKReorder, TcpExtTCPDSACKRecv)",
	snapshot.ZeroWindow:     "the reader there does not keep up: see its reader_not_reading and reader_not_scheduled, or let it read in a thread of its own",
	snapshot.ReceiveWindow:  "there: more than bandwidth × RTT in net.ipv4.tcp_rmem, and no SO_RCVBUF, which ends autotuning",
	snapshot.Pacing:         "raise SO_MAX_PACING_RATE if it is set; else it is the congestion control's own pace (bbr), and the path's limit",
	snapshot.SlowStartRestart: "sysctl net.ipv4.tcp_slow_start_after_idle=0 here, or send some bytes " +
		"at least once per retransmission timeout (ss -ti: rto)",
	snapshot.CwndLimited:        "keep connections open, as new ones begin slowly; ip route … initcwnd; on a path with losses, try bbr",
	snapshot.NagleDelayedACK:    "set TCP_NODELAY, or write the request with one call (writev, MSG_MORE)",
	snapshot.SendBuffer:         "more than bandwidth × RTT in net.ipv4.tcp_wmem, and no SO_SNDBUF, which ends autotuning",
	snapshot.DelayedACK:         "there: TCP_NODELAY, or one write a message; here: TCP_QUICKACK anew after each read, or ip route … quickack 1",
	snapshot.ReaderNotScheduled: "more cpu.weight or CPUs of its own (cpuset) for the reader, or less for who ran meanwhile: see culprit sched",
	snapshot.ReaderNotReading:   "let a thread that does nothing else read; culprit sched --time and culprit io tell what this one did instead",
	snapshot.Unexplained:        "compare both ends: ss -ti while it lasts, tcpdump",
}

// Of is what to do about a cause, in one line; "" for one that is not known.
func Of(c snapshot.Cause) string { return of[c] }
