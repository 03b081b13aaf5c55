package sched

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"culprit/probes/bpfmap"
	"culprit/probes/hist"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// reading is everything that was counted up to one moment.
type reading struct {
	at        time.Time
	interval  uint32 // the one that ended with it
	threads   []bpfThread
	wall      []wall // by thread
	pairs     map[bpfCulpritKey]uint64
	latencies map[uint32]latency // by owner
	softirqs  softirqs
}

// wall is how a thread has spent its time so far, in ns.
type wall struct {
	ran   uint64
	slept [bpfOffOFF_MAX]uint64 // by enum off
}

// latency is struct sched_process of bpf/sched.bpf.c.
type latency struct {
	counts hist.Counts
	max    [2]uint64
}

// read lists the threads, so that the kernel's sums are of the same moment as ours, as near as that can be had.
func (p *Probe) read() (*reading, error) {
	r := &reading{interval: p.interval - 1, latencies: map[uint32]latency{}}
	if err := p.list(); err != nil {
		return nil, err
	}
	end, err := p.threadsEnd()
	if err != nil {
		return nil, err
	}
	r.at = time.Now()
	now, err := p.clock()
	if err != nil {
		return nil, err
	}
	r.threads = make([]bpfThread, end)
	r.wall = make([]wall, len(r.threads))
	for i := 1; i < len(r.threads); i++ {
		t := p.thread(uint32(i))
		if t.Tid == 0 {
			continue
		}
		r.threads[i] = t
		r.wall[i] = wallOf(t, now)
		if p.reading != nil && i < len(p.reading.wall) {
			// What is under way was guessed from several words of different moments: a time never shrinks.
			r.wall[i] = r.wall[i].atLeast(p.reading.wall[i])
		}
	}
	if r.pairs, err = bpfmap.All[bpfCulpritKey, uint64](p.objects.Maps[bpfMapCulprits]); err != nil {
		return nil, err
	}
	for o := range p.table.Owners() {
		r.latencies[o] = p.latency(o)
	}
	r.softirqs = p.readSoftirqs()
	return r, nil
}

// threadsEnd is after the last slot that a thread ever had: what is behind it need not be mapped.
func (p *Probe) threadsEnd() (uint32, error) {
	pool, err := bpfmap.Variable[bpfPool](p.objects.Variables["thread_pool"])
	if err != nil {
		return 0, fmt.Errorf("reading the thread pool: %w", err)
	}
	return min(pool.Next, p.options.Threads), nil
}

func (p *Probe) latency(o uint32) latency {
	process := p.processes.Get(o)
	return latency{counts: p.chunks.Read(process.Wait.Chunk), max: process.Max.At}
}

// list has the iterator go over all threads.
func (p *Probe) list() error {
	p.lists++
	if err := p.objects.Variables["list_number"].Set(p.lists); err != nil {
		return fmt.Errorf("preparing to list the threads: %w", err)
	}
	threads, err := p.lister.Open()
	if err != nil {
		return fmt.Errorf("listing the threads: %w", err)
	}
	defer threads.Close()
	if err := hook.Drain(threads); err != nil {
		return fmt.Errorf("listing the threads: %w", err)
	}
	return nil
}

// clock is what time it is for the run queues.
func (p *Probe) clock() (uint64, error) {
	monotonic, err := hook.MonotonicClock()
	if err != nil {
		return 0, err
	}
	var now uint64
	for i := range p.cpus.Len() {
		if c := p.cpus.Get(i); c.OffsetUntil != 0 {
			now = monotonic.Now - c.ClockOffset // they differ by less than a microsecond
		}
	}
	return now, nil
}

// wallOf adds what is under way to what is over: a thread is on a CPU since a moment, or off it.
func wallOf(t bpfThread, now uint64) wall {
	w := wall{t.Ran, t.Slept}
	if t.Dead != 0 {
		return w
	}
	if t.OffAt == 0 {
		if t.OnAt != 0 && now > t.OnAt {
			w.ran += now - t.OnAt
		}
		return w
	}
	w.ran += t.Unseen
	if slept := now - t.OffAt - t.Waiting - t.Waited - t.Unseen; bpfOff(t.Off) != bpfOffOFF_RUNNABLE && now > t.OffAt && int64(slept) > 0 {
		w.slept[t.Off%uint32(len(w.slept))] += slept
	}
	return w
}

