package main

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// constants are the registers whose values are known.
type constants map[asm.Register]int64

// reachable tells which instructions of a relocated program can run. What BPF code asks of a kernel's types are
// constants by then, so that what it guards by them is found dead, as the kernel's verifier finds it.
func reachable(instructions asm.Instructions) ([]bool, error) {
	functions, err := instructions.SymbolOffsets()
	if err != nil {
		return nil, err
	}
	offsets := make([]asm.RawInstructionOffset, len(instructions)) // by index
	indices := map[asm.RawInstructionOffset]int{}
	for i := instructions.Iterate(); i.Next(); {
		offsets[i.Index], indices[i.Offset] = i.Offset, i.Index
	}
	known := make([]constants, len(instructions)) // before each, nil while it is unreachable
	var work []int
	arrive := func(at int, with constants) {
		if known[at] == nil {
			known[at] = with.copy()
		} else if !known[at].intersect(with) {
			return
		}
		work = append(work, at)
	}
	arrive(0, constants{})
	for len(work) > 0 {
		at := work[len(work)-1]
		work = work[:len(work)-1]
		ins := &instructions[at]
		if ins.IsFunctionReference() {
			start, ok := functions[ins.Reference()]
			if !ok {
				return nil, fmt.Errorf("instruction %d refers to an unknown function %s", at, ins.Reference())
			}
			arrive(start, constants{})
		}
		jumps, falls := known[at].branches(ins)
		if jumps {
			distance := int64(ins.Offset)
			if ins.OpCode.Class() == asm.Jump32Class && ins.OpCode.JumpOp() == asm.Ja {
				distance = ins.Constant
			}
			target, ok := indices[asm.RawInstructionOffset(int64(offsets[at])+1+distance)]
			if !ok {
				return nil, fmt.Errorf("instruction %d jumps out of the program", at)
			}
			arrive(target, known[at])
		}
		if falls && at+1 < len(instructions) {
			arrive(at+1, known[at].after(ins))
		}
	}
	reached := make([]bool, len(instructions))
	for i := range known {
		reached[i] = known[i] != nil
	}
	return reached, nil
}

func (c constants) copy() constants {
	out := constants{}
	for r, v := range c {
		out[r] = v
	}
	return out
}

// intersect forgets what is otherwise in another state, and tells whether that was anything.
func (c constants) intersect(other constants) (changed bool) {
	for r, v := range c {
		if o, ok := other[r]; !ok || o != v {
			delete(c, r)
			changed = true
		}
	}
	return changed
}

// operand is the second one of arithmetic and jumps.
func (c constants) operand(ins *asm.Instruction) (int64, bool) {
	if ins.OpCode.Source() == asm.ImmSource {
		return ins.Constant, true
	}
	v, ok := c[ins.Src]
	return v, ok
}

// after is what is known after an instruction.
func (c constants) after(ins *asm.Instruction) constants {
	out := c.copy()
	switch class := ins.OpCode.Class(); {
	case ins.OpCode.IsDWordLoad() && ins.IsConstantLoad(asm.DWord):
		out[ins.Dst] = ins.Constant
	case class.IsLoad():
		delete(out, ins.Dst)
	case class == asm.StXClass && ins.OpCode.Mode() == asm.AtomicMode: // it may return the old value
		delete(out, ins.Src)
		delete(out, asm.R0)
	case class.IsALU():
		delete(out, ins.Dst)
		a, knowsA := c[ins.Dst]
		b, knowsB := c.operand(ins)
		op := ins.OpCode.ALUOp()
		if knowsB && (knowsA || op == asm.Mov) {
			if v, ok := compute(op, a, b, class == asm.ALUClass); ok {
				out[ins.Dst] = v
			}
		}
	case class.IsJump() && ins.OpCode.JumpOp() == asm.Call:
		for r := asm.R0; r <= asm.R5; r++ {
			delete(out, r)
		}
	}
	return out
}

func compute(op asm.ALUOp, a, b int64, narrow bool) (int64, bool) {
	bits := uint64(63)
	if narrow {
		a, b, bits = int64(uint32(a)), int64(uint32(b)), 31
	}
	var v int64
	switch op {
	case asm.Mov:
		v = b
	case asm.Add:
		v = a + b
	case asm.Sub:
		v = a - b
	case asm.Mul:
		v = a * b
	case asm.And:
		v = a & b
	case asm.Or:
		v = a | b
	case asm.Xor:
		v = a ^ b
	case asm.LSh:
		v = a << (uint64(b) & bits)
	case asm.RSh:
		v = int64(uint64(a) >> (uint64(b) & bits))
	default:
		return 0, false
	}
	if narrow {
		v = int64(uint32(v))
	}
	return v, true
}

// branches tells where an instruction can lead: to where it jumps, to the next one.
func (c constants) branches(ins *asm.Instruction) (jumps, falls bool) {
	if !ins.OpCode.Class().IsJump() {
		return false, true
	}
	op := ins.OpCode.JumpOp()
	switch op {
	case asm.Exit:
		return false, false
	case asm.Call:
		return false, true
	case asm.Ja:
		return true, false
	}
	a, knowsA := c[ins.Dst]
	b, knowsB := c.operand(ins)
	if !knowsA || !knowsB {
		return true, true
	}
	if ins.OpCode.Class() == asm.Jump32Class {
		a, b = int64(int32(a)), int64(int32(b)) // which keeps the order of unsigned numbers, too
	}
	switch op {
	case asm.JEq:
		jumps = a == b
	case asm.JNE:
		jumps = a != b
	case asm.JSet:
		jumps = a&b != 0
	case asm.JGT:
		jumps = uint64(a) > uint64(b)
	case asm.JGE:
		jumps = uint64(a) >= uint64(b)
	case asm.JLT:
		jumps = uint64(a) < uint64(b)
	case asm.JLE:
		jumps = uint64(a) <= uint64(b)
	case asm.JSGT:
		jumps = a > b
	case asm.JSGE:
		jumps = a >= b
	case asm.JSLT:
		jumps = a < b
	case asm.JSLE:
		jumps = a <= b
	default:
		return true, true
	}
	return jumps, !jumps
}
