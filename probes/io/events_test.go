package io_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/trace"
)

// diskEvents are those of a disk while f runs, and what the io probe counted meanwhile.
type diskEvents struct {
	queued    map[int64]snapshot.IOQueue
	issued    map[int64]snapshot.IOIssue
	merged    map[int64]snapshot.IOMerge
	completed []snapshot.IOComplete
	throttled []snapshot.IOThrottle
	counted   snapshot.IODevice
}

var allEvents = []string{"io.queue", "io.issue", "io.merge", "io.complete", "io.throttle"}

func eventsOf(t *testing.T, disk string, o ioprobe.Events, f func()) (e diskEvents) {
	t.Helper()
	table := livetest.Table(t, owner.Options{})
	tracer := livetest.Probe(t, table, trace.Load, trace.Options{Kinds: allEvents, Bytes: 32 << 20})
	o.Trace = tracer
	probe := livetest.Probe(t, table, ioprobe.Load, ioprobe.Options{NoSleeps: true, Events: o})
	e = diskEvents{queued: map[int64]snapshot.IOQueue{}, issued: map[int64]snapshot.IOIssue{}, merged: map[int64]snapshot.IOMerge{}}
	f()
	if err := tracer.End(); err != nil {
		t.Fatal(err)
	}
	s, err := probe.Read()
	if err != nil {
		t.Fatal(err)
	}
	all, err := tracer.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all.Loss {
		if l.Name == "events_overwritten" && l.Count > 0 {
			t.Fatalf("%d events were overwritten", l.Count)
		}
	}
	for _, d := range s.Devices {
		if d.Device == disk {
			e.counted = d
		}
	}
	for _, q := range all.IOQueued {
		if _, twice := e.queued[q.Number]; twice {
			t.Errorf("request %d is queued twice", q.Number)
		}
		e.queued[q.Number] = q
	}
	for _, i := range all.IOIssued {
		e.issued[i.Number] = i
	}
	for _, m := range all.IOMerged {
		e.merged[m.Number] = m
	}
	for _, c := range all.IOCompleted {
		if c.Device == disk {
			e.completed = append(e.completed, c)
		}
	}
	e.throttled = all.IOThrottled
	return e
}

// Each operation that is counted is one event, of as many bytes altogether, and came after those of its beginning.
func TestEventsAreTheOperations(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 256)
	file := disk.Path("file")
	livetest.Do(t, "layout", "write", file, 64*mib)
	e := eventsOf(t, disk.Name, ioprobe.Events{}, func() {
		fioDirect(t, file, "--ioengine=libaio", "--iodepth=16", "--rw=randrw", "--bsrange=4k-64k", "--io_size=32m")
		livetest.Do(t, "writer", "write", disk.Path("later"), 8*mib)
		livetest.Command(t, "sync")
		livetest.Command(t, "fstrim", disk.Dir)
	})
	var ours snapshot.IOCounts
	apps := map[string]int64{}
	for _, c := range e.completed {
		n, bytes := &ours.Reads, &ours.ReadBytes
		switch c.Op {
		case "write":
			n, bytes = &ours.Writes, &ours.WriteBytes
		case "discard":
			n, bytes = &ours.Discards, &ours.DiscardBytes
		case "flush":
			n, bytes = &ours.Flushes, new(uint64)
		}
		*n++
		*bytes += uint64(c.Bytes)
		apps[c.Comm+" "+c.Op+" "+c.Via] += c.Bytes
		q, queued := e.queued[c.Number]
		switch {
		case c.Op == "flush": // it has the number of a request that waits for it
		case !queued:
			t.Errorf("request %d completes and was never queued: %+v", c.Number, c)
		case c.At < q.At || c.Op != q.Op || c.Device != q.Device || c.Sector != q.Sector && c.Sector+c.Bytes/512 != q.Sector+q.Bytes/512 && c.Bytes <= q.Bytes:
			t.Errorf("completed: %+v\nqueued: %+v", c, q)
		case c.At-q.At > c.Queued+c.InDevice+int64(time.Second/10) || c.InDevice <= 0: // a virtual CPU can stand still
			t.Errorf("%d ns after it was queued, request %d completed, having queued for %d and been in the device for %d", c.At-q.At, c.Number, c.Queued, c.InDevice)
		}
		if i, issued := e.issued[c.Number]; issued && c.Op != "flush" && (i.At > c.At || i.At < q.At) {
			t.Errorf("request %d is issued at %d, queued at %d, completed at %d", c.Number, i.At, q.At, c.At)
		} else if !issued && c.Bytes > 0 { // else a flush is all that it is about
			t.Errorf("request %d completes and was never issued: %+v", c.Number, c)
		}
		if c.TID == 0 && c.Op != "flush" {
			t.Errorf("nobody submitted %+v", c)
		}
	}
	t.Logf("%d events, %d queued, %d issued, %d merged: %v; counted %+v", len(e.completed), len(e.queued), len(e.issued), len(e.merged), apps, e.counted.Ours)
	if ours != e.counted.Ours || e.counted.ResidualBytes()+e.counted.ResidualOps() != 0 {
		t.Errorf("events are %+v, counted were %+v, by the kernel %+v", ours, e.counted.Ours, e.counted.Kernel)
	}
	if apps["fio read direct"] == 0 || apps["fio write direct"] == 0 {
		t.Error("fio has no reads or writes")
	}
	// What it wrote can share requests with metadata, and those are the owner's of most bytes.
	if n := apps["writer write writeback"]; n < 7*mib || n > 9*mib {
		t.Errorf("writer has written back %d bytes, want about 8 MiB", n)
	}
}

