package perfetto

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

// fields are a message as it is read.
type fields map[protowire.Number][]field

type field struct {
	number uint64
	bytes  []byte
}

func parse(t testing.TB, b []byte) fields {
	t.Helper()
	out := fields{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		var f field
		switch kind {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			f.number, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			t.Fatalf("field %d is of type %d", number, kind)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		out[number] = append(out[number], f)
	}
	return out
}

// column is a packed field.
func (f fields) column(t testing.TB, number protowire.Number) (out []int64) {
	t.Helper()
	if len(f[number]) > 1 {
		t.Errorf("field %d is there %d times", number, len(f[number]))
	}
	for _, c := range f[number] {
		for b := c.bytes; len(b) > 0; {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				t.Fatal(protowire.ParseError(n))
			}
			out, b = append(out, int64(v)), b[n:]
		}
	}
	return out
}

// packet is one as it is read, with the switches and wakeups of its bundle, if it has one.
type packet struct {
	fields
	switches, wakeups []string // CPU, time, and what else the columns have
	separate          int      // of the switches, how many are not in the columns
}

// packets are the whole ones.
func packets(t testing.TB, b []byte) (out []packet) {
	t.Helper()
	for {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return out
		}
		if number != tracePacket || kind != protowire.BytesType {
			t.Fatalf("field %d of type %d is no packet", number, kind)
		}
		content, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return out
		}
		b = b[n+m:]
		p := packet{fields: parse(t, content)}
		for _, bundle := range p.fields[packetFtrace] {
			p.read(t, parse(t, bundle.bytes))
		}
		out = append(out, p)
	}
}

func (p *packet) read(t testing.TB, bundle fields) {
	t.Helper()
	cpu := bundle[bundleCPU][0].number
	for _, event := range bundle[bundleEvent] {
		e := parse(t, event.bytes)
		if len(e[eventTime]) != 1 || len(e[eventTID]) != 1 {
			t.Errorf("event %v without a time or thread", e)
		}
		for _, s := range e[eventSwitch] {
			f := parse(t, s.bytes)
			p.separate++
			p.switches = append(p.switches, fmt.Sprintln(cpu, e[eventTime][0].number, f[switchPrevState][0].number,
				f[switchNextTID][0].number, f[switchNextPrio][0].number, string(f[switchNextName][0].bytes)))
		}
	}
	for _, sched := range bundle[bundleSched] {
		f := parse(t, sched.bytes)
		var names []string
		for _, name := range f[schedNames] {
			if names = append(names, string(name.bytes)); slices.Contains(names[:len(names)-1], string(name.bytes)) {
				t.Errorf("%q is twice in the table of names", name.bytes)
			}
		}
		lines := func(time, name protowire.Number, others ...protowire.Number) (out []string) {
			var now int64
			for i, delta := range f.column(t, time) {
				if now += delta; i > 0 && delta < 0 {
					t.Errorf("time goes back by %d", -delta)
				}
				line := fmt.Sprint(cpu, " ", now)
				for _, other := range others {
					line += fmt.Sprint(" ", f.column(t, other)[i])
				}
				out = append(out, fmt.Sprintln(line, names[f.column(t, name)[i]]))
			}
			return out
		}
		p.switches = append(p.switches, lines(schedSwitchTime, schedNextName, schedPrevState, schedNextTID, schedNextPrio)...)
		p.wakeups = append(p.wakeups, lines(schedWakingTime, schedWakingName, schedWakingTID, schedWakingCPU, schedWakingPrio, schedWakingFlags)...)
	}
}

