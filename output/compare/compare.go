// Package compare says what differs between two spans of recordings, and is silent on what chance explains.
//
// Both spans are divided into blocks of one length, the shorter one into 24 to 48 where it is long enough and the other not much longer: what a machine does in one interval resembles the last
// one's, and blocks do that less the longer they are; but bursts even out in long blocks, so that the medians of unlike ones differ where
// nothing else does. The blocks are compared by the rank-sum test of Mann and Whitney, which asks nothing of how values are spread, but that
// they are independent. Blocks that follow each other tell no more than fewer that do not (Bayley and Hammersley, 1946), so that what the
// test finds counts for less (Yue and Wang, 2002); but what stays high or low for a tenth of a span or longer can be taken for a difference.
// As thousands of quantities are compared, and some differ by chance, Holm's method (1979) keeps the probability that any that is listed
// does so, of all together, to what is asked for; and where even the largest difference would be too probable among so many, nothing is said
// (Tarone, 1990).
package compare

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/perf/benchmath"

	"culprit/probes/snapshot"
)

const (
	fewestBlocks = 8  // with fewer, chance explains nearly everything
	mostBlocks   = 48 // of the shorter span; with more, two are made one
	mostKept     = 96 // of a span, until it is known how many the other has
	leastChange  = 0.05
	perQuantile  = 10 // so many values of a block are to be beyond a quantile
)

// Confidence is that nothing is listed that is chance.
const Confidence = 0.95

// shortestBlock is what blocks are, or twice, four times … as long, whatever the intervals are: any two spans can so have the same. Among
// these are 15 s, 30 s and minutes.
const shortestBlock = 15 * time.Second / 16

// ErrShort is that a span has too few blocks.
var ErrShort = errors.New("8 are the fewest that tell anything: give longer spans, or spans of like length")

// rates are the quantities that add up.
var rates = []struct {
	name string
	unit snapshot.Unit
}{
	{"read_bytes_per_s", snapshot.BytesPerSecond}, {"write_bytes_per_s", snapshot.BytesPerSecond},
	{"reads_per_s", snapshot.PerSecond}, {"writes_per_s", snapshot.PerSecond},
	{"blocked_share", snapshot.Share}, {"oncpu_share", snapshot.Share}, {"wait_share", snapshot.Share},
	{"sent_bytes_per_s", snapshot.BytesPerSecond}, {"received_bytes_per_s", snapshot.BytesPerSecond},
	{"connections_per_s", snapshot.PerSecond}, {"retransmits_per_s", snapshot.PerSecond},
	{"stalls_per_s", snapshot.PerSecond}, {"stalled_share", snapshot.Share},
}

// latencies are the distributions.
var latencies = []string{"read_latency", "write_latency", "wait", "rtt", "connect", "first_byte"}

// quantiles are what is compared of a distribution.
var quantiles = []struct {
	name string
	q    float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}}

// cell is what a group did in a block.
type cell struct {
	sums  [13]float64
	times [6]snapshot.Histogram
}

func (c *cell) merge(o *cell) {
	for i := range c.sums {
		c.sums[i] += o.sums[i]
	}
	for i := range c.times {
		c.times[i] = c.times[i].Merge(o.times[i])
	}
}

// block is a piece of a span.
type block struct {
	length float64 // seconds, of all machines
	groups map[string]*cell
}

func (b *block) cell(name string) *cell {
	c := b.groups[name]
	if c == nil {
		c = &cell{}
		b.groups[name] = c
	}
	return c
}

// Side collects one of the spans, in as much memory as its groups need, however long it is.
type Side struct {
	by         snapshot.By
	name       string
	machines   map[string]bool
	start, end time.Time
	each       time.Duration // of a block
	blocks     map[int64]*block
}

// NewSide begins a span that is called so.
func NewSide(name string, by snapshot.By) *Side {
	return &Side{by: by, name: name, machines: map[string]bool{}, each: shortestBlock, blocks: map[int64]*block{}}
}

