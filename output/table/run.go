package table

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// moments is how many of the worst ones are told.
const moments = 10

// Run prints what a command did: how it ended, where the time of its threads went, its worst moments, and the reports of its
// rows.
func (t *Table) Run(r snapshot.Run) error {
	var b bytes.Buffer
	t.runEnd(&b, r)
	b.WriteByte('\n')
	t.runTime(&b, r)
	if err := t.write("what the command did", &b); err != nil {
		return err
	}
	if err := t.runMoments(r); err != nil {
		return err
	}
	if err := t.IO(r.IO); err != nil {
		return err
	}
	if err := t.Sched(r.Sched); err != nil {
		return err
	}
	return t.TCP(r.TCP)
}

func (t *Table) runEnd(b *bytes.Buffer, r snapshot.Run) {
	var words []string
	for _, w := range r.Command {
		words = append(words, text.Escape(w))
	}
	fmt.Fprintln(b, text.CutRight("culprit run: "+strings.Join(words, " "), t.width()))
	end := fmt.Sprintf("exit status %d", r.Status)
	if r.Signal != "" {
		end = "ended by " + r.Signal
	}
	facts := []string{"after " + duration(uint64(r.Wall)), plural(r.Processes, "process")}
	if r.Memory > 0 {
		facts = append(facts, fmt.Sprintf("at most %s of memory in one (%s)", size(r.Memory), text.Escape(r.Largest)))
	}
	wrap(b, t.width(), end, commas(facts))
	if r.Running > 0 {
		fmt.Fprintf(b, "%s still running: this is what they did so far\n", plural(r.Running, "process"))
	}
	if r.Dirty > 0 {
		fmt.Fprintf(b, "%s not written to disk yet (see --settle)\n", plural(uint64(r.Dirty), "changed file"))
	}
}

// part is one kind of a time.
type part struct {
	name string
	ns   uint64
	why  string
}

func (t *Table) runTime(b *bytes.Buffer, r snapshot.Run) {
	all := r.Time()
	var because []string
	for _, c := range all.Culprits[:min(len(all.Culprits), 3)] {
		because = append(because, label(c.Process, r.Sched.By, 16)+" "+duration(c.NS))
	}
	parts := []part{
		{"running", all.OnCPU, ""},
		{"interrupts, softirqs", all.IRQStolen + all.SoftirqStolen, "on its CPUs"},
		{"waiting for a CPU", all.WaitedFor(), strings.Join(because, ", ")},
		{"blocked on disk", all.Disk, ""},
		{"waiting for network", all.Network, ""},
		{"waiting for locks", all.Locks, "futex, flock, semop: also conditions and idle threads"},
		{"blocked in the kernel", all.Blocked, ""},
		{"waiting for events", all.Events, "epoll, select, poll, io_uring"},
		{"asleep", all.Asleep, "timers, pipes, children and the rest"},
		{"preempted, uncounted", all.Uncounted, ""},
	}
	const nameWidth = 22
	columns := []column[part]{
		{"TIME OF ITS THREADS", nameWidth, false, func(p part) string { return p.name }},
		{"", durationWidth, true, func(p part) string { return duration(p.ns) }},
		{"SHARE", shareWidth, true, func(p part) string { return share(p.ns, all.Wall()) }},
		{"", 0, false, nil},
	}
	fill(columns, 3, t.width(), func(p part, width int) string { return text.CutRight(p.why, width) })
	header(b, columns)
	for _, p := range parts {
		if p.ns > 0 {
			line(b, columns, p)
		}
	}
	line(b, columns, part{"all", all.Wall(), plural(all.Switches, "context switch")})
	// Which of the interrupts the kernel takes for the thread's own time depends on how it was built, and who was not waited for is in no rusage.
	wrap(b, t.width(), "AUDIT ", []string{"kernel " + duration(uint64(r.KernelCPU)) + " on CPUs (getrusage, of what was waited for),",
		"culprit " + duration(all.OnCPU) + " and " + duration(all.IRQStolen+all.SoftirqStolen) + " of interrupts"})
}

// moment is something that took long.
type moment struct {
	snapshot.Process
	at    time.Time // its end
	ns    uint64
	what  string
	kind  string         // those alike have the same
	cause snapshot.Cause // of a stall
}

// runMoments are those of the three reports together, longest first.
func (t *Table) runMoments(r snapshot.Run) error {
	var all []moment
	for _, w := range r.IO.Worst {
		kind := fmt.Sprintf("%s on %s", w.Op, text.Escape(w.Device))
		what := kind
		if w.Bytes > 0 {
			what = fmt.Sprintf("%s of %s on %s", w.Op, size(w.Bytes), text.Escape(w.Device))
		}
		all = append(all, moment{Process: w.Process, at: w.At, ns: w.LatencyNS(), what: what, kind: kind})
	}
	for _, w := range r.Sched.Worst {
		what := "for CPU " + fmt.Sprint(w.CPU) + mostOf(w.Ran, r.Sched.By)
		all = append(all, moment{Process: w.Process, at: w.At, ns: w.Wait, what: what, kind: what})
	}
	for _, w := range r.TCP.Worst {
		what := fmt.Sprintf("%s, %s", w.Cause, text.Escape(w.Remote.String()))
		all = append(all, moment{Process: w.Process, at: w.At, ns: w.Duration, what: what, kind: what, cause: w.Cause})
	}
	if len(all) == 0 {
		return nil
	}
	all = apart(all)
	all = all[:min(len(all), moments)]
	var b bytes.Buffer
	columns := []column[moment]{
		{"WORST MOMENT", len(clock), false, func(m moment) string { return m.began().Format(clock) }},
		{"TOOK", durationWidth, true, func(m moment) string { return duration(m.ns) }},
		groupColumn(r.Sched.By, 16, func(m moment) snapshot.Process { return m.Process }),
		{"", 0, false, nil},
	}
	fill(columns, 3, t.width(), func(m moment, width int) string { return text.CutRight(m.what, width) })
	grid(&b, columns, all)
	var causes []snapshot.Cause
	for _, m := range all {
		causes = append(causes, m.cause)
	}
	t.remedies(&b, causes)
	return t.write("the worst moments", &b)
}

// apart are the moments by their length; of those that are alike and overlap, as requests of one burst, only the longest.
func apart(all []moment) (kept []moment) {
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Compare(b.ns, a.ns) })
	for _, m := range all {
		if !slices.ContainsFunc(kept, m.isPartOf) {
			kept = append(kept, m)
		}
	}
	return kept
}

// isPartOf is whether m is alike, of the same process, and overlaps.
func (m moment) isPartOf(k moment) bool {
	return k.kind == m.kind && k.PID == m.PID && k.Comm == m.Comm && m.at.After(k.began()) && k.at.After(m.began())
}

func (m moment) began() time.Time { return m.at.Add(-time.Duration(m.ns)) }

// mostOf is who had the CPU for most of a wait.
func mostOf(ran []snapshot.SchedRan, by snapshot.By) string {
	if len(ran) == 0 {
		return ""
	}
	most := slices.MaxFunc(ran, func(a, b snapshot.SchedRan) int { return cmp.Compare(a.NS, b.NS) })
	return fmt.Sprintf(", which %s had for %s", label(most.Process, by, 24), duration(most.NS))
}
