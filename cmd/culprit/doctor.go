package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newDoctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "What this kernel and this user allow",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return doctor(cmd.OutOrStdout())
		},
	}
}

func doctor(w io.Writer) error {
	for _, c := range needed {
		state := "yes"
		if !hasCapability(c.bit) {
			state = "MISSING"
		}
		fmt.Fprintf(w, "%-12s %-8s %s\n", c.name, state, c.why)
	}
	return nil
}