// Add adds an interval of a machine, of which so much was recorded.
func (s *Side) Add(machine string, recorded time.Duration, io snapshot.IO, sched snapshot.Sched, tcp snapshot.TCP) {
	if recorded <= 0 {
		return
	}
	length := io.End.Sub(io.Start)
	s.machines[machine] = true
	if s.start.IsZero() || io.Start.Before(s.start) {
		s.start = io.Start
	}
	if io.End.After(s.end) {
		s.end = io.End
	}
	for s.each < length.Round(time.Second) {
		s.widen() // whose bounds are among those before
	}
	at := floor(io.End.Add(-length/2).UnixNano(), int64(s.each))
	b := s.blocks[at]
	if b == nil {
		b = &block{groups: map[string]*cell{}}
		s.blocks[at] = b
	}
	b.length += recorded.Seconds()
	for _, r := range io.Group(s.by).Rows {
		c := b.cell(r.Name(s.by))
		c.add(0, float64(r.ReadBytes()), float64(r.WriteBytes()), float64(r.Reads), float64(r.Writes), float64(r.BlockedNS)/1e9)
		c.time(0, r.ReadLatency.Total, r.WriteLatency.Total)
	}
	for _, r := range sched.Group(s.by).Rows {
		c := b.cell(r.Name(s.by))
		c.add(5, float64(r.OnCPU)/1e9, float64(r.Wait())/1e9)
		c.time(2, r.Latency)
	}
	for _, r := range tcp.Group(s.by).Rows {
		c := b.cell(r.Name(s.by))
		stalls, stalled := uint64(0), uint64(0)
		for _, t := range r.Stalls {
			stalls, stalled = stalls+t.Count, stalled+t.Total
		}
		c.add(7, float64(r.Sent), float64(r.Received), float64(r.Opened+r.Accepted), float64(r.Retransmits), float64(stalls), float64(stalled)/1e9)
		c.time(3, r.RTT, r.Connect, r.FirstByte)
	}
	for len(s.blocks) > mostKept {
		s.widen()
	}
}

func (c *cell) add(first int, values ...float64) {
	for i, v := range values {
		c.sums[first+i] += v
	}
}

func (c *cell) time(first int, values ...snapshot.Histogram) {
	for i, h := range values {
		c.times[first+i] = c.times[first+i].Merge(h)
	}
}

// floor divides towards the past.
func floor(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

// widen makes blocks twice as long.
func (s *Side) widen() {
	wide := map[int64]*block{}
	for at, b := range s.blocks {
		to := floor(at, 2)
		w := wide[to]
		if w == nil {
			wide[to] = b
			continue
		}
		w.length += b.length
		for name, c := range b.groups {
			w.cell(name).merge(c)
		}
	}
	s.blocks, s.each = wide, 2*s.each
}

// match gives both sides blocks of one length.
func match(a, b *Side) {
	for a.each != b.each || min(len(a.blocks), len(b.blocks)) > mostBlocks {
		if a.each <= b.each {
			a.widen()
		} else {
			b.widen()
		}
	}
}

// whole are the blocks in the order of time, without those at the ends that the span has little of.
func (s *Side) whole() []*block {
	var at []int64
	var lengths []float64
	for n, b := range s.blocks {
		at = append(at, n)
		lengths = append(lengths, b.length)
	}
	slices.Sort(at)
	slices.Sort(lengths)
	var out []*block
	for _, n := range at {
		if b := s.blocks[n]; b.length >= lengths[len(lengths)/2]/2 {
			out = append(out, b)
		}
	}
	return out
}

func (s *Side) span(blocks []*block) snapshot.Span {
	return snapshot.Span{Name: s.name, Start: s.start, End: s.end, Machines: len(s.machines), Blocks: len(blocks), Block: s.each}
}

// Compare says what differs in b.
func Compare(a, b *Side) (snapshot.Diff, error) {
	match(a, b)
	before, after := a.whole(), b.whole()
	d := snapshot.Diff{By: a.by, A: a.span(before), B: b.span(after), Confidence: Confidence}
	short, long := d.A, d.B
	if long.Blocks < short.Blocks {
		short, long = long, short
	}
	if short.Blocks < fewestBlocks {
		return d, fmt.Errorf("comparing %s: of blocks of %v it has %d, %s has %d: %w", short.Name, short.Block, short.Blocks, long.Name, long.Blocks, ErrShort)
	}
	var all []quantity
	compare := func(name, what string, unit snapshot.Unit, of func(*cell, float64) (value float64, known bool)) {
		values := func(blocks []*block) []float64 { return series(blocks, name, of) }
		was, is := values(before), values(after)
		if !slices.ContainsFunc(was, isSomething) && !slices.ContainsFunc(is, isSomething) && len(was) > 0 && len(is) > 0 {
			return // there is none of it
		}
		if len(was) < fewestBlocks || len(is) < fewestBlocks {
			d.TooLittle++
			return
		}
		all = append(all, newQuantity(snapshot.Change{Name: name, Quantity: what, Unit: unit}, was, is))
	}
	for _, name := range names(before, after) {
		for i, r := range rates {
			compare(name, r.name, r.unit, func(c *cell, seconds float64) (float64, bool) {
				if c == nil {
					return 0, true
				}
				return c.sums[i] / seconds, true
			})
		}
		for i, latency := range latencies {
			for _, q := range quantiles {
				if !isKnown(before, name, i, q.q) && !isKnown(after, name, i, q.q) {
					continue
				}
				compare(name, latency+"_"+q.name+"_ns", snapshot.Nanoseconds, func(c *cell, _ float64) (float64, bool) {
					if c == nil || !enough(c.times[i], q.q) {
						return 0, false
					}
					return quantile(c.times[i], q.q), true
				})
			}
		}
	}
	some := comparable(all)
	d.TooLittle += len(all) - len(some)
	for i := range some {
		some[i].P = some[i].chance(some[i].was, some[i].is)
	}
	slices.SortStableFunc(some, func(a, b quantity) int { return cmp.Compare(a.P, b.P) })
	chance := false // from the first on that is, all are
	for i, q := range some {
		if chance = chance || q.P > (1-Confidence)/float64(len(some)-i); chance {
			d.Same++
			continue
		}
		q.A, q.B = q.estimate()
		switch ratio := q.Ratio(); {
		case math.Abs(ratio-1) < leastChange:
			d.Same++
		case ratio > 1 != q.grows(): // more often, but less, for example
			d.TooLittle++
		default:
			d.Changes = append(d.Changes, q.Change)
		}
	}
	slices.SortStableFunc(d.Changes, func(a, b snapshot.Change) int {
		return cmp.Or(-cmp.Compare(size(a), size(b)), cmp.Compare(a.P, b.P), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Quantity, b.Quantity))
	})
	return d, nil
}

