package main

import (
	"time"

	"github.com/spf13/cobra"

	"culprit/probes/snapshot"
)

func newSummary() *cobra.Command {
	f := ioFlags{watchFlags: watchFlags{duration: 10 * time.Second}}
	cmd := &cobra.Command{
		Use:   "summary",
		Short: "Watch everything for a while, then one page",
		Long: `Watches the machine for --duration (Ctrl-C ends it sooner), then prints one page:
who used the disks, and whether the books balance.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(nil, snapshot.IOSorts); err != nil {
				return err
			}
			return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.register(cmd, snapshot.IOSorts)
	return cmd
}
