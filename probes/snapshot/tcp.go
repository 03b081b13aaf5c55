package snapshot

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Cause is why a connection that had something to do made no progress.
type Cause string

// The causes, in the order of precedence: a span has the first one that applies.
const (
	RTO                Cause = "rto"                  // the retransmission timer ran out
	TailLossProbe      Cause = "tail_loss_probe"      // the last segments were lost, and a probe found out (RFC 8985)
	FastRetransmit     Cause = "fast_retransmit"      // segments were lost, and later ones told
	ZeroWindow         Cause = "zero_window"          // the receiver had no room at all
	ReceiveWindow      Cause = "receive_window"       // the receiver had room for less than there was to send
	Pacing             Cause = "pacing"               // the sender's own rate limit
	SlowStartRestart   Cause = "slow_start_restart"   // the congestion window began anew after idling
	CwndLimited        Cause = "cwnd_limited"         // the congestion window was full
	NagleDelayedACK    Cause = "nagle_delayed_ack"    // a small segment waited for the acknowledgement of another
	SendBuffer         Cause = "send_buffer"          // the writer waited for room, while all that was written was on its way
	DelayedACK         Cause = "delayed_ack"          // the peer waited for an acknowledgement that this end put off
	ReaderNotScheduled Cause = "reader_not_scheduled" // data was there, and its reader waited for a CPU
	ReaderNotReading   Cause = "reader_not_reading"   // data was there, and its reader did something else
	Unexplained        Cause = "unexplained"          // none of these
)

// Causes are all of them, in the order of precedence.
var Causes = []Cause{
	RTO, TailLossProbe, FastRetransmit, ZeroWindow, ReceiveWindow, Pacing, SlowStartRestart, CwndLimited, NagleDelayedACK, SendBuffer,
	DelayedACK, ReaderNotScheduled, ReaderNotReading, Unexplained,
}

// Kernel is the owner of the kernel's own sockets: those of NFS, for example.
const Kernel = "[kernel]"

// TCP is what culprit tcp reports of one interval.
type TCP struct {
	Start, End  time.Time
	By          By
	Hosts       []string        // of a recording: the machines that it adds up
	MinStall    uint64          // ns; shorter stalls are not counted
	Rows        []TCPRow        // one per process from the probe, per group after Group
	Connections []TCPConnection // when asked for: all that lived in the interval, most bytes first
	Worst       []TCPStall      // the longest stalls of each group that has any, longest first
	Kernel      []TCPCounter
	Loss        []Loss // every counter, zero or not, in a fixed order
}

// TCPCounter compares one of our sums with the kernel's counter, over all network namespaces that were seen.
type TCPCounter struct {
	// In /proc/net/snmp: ActiveOpens, PassiveOpens, AttemptFails, RetransSegs; where the kernel tells of UDP, UdpOutDatagrams,
	// UdpInDatagrams and UdpRcvbufErrors, which are with those of IPv6 (/proc/net/snmp6).
	Name string
	// Ours of AttemptFails are with those that were reset before there was a socket: EmbryonicRsts of /proc/net/netstat. Ours of
	// UdpOutDatagrams are without those that the kernel dropped on their way out, and had told their sender that it sent: SndbufErrors.
	Ours, Kernel uint64
	Skew         uint64 // how far the kernel's moved while ours was read at both ends of the interval: the residual can be off by that much
}

// Residual is what the kernel counted beyond ours; negative where it counted less.
func (c TCPCounter) Residual() int64 { return int64(c.Kernel - c.Ours) }

// TCPTraffic is what went over connections.
type TCPTraffic struct {
	Sent, Received          uint64 // bytes of payload: of what was sent several times, once
	SegmentsOut, SegmentsIn uint64
	Retransmits             uint64 // segments that were sent again, SYN and SYN-ACK included
	RetransmitsFailed       uint64 // that should have been, and found no way out
}

// Add is the sum.
func (t TCPTraffic) Add(o TCPTraffic) TCPTraffic {
	return TCPTraffic{
		t.Sent + o.Sent, t.Received + o.Received, t.SegmentsOut + o.SegmentsOut, t.SegmentsIn + o.SegmentsIn,
		t.Retransmits + o.Retransmits, t.RetransmitsFailed + o.RetransmitsFailed,
	}
}

// Bytes is the payload both ways.
func (t TCPTraffic) Bytes() uint64 { return t.Sent + t.Received }