func (w wall) atLeast(o wall) wall {
	w.ran = max(w.ran, o.ran)
	for off := range w.slept {
		w.slept[off] = max(w.slept[off], o.slept[off])
	}
	return w
}

// since is what was added to o.
func (w wall) since(o wall) wall {
	w.ran -= o.ran
	for off := range w.slept {
		w.slept[off] -= o.slept[off]
	}
	return w
}

// tally is a row in the making.
type tally struct {
	row      snapshot.SchedRow
	counted  uint64            // what the culprits must add up to
	culprits map[uint32]uint64 // ns by number
}

func (t *tally) charge(number uint32, ns uint64) {
	if ns == 0 {
		return
	}
	if t.culprits == nil {
		t.culprits = map[uint32]uint64{}
	}
	t.culprits[number] += ns
}

// setLatency keeps the sum, which is the threads'.
func (t *tally) setLatency(h snapshot.Histogram) {
	h.Sum = t.row.Latency.Sum
	t.row.Latency = h
}

// add adds what a thread did between two readings.
func (t *tally) add(n, w bpfThread, now, was wall) {
	r := &t.row
	r.Threads++
	r.Switches += n.Switches - w.Switches
	r.Latency.Sum += n.Latencies - w.Latencies
	spent := now.since(was)
	r.OnCPU += spent.ran
	r.IRQStolen += n.Irq - w.Irq
	r.SoftirqStolen += n.Softirq - w.Softirq
	r.Disk += spent.slept[bpfOffOFF_DISK]
	r.Blocked += spent.slept[bpfOffOFF_BLOCKED]
	r.Asleep += spent.slept[bpfOffOFF_ASLEEP]
	r.Network += spent.slept[bpfOffOFF_NETWORK]
	r.Locks += spent.slept[bpfOffOFF_LOCK]
	r.Events += spent.slept[bpfOffOFF_EVENTS]
	r.Uncounted += spent.slept[bpfOffOFF_RUNNABLE]
	r.KernelWait += (n.KernelWait - n.KernelBefore) - (w.KernelWait - w.KernelBefore)
	t.counted += (n.Counted - n.KernelBefore) - (w.Counted - w.KernelBefore)
	r.Migrations += n.Migrations - w.Migrations
	r.NUMAPages += n.NumaPages - w.NumaPages
	if n.Dead == 0 {
		r.Waiting += n.Waiting
	}
	r.Before += w.Waiting
	for i, c := range n.Culprit {
		t.charge(c.Group, c.Listed-w.Culprit[i].Listed)
	}
	t.charge(uint32(bpfOwnerOWNER_UNATTRIBUTED_CULPRIT_TABLE_FULL), n.UnplacedListed-w.UnplacedListed)
}

// thread reads a slot.
func (p *Probe) thread(i uint32) bpfThread {
	t := p.threads.Get(i)
	if t.Listed == 0 && t.Dead == 0 {
		return listed(t)
	}
	return t
}

// listed is a thread that the iterator does not find, because it is in another pid namespace than ours: what
// was seen at its last switch is all there is to compare with.
func listed(t bpfThread) bpfThread {
	t.KernelWait, t.Counted = t.Expected, t.Expected
	for i := range t.Culprit {
		t.Culprit[i].Listed = t.Culprit[i].Ns
	}
	t.UnplacedListed = t.Unplaced
	return t
}

// keepThread makes a thread's row for the next report.
func (p *Probe) keepThread(n, w bpfThread, now, was wall) {
	if len(p.ended) == owner.BacklogLimit {
		p.threadsDropped++
		return
	}
	t := &tally{}
	t.add(n, w, now, was)
	t.counted = 0 // its process's has it
	p.ended = append(p.ended, snapshot.SchedThread{
		SchedRow: p.finish(p.table.Process(n.Owner), t), TID: int(n.Tid), Name: owner.Comm(n.Comm),
	})
}

// pendingOf is the row in the making of a process, or, of what its threads have no places for, of its group.
func (p *Probe) pendingOf(number uint32) *tally {
	t := p.pending[number]
	if t == nil {
		t = &tally{}
		p.pending[number] = t
	}
	return t
}