func TestPacketsStandAlone(t *testing.T) {
	batches, _ := load(2, 100_000_000, 100_000_000)
	for i, p := range packets(t, write(t, append(batches, story...)...)) {
		want := uint64(sequence)
		for _, track := range p.fields[packetDescription] {
			if len(parse(t, track.bytes)[trackThread]) > 0 {
				want = threadsSequence
			}
		}
		for _, tree := range p.fields[packetProcesses] { // of one whom a request is charged to, though it is not among the trace's threads
			if thread := parse(t, tree.bytes)[treeThread]; bytes.Contains(thread[0].bytes, []byte("gone")) {
				want = threadsSequence
			}
		}
		if len(p.fields[packetSequence]) != 1 || p.fields[packetSequence][0].number != want {
			t.Errorf("packet %d is of the sequences %v, want %d", i, p.fields[packetSequence], want)
		}
		timed := len(p.fields[packetClocks])+len(p.fields[packetProcesses])+len(p.fields[packetTrackEvent]) > 0
		if timed != (len(p.fields[packetTimestamp]) == 1) {
			t.Errorf("packet %d, which has the fields %v, has the times %v", i, p.fields, p.fields[packetTimestamp])
		}
	}
}

// What the machine is comes first, then the clocks of each Write before what else that has.
func TestOrderOfPackets(t *testing.T) {
	var b bytes.Buffer
	w, err := New(&b, head)
	if err != nil {
		t.Fatal(err)
	}
	if first := packets(t, b.Bytes()); len(first) != 1 || len(first[0].fields[packetSystemInfo]) != 1 {
		t.Errorf("a trace begins with %v", first)
	}
	for i, part := range story {
		b.Reset()
		if err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		var clocks []int
		for i, p := range packets(t, b.Bytes()) {
			if len(p.fields[packetClocks]) > 0 {
				clocks = append(clocks, i)
			}
		}
		if !slices.Equal(clocks, []int{0}) {
			t.Errorf("part %d has clocks in the packets %v", i, clocks)
		}
	}
}

