package main

import (
	"time"

	"github.com/spf13/cobra"

	"culprit/probes/snapshot"
)

func newSummary() *cobra.Command {
	disks := ioFlags{watchFlags: watchFlags{duration: 10 * time.Second}}
	cmd := &cobra.Command{
		Use:   "summary",
		Short: "Watch everything for a while, then one page",
		Long: `Watches the machine for --duration (Ctrl-C ends it sooner), then prints one page:
who used the disks, who waited for a CPU and because of whom, whose TCP connections
stalled and why, and whether the books balance. As json there is an object for each
of these, as csv a table.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := disks.parse(nil, summarySorts); err != nil {
				return err
			}
			cpus := schedFlags{watchFlags: disks.watchFlags}
			network := tcpFlags{watchFlags: disks.watchFlags, minStall: defaultMinStall}
			if disks.sort == summarySorts[0] {
				disks.sort, cpus.sort, network.sort = snapshot.IOSorts[0], snapshot.SchedSorts[0], snapshot.TCPSorts[0]
			}
			cpus.blamed = &network
			return disks.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), disks.tables(), disks.attach, cpus.attach, network.attach)
		},
	}
	disks.register(cmd, summarySorts, "caused, waited for or sent")
	disks.registerDevice(cmd)
	return cmd
}

// summarySorts are the columns that every part has: "most" is each part's own measure.
var summarySorts = []string{"most", "name"}
