package json_test

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
	"culprit/output/internal/text"
	"culprit/output/json"
	"culprit/probes/snapshot"
)

// encode is the one line that is printed of s, without its newline.
func encode[S any](t *testing.T, print func(io.Writer, S, json.Options) error, s S, o json.Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := print(&out, s, o); err != nil {
		t.Fatal(err)
	}
	line, rest, ended := strings.Cut(out.String(), "\n")
	if !ended || rest != "" {
		t.Fatalf("not one line: %q", out.String())
	}
	if !utf8.ValidString(line) || text.Escape(line) != line {
		t.Fatalf("a terminal would obey %q", line)
	}
	return line
}

func TestGolden(t *testing.T) {
	checkGolden(t, "io.json", json.IO, json.Options{Top: 3}, sample.Unbalanced(snapshot.ByPID), sample.Idle())
}

// checkGolden compares what is printed of several intervals with a golden file.
func checkGolden[S any](t *testing.T, name string, print func(io.Writer, S, json.Options) error, o json.Options, in ...S) {
	t.Helper()
	var out bytes.Buffer
	for _, s := range in {
		out.WriteString(encode(t, print, s, o) + "\n")
	}
	golden.Check(t, name, out.Bytes())
}

// The contract, field by field, as other programs rely on it.
var (
	contractIdentity = []string{"app", "pid", "started", "comm", "exe", "cgroup", "unit", "container", "user"}
	contractCounts   = []string{"reads", "writes", "discards", "flushes", "read_bytes", "write_bytes", "discard_bytes"}
	contractRow      = slices.Concat(contractIdentity, []string{"device"}, contractCounts,
		[]string{"write_via", "read_via", "read_latency", "write_latency", "blocked_ns", "throttled_ns"})
	contractDevice = slices.Concat([]string{"device"}, contractCounts, []string{"kernel_reads", "kernel_writes", "kernel_discards",
		"kernel_flushes", "kernel_read_bytes", "kernel_write_bytes", "kernel_discard_bytes", "residual_bytes", "residual_ops",
		"unattributed_bytes", "audit_skew"})
	contractLatency = []string{"count", "mean_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns", "queue_p99_ns", "device_p99_ns"}
	contractReport  = []string{"schema", "start", "end", "seconds", "by", "rows", "omitted_rows", "devices", "loss"}
)

type object = map[string]any

func decode(t *testing.T, line string) object {
	t.Helper()
	d := stdjson.NewDecoder(strings.NewReader(line))
	d.UseNumber()
	var o object
	if err := d.Decode(&o); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return o
}

func fields(t *testing.T, what string, o any, want []string, optional ...string) object {
	t.Helper()
	m, ok := o.(object)
	if !ok {
		t.Fatalf("%s is %v", what, o)
	}
	for _, f := range want {
		if _, ok := m[f]; !ok {
			t.Errorf("%s has no %q", what, f)
		}
	}
	for f := range m {
		if !slices.Contains(want, f) && !slices.Contains(optional, f) {
			t.Errorf("%s has %q besides", what, f)
		}
	}
	return m
}

// list is the objects in a field, which is never null.
func list(t *testing.T, o object, field string, want []string) (out []object) {
	t.Helper()
	all, ok := o[field].([]any)
	if !ok {
		t.Fatalf("%s is %v", field, o[field])
	}
	for _, v := range all {
		out = append(out, fields(t, field, v, want))
	}
	return out
}

// listOf is the same of n objects.
func listOf(t *testing.T, o object, field string, n int, want []string) []object {
	t.Helper()
	out := list(t, o, field, want)
	if len(out) != n {
		t.Fatalf("%d %s, want %d", len(out), field, n)
	}
	return out
}

// optionalList is the same of a field that is left out where there are none.
func optionalList(t *testing.T, o object, field string, n int, want []string) []object {
	t.Helper()
	if _, ok := o[field]; ok != (n > 0) {
		t.Fatalf("%s are %v", field, o[field])
	}
	if n == 0 {
		return nil
	}
	return listOf(t, o, field, n, want)
}

func num(t *testing.T, o object, field string) uint64 {
	t.Helper()
	n, ok := o[field].(stdjson.Number)
	if !ok {
		t.Fatalf("%s is %v", field, o[field])
	}
	var u uint64
	if err := stdjson.Unmarshal([]byte(n), &u); err != nil {
		t.Errorf("%s: %v", field, err)
	}
	return u
}

func sum(t *testing.T, o object) (n uint64) {
	t.Helper()
	for f := range o {
		n += num(t, o, f)
	}
	return n
}

// heading checks what every report begins with.
func heading(t *testing.T, report object, schema string, timed bool) {
	t.Helper()
	if report["schema"] != schema {
		t.Errorf("schema %v", report["schema"])
	}
	for _, f := range []string{"start", "end"} {
		if stamp := report[f].(string); timed {
			if _, err := time.Parse("2006-01-02T15:04:05.000000000Z", stamp); err != nil {
				t.Error(err)
			}
		} else if stamp != "" {
			t.Errorf("%s of no time is %q", f, stamp)
		}
	}
}

