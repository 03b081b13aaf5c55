package contract

import (
	"encoding/json"
	"math"

	"culprit/probes/snapshot"
)

// DiffSchema names the form of DiffReport.
const DiffSchema = "culprit.diff/1"

// DiffReport is what culprit report --diff says.
type DiffReport struct {
	Schema      string   `json:"schema"`
	A           DiffSpan `json:"a"`
	B           DiffSpan `json:"b"`
	Confidence  float64  `json:"confidence"` // that no row is chance
	Rows        []Change `json:"rows"`
	OmittedRows int      `json:"omitted_rows"` // left out by the row limit
	Same        int      `json:"same"`         // quantities that were compared and have no row
	TooLittle   int      `json:"too_little"`   // of which too little is known to find any difference, among so many
}

// DiffSpan is one of the two.
type DiffSpan struct {
	Name string `json:"name"`
	Interval
	Machines     int     `json:"machines"`
	Blocks       int     `json:"blocks"` // whose values were compared
	BlockSeconds float64 `json:"block_seconds"`
}

// Change is a quantity of a group that is another in b than in a. Rates are those of one machine.
type Change struct {
	Name     string   `json:"name"`
	Quantity string   `json:"quantity"`
	Unit     string   `json:"unit"` // bytes/s, 1/s, s/s or ns
	A        Estimate `json:"a"`
	B        Estimate `json:"b"`
	Ratio    Ratio    `json:"ratio"` // of b to a; null if there was nothing in a
	P        float64  `json:"p"`     // of a difference that is chance, of this quantity alone
}

// Estimate is the median of the blocks, in between low and high with a confidence of 95 %; the mean, if most blocks of a or of b have nothing.
type Estimate struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Ratio is a number that can be infinite, which JSON does not have.
type Ratio float64

// MarshalJSON makes null of what is no number.
func (r Ratio) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(r), 0) || math.IsNaN(float64(r)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(r))
}

// Diff makes the object; rows were left out of d.
func Diff(d snapshot.Diff, omitted int) DiffReport {
	span := func(s snapshot.Span) DiffSpan {
		return DiffSpan{s.Name, interval(s.Start, s.End, d.By), s.Machines, s.Blocks, s.Block.Seconds()}
	}
	out := DiffReport{Schema: DiffSchema, A: span(d.A), B: span(d.B), Confidence: d.Confidence, Rows: []Change{}, OmittedRows: omitted,
		Same: d.Same, TooLittle: d.TooLittle}
	for _, c := range d.Changes {
		out.Rows = append(out.Rows, Change{c.Name, c.Quantity, string(c.Unit), Estimate(c.A), Estimate(c.B), Ratio(c.Ratio()), c.P})
	}
	return out
}