// size is how large a change is, in either direction.
func size(c snapshot.Change) float64 { return math.Abs(math.Log(c.Ratio())) }

func isSomething(v float64) bool { return v != 0 }

// quantity is one of a group's, in the blocks of both spans.
type quantity struct {
	snapshot.Change
	was, is   *benchmath.Sample
	inflation float64
	least     float64 // that P can be, of the same values in any order
}

func newQuantity(c snapshot.Change, was, is []float64) quantity {
	q := quantity{Change: c, inflation: inflation(was, is)} // of the order of blocks, which samples do not keep
	q.was, q.is = sample(was), sample(is)
	all := slices.Sorted(slices.Values(slices.Concat(was, is)))
	split := func(at int) float64 { return q.chance(sample(all[:at]), sample(all[at:])) }
	q.least = min(split(len(was)), split(len(is)))
	return q
}

func sample(values []float64) *benchmath.Sample {
	return benchmath.NewSample(values, &benchmath.DefaultThresholds)
}

// chance is how probable it is that values of one kind are at least as different as these.
func (q *quantity) chance(was, is *benchmath.Sample) float64 {
	if math.IsInf(q.inflation, 1) {
		return 1
	}
	// Either can be 0 for what is only next to it: 1 less nearly 1.
	p := max(benchmath.AssumeNothing.Compare(was, is).P, benchmath.AssumeNothing.Compare(is, was).P)
	return math.Erfc(erfcinv(p) / math.Sqrt(q.inflation))
}