// named checks that the group's name stands in the field that by names, and no pid beside it.
func named(t *testing.T, row object, p snapshot.Process, by snapshot.By) {
	t.Helper()
	if by != snapshot.ByPID && num(t, row, "pid") != 0 {
		t.Errorf("by %s has pid %v", by, row["pid"])
	}
	if want := p.Name(by); row[string(by)] != want && by != snapshot.ByPID && utf8.ValidString(want) {
		t.Errorf("by %s is %q, want %q", by, row[string(by)], want)
	}
}

func TestContract(t *testing.T) {
	for _, s := range append(sample.AllIO(), snapshot.IO{}) {
		report := fields(t, "report", decode(t, encode(t, json.IO, s, json.Options{})), contractReport, "files", "worst")
		heading(t, report, "culprit.io/1", !s.Start.IsZero())
		perDevice := make(map[string]object)
		for i, row := range listOf(t, report, "rows", len(s.Rows), contractRow) {
			for _, l := range []string{"read_latency", "write_latency"} {
				fields(t, l, row[l], contractLatency)
			}
			if got, want := sum(t, row["write_via"].(object)), num(t, row, "write_bytes"); got != want {
				t.Errorf("write_via sums to %d of %d", got, want)
			}
			if got, want := sum(t, row["read_via"].(object)), num(t, row, "read_bytes"); got != want {
				t.Errorf("read_via sums to %d of %d", got, want)
			}
			named(t, row, s.Rows[i].Process, s.By)
			if d := s.Rows[i].Device; d != "" {
				if perDevice[d] == nil {
					perDevice[d] = object{}
				}
				for _, f := range contractCounts {
					n, _ := perDevice[d][f].(uint64)
					perDevice[d][f] = n + num(t, row, f)
				}
			}
		}
		for i, device := range listOf(t, report, "devices", len(s.Devices), contractDevice) {
			if s.Devices[i].ResidualBytes() > 1<<60 {
				continue // a sample of large numbers, not of sums
			}
			for _, f := range contractCounts {
				if got, want := perDevice[s.Devices[i].Device][f], num(t, device, f); got != want {
					t.Errorf("rows have %v %s of %d", got, f, want)
				}
			}
			if got := num(t, device, "residual_bytes"); got != s.Devices[i].ResidualBytes() {
				t.Errorf("residual %d", got)
			}
		}
		if loss, ok := report["loss"].(object); !ok || len(loss) > len(s.Loss) {
			t.Errorf("loss is %v", report["loss"])
		}
	}
}

// Every counter is there, zero or not, in the probe's order.
func TestLossInOrder(t *testing.T) {
	line := encode(t, json.IO, sample.Unbalanced(snapshot.ByApp), json.Options{})
	if want := `"loss":{"owners_full":0,"folios_full":1000003,"recursion_misses":2000006}`; !strings.Contains(line, want) {
		t.Errorf("no %s in %s", want, line)
	}
}

// Names come back as they were.
func TestNamesAreExact(t *testing.T) {
	for _, name := range sample.NastyNames {
		if !utf8.ValidString(name) {
			continue
		}
		s := snapshot.IO{By: snapshot.ByPID, Rows: []snapshot.IORow{{Process: snapshot.Process{PID: 1, App: name, Comm: name, Exe: name}}}}
		row := decode(t, encode(t, json.IO, s, json.Options{}))["rows"].([]any)[0].(object)
		if got := []any{row["app"], row["comm"], row["exe"]}; !reflect.DeepEqual(got, []any{name, name, name}) {
			t.Errorf("%q became %q", name, got)
		}
	}
}

func TestTop(t *testing.T) {
	s := sample.IO(snapshot.ByApp)
	o := decode(t, encode(t, json.IO, s, json.Options{Top: 1}))
	if rows := o["rows"].([]any); len(rows) != 1 || num(t, o, "omitted_rows") != uint64(len(s.Rows)-1) {
		t.Errorf("%d rows, %v omitted", len(rows), o["omitted_rows"])
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestClosedPipe(t *testing.T) {
	if err := json.IO(closed{}, sample.Idle(), json.Options{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func FuzzNames(f *testing.F) {
	for _, n := range sample.NastyNames {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s := snapshot.IO{Rows: []snapshot.IORow{{Process: snapshot.Process{App: name}}}, Loss: []snapshot.Loss{{Name: name}}}
		line := encode(t, json.IO, s, json.Options{})
		row := decode(t, line)["rows"].([]any)[0].(object)
		if utf8.ValidString(name) && row["app"] != name {
			t.Errorf("%q became %q", name, row["app"])
		}
	})
}
