// Package contract is the JSON contract as Go types: the names, the order and
// the units of the fields that machines read. The JSON output prints these
// objects; the CSV output takes its columns from them, so that a field has one
// name in both.
//
// Bytes, nanoseconds and counts are integers. Times are RFC 3339 in UTC with
// all nine digits of the nanoseconds, so that they also sort as text; a time
// that is not known is "".
package contract

import (
	"encoding/json"
	"time"

	"culprit/probes/snapshot"
)

// Interval is the span that a report is about, and what its rows stand for.
type Interval struct {
	Start   string   `json:"start"`
	End     string   `json:"end"`
	Seconds float64  `json:"seconds"`
	By      string   `json:"by"`
	Hosts   []string `json:"hosts,omitempty"` // of a recording: the machines that it adds up
}

// Identity is an owner or a group: a field in which a group's members differ
// is empty or 0.
type Identity struct {
	App       string `json:"app"`
	PID       int    `json:"pid"`
	Started   string `json:"started"`
	Comm      string `json:"comm"`
	Exe       string `json:"exe"`
	Cgroup    string `json:"cgroup"`
	Unit      string `json:"unit"`
	Container string `json:"container"`
	User      string `json:"user"`
}

// Latency describes a distribution of durations.
type Latency struct {
	Count  uint64 `json:"count"`
	MeanNS uint64 `json:"mean_ns"`
	P50NS  uint64 `json:"p50_ns"`
	P90NS  uint64 `json:"p90_ns"`
	P99NS  uint64 `json:"p99_ns"`
	P999NS uint64 `json:"p999_ns"`
	MaxNS  uint64 `json:"max_ns"`
}

// Counter is a number that has a name.
type Counter struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// Counters is an object of counters in the order in which they are given.
type Counters []Counter

// MarshalJSON writes {"name":count,…}; a map would lose the order.
func (cs Counters) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, c := range cs {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(c.Name)
		if err != nil {
			return nil, err
		}
		count, err := json.Marshal(c.Count)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), count...)
	}
	return append(out, '}'), nil
}

func losses(in []snapshot.Loss) Counters {
	return each(in, func(l snapshot.Loss) Counter { return Counter(l) })
}

// each is never nil: JSON must say [] and not null.
func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
}

func interval(start, end time.Time, by snapshot.By) Interval {
	return Interval{Start: stamp(start), End: stamp(end), Seconds: end.Sub(start).Seconds(), By: string(by)}
}

func (i Interval) of(hosts []string) Interval {
	i.Hosts = hosts
	return i
}

func identity(p snapshot.Process) Identity {
	return Identity{
		App: p.App, PID: p.PID, Started: stamp(p.Started), Comm: p.Comm, Exe: p.Exe,
		Cgroup: p.Cgroup, Unit: p.Unit, Container: p.Container, User: p.User,
	}
}

func latency(h snapshot.Histogram) Latency {
	return Latency{
		Count:  h.Count(),
		MeanNS: h.Mean(),
		P50NS:  h.Quantile(0.5),
		P90NS:  h.Quantile(0.9),
		P99NS:  h.Quantile(0.99),
		P999NS: h.Quantile(0.999),
		MaxNS:  h.Max,
	}
}
