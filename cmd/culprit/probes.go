package main

import (
	"github.com/cilium/ebpf/btf"
	"github.com/spf13/cobra"

	"culprit/probes/hook"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/tcp"
	"culprit/probes/trace"
)

// probes is the one list of what culprit attaches: each is a C file in bpf and a
// package in probes of the same name.
var probes = []struct {
	name    string
	check   func(kernel *btf.Spec) ([]hook.Tracepoint, error)
	command func() *cobra.Command  // nil for what the others share
	attach  func(f filters) attach // with everything that it can keep
}{
	{"owner", owner.Check, nil, nil},
	{"io", ioprobe.Check, newIO, func(f filters) attach {
		return (&ioFlags{watchFlags: watchFlags{filters: f}, files: true, worst: true}).attach
	}},
	{"sched", sched.Check, newSched, func(f filters) attach {
		return (&schedFlags{watchFlags: watchFlags{filters: f}, worst: true}).attach
	}},
	{"tcp", tcp.Check, newTCP, func(f filters) attach {
		return (&tcpFlags{watchFlags: watchFlags{filters: f}, connections: true, worst: true, minStall: defaultMinStall}).attach
	}},
	{"trace", trace.Check, newTrace, func(f filters) attach { return (&traceFlags{filters: f}).attach }},
}
