package main

import (
	"io"

	"culprit/output/csv"
	"culprit/output/json"
	"culprit/output/table"
	"culprit/probes/owner"
)

// part is what a command has of a probe.
type part struct {
	report func() error
	close  func() error
	memory func() (uint64, error) // bytes that the kernel sets aside for it, at most
}

// attach brings up a probe, whose reports go to out: as tables, or in another format to where those would go. All parts of
// a command share out, which knows what is above a table.
type attach func(owners *owner.Table, out *table.Table) (*part, error)

// reader is a probe that makes snapshots of type S.
type reader[S any] interface {
	Read() (S, error)
	Close() error
	Memory() (uint64, error)
}

// newPart is a probe's: what it reads is shaped, which is to filter, group and sort it, and written.
func newPart[S any](probe reader[S], shape func(S) S, write func(S) error) *part {
	return &part{close: probe.Close, memory: probe.Memory, report: func() error {
		s, err := probe.Read()
		if err != nil {
			return err
		}
		return write(shape(s))
	}}
}

// section is a table of a report, if it is wanted.
type section[S any] struct {
	wanted bool
	write  func(S) error
}

// printer is what prints one report in the format asked for.
func printer[S any](f *watchFlags, out io.Writer, asJSON func(io.Writer, S, json.Options) error, asCSV func(*csv.Writer, S) error, asTable []section[S]) func(S) error {
	switch f.format {
	case "json":
		return func(s S) error { return asJSON(out, s, json.Options{Top: f.top}) }
	case "csv":
		w := csv.NewWriter(out, csv.Options{Top: f.top})
		return func(s S) error { return asCSV(w, s) }
	}
	return func(s S) error {
		for _, section := range asTable {
			if section.wanted {
				if err := section.write(s); err != nil {
					return err
				}
			}
		}
		return nil
	}
}
