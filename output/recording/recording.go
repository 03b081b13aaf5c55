// Package recording keeps what the reports of many intervals say, for months: a directory that one or many machines write to, each
// its own part, which is Parquet but for the last hour.
//
//	date=2026-11-22/host=NAME/io-20261122T150000.000.parquet   a table of an hour, or less
//	date=2026-11-22/host=NAME/20261122T160000.000.journal      what is not sealed into tables yet
//	.sums/hour/date=…/host=…/io-….parquet                      likewise of the same hour as one interval, and
//	.sums/day/date=…/host=…/io-….parquet                       of a day that is over: long spans are read from those
//
// The tables, each with a row's interval by its end:
//
//	interval     when, for how long, of which kernel; and what culprit sched's books say
//	io           who used the disks: a row for each application (or whatever is called the same in every way) and disk
//	io_device    the books of each disk
//	sched        who ran, and waited for a CPU because of whom
//	sched_worst  long waits
//	tcp          who talked, and why that stalled
//	tcp_worst    long stalls
//	tcp_counter  the books of culprit tcp
//	loss         what was lost
//
// An interval is on the disk when Write returns, and stays there whatever happens to the process or the machine. What cannot be
// written, because the disk is full, say, is part of the next interval that can.
package recording

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"culprit/probes/snapshot"
)

// Snapshot is what was found in an interval.
type Snapshot struct {
	IO    snapshot.IO
	Sched snapshot.Sched
	TCP   snapshot.TCP
}

// Then is s and what followed it, as one. Rows of one process are not merged: Group does that.
func (s Snapshot) Then(o Snapshot) Snapshot {
	return Snapshot{s.IO.Then(o.IO), s.Sched.Then(o.Sched), s.TCP.Then(o.TCP)}
}

// Beside is s and what another machine did, as one.
func (s Snapshot) Beside(o Snapshot) Snapshot {
	return Snapshot{s.IO.Then(o.IO), s.Sched.Beside(o.Sched), s.TCP.Beside(o.TCP)}
}

// Options are where and how a recording is kept.
type Options struct {
	Dir     string
	Host    string        // name of this machine
	Boot    string        // that it runs since
	Kernel  string        // as uname -r has it
	Version string        // of culprit
	Keep    time.Duration // what is older is removed; 0: never
	Bytes   uint64        // of the least: what is beyond is removed, the oldest first; 0: never
}

// Writer is a recording's, of one machine.
type Writer struct {
	options Options
	lock    *flock.Flock
	journal *journal
	path    string // the journal's
	hour    time.Time
	pending *Snapshot // that could not be written
	last    int64     // µs, the end of the last interval
	loss    map[string]uint64
	damage  []Damage
}

// The names of what was lost by recording it.
const (
	lossDelayed = "intervals_delayed" // that could not be written in time, and are part of the next
	lossClock   = "clock_set_back"    // how often: intervals are where the clock had them
	lossDamage  = "journals_damaged"  // parts of journals that were not read
	lossSealing = "journals_unsealed" // how often one could not be made Parquet, and stays until it can
)

// ErrRunning is that another process writes the same machine's recording.
var ErrRunning = errors.New("another culprit records there")

// Open begins to record, and seals what an earlier one left. One at a time can: the others get ErrRunning.
func Open(o Options) (*Writer, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of a recording: %w", err)
	}
	w := &Writer{options: o, loss: map[string]uint64{}, lock: flock.New(filepath.Join(o.Dir, ".host="+escape(o.Host)+".lock"))}
	if ok, err := w.lock.TryLock(); err != nil {
		return nil, fmt.Errorf("locking a recording: %w", err)
	} else if !ok {
		return nil, fmt.Errorf("recording into %s: %w", o.Dir, ErrRunning)
	}
	if err := w.seal(); err != nil {
		return nil, errors.Join(err, w.lock.Close())
	}
	return w, nil
}

// escape makes a name that is one of a file.
func escape(name string) string {
	if name = url.PathEscape(name); name == "" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return "_" + name
	}
	return name
}

