package testnet

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packet4 is a packet of IPv4 from port 1 to port 2.
func packet4(seq uint32, flags Flags, payload int) []byte {
	const options = 12
	p := make([]byte, 20+20+options+payload)
	p[0], p[9] = 0x45, unix.IPPROTO_TCP
	tcp := p[20:]
	binary.BigEndian.PutUint16(tcp, 1)
	binary.BigEndian.PutUint16(tcp[2:], 2)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = (20+options)/4<<4, byte(flags)
	return p
}

func TestSegmentsAreNumbered(t *testing.T) {
	f := flows{}
	for i, step := range []struct {
		seq            uint32
		flags          Flags
		payload        int
		offset         int64
		number         int
		retransmission bool
	}{
		// Its numbers begin anew within the first kilobyte.
		{1<<32 - 1001, SYN, 0, 0, 0, false},
		{1<<32 - 1001, SYN, 0, 0, 0, true},
		{1<<32 - 1000, ACK, 0, 0, 0, false},
		{1<<32 - 1000, ACK, 700, 0, 1, false},
		{1<<32 - 300, ACK | PSH, 700, 700, 2, false},
		{400, ACK, 700, 1400, 3, false},
		{1<<32 - 300, ACK, 700, 700, 2, true},
		{0, ACK, 400, 1000, 2, true}, // a part of it
		{1<<32 - 300, ACK, 1400, 700, 2, true},
		{400, ACK, 1400, 1400, 3, true}, // and what follows, for the first time
		{1799, ACK, 0, 0, 0, false},     // keeps the connection alive
		{1800, ACK, 1, 2800, 4, false},
		{1801, FIN | ACK, 0, 0, 0, false},
		{1801, FIN | ACK, 0, 0, 0, true},
		{1800, FIN | ACK, 1, 2800, 4, true},
		{1802, RST, 0, 0, 0, false},
		// The next one of the same ports.
		{5000, SYN, 0, 0, 0, false},
		{5001, ACK, 10, 0, 1, false},
		{5011, FIN | ACK, 10, 10, 2, false},
	} {
		s, ok := f.decode(packet4(step.seq, step.flags, step.payload), FromClient, time.Time{})
		if !ok || s.Seq != step.seq || s.Flags != step.flags || s.Payload != step.payload || s.Source.Port() != 1 || s.Destination.Port() != 2 {
			t.Fatalf("segment %d is %+v", i, s)
		}
		if s.Offset != step.offset || s.Number != step.number || s.Retransmission != step.retransmission {
			t.Errorf("segment %d is %+v, want offset %d, number %d, retransmission %v", i, s, step.offset, step.number, step.retransmission)
		}
	}
}

func TestWhatIsNotTCPIsNone(t *testing.T) {
	udp := packet4(0, 0, 0)
	udp[9] = unix.IPPROTO_UDP
	for _, p := range [][]byte{nil, {0x45}, udp, packet4(0, 0, 0)[:39], make([]byte, 60)} {
		if s, ok := (flows{}).decode(p, FromClient, time.Time{}); ok {
			t.Errorf("%d bytes are %+v", len(p), s)
		}
	}
}
