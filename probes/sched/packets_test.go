package sched

import (
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"culprit/probes/bpfmap"
	"culprit/probes/internal/livetest"
	"culprit/probes/owner"
)

// Without packets, nothing looks at any of them, and softirqs are in no row.
func TestNoPackets(t *testing.T) {
	table := livetest.Table(t, owner.Options{})
	p := livetest.Probe(t, table, Load, Options{TalkersFrom: time.Millisecond, NoPackets: true})
	for name := range p.objects.Programs {
		if slices.Contains(packetPrograms, name) {
			t.Errorf("%s is loaded", name)
		}
	}
	time.Sleep(100 * time.Millisecond) // softirqs come with each tick
	if err := table.Collect(); err != nil {
		t.Fatal(err)
	}
	s, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Rows {
		if r.SoftirqCaused != 0 {
			t.Errorf("%s caused %d ns of softirqs", r.App, r.SoftirqCaused)
		}
	}
	if len(s.Rows) == 0 {
		t.Error("no rows")
	}
}

// A connection whose end was missed gives its place back, and one that goes on does not.
func TestFlowsEndWithTheirSockets(t *testing.T) {
	table := livetest.Table(t, owner.Options{})
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // its connections are the kernel's own sockets
	listener, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := livetest.Probe(t, table, Load, Options{})
	if err := table.Collect(); err != nil {
		t.Fatal(err)
	}
	flows := p.objects.Maps[bpfMapFlows]
	open, err := bpfmap.All[uint64, bpfFlow](flows)
	if err != nil {
		t.Fatal(err)
	}
	var ours []uint64
	for key, f := range open {
		if table.Process(f.Owner).PID == os.Getpid() && f.Port == 0 {
			ours = append(ours, key)
		}
	}
	if len(ours) != 1 {
		t.Fatalf("%d flows of one listener", len(ours))
	}
	ended := ours[0] + 1 // there is no socket at this address
	if err := flows.Put(ended, bpfFlow{Owner: open[ours[0]].Owner}); err != nil {
		t.Fatal(err)
	}
	for range sweepsUntilDrop {
		if err := table.Collect(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := bpfmap.All[uint64, bpfFlow](flows)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := left[ended]; there {
		t.Error("a flow without a socket is kept")
	}
	if left[ours[0]] != open[ours[0]] {
		t.Errorf("the listener's flow was %v, and is %v", open[ours[0]], left[ours[0]])
	}
}