// UDPTraffic is what went over UDP sockets. It is the traffic of the process that makes the system calls, and a drop's that of
// the process that made the last one on the socket.
type UDPTraffic struct {
	Sent, Received uint64 // bytes of payload, as send() and recv() returned them
	// Datagrams, as the kernel counts them: several at once (UDP_SEGMENT, UDP_GRO) are one.
	DatagramsOut, DatagramsIn uint64
	Drops                     uint64 // datagrams that came in and found no place in the receive buffer, or no memory
}

// Add is the sum.
func (t UDPTraffic) Add(o UDPTraffic) UDPTraffic {
	return UDPTraffic{
		t.Sent + o.Sent, t.Received + o.Received, t.DatagramsOut + o.DatagramsOut, t.DatagramsIn + o.DatagramsIn, t.Drops + o.Drops,
	}
}

// Bytes is the payload both ways.
func (t UDPTraffic) Bytes() uint64 { return t.Sent + t.Received }

// TCPRow is what the connections of one process (or group) did, and what it did over UDP.
type TCPRow struct {
	Process
	TCPTraffic
	UDP              UDPTraffic // 0 where connections are chosen (--port, --remote), or the kernel does not tell of UDP
	Opened, Accepted uint64     // connections that were established
	Refused          uint64     // attempts that the other end refused,
	TimedOut         uint64     // that nobody answered,
	Aborted          uint64     // or that ended otherwise
	Closed           uint64     // connections that ended, having been established
	Open             uint64     // at the interval's end

	Connect   Histogram // from SYN to the connection
	FirstByte Histogram // from the connection to the first payload received
	Life      Histogram // of connections that ended in the interval
	RTT       Histogram // single samples, as the kernel took them (RACK's, RFC 8985)

	Stalls  []TCPStalls // by cause, most time first
	Remotes []TCPRemote // other ends, most bytes first
}

// Failed is how many attempts to connect failed.
func (r TCPRow) Failed() uint64 { return r.Refused + r.TimedOut + r.Aborted }

// Stalled is how long its connections stalled altogether, in ns: those that stalled at the same time, one by one.
func (r TCPRow) Stalled() uint64 { return stalled(r.Stalls) }

func stalled(stalls []TCPStalls) (ns uint64) {
	for _, s := range stalls {
		ns += s.Total
	}
	return ns
}

// TCPStalls are the stalls of one cause. Times are in ns.
type TCPStalls struct {
	Cause             Cause
	Count, Total, Max uint64
}

// TCPRemote is a remote end: an address, with the port where that is a service's.
type TCPRemote struct {
	Address netip.Addr
	Port    uint16 // of connections that were opened; 0 for accepted ones
	// Bytes of payload.
	Sent, Received uint64
}

// Bytes is the payload both ways.
func (r TCPRemote) Bytes() uint64 { return r.Sent + r.Received }

// TCPConnection is one connection. What it did is of the interval.
type TCPConnection struct {
	Process
	TCPTraffic
	Namespace     uint64 // inode of the network namespace
	Local, Remote netip.AddrPort
	State         string    // as ss and netstat name it, at the interval's end
	Accepted      bool      // and not opened, as far as that was seen
	Since         time.Time // when it was established; zero if it is older than culprit
	RTT           uint64    // the kernel's smoothed one, ns
	Stalls        []TCPStalls
}

// Direction is "in" for a connection that was accepted, "out" for one that was opened, and "" where that was not seen.
func (c TCPConnection) Direction() string {
	switch {
	case c.Accepted:
		return "in"
	case c.Since.IsZero():
		return ""
	}
	return "out"
}

// Stalled is how long it stalled altogether, in ns.
func (c TCPConnection) Stalled() uint64 { return stalled(c.Stalls) }

// TCPStall is one long stall, for the list of the worst.
type TCPStall struct {
	Process
	Cause         Cause
	At            time.Time // its end
	Duration      uint64    // ns
	Namespace     uint64
	Local, Remote netip.AddrPort
	Waiting       uint64     // bytes that were to be sent, or to be read
	TID           int        // for ReaderNotScheduled: the reader
	Ran           []SchedRan // who had the CPU that it waited for, most first, as far as that is known
}

// merge leaves the remote ends to Group, which adds up those of all rows at once.
func (r TCPRow) merge(o TCPRow) TCPRow {
	r.Process = r.Process.merge(o.Process)
	r.TCPTraffic = r.TCPTraffic.Add(o.TCPTraffic)
	r.UDP = r.UDP.Add(o.UDP)
	r.Opened += o.Opened
	r.Accepted += o.Accepted
	r.Refused += o.Refused
	r.TimedOut += o.TimedOut
	r.Aborted += o.Aborted
	r.Closed += o.Closed
	r.Open += o.Open
	r.Connect = r.Connect.Merge(o.Connect)
	r.FirstByte = r.FirstByte.Merge(o.FirstByte)
	r.Life = r.Life.Merge(o.Life)
	r.RTT = r.RTT.Merge(o.RTT)
	r.Stalls = mergeStalls(r.Stalls, o.Stalls)
	return r
}

