package perfetto

import "google.golang.org/protobuf/encoding/protowire"

// message is protobuf being written, field by field.
type message []byte

func (m *message) varint(field protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), v)
}

// int is an int32 or int64: negative ones are ten bytes long in protobuf.
func (m *message) int(field protowire.Number, v int64) { m.varint(field, uint64(v)) }

func (m *message) bool(field protowire.Number, v bool) { m.varint(field, protowire.EncodeBool(v)) }

func (m *message) fixed64(field protowire.Number, v uint64) {
	*m = protowire.AppendFixed64(protowire.AppendTag(*m, field, protowire.Fixed64Type), v)
}

func (m *message) string(field protowire.Number, v string) {
	*m = protowire.AppendString(protowire.AppendTag(*m, field, protowire.BytesType), v)
}

func (m *message) bytes(field protowire.Number, v []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), v)
}

// begin begins a message within this one, and says where: end needs to know.
func (m *message) begin(field protowire.Number) int {
	*m = append(protowire.AppendTag(*m, field, protowire.BytesType), 0)
	return len(*m)
}

// end ends a message within this one. Its length has one byte, and pushes the message back if it needs more.
func (m *message) end(begin int) {
	n := len(*m) - begin
	more := protowire.SizeVarint(uint64(n)) - 1
	*m = append(*m, make([]byte, more)...)
	copy((*m)[begin+more:], (*m)[begin:begin+n])
	protowire.AppendVarint((*m)[:begin-1], uint64(n))
}

// scan is protobuf being read, field by field. What is wrong with it ends it, and is left in err.
type scan struct {
	rest   []byte
	err    *error
	number protowire.Number
	value  uint64 // of a field that is a number
	bytes  []byte // of one that is not
}

func (s *scan) next() bool {
	if len(s.rest) == 0 || *s.err != nil {
		return false
	}
	number, kind, n := protowire.ConsumeTag(s.rest)
	if n >= 0 {
		s.number, s.value, s.bytes, s.rest = number, 0, nil, s.rest[n:]
		switch kind {
		case protowire.VarintType:
			s.value, n = protowire.ConsumeVarint(s.rest)
		case protowire.Fixed64Type:
			s.value, n = protowire.ConsumeFixed64(s.rest)
		case protowire.BytesType:
			s.bytes, n = protowire.ConsumeBytes(s.rest)
		default:
			n = protowire.ConsumeFieldValue(number, kind, s.rest)
		}
	}
	if n < 0 {
		*s.err = protowire.ParseError(n)
		return false
	}
	s.rest = s.rest[n:]
	return true
}
