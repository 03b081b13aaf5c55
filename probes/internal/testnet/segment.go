package testnet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Direction is where a segment comes from.
type Direction int

const (
	FromClient Direction = iota
	FromServer
)

func (d Direction) String() string { return [...]string{"from the client", "from the server"}[d] }

// Flags are those of a segment's header.
type Flags uint8

const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Segment is what a relay tells rules about a TCP segment.
type Segment struct {
	Time                time.Time // when it reached the relay
	From                Direction
	Source, Destination netip.AddrPort
	Seq, Ack            uint32
	Flags               Flags
	Window              uint16 // as in the header, unscaled
	Payload             int    // bytes

	// Of a segment with payload: where its first byte is in what is sent this way, counted from 0, and the how many-th segment
	// that is, counted from 1 over those sent for the first time.
	Offset int64
	Number int
	// What the segment begins with was sent before.
	Retransmission bool
}

// Bare is whether a segment does nothing but acknowledge.
func (s Segment) Bare() bool { return s.Payload == 0 && s.Flags&(SYN|FIN|RST) == 0 }

// Verdict is what is to happen to a segment: Pass, Drop, or a Delay on top of the relay's.
type Verdict time.Duration

const (
	Pass Verdict = 0
	Drop Verdict = -1
)

// Delay holds a segment back, and lets later ones overtake it.
func Delay(d time.Duration) Verdict { return Verdict(d) }

// Rule decides on each segment, on the relay's thread. Of several rules, the first that does not pass a segment decides.
type Rule func(Segment) Verdict

// DropOnce drops data segments of each connection by their Number, when they are sent for the first time.
func DropOnce(from Direction, numbers ...int) Rule {
	return func(s Segment) Verdict {
		if s.From == from && !s.Retransmission && s.Payload > 0 && slices.Contains(numbers, s.Number) {
			return Drop
		}
		return Pass
	}
}

// DropFor drops everything for so long from now on.
func DropFor(d time.Duration) Rule {
	end := time.Now().Add(d)
	return func(s Segment) Verdict {
		if s.Time.Before(end) {
			return Drop
		}
		return Pass
	}
}

// DropNext drops the next segments that are as described, so many of them.
func DropNext(n int, are func(Segment) bool) Rule {
	return func(s Segment) Verdict {
		if n == 0 || !are(s) {
			return Pass
		}
		n--
		return Drop
	}
}

// HoldACKs delays what only acknowledges.
func HoldACKs(from Direction, d time.Duration) Rule {
	return func(s Segment) Verdict {
		if s.From == from && s.Bare() {
			return Delay(d)
		}
		return Pass
	}
}

// flow is what was sent in one direction of a connection.
type flow struct {
	first  uint32  // the sequence number of the first byte
	end    int64   // the offset after everything that was sent, a FIN included
	starts []int64 // of the data segments
}

type addresses struct{ source, destination netip.AddrPort }

// flows are the connections that a relay has seen.
type flows map[addresses]*flow

// decode is false for what is not TCP.
func (f flows) decode(packet []byte, from Direction, at time.Time) (Segment, bool) {
	s, ok := parse(packet)
	if !ok {
		return s, false
	}
	s.From, s.Time = from, at
	key := addresses{s.Source, s.Destination}
	w := f[key]
	begin := s.Seq
	if s.Flags&SYN != 0 {
		begin++
	}
	if w == nil || s.Flags&SYN != 0 && begin != w.first { // another connection of the same ports
		w = &flow{first: begin}
		f[key] = w
		if s.Flags&SYN != 0 {
			w.end = -1
		}
	}
	offset := w.end + int64(int32(s.Seq-(w.first+uint32(w.end))))
	length := int64(s.Payload)
	if s.Flags&(SYN|FIN) != 0 {
		length++
	}
	s.Retransmission = length > 0 && offset < w.end
	w.end = max(w.end, offset+length)
	if s.Payload == 0 {
		return s, true
	}
	s.Offset = offset + int64(begin-s.Seq)
	if !s.Retransmission {
		w.starts = append(w.starts, s.Offset)
		s.Number = len(w.starts)
	} else if i, found := slices.BinarySearch(w.starts, s.Offset); found {
		s.Number = i + 1
	} else {
		s.Number = i
	}
	return s, true
}

// parse reads the headers of a packet that has all its bytes and no extension headers, as the kernel sends TCP.
func parse(p []byte) (s Segment, ok bool) {
	if len(p) == 0 {
		return s, false
	}
	var source, destination netip.Addr
	var tcp []byte
	switch p[0] >> 4 {
	case 4:
		header := 4 * int(p[0]&15)
		if len(p) < header+20 || p[9] != unix.IPPROTO_TCP {
			return s, false
		}
		source, destination = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
		tcp = p[header:]
	case 6:
		const header = 40
		if len(p) < header+20 || p[6] != unix.IPPROTO_TCP {
			return s, false
		}
		source, destination = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
		tcp = p[header:]
	default:
		return s, false
	}
	s.Source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(tcp))
	s.Destination = netip.AddrPortFrom(destination, binary.BigEndian.Uint16(tcp[2:]))
	s.Seq, s.Ack = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	s.Payload = len(tcp) - 4*int(tcp[12]>>4)
	s.Flags = Flags(tcp[13])
	s.Window = binary.BigEndian.Uint16(tcp[14:])
	return s, s.Payload >= 0
}
