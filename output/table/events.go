package table

import (
	"fmt"
	"io"
	"text/tabwriter"

	"culprit/output/internal/traced"
)

// Events prints all kinds of events that a trace can have, with their fields.
func Events(w io.Writer) error {
	for i, kind := range traced.Kinds {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s: %s\n", kind.Name, kind.Doc)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range kind.Fields() {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", f.Name, f.Type, f.Doc)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}