// finish makes the row of a process.
func (p *Probe) finish(process snapshot.Process, t *tally) snapshot.SchedRow {
	r := t.row
	r.Process = process
	p.counted += t.counted
	for number, ns := range t.culprits {
		r.Culprits = append(r.Culprits, snapshot.Culprit{Process: p.who(number), NS: ns})
	}
	slices.SortFunc(r.Culprits, func(a, b snapshot.Culprit) int { return cmp.Compare(b.NS, a.NS) })
	return r
}

// Read returns what happened since the last Read, one row per process, ungrouped. What a thread waited because of more
// culprits than it has places for, is in rows of their own, which stand for the victim's group.
func (p *Probe) Read() (snapshot.Sched, error) {
	if err := hist.NextInterval(p.objects, &p.interval); err != nil {
		return snapshot.Sched{}, err
	}
	if err := p.learnGroups(); err != nil {
		return snapshot.Sched{}, err
	}
	was := p.reading
	now, err := p.read()
	if err != nil {
		return snapshot.Sched{}, err
	}
	s := snapshot.Sched{Start: was.at, End: now.at, By: snapshot.ByPID}
	for i, n := range now.threads {
		if n.Tid == 0 {
			continue
		}
		w, before := was.thread(i)
		p.pendingOf(n.Owner).add(n, w, now.wall[i], before)
		if p.options.ByThread {
			p.keepThread(n, w, now.wall[i], before)
		}
	}
	for o, l := range now.latencies {
		if h := l.since(was.latencies[o], now.interval); h.Count() > 0 {
			p.pendingOf(o).setLatency(h)
		}
	}
	for o, ns := range now.softirqs.caused {
		if ns -= was.softirqs.caused[o]; ns > 0 {
			p.pendingOf(o).row.SoftirqCaused += ns
		}
	}
	for key, ns := range now.pairs {
		p.pendingOf(key.Victim).charge(key.Culprit, ns-was.pairs[key])
	}
	s.Rows = p.retired.Rows
	for number, t := range p.pending {
		if t.row.Threads > 0 || len(t.culprits) > 0 || t.row.Latency.Count() > 0 || t.row.SoftirqCaused > 0 {
			s.Rows = append(s.Rows, p.finish(p.who(number), t))
		}
	}
	s.Rows = p.divideSoftirqs(s.Rows, now.softirqs.net-was.softirqs.net, now.softirqs.other-was.softirqs.other)
	s.Threads, p.ended = p.ended, nil
	if err := p.readWorst(); err != nil {
		return snapshot.Sched{}, err
	}
	s.Worst, p.worst.Rows = p.worst.Rows, nil
	p.retired.Rows, p.pending = nil, map[uint32]*tally{}
	for n := range p.unused {
		delete(p.groups, n)
	}
	clear(p.unused)
	s.Kernel.WaitNS, p.counted = p.counted, 0
	for _, r := range s.Rows {
		s.Kernel.KernelWaitNS += r.KernelWait
		s.Kernel.SkewNS += int64(r.Wait())
	}
	s.Kernel.SkewNS -= int64(s.Kernel.WaitNS)
	losses, err := p.readLosses()
	if err != nil {
		return snapshot.Sched{}, err
	}
	s.Loss = snapshot.LossesSince(p.losses, losses)
	p.reading, p.losses = now, losses
	return s, nil
}

// thread is what was read of a slot, nothing if it was free.
func (r *reading) thread(i int) (bpfThread, wall) {
	if i >= len(r.threads) {
		return bpfThread{}, wall{}
	}
	return r.threads[i], r.wall[i]
}

// since is the distribution of what was counted after another reading.
func (l latency) since(earlier latency, interval uint32) snapshot.Histogram {
	h := l.counts.Since(earlier.counts)
	if len(h.Buckets) > 0 {
		h.Max = hist.Max(h, l.max, interval)
	}
	return h
}

func (p *Probe) readLosses() (map[string]uint64, error) {
	out, err := p.table.Losses(&p.missed, p.objects)
	if err != nil {
		return nil, err
	}
	out["processes_folded"], out["threads_dropped"] = p.retired.Folded, p.threadsDropped
	return out, nil
}