func TestColumns(t *testing.T) {
	batches := schedule(3, 200)
	var got, want []string
	separate := 0
	for _, p := range packets(t, write(t, batches...)) {
		got = append(got, p.switches...)
		separate += p.separate
	}
	for _, b := range batches {
		for _, s := range b.Switches {
			want = append(want, fmt.Sprintln(s.CPU, s.At, state(s.PrevState), s.NextTID, s.NextPrio, s.NextComm))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if separate != 3 {
		t.Errorf("%d switches have events of their own, want each CPU's first alone", separate)
	}

	got = nil
	for _, p := range packets(t, write(t, story...)) {
		got = append(got, p.wakeups...)
	}
	want = []string{
		"0 5000000002000 101 1 120 0 worker\n",
		"0 5000000006500 101 1 120 8 worker\n",
		"0 5000000010500 100 0 120 0 server\n",
		"1 5000000016500 300 1 120 8 sh\n",
	}
	if !slices.Equal(got, want) {
		t.Errorf("wakeups\n%s\nwant\n%s", got, want)
	}
}

func TestLengths(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 1<<14 - 1, 1 << 14, 1 << 21} {
		content := bytes.Repeat([]byte{7}, n)
		m := message("before")
		at := m.begin(3)
		m = append(m, content...)
		m.end(at)
		if want := protowire.AppendBytes(protowire.AppendTag([]byte("before"), 3, protowire.BytesType), content); !bytes.Equal(m, want) {
			t.Errorf("%d bytes begin with %x, want %x", n, m[:min(len(m), 12)], want[:min(len(want), 12)])
		}
	}
}

type brokenWriter struct{ error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.error }

func TestErrorsOfWriting(t *testing.T) {
	if _, err := New(brokenWriter{io.ErrClosedPipe}, head); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("New returns %v", err)
	}
	w, err := New(io.Discard, head)
	if err != nil {
		t.Fatal(err)
	}
	w.to = brokenWriter{io.ErrClosedPipe}
	if err := w.Write(snapshot.Trace{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write returns %v", err)
	}
}

// A Writer allocates nothing for an event, once its buffers are large enough.
func TestAllocations(t *testing.T) {
	w, err := New(io.Discard, head)
	if err != nil {
		t.Fatal(err)
	}
	batch := sample.Switches(10_000)
	said := map[int32]bool{0: true}
	for _, s := range batch.Switches {
		if !said[s.NextTID] {
			said[s.NextTID] = true
			batch.Threads = append(batch.Threads, snapshot.Thread{TID: s.NextTID, PID: s.NextPID, Comm: s.NextComm})
		}
		batch.Softirqs = append(batch.Softirqs, snapshot.Softirq{Moment: s.Moment, Name: "TIMER", Duration: 100, TID: s.PrevTID})
	}
	for _, c := range requests(10_000).IOCompleted {
		batch.IOQueued = append(batch.IOQueued, snapshot.IOQueue{Moment: c.Moment, Request: c.Request})
		batch.IOCompleted = append(batch.IOCompleted, c)
		batch.Timers = append(batch.Timers, snapshot.Timer{Moment: c.Moment, Function: "process_timeout", Duration: 100})
		batch.TCPRetransmissions = append(batch.TCPRetransmissions, snapshot.TCPRetransmit{Moment: c.Moment, Causer: c.Causer})
		batch.TCPStalls = append(batch.TCPStalls, snapshot.TCPStallEnd{Moment: c.Moment, Causer: c.Causer, Duration: 1000})
	}
	if got := testing.AllocsPerRun(10, func() { w.Write(batch) }); got > 100 {
		t.Errorf("a Write of %d events makes %v allocations", batch.Events(), got)
	}
}

// requests is a batch of n that a few applications make, of which some are in flight at a time.
func requests(n int) snapshot.Trace {
	const depth = 8
	r := rand.New(rand.NewPCG(9, 10))
	out := snapshot.Trace{Start: 3_600_000_000_000, RealTime: 1_700_000_000_000_000_000}
	for i := range n {
		app := 1000 + r.Int32N(10)
		queued, device := r.Int64N(20_000), 20_000+r.Int64N(200_000)
		out.IOCompleted = append(out.IOCompleted, snapshot.IOComplete{
			Moment: snapshot.Moment{At: out.Start + int64(i)*15_000}, TID: app, Via: "direct", Queued: queued, InDevice: device,
			Causer:  snapshot.Causer{PID: app, Comm: fmt.Sprint("app-", app), App: fmt.Sprintf("app-%d.service", app)},
			Request: snapshot.Request{Device: "nvme0n1", Op: "write", Sector: r.Int64N(1 << 31), Bytes: 4096 << r.Int64N(5), Number: int64(i % depth)},
		})
	}
	out.End = out.Start + int64(n)*15_000
	return out
}

// BenchmarkSwitches says what a switch costs, in time and in a file.
func BenchmarkSwitches(b *testing.B) {
	const n = 1_000_000
	cost(b, "switch", n, sample.Switches(n))
}

// BenchmarkRequests says the same of a request that ended.
func BenchmarkRequests(b *testing.B) {
	const n = 100_000
	cost(b, "request", n, requests(n))
}

// BenchmarkCountedRequests says the same of one whose beginning was seen, too.
func BenchmarkCountedRequests(b *testing.B) {
	const n = 100_000
	batch := requests(n)
	for _, c := range batch.IOCompleted {
		batch.IOQueued = append(batch.IOQueued, snapshot.IOQueue{Moment: snapshot.Moment{At: c.At - c.Queued - c.InDevice}, Request: c.Request})
	}
	cost(b, "request", n, batch)
}

func cost(b *testing.B, what string, n float64, batch snapshot.Trace) {
	b.ReportAllocs()
	for b.Loop() {
		write(b, batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/"+what)
	whole := write(b, batch)
	b.ReportMetric(float64(len(whole))/n, "B/"+what)
	var zipped bytes.Buffer
	zip, err := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := zip.Write(whole); err != nil {
		b.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(zipped.Len())/n, "gzipped-B/"+what)
}
