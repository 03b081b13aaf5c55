package livetest

import (
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Watch is a running io probe and the sum of everything that it has reported.
type Watch struct {
	t     testing.TB
	Table *owner.Table
	Probe *ioprobe.Probe

	rows     []snapshot.IORow
	devices  map[string]snapshot.IODevice
	loss     map[string]uint64
	restless map[string]bool // devices that others kept busy when the sums began
}

// NewWatch loads the process table and the io probe, until the test's end.
func NewWatch(t testing.TB, o owner.Options, p ioprobe.Options) *Watch {
	t.Helper()
	table := Table(t, o)
	return newWatch(t, table, Probe(t, table, ioprobe.Load, p))
}

var common *Shared[*ioprobe.Probe]

// CommonWatch is NewWatch without options, of the probe that tests share where they do.
func CommonWatch(t testing.TB) *Watch {
	t.Helper()
	if !testing.Short() {
		return NewWatch(t, owner.Options{}, ioprobe.Options{})
	}
	s := LoadShared(t, &common, ioprobe.Load, ioprobe.Options{})
	w := newWatch(t, s.Table, s.Probe)
	w.Forget()
	return w
}

func newWatch(t testing.TB, table *owner.Table, probe *ioprobe.Probe) *Watch {
	return &Watch{t: t, Table: table, Probe: probe, devices: map[string]snapshot.IODevice{}, loss: map[string]uint64{}}
}

// Collect does what is done each second, so many times.
func (w *Watch) Collect(times int) {
	w.t.Helper()
	for range times {
		if err := w.Table.CollectAll(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// Read takes one report and adds it to the sum.
func (w *Watch) Read() snapshot.IO {
	w.t.Helper()
	s, err := w.read()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *Watch) read() (snapshot.IO, error) {
	s, err := w.Probe.Read()
	if err != nil {
		return s, err
	}
	w.rows = append(w.rows, s.Rows...)
	for _, d := range s.Devices {
		sum := w.devices[d.Device]
		sum.Device = d.Device
		sum.Ours, sum.Kernel = sum.Ours.Add(d.Ours), sum.Kernel.Add(d.Kernel)
		sum.UnattributedBytes += d.UnattributedBytes
		sum.SkewBytes += d.SkewBytes
		w.devices[d.Device] = sum
	}
	for _, l := range s.Loss {
		w.loss[l.Name] += l.Count
	}
	return s, nil
}

// During runs f while reports are taken, as culprit does, once per interval.
func (w *Watch) During(interval time.Duration, f func()) {
	w.t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for failed == nil {
			select {
			case <-stop:
				return
			case <-tick.C:
				if failed = w.Table.CollectAll(); failed == nil {
					_, failed = w.read()
				}
			}
		}
	}()
	// f may end the test: what has begun must have ended before the watch is closed.
	defer func() {
		close(stop)
		<-done
		if failed != nil {
			w.t.Error(failed)
		}
	}()
	f()
}

// Sync has everything that is dirty written, by a process called syncer, and reads.
func (w *Watch) Sync() {
	w.t.Helper()
	Do(w.t, "syncer", "sync")
	w.Read()
}

// Forget begins the sums anew.
func (w *Watch) Forget() {
	w.t.Helper()
	unix.Sync()
	w.Read()
	w.restless = skewed(w.Read()) // of the two readings before and after it
	w.rows = nil
	clear(w.devices)
	clear(w.loss)
}

// skewed are the devices that moved while a report's readings were taken.
func skewed(s snapshot.IO) map[string]bool {
	out := map[string]bool{}
	for _, d := range s.Devices {
		out[d.Device] = d.SkewBytes != 0
	}
	return out
}

// Measure begins the sums anew and has f do its work, once more if completions reached no program
// meanwhile: what such a request held is known roughly only, and there are kernels that hide some
// events from all programs. f is told which try it is, so that it can work on fresh files.
func (w *Watch) Measure(f func(try int)) {
	w.t.Helper()
	for try := 1; ; try++ {
		w.Forget()
		f(try)
		w.Read()
		unseen, missed := w.Loss(Unseen), w.Loss("events_missed")
		// Where programs are preempted, most loads miss something, and mostly what does not matter: one more try will do.
		if unseen == 0 && (missed == 0 || try == 2) || try == 5 || w.t.Failed() {
			return
		}
		w.t.Logf("try %d: %d completions and %d other events reached no program", try, unseen, missed)
	}
}

// Unseen is the counter of completions that reached no program.
const Unseen = "unseen_completions"

// Rows are the sums of one device by what by names.
func (w *Watch) Rows(by snapshot.By, device string) []snapshot.IORow {
	return snapshot.IO{Rows: w.rows}.OnDevice(device).Group(by).Rows
}

// Row is the sum of all processes called comm on one device; "" is that of times.
func (w *Watch) Row(comm, device string) snapshot.IORow {
	for _, r := range w.Rows(snapshot.ByComm, device) {
		if r.Comm == comm && r.Device == device {
			return r
		}
	}
	return snapshot.IORow{}
}

// Device is the audit's sum of a device.
func (w *Watch) Device(name string) snapshot.IODevice { return w.devices[name] }

// Loss is how often something was lost.
func (w *Watch) Loss(name string) uint64 { return w.loss[name] }

// Losses are the counters that are not 0.
func (w *Watch) Losses() map[string]uint64 {
	out := map[string]uint64{}
	for name, n := range w.loss {
		if n != 0 {
			out[name] = n
		}
	}
	return out
}

// Balance reads until the books of every device balance over the sum of all reports, and fails if
// they do not. One report alone can be off: a request can complete between the reading of the one
// counter and the other. So a device that others did not let rest when the sums began or now, as the
// skew of its readings shows, is left alone: the test's own have nothing to do at both times.
func (w *Watch) Balance() {
	w.t.Helper()
	for _, d := range w.unbalanced() {
		w.t.Errorf("the books of %s do not balance: %d bytes, %d operations\n  ours   %+v\n  kernel %+v",
			d.Device, d.ResidualBytes(), d.ResidualOps(), d.Ours, d.Kernel)
	}
}

// Balances is whether Balance would not fail.
func (w *Watch) Balances() bool { return len(w.unbalanced()) == 0 }

func (w *Watch) unbalanced() []snapshot.IODevice {
	w.t.Helper()
	var open []snapshot.IODevice
	for range 20 {
		unix.Sync()
		time.Sleep(50 * time.Millisecond)
		busy := skewed(w.Read())
		open = open[:0]
		for _, d := range w.devices {
			if busy[d.Device] || w.restless[d.Device] {
				continue
			}
			if strings.HasPrefix(d.Device, "zram") { // the kernel never counts their discards
				d.Ours.Discards, d.Ours.DiscardBytes = d.Kernel.Discards, d.Kernel.DiscardBytes
				if kernel, err := btf.LoadKernelSpec(); err != nil {
					w.t.Fatal(err)
				} else if ioprobe.PassesPages(kernel) && d.Ours.Reads <= d.Kernel.Reads && d.Ours.Writes <= d.Kernel.Writes &&
					d.Ours.ReadBytes <= d.Kernel.ReadBytes && d.Ours.WriteBytes <= d.Kernel.WriteBytes {
					continue
				}
			}
			// Up to 6.12 at least, dm counts two operations where a flush comes before a write (dm_io_acct(), drivers/md/dm.c).
			if strings.HasPrefix(d.Device, "dm-") && d.Kernel.Writes > d.Ours.Writes {
				d.Ours.Writes = d.Kernel.Writes
			}
			// Of a request whose completion a kernel hides, it is not known what was merged into it after it began (struct request_slot).
			if hidden := w.Loss("unseen_completions"); d.ResidualOps() == 0 && d.Ours.WriteBytes < d.Kernel.WriteBytes &&
				d.Ours.ReadBytes <= d.Kernel.ReadBytes && d.ResidualBytes() <= hidden<<20 {
				continue
			}
			if d.ResidualBytes() != 0 || d.ResidualOps() != 0 {
				open = append(open, d)
			}
		}
		if len(open) == 0 {
			return nil
		}
	}
	return open
}

// IsApplication is whether a row is neither a kernel thread's nor one that names no process.
func IsApplication(r snapshot.IORow) bool { return !strings.HasPrefix(r.App, "[") }

// LogRows prints what was lost and what a device's rows hold, largest first, for who reads a failure.
func (w *Watch) LogRows(device string, most int) {
	w.t.Helper()
	w.t.Logf("lost: %v", w.Losses())
	rows := w.Rows(snapshot.ByComm, device)
	for _, r := range rows[:min(most, len(rows))] {
		if r.Device != "" {
			w.t.Logf("%s %-16s %-28s read %+v write %+v discard %d ops %d/%d/%d/%d",
				r.Device, r.Comm, r.App, r.ReadVia, r.WriteVia, r.DiscardBytes, r.Reads, r.Writes, r.Discards, r.Flushes)
		}
	}
}
