package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/output/recording"
)

// suspend has the machine sleep. Its real-time clock wakes it, unless that rings before it sleeps: which takes some seconds.
func suspend(t *testing.T, seconds string) {
	t.Helper()
	for _, w := range []struct{ file, text string }{
		{"/sys/class/rtc/rtc0/wakealarm", "0"}, {"/sys/class/rtc/rtc0/wakealarm", "+" + seconds}, {"/sys/power/mem_sleep", "deep"}, {"/sys/power/state", "mem"},
	} {
		if err := os.WriteFile(w.file, []byte(w.text), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// The time in which a machine was suspended is a gap of the recording, and no part of an interval: rates have no dent there.
func TestSuspended(t *testing.T) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("CULPRIT_TEST_GUEST") == "" || !strings.HasPrefix(unix.ByteSliceToString(name.Release[:]), "6.12.") {
		t.Skip("it suspends the machine, for most of a minute: the virtual one of 6.12 runs it (make test-kernels)")
	}
	const interval, asleep = 2 * time.Second, 20 * time.Second // at least, of 40 with the time that it takes to fall asleep
	disk := emptyDisk(t, 64)
	dir := t.TempDir()
	start := time.Now()
	r := startRecord(t, dir, "--interval", interval.String())
	before := written(t, disk)
	dd(t, disk, 3)
	time.Sleep(4 * interval) // the gap is to be between two
	begin := time.Now()
	suspend(t, "40")
	end := time.Now()
	slept := end.Round(0).Sub(begin.Round(0)) - end.Sub(begin)
	if slept < asleep {
		t.Fatalf("it slept %v, less than %v", slept, asleep)
	}
	dd(t, disk, 5)
	time.Sleep(2 * interval)
	r.end(t)
	awake := time.Since(start)
	var ours, kernel uint64
	var last time.Time
	var gap, all time.Duration
	if _, err := recording.Read(dir, recording.Query{Until: time.Now()}, func(i recording.Interval) error {
		if !last.IsZero() {
			gap = max(gap, i.IO.Start.Sub(last))
		}
		last, all = i.IO.End, all+i.Recorded
		for _, d := range i.IO.Devices {
			if "/dev/"+d.Device == disk {
				ours, kernel = ours+d.Ours.WriteBytes, kernel+d.Kernel.WriteBytes
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if gap < slept-time.Second || all > awake {
		t.Errorf("the gap is of %v, it slept %v; %v are recorded, it was awake for %v", gap, slept, all, awake)
	}
	if want := written(t, disk) - before; ours != want || kernel != want {
		t.Errorf("%d bytes are recorded, %d by the kernel, of %d", ours, kernel, want)
	}
}
