package main

import (
	"github.com/cilium/ebpf/btf"
	"github.com/spf13/cobra"

	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
)

// probes is the one list of what culprit attaches: each is a C file in bpf and a
// package in probes of the same name.
var probes = []struct {
	name    string
	check   func(kernel *btf.Spec) ([]owner.Tracepoint, error)
	command func() *cobra.Command // nil for what the others share
}{
	{"owner", owner.Check, nil},
	{"io", ioprobe.Check, newIO},
}
