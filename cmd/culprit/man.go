package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan is for packages: what it writes is what --help says.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual's pages, one for each command, into a directory",
		Long:   "Writes the manual's pages, culprit.1 and one for each command, into the directory DIR.\nTheir date is that of SOURCE_DATE_EPOCH, if that is set.",
		Hidden: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("culprit man takes one argument, but got %d: give the directory that is to have the manual's pages", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("making room for the manual's pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // what is generated twice is the same
			header := &doc.GenManHeader{Section: "1", Source: "culprit " + version, Manual: "User Commands"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("writing the manual's pages: %w", err)
			}
			return nil
		},
	}
}
