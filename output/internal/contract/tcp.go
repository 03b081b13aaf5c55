package contract

import (
	"net/netip"

	"culprit/output/internal/remedy"
	"culprit/probes/snapshot"
)

// TCPSchema names the form of TCPReport.
const TCPSchema = "culprit.tcp/1"

// TCPReport is one interval of culprit tcp.
type TCPReport struct {
	Schema string `json:"schema"`
	Interval
	MinStallNS  uint64          `json:"min_stall_ns"` // shorter stalls are not counted
	Rows        []TCPRow        `json:"rows"`
	OmittedRows int             `json:"omitted_rows"` // left out by the row limit
	Connections []TCPConnection `json:"connections,omitempty"`
	Exemplars   []TCPExemplar   `json:"exemplars"`
	Kernel      Counters        `json:"kernel"` // its counters, as in /proc/net/snmp, those of UDP with IPv6's
	Audit       []TCPAudit      `json:"audit"`  // each of them beside culprit's own sum
	Loss        Counters        `json:"loss"`
}

// TCPTraffic is what went over connections. Bytes are payload, each counted once.
type TCPTraffic struct {
	SentBytes         uint64 `json:"sent_bytes"`
	ReceivedBytes     uint64 `json:"received_bytes"`
	SegmentsOut       uint64 `json:"segments_out"`
	SegmentsIn        uint64 `json:"segments_in"`
	Retransmits       uint64 `json:"retransmits"`        // segments sent again, SYN and SYN-ACK included
	RetransmitsFailed uint64 `json:"retransmits_failed"` // that found no way out
}

// UDPTraffic is what went over UDP sockets: 0 where the kernel does not tell, and where connections are chosen.
type UDPTraffic struct {
	SentBytes         uint64 `json:"udp_sent_bytes"` // of payload, as send() and recv() returned them
	ReceivedBytes     uint64 `json:"udp_received_bytes"`
	SentDatagrams     uint64 `json:"udp_sent_datagrams"` // as the kernel counts them: several at once (UDP_SEGMENT, UDP_GRO) are one
	ReceivedDatagrams uint64 `json:"udp_received_datagrams"`
	Drops             uint64 `json:"udp_drops"` // datagrams that the receive buffer had no room for
}

// TCPRow is what the connections of one group did, and what it did over UDP.
type TCPRow struct {
	Identity
	TCPTraffic
	UDPTraffic
	Opened    uint64      `json:"opened"`   // connections established by the group
	Accepted  uint64      `json:"accepted"` // and by others
	Failed    uint64      `json:"failed"`   // attempts to connect: the sum of
	Refused   uint64      `json:"refused"`  // those that the other end refused,
	TimedOut  uint64      `json:"timed_out"`
	Aborted   uint64      `json:"aborted"` // and those that ended otherwise
	Closed    uint64      `json:"closed"`  // connections that ended, having been established
	Open      uint64      `json:"open"`    // at the end
	Connect   Latency     `json:"connect"` // from SYN to the connection
	FirstByte Latency     `json:"first_byte"`
	Life      Latency     `json:"life"` // of the connections that ended
	RTT       Latency     `json:"rtt"`  // single samples
	StalledNS uint64      `json:"stalled_ns"`
	Stalls    []TCPStalls `json:"stalls"`  // they divide stalled_ns
	Remotes   []TCPRemote `json:"remotes"` // most bytes first
}

// TCPStalls are the stalls of one cause.
type TCPStalls struct {
	Cause   string `json:"cause"`
	Count   uint64 `json:"count"`
	TotalNS uint64 `json:"total_ns"`
	MaxNS   uint64 `json:"max_ns"`
}

// TCPRemote is an other end, and what was exchanged with it.
type TCPRemote struct {
	Address       string `json:"address"`
	Port          uint16 `json:"port"` // 0 where it is that of clients
	SentBytes     uint64 `json:"sent_bytes"`
	ReceivedBytes uint64 `json:"received_bytes"`
}

// TCPEnds are both ends of a connection, as address:port.
type TCPEnds struct {
	Namespace uint64 `json:"namespace"` // inode of the network namespace
	Local     string `json:"local"`
	Remote    string `json:"remote"`
}

// TCPConnection is what one connection did in the interval.
type TCPConnection struct {
	Identity
	TCPEnds
	State     string `json:"state"`     // at the end
	Direction string `json:"direction"` // "in" where it was accepted, "out" where opened, "" where that was not seen
	Since     string `json:"since"`     // when it was established; "" if that is longer ago than culprit runs
	TCPTraffic
	RTTNS     uint64      `json:"rtt_ns"` // the kernel's smoothed one
	StalledNS uint64      `json:"stalled_ns"`
	Stalls    []TCPStalls `json:"stalls"`
}