// Devices without requests have events by bio.
func TestEventsOfBios(t *testing.T) {
	disk := livetest.NewZram(t, 64)
	e := eventsOf(t, disk.Name, ioprobe.Events{}, func() {
		livetest.Command(t, "dd", "if=/dev/zero", "of="+disk.Dev, "bs=64k", "count=64", "oflag=direct")
	})
	var bytes int64
	for _, c := range e.completed {
		if q, queued := e.queued[c.Number]; !queued || q.Bytes != c.Bytes || q.Sector != c.Sector || c.At-q.At < c.InDevice/2 {
			t.Errorf("completed: %+v\nqueued: %+v", c, q)
		}
		if c.Comm == "dd" && c.Via == "direct" {
			bytes += c.Bytes
		}
	}
	if bytes != 4*mib || uint64(len(e.completed)) != e.counted.Ours.Reads+e.counted.Ours.Writes {
		t.Errorf("%d bytes of dd, want %d; %d events, counted %+v", bytes, 4*mib, len(e.completed), e.counted.Ours)
	}
}

// Filters of the disk and of the latency leave out the others in the kernel.
func TestEventsAreFiltered(t *testing.T) {
	disk, other := livetest.NewDisk(t, "", 64), livetest.NewDisk(t, "", 64)
	both := func() {
		for _, d := range []livetest.Disk{disk, other} {
			livetest.Command(t, "dd", "if=/dev/zero", "of="+d.Dev, "bs=64k", "count=64", "oflag=direct")
		}
	}
	if e := eventsOf(t, other.Name, ioprobe.Events{Device: disk.Name}, both); len(e.completed) != 0 || slices.ContainsFunc(slices.Collect(maps.Values(e.queued)), func(q snapshot.IOQueue) bool { return q.Device == other.Name }) {
		t.Errorf("%d completions of another disk, and maybe others of its events", len(e.completed))
	}
	if e := eventsOf(t, disk.Name, ioprobe.Events{Device: disk.Name}, both); len(e.completed) < 64 || uint64(len(e.completed)) != e.counted.Ours.Reads+e.counted.Ours.Writes {
		t.Errorf("%d events, counted %+v", len(e.completed), e.counted.Ours)
	}
	if e := eventsOf(t, disk.Name, ioprobe.Events{Least: time.Hour}, both); len(e.completed) != 0 || len(e.queued) < 64 {
		t.Errorf("%d requests took an hour, of %d", len(e.completed), len(e.queued))
	}
}

// Who dirties more than can be written back has to pause.
func TestEventsOfThrottling(t *testing.T) {
	disk := livetest.NewDisk(t, "ext4", 1024)
	livetest.DirtyLimit(t, 4*mib)
	e := eventsOf(t, disk.Name, ioprobe.Events{}, func() {
		livetest.Do(t, "dirtier", "write", disk.Path("file"), 256*mib)
	})
	var pauses int
	for _, p := range e.throttled {
		if p.Comm == "dirtier" && p.Pause > 0 && p.Pause <= int64(time.Second) {
			pauses++
		} else if strings.HasPrefix(p.Comm, "dirtier") {
			t.Errorf("%+v", p)
		}
	}
	if pauses == 0 {
		t.Errorf("dirtier never paused; %d did", len(e.throttled))
	}
}

// A request that takes too long triggers a flight recorder, once.
func TestTriggerOfRequests(t *testing.T) {
	disk := livetest.NewDisk(t, "", 64)
	for _, c := range []struct {
		than time.Duration
		want int
	}{{time.Hour, 0}, {time.Nanosecond, 1}} {
		table := livetest.Table(t, owner.Options{})
		tracer := livetest.Probe(t, table, trace.Load, trace.Options{Kinds: []string{"io.complete"}, Latency: c.than})
		livetest.Probe(t, table, ioprobe.Load, ioprobe.Options{NoSleeps: true, Events: ioprobe.Events{Trace: tracer, Device: disk.Name, Trigger: c.than}})
		tracer.Arm()
		livetest.Command(t, "dd", "if=/dev/zero", "of="+disk.Dev, "bs=64k", "count=16", "oflag=direct")
		fired, err := tracer.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(fired) != c.want {
			t.Errorf("%d triggers of requests that took %v, want %d", len(fired), c.than, c.want)
		}
		for _, f := range fired {
			if f.Causer.Comm != "dd" || f.Latency <= 0 || f.Latency > time.Minute {
				t.Errorf("triggered: %+v", f)
			}
		}
		dump, err := tracer.Dump()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range dump.IOCompleted {
			if e.Comm == "dd" && e.Device == disk.Name {
				n++
			}
		}
		if n < 16 {
			t.Errorf("%d requests of dd were kept, of %d", n, len(dump.IOCompleted))
		}
	}
}