func groupRemotes(in []TCPRemote) []TCPRemote {
	out := group(in, func(r TCPRemote) any { return netip.AddrPortFrom(r.Address, r.Port) }, func(a, b TCPRemote) TCPRemote {
		a.Sent += b.Sent
		a.Received += b.Received
		return a
	})
	slices.SortStableFunc(out, func(a, b TCPRemote) int {
		return cmp.Or(cmp.Compare(b.Bytes(), a.Bytes()), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return out
}

func mergeStalls(a, b []TCPStalls) []TCPStalls {
	out := group(slices.Concat(a, b), func(s TCPStalls) any { return s.Cause }, func(a, b TCPStalls) TCPStalls {
		return TCPStalls{a.Cause, a.Count + b.Count, a.Total + b.Total, max(a.Max, b.Max)}
	})
	slices.SortStableFunc(out, func(a, b TCPStalls) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(slices.Index(Causes, a.Cause), slices.Index(Causes, b.Cause)))
	})
	return out
}

// Filter keeps the rows, connections and stalls whose owner passes keep. The audit stays whole.
func (s TCP) Filter(keep func(Process) bool) TCP {
	s.Rows = filter(s.Rows, func(r TCPRow) bool { return keep(r.Process) })
	s.Connections = filter(s.Connections, func(c TCPConnection) bool { return keep(c.Process) })
	s.Worst = filter(s.Worst, func(w TCPStall) bool { return keep(w.Process) })
	return s
}

// Group merges the rows of each group, and their remote ends, sorts both and the connections by bytes, most first, and
// keeps the longest stalls of each.
func (s TCP) Group(by By) TCP {
	s.By = by
	remotes := map[groupKey][]TCPRemote{}
	for _, r := range s.Rows {
		k := r.key(by)
		remotes[k] = append(remotes[k], r.Remotes...)
	}
	s.Rows = group(s.Rows, func(r TCPRow) any { return r.key(by) }, TCPRow.merge)
	for i := range s.Rows {
		r := &s.Rows[i]
		r.Stalls = mergeStalls(r.Stalls, nil)
		r.Remotes = groupRemotes(remotes[r.key(by)])
		r.Process = r.asGroup(by)
	}
	s.sort(func(r TCPRow) uint64 { return r.Bytes() })
	s.Connections = slices.Clone(s.Connections)
	slices.SortStableFunc(s.Connections, func(a, b TCPConnection) int {
		return cmp.Or(cmp.Compare(b.Bytes(), a.Bytes()), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	s.Worst = longest(s.Worst, func(w TCPStall) uint64 { return w.Duration }, func(w TCPStall) groupKey { return w.key(by) })
	return s
}

// TCPSorts are the columns that rows can be sorted by, all largest first but name.
var TCPSorts = []string{"bytes", "sent", "received", "stalled", "retransmits", "connections", "rtt", "udp", "name"}

// SortBy orders the rows by one of TCPSorts.
func (s TCP) SortBy(column string) TCP {
	s.Rows = slices.Clone(s.Rows)
	switch column {
	case "sent":
		s.sort(func(r TCPRow) uint64 { return r.Sent })
	case "received":
		s.sort(func(r TCPRow) uint64 { return r.Received })
	case "stalled":
		s.sort(TCPRow.Stalled)
	case "retransmits":
		s.sort(func(r TCPRow) uint64 { return r.Retransmits })
	case "connections":
		s.sort(func(r TCPRow) uint64 { return r.Opened + r.Accepted + r.Failed() + r.Open })
	case "rtt":
		s.sort(func(r TCPRow) uint64 { return r.RTT.Quantile(0.99) })
	case "udp":
		s.sort(func(r TCPRow) uint64 { return r.UDP.Bytes() })
	case "name":
		slices.SortStableFunc(s.Rows, func(a, b TCPRow) int { return a.compare(b.Process, s.By) })
	default:
		s.sort(func(r TCPRow) uint64 { return r.Bytes() })
	}
	return s
}

func (s *TCP) sort(size func(TCPRow) uint64) {
	slices.SortStableFunc(s.Rows, func(a, b TCPRow) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(b.Open, a.Open), cmp.Compare(b.UDP.Bytes(), a.UDP.Bytes()), a.compare(b.Process, s.By))
	})
}
