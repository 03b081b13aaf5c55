package main

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf/asm"
)

func TestReachable(t *testing.T) {
	jump := func(op asm.JumpOp, r asm.Register, value int32, offset int16) asm.Instruction {
		ins := op.Imm(r, value, "")
		ins.Offset = offset
		return ins
	}
	always := asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Ja), Offset: 1}
	for _, c := range []struct {
		name string
		of   asm.Instructions
		dead []int
	}{
		{"a guard that holds", asm.Instructions{
			asm.Mov.Imm(asm.R1, 1), jump(asm.JEq, asm.R1, 0, 1), asm.Mov.Imm(asm.R2, 1), asm.Return(),
		}, nil},
		{"a guard that does not", asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), jump(asm.JEq, asm.R1, 0, 1), asm.Mov.Imm(asm.R2, 1), asm.Return(),
		}, []int{2}},
		{"wide instructions count twice", asm.Instructions{
			asm.LoadImm(asm.R1, 0, asm.DWord), jump(asm.JEq, asm.R1, 0, 2), asm.LoadImm(asm.R2, 1, asm.DWord), asm.Return(),
		}, []int{2}},
		{"arithmetic", asm.Instructions{
			asm.Mov.Imm(asm.R1, 24), asm.Mov.Reg(asm.R2, asm.R1), asm.Sub.Imm(asm.R2, 1), asm.And.Reg(asm.R1, asm.R2),
			jump(asm.JEq, asm.R1, 16, 1), asm.Mov.Imm(asm.R3, 1), asm.Return(),
		}, []int{5}},
		{"what memory holds is unknown", asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), asm.LoadMem(asm.R1, asm.R10, -8, asm.DWord), jump(asm.JEq, asm.R1, 0, 1), asm.Mov.Imm(asm.R2, 1), asm.Return(),
		}, nil},
		{"what a call leaves is unknown", asm.Instructions{
			asm.Mov.Imm(asm.R0, 0), asm.FnKtimeGetNs.Call(), jump(asm.JEq, asm.R0, 0, 1), asm.Mov.Imm(asm.R2, 1), asm.Return(),
		}, nil},
		{"two ways with different values", asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), jump(asm.JEq, asm.R2, 0, 1), asm.Mov.Imm(asm.R1, 1),
			jump(asm.JEq, asm.R1, 0, 1), asm.Mov.Imm(asm.R3, 1), asm.Return(),
		}, nil},
		{"functions that are called, and others", asm.Instructions{
			asm.Mov.Imm(asm.R1, 0).WithSymbol("main"), always, asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoCall, Constant: -1}.WithReference("dead"),
			asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoCall, Constant: -1}.WithReference("live"), asm.Return(),
			asm.Return().WithSymbol("live"), asm.Return().WithSymbol("dead"),
		}, []int{2, 6}},
	} {
		reached, err := reachable(c.of)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for i := range reached {
			if reached[i] == slices.Contains(c.dead, i) {
				t.Errorf("%s: instruction %d (%v) is reachable: %v", c.name, i, c.of[i], reached[i])
			}
		}
	}
}