// stampForm names a file after the time at which it begins, in UTC, so that they sort.
const stampForm = "20060102T150405.000"

const journalEnding = ".journal"

func (w *Writer) dirOf(at time.Time) string {
	return filepath.Join(w.options.Dir, "date="+at.UTC().Format(time.DateOnly), "host="+escape(w.options.Host))
}

// Write keeps an interval. An error says why it is not on the disk yet; it will be with the next one that can be written.
func (w *Writer) Write(s Snapshot) error {
	if w.pending != nil {
		s = w.pending.Then(s)
		w.pending = nil
	}
	err := w.write(s)
	if err != nil {
		light := s.lighten()
		w.pending = &light
		w.loss[lossDelayed]++
	}
	return errors.Join(err, w.retain(s.IO.End))
}

func (w *Writer) write(s Snapshot) error {
	end := s.IO.End.UTC()
	if micros(end) <= w.last {
		w.loss[lossClock]++
	}
	if hour := end.Truncate(time.Hour); !hour.Equal(w.hour) {
		if err := w.seal(); err != nil {
			return err
		}
		w.hour = hour
	}
	r := s.rows(w.options)
	for _, name := range []string{lossDelayed, lossClock, lossDamage, lossSealing} {
		if n := w.loss[name]; n > 0 {
			r.Losses = append(r.Losses, lossRow{Probe: "record", Name: name, Count: n})
		}
	}
	if w.journal == nil {
		if err := w.begin(end); err != nil {
			return err
		}
	}
	if err := w.journal.append(&r); err != nil {
		return err
	}
	w.last = micros(end)
	clear(w.loss)
	return nil
}

// begin makes a journal whose first interval ends at a time.
func (w *Writer) begin(end time.Time) (err error) {
	dir := w.dirOf(end)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making a directory for a journal: %w", err)
	}
	w.path = filepath.Join(dir, end.Format(stampForm)+journalEnding)
	if w.journal, err = createJournal(w.path); err != nil {
		return err
	}
	return syncDirs(w.options.Dir, filepath.Dir(dir), dir)
}