// erfcinv is what math.Erfcinv is, which is infinite of all that is below 1e-16.
func erfcinv(p float64) float64 {
	low, high := 0.0, 27.0 // math.Erfc(27) is the last that is not 0
	for range 60 {
		if middle := (low + high) / 2; math.Erfc(middle) > p {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// comparable are those of which a difference can be found among so many of them.
func comparable(all []quantity) []quantity {
	slices.SortStableFunc(all, func(a, b quantity) int { return cmp.Compare(a.least, b.least) })
	n := len(all)
	for most := 1; ; most++ {
		for n > 0 && all[n-1].least > (1-Confidence)/float64(most) {
			n--
		}
		if n <= most {
			return all[:n]
		}
	}
}

func names(spans ...[]*block) []string {
	found := map[string]bool{}
	for _, blocks := range spans {
		for _, b := range blocks {
			for name := range b.groups {
				found[name] = true
			}
		}
	}
	var out []string
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// series is a quantity of a group in the blocks in which it is known.
func series(blocks []*block, name string, of func(*cell, float64) (float64, bool)) (out []float64) {
	for _, b := range blocks {
		if v, known := of(b.groups[name], b.length); known {
			out = append(out, v)
		}
	}
	return out
}

// isKnown is whether at least one block tells a quantile.
func isKnown(blocks []*block, name string, i int, q float64) bool {
	return slices.ContainsFunc(blocks, func(b *block) bool { c := b.groups[name]; return c != nil && enough(c.times[i], q) })
}

// enough is whether a distribution has enough values for a quantile.
func enough(h snapshot.Histogram, q float64) bool {
	return float64(h.Count())*(1-q) >= perQuantile
}

// quantile is a distribution's, between the ends of its bucket by rank: the middle would be the same for all that is in a bucket.
func quantile(h snapshot.Histogram, q float64) float64 {
	rank := q * float64(h.Count())
	for _, b := range h.Buckets {
		if rank <= float64(b.Count) {
			return float64(b.Lower) + rank/float64(b.Count)*float64(b.Upper-b.Lower)
		}
		rank -= float64(b.Count)
	}
	return float64(h.Max)
}

// inflation is how many times as large the variance of what is compared is, at most, as that of independent blocks, with a confidence of 95 %.
// The blocks of both sides are taken for autoregressive of the first order, AR(1), with the same coefficient r: theirs is (1+r)/(1-r).
func inflation(was, is []float64) float64 {
	all := float64(len(was) + len(is))
	follows := 1.645 / math.Sqrt(all) // by how much it may be more than is seen
	for _, values := range [][]float64{was, is} {
		n := float64(len(values))
		follows += n / all * (autocorrelation(ranks(values)) + 1/n) / (1 - 4/n) // of few values, less is seen than there is (Marriott and Pope, 1954)
	}
	follows = min(max(follows, 0), 1)
	return (1 + follows) / (1 - follows)
}

// ranks are the places of values among them all, in the middle of those of their like: bursts hide what follows what.
func ranks(values []float64) (out []float64) {
	sorted := slices.Sorted(slices.Values(values))
	for _, v := range values {
		first, _ := slices.BinarySearch(sorted, v)
		next, _ := slices.BinarySearch(sorted, math.Nextafter(v, math.Inf(1)))
		out = append(out, float64(first+next)/2)
	}
	return out
}

// autocorrelation is that of values with those after them.
func autocorrelation(values []float64) float64 {
	var mean, all, lag float64
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for i, v := range values {
		all += (v - mean) * (v - mean)
		if i > 0 {
			lag += (v - mean) * (values[i-1] - mean)
		}
	}
	if all == 0 {
		return 0
	}
	return lag / all
}

// estimate is what the blocks of both spans tell of the quantity.
func (q *quantity) estimate() (a, b snapshot.Estimate) {
	a, b = q.summary(q.was, benchmath.AssumeNothing), q.summary(q.is, benchmath.AssumeNothing)
	if a.Value == 0 || b.Value == 0 {
		return q.summary(q.was, benchmath.AssumeNormal), q.summary(q.is, benchmath.AssumeNormal)
	}
	return a, b
}

// summary is the median or the mean of blocks, and between what it is as far as they tell.
func (q *quantity) summary(s *benchmath.Sample, as benchmath.Assumption) snapshot.Estimate {
	m := as.Summary(s, math.Erf(math.Erfinv(0.95)*math.Sqrt(q.inflation)))
	first, last := s.Values[0], s.Values[len(s.Values)-1] // with few blocks, it can be infinity
	return snapshot.Estimate{Value: m.Center, Low: max(m.Lo, first), High: min(m.Hi, last)}
}

// grows is whether more of B's blocks are above those of A than below: that is what was tested.
func (q *quantity) grows() bool {
	above := 0
	for _, was := range q.was.Values {
		for _, is := range q.is.Values {
			above += cmp.Compare(is, was)
		}
	}
	return above > 0
}
