package metrics

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"culprit/probes/snapshot"
)

// unit is how many of what is added are one of what is shown.
type unit float64

const (
	count   unit = 1
	bytes   unit = 1
	seconds unit = unit(time.Second)
)

// labels are the values of a series' labels, of which there are two at most.
type labels [2]string

// family is a metric with all its series.
type family struct {
	desc       *prometheus.Desc
	kind       prometheus.ValueType
	unit       unit
	names      int // of labels
	values     map[labels]uint64
	histograms map[labels]*distribution // nil: it is none
}

func (m *Metrics) family(name, help string, kind prometheus.ValueType, of unit, names []string) *family {
	f := &family{desc: prometheus.NewDesc("culprit_"+name, help, names, nil), kind: kind, unit: of, names: len(names), values: map[labels]uint64{}}
	m.families = append(m.families, f)
	return f
}

func (m *Metrics) counter(name, help string, of unit, names ...string) *family {
	return m.family(name, help, prometheus.CounterValue, of, names)
}

func (m *Metrics) gauge(name, help string, names ...string) *family {
	return m.family(name, help, prometheus.GaugeValue, count, names)
}

func (m *Metrics) histogram(name, help string, names ...string) *family {
	f := m.family(name, help, prometheus.UntypedValue, seconds, names)
	f.histograms = map[labels]*distribution{}
	return f
}

func labelsOf(of []string) (l labels) {
	for i, value := range of {
		l[i] = valid(value)
	}
	return l
}

// add adds to a series. One that is 0 is there from the first time on that it is not.
func (f *family) add(n uint64, of ...string) {
	if n > 0 {
		f.values[labelsOf(of)] += n
	}
}

func (f *family) clear() { clear(f.values) }

func (f *family) collect(to chan<- prometheus.Metric) {
	for l, n := range f.values {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(n)/float64(f.unit), l[:f.names]...)
	}
	for l, d := range f.histograms {
		to <- histogram{f.desc, prometheus.MakeLabelPairs(f.desc, l[:f.names]), d.write()}
	}
}

// distribution is what was added up of a histogram.
type distribution struct {
	counts map[uint16]uint64 // by bucket of the rule
	sum    uint64            // ns
}

func (f *family) observe(h snapshot.Histogram, of ...string) {
	if len(h.Buckets) == 0 {
		return
	}
	l := labelsOf(of)
	d := f.histograms[l]
	if d == nil {
		d = &distribution{counts: map[uint16]uint64{}}
		f.histograms[l] = d
	}
	for _, b := range h.Buckets {
		d.counts[snapshot.BucketOf(b.Lower)] += b.Count
	}
	d.sum += h.Sum
}

// histogram is a metric in both forms: native, and with buckets for those who cannot read that. Since there is none in the library that
// takes what was counted elsewhere as both, it is made here.
type histogram struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	value  *dto.Histogram
}

func (h histogram) Desc() *prometheus.Desc { return h.desc }

func (h histogram) Write(to *dto.Metric) error {
	to.Label, to.Histogram = h.labels, h.value
	return nil
}

// bounds are those of the buckets that are shown to all: every other octave of the rule begins there, so that their counts are exact.
var bounds = func() (all []uint64) {
	for octave := uint16(7); octave < snapshot.BucketOctaves; octave += 2 {
		lower, _ := snapshot.BucketBounds(octave * snapshot.BucketSubs)
		all = append(all, lower)
	}
	return all
}()

// The native form's buckets: each is wider than the one before by the eighth root of 2 (schema 3), and what is less than the
// first that is counted is zero.
const (
	nativeSchema = 3
	zeroBelow    = 16e-9
)

func (d *distribution) write() *dto.Histogram {
	out := &dto.Histogram{
		SampleSum:     proto.Float64(float64(d.sum) / 1e9),
		Schema:        proto.Int32(nativeSchema),
		ZeroThreshold: proto.Float64(zeroBelow),
	}
	native := map[int]int64{}
	var all, zero uint64
	cumulative := make([]uint64, len(bounds))
	for bucket, n := range d.counts {
		all += n
		lower, upper := snapshot.BucketBounds(bucket)
		for i, bound := range bounds {
			if upper <= bound {
				cumulative[i] += n
			}
		}
		if lower == 0 {
			zero += n
			continue
		}
		native[nativeBucket(float64(lower+(min(upper, 2*lower)-lower)/2)/1e9)] += int64(n)
	}
	out.SampleCount, out.ZeroCount = proto.Uint64(all), proto.Uint64(zero)
	for i, bound := range bounds {
		out.Bucket = append(out.Bucket, &dto.Bucket{UpperBound: proto.Float64(float64(bound) / 1e9), CumulativeCount: proto.Uint64(cumulative[i])})
	}
	out.PositiveSpan, out.PositiveDelta = spans(native)
	return out
}

// nativeBucket is the one that a value in seconds is in: up to and with 2 to the power of it eighths.
func nativeBucket(v float64) int { return int(math.Ceil(math.Log2(v) * (1 << nativeSchema))) }

// spans are buckets as the native form has them: runs of neighbours, each but the first by its difference from the one before.
func spans(buckets map[int]int64) (spans []*dto.BucketSpan, deltas []int64) {
	var numbers []int
	for number := range buckets {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	last, before := 0, int64(0)
	for i, number := range numbers {
		if i == 0 || number != last+1 {
			offset := number
			if i > 0 {
				offset = number - last - 1
			}
			spans = append(spans, &dto.BucketSpan{Offset: proto.Int32(int32(offset)), Length: proto.Uint32(0)})
		}
		span := spans[len(spans)-1]
		*span.Length++
		deltas = append(deltas, buckets[number]-before)
		before, last = buckets[number], number
	}
	return spans, deltas
}