// syncDirs brings what is in directories to the disk: that a file is there, or not any more.
func syncDirs(dirs ...string) error {
	for _, path := range dirs {
		dir, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

// seal makes tables of the journal at work, and of those of which that was not possible before. Those stay, and what is in them does, too.
func (w *Writer) seal() error {
	// It makes some 50 MiB of garbage and buffers in a second or two of an hour: there are not to be as many again before any is collected.
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	if w.journal != nil {
		w.journal.close() // each frame is on the disk already
		w.journal = nil
	}
	journals, err := filepath.Glob(filepath.Join(globbed(w.options.Dir), "date=*", "host="+globbed(escape(w.options.Host)), "*"+journalEnding))
	if err != nil {
		return fmt.Errorf("looking for journals: %w", err)
	}
	for _, path := range journals {
		if err := w.sealFile(path); err != nil {
			w.loss[lossSealing]++
		}
	}
	if err := w.sumDays(); err != nil {
		w.loss[lossSealing]++
	}
	return nil
}

// globbed is a path that stands for itself in a pattern.
func globbed(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// sealFile makes tables of a journal, and a sum, and removes it. If it is interrupted, the journal is there as before, or the tables are.
func (w *Writer) sealFile(path string) (err error) {
	stem := strings.TrimSuffix(path, journalEnding)
	if err := w.forgetDay(stem); err != nil {
		return fmt.Errorf("sealing %s: %w", path, err)
	}
	var out files // none: it was interrupted after those
	if !isWhole(stem) {
		if out, err = createFiles(stem); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.abandon()) }()
	}
	all := sum{of: 1}
	damage, err := readJournal(path, func(r *rows) error {
		all.add(r)
		return out.write(r)
	})
	if err == nil && out != nil {
		w.loss[lossDamage] += uint64(len(damage))
		w.damage = append(w.damage, damage...)
		if all.all != nil {
			err = out.close(stem)
		}
	}
	if err == nil {
		err = w.sumHour(stem, all)
	}
	if err != nil {
		return fmt.Errorf("sealing %s: %w", path, err)
	}
	return os.Remove(path)
}

// Damage is what was not read of journals since it was called last.
func (w *Writer) Damage() []Damage {
	damage := w.damage
	w.damage = nil
	return damage
}

// Close seals what there is, and lets another one record.
func (w *Writer) Close() error {
	return errors.Join(w.seal(), w.lock.Close())
}

// retain removes what is too old, and the oldest of what is too much. The journal at work stays. Of what is too old, an hour goes at a
// time: a clock that is wrong for a moment does not take a month with it.
func (w *Writer) retain(now time.Time) error {
	if w.options.Keep == 0 && w.options.Bytes == 0 {
		return nil
	}
	files, err := filesOf(w.options.Dir, escape(w.options.Host))
	if err != nil {
		return err
	}
	var all uint64
	for _, f := range files {
		all += f.bytes
	}
	for _, f := range files {
		old := w.options.Keep > 0 && now.Sub(f.begin) > w.options.Keep+time.Hour
		much := w.options.Bytes > 0 && all > w.options.Bytes
		if !old && !much {
			break
		}
		if f.stem+journalEnding == w.path && w.journal != nil {
			continue
		}
		if err := f.remove(); err != nil {
			return err
		}
		all -= f.bytes
		if !much {
			break
		}
	}
	return nil
}

// hour is what there is of an hour or less: its tables, or its journal.
type hour struct {
	stem   string // its files' paths without their tables' names and endings
	begin  time.Time
	sealed bool
	bytes  uint64
	files  []string
	sums   [levels]string // those of the hour, and of the day that it begins: their stems, "" if there are none
}

// filesOf are a host's hours, the oldest first.
func filesOf(dir, host string) ([]*hour, error) {
	hours := map[string]*hour{}
	add := func(root string, whole func(h *hour, stem string)) error {
		paths, err := filepath.Glob(filepath.Join(globbed(root), "date=*", "host="+globbed(host), "*"))
		if err != nil {
			return err
		}
		for _, path := range paths {
			table, stamp, ok := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".parquet"), "-")
			if strings.HasSuffix(path, journalEnding) {
				table, stamp, ok = "", strings.TrimSuffix(filepath.Base(path), journalEnding), true
			}
			begin, err := time.Parse(stampForm, stamp)
			if !ok || err != nil {
				continue // somebody else's
			}
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) { // another process seals, or removes it
				continue
			} else if err != nil {
				return err
			}
			own := filepath.Join(filepath.Dir(path), stamp)
			part, err := filepath.Rel(root, own)
			if err != nil {
				return err
			}
			stem := filepath.Join(dir, part)
			h := hours[stem]
			if h == nil {
				h = &hour{stem: stem, begin: begin}
				hours[stem] = h
			}
			h.bytes += uint64(info.Size())
			h.files = append(h.files, path)
			if table == intervals {
				whole(h, own)
			}
		}
		return nil
	}
	err := add(dir, func(h *hour, _ string) { h.sealed = true })
	for level, root := range sumDirs {
		err = errors.Join(err, add(filepath.Join(dir, root), func(h *hour, stem string) { h.sums[level] = stem }))
	}
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(hours), func(a, b *hour) int { return strings.Compare(a.stem, b.stem) }), nil
}

// remove removes an hour, and its sums: first what makes them whole.
func (h *hour) remove() error {
	var whole, dirs []string
	for _, stem := range []string{h.sums[daySum], h.sums[hourSum], h.stem} {
		whole = append(whole, tablePath(stem, intervals))
	}
	for _, f := range append(whole, h.files...) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		dirs = append(dirs, filepath.Dir(f))
	}
	for _, dir := range slices.Compact(dirs) { // if they are empty
		os.Remove(dir)
		os.Remove(filepath.Dir(dir))
	}
	return nil
}
