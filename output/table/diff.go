package table

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"

	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// Diff prints what two spans differ in, and how sure that is.
func (t *Table) Diff(d snapshot.Diff) error {
	d, omitted := d.Top(t.Top)
	var b bytes.Buffer
	for _, side := range []struct {
		letter string
		span   snapshot.Span
	}{{"A", d.A}, {"B", d.B}} {
		s := side.span
		wrap(&b, t.width(), side.letter, commas([]string{
			text.Escape(s.Name), "from " + s.Start.Format("2006-01-02 15:04:05 -07:00"), "for " + s.End.Sub(s.Start).Round(time.Second).String(),
			plural(uint64(s.Machines), "machine"), fmt.Sprintf("%d blocks of %s", s.Blocks, s.Block),
		}))
	}
	b.WriteByte('\n')
	if len(d.Changes) > 0 {
		grid(&b, t.diffColumns(d.By), d.Changes)
	}
	if omitted > 0 {
		wrap(&b, t.width(), "… "+plural(uint64(omitted), "more row"), []string{"(-n 0 shows all)"})
	}
	all := len(d.Changes) + omitted
	facts := []string{fmt.Sprintf("%d of %d quantities", all, all+d.Same)}
	if all > 0 {
		facts = append(facts, fmt.Sprintf("none of them by chance, with a confidence of %g %%", 100*d.Confidence))
	}
	if d.TooLittle > 0 {
		facts = append(facts, fmt.Sprintf("of %d more too little is known: longer spans tell more", d.TooLittle))
	}
	wrap(&b, t.width(), "differ:", commas(facts))
	return t.write("what differs", &b)
}

// diffWidths are those of estimates, and of how much they differ.
const (
	estimateWidth = 15
	changeWidth   = 8
)

func (t *Table) diffColumns(by snapshot.By) []column[snapshot.Change] {
	type C = snapshot.Change
	columns := []column[C]{
		{nameHead(by), 0, false, nil},
		{"QUANTITY", 20, false, func(c C) string { return c.Quantity }},
		{"A", estimateWidth, true, func(c C) string { return estimate(c.A, c.Unit) }},
		{"B", estimateWidth, true, func(c C) string { return estimate(c.B, c.Unit) }},
		{"CHANGE", changeWidth, true, change},
	}
	fill(columns, 0, t.width(), func(c C, width int) string { return text.Cut(text.Escape(c.Name), width) })
	return columns
}

// estimate is a value, and how far off it may be.
func estimate(e snapshot.Estimate, unit snapshot.Unit) string {
	if e.Value == 0 {
		return "-"
	}
	off := math.Round(100 * max(e.High-e.Value, e.Value-e.Low) / e.Value)
	if off > 999 {
		return quantity(e.Value, unit) + " ±>9x"
	}
	return fmt.Sprintf("%s ±%.0f%%", quantity(e.Value, unit), off)
}

func quantity(v float64, unit snapshot.Unit) string {
	switch unit {
	case snapshot.BytesPerSecond:
		return size(uint64(math.Ceil(v))) + "/s"
	case snapshot.Nanoseconds:
		return duration(uint64(math.Round(v)))
	case snapshot.Share:
		return strconv.FormatFloat(100*v, 'g', 3, 64) + "%"
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + "/s"
}

// change is by how much B is more or less.
func change(c snapshot.Change) string {
	ratio := c.Ratio()
	switch {
	case c.A.Value == 0:
		return "new"
	case c.B.Value == 0:
		return "gone"
	case ratio >= 1000:
		return ">x1000"
	case ratio >= 10:
		return fmt.Sprintf("x%.3g", ratio)
	}
	return fmt.Sprintf("%+.0f%%", 100*(ratio-1))
}