// TCPExemplar is one of the longest stalls.
type TCPExemplar struct {
	At      string `json:"at"`  // its end
	App     string `json:"app"` // the group's name, whatever the report is grouped by
	PID     int    `json:"pid"`
	Started string `json:"started"`
	TCPEnds
	Cause        string `json:"cause"`
	DurationNS   uint64 `json:"duration_ns"`
	WaitingBytes uint64 `json:"waiting_bytes"` // to be sent, or to be read
	Remedy       string `json:"remedy"`
	Ran          []Ran  `json:"ran"` // who had the CPU, most first, while the reader waited for it; where the scheduler was watched, too (tcp --worst, summary)
}

// TCPAudit is one of the kernel's counters beside culprit's own sum.
type TCPAudit struct {
	Name      string `json:"name"`
	Ours      uint64 `json:"ours"`
	Kernel    uint64 `json:"kernel"`
	Residual  int64  `json:"residual"`   // kernel without ours
	AuditSkew uint64 `json:"audit_skew"` // by how much ours grew while the kernel's was read
}

// TCP is the report of a grouped snapshot from which omitted rows were left out.
func TCP(s snapshot.TCP, omitted int) TCPReport {
	return TCPReport{
		Schema:      TCPSchema,
		Interval:    interval(s.Start, s.End, s.By).of(s.Hosts),
		MinStallNS:  s.MinStall,
		Rows:        each(s.Rows, tcpRow),
		OmittedRows: omitted,
		Connections: each(s.Connections, tcpConnection),
		Exemplars:   each(s.Worst, func(w snapshot.TCPStall) TCPExemplar { return tcpExemplar(w, s.By) }),
		Kernel:      each(s.Kernel, func(c snapshot.TCPCounter) Counter { return Counter{Name: c.Name, Count: c.Kernel} }),
		Audit: each(s.Kernel, func(c snapshot.TCPCounter) TCPAudit {
			return TCPAudit{Name: c.Name, Ours: c.Ours, Kernel: c.Kernel, Residual: c.Residual(), AuditSkew: c.Skew}
		}),
		Loss: losses(s.Loss),
	}
}

func tcpTraffic(t snapshot.TCPTraffic) TCPTraffic {
	return TCPTraffic{
		SentBytes: t.Sent, ReceivedBytes: t.Received, SegmentsOut: t.SegmentsOut, SegmentsIn: t.SegmentsIn,
		Retransmits: t.Retransmits, RetransmitsFailed: t.RetransmitsFailed,
	}
}

func tcpRow(r snapshot.TCPRow) TCPRow {
	return TCPRow{
		Identity:   identity(r.Process),
		TCPTraffic: tcpTraffic(r.TCPTraffic),
		UDPTraffic: UDPTraffic{
			SentBytes: r.UDP.Sent, ReceivedBytes: r.UDP.Received, SentDatagrams: r.UDP.DatagramsOut, ReceivedDatagrams: r.UDP.DatagramsIn,
			Drops: r.UDP.Drops,
		},
		Opened:    r.Opened,
		Accepted:  r.Accepted,
		Failed:    r.Failed(),
		Refused:   r.Refused,
		TimedOut:  r.TimedOut,
		Aborted:   r.Aborted,
		Closed:    r.Closed,
		Open:      r.Open,
		Connect:   latency(r.Connect),
		FirstByte: latency(r.FirstByte),
		Life:      latency(r.Life),
		RTT:       latency(r.RTT),
		StalledNS: r.Stalled(),
		Stalls:    each(r.Stalls, tcpStalls),
		Remotes: each(r.Remotes, func(r snapshot.TCPRemote) TCPRemote {
			return TCPRemote{Address: r.Address.String(), Port: r.Port, SentBytes: r.Sent, ReceivedBytes: r.Received}
		}),
	}
}

func tcpStalls(s snapshot.TCPStalls) TCPStalls {
	return TCPStalls{Cause: string(s.Cause), Count: s.Count, TotalNS: s.Total, MaxNS: s.Max}
}

func tcpEnds(namespace uint64, local, remote netip.AddrPort) TCPEnds {
	return TCPEnds{Namespace: namespace, Local: local.String(), Remote: remote.String()}
}

func tcpConnection(c snapshot.TCPConnection) TCPConnection {
	return TCPConnection{
		Identity:   identity(c.Process),
		TCPEnds:    tcpEnds(c.Namespace, c.Local, c.Remote),
		State:      c.State,
		Direction:  c.Direction(),
		Since:      stamp(c.Since),
		TCPTraffic: tcpTraffic(c.TCPTraffic),
		RTTNS:      c.RTT,
		StalledNS:  c.Stalled(),
		Stalls:     each(c.Stalls, tcpStalls),
	}
}

func tcpExemplar(w snapshot.TCPStall, by snapshot.By) TCPExemplar {
	return TCPExemplar{
		At: stamp(w.At), App: w.Name(by), PID: w.PID, Started: stamp(w.Started),
		TCPEnds: tcpEnds(w.Namespace, w.Local, w.Remote), Cause: string(w.Cause), DurationNS: w.Duration, WaitingBytes: w.Waiting,
		Remedy: remedy.Of(w.Cause), Ran: each(w.Ran, func(r snapshot.SchedRan) Ran { return ran(r, by) }),
	}
}
