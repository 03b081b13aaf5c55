package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"culprit/output/csv"
	"culprit/output/json"
	"culprit/output/table"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// tcpFlags are those of culprit tcp alone.
type tcpFlags struct {
	watchFlags
	ports                                   []int
	remotes                                 []string
	networks                                []netip.Prefix // remotes, once checked
	stalls, connections, peers, worst, hist bool
	minStall                                time.Duration
	namespace                               string
	netns                                   uint32    // namespace's inode, once checked; 0: all
	waits                                   tcp.Waits // nil unless somebody is to be blamed for readers' waits
}

// defaultMinStall is far below the shortest delayed acknowledgement (TCP_DELACK_MIN, 40 ms) and timeout (TCP_RTO_MIN, 200 ms).
const defaultMinStall = 5 * time.Millisecond

func newTCP() *cobra.Command {
	var f tcpFlags
	cmd := &cobra.Command{
		Use:   "tcp [INTERVAL [COUNT]]",
		Short: "Who talks TCP, and why it paused",
		Long: `What every application sent and received over TCP, and why its connections paused; and
what it sent and received over UDP.
A connection belongs to the process that opened or accepted it, or to the one that
reads and writes where that is another.

Without INTERVAL there is one report, of everything until Ctrl-C or --duration;
with it, one each INTERVAL seconds, COUNT times.

How to read it:
  SENT, RECV    bytes of payload; what was sent again is counted once
  CONNS         connections opened or accepted; wider tables tell them apart
  RETR          segments sent again
  RTT50, RTT99  round-trip times, from single samples
  STALLED       time in which connections had something to do and made no progress,
                one by one where several stalled at a time
  CAUSE         why, for most of it
  UDP-SENT, UDP-RECV     bytes of payload; of UDP there is a table where there is any
  DGRAMS-OUT, DGRAMS-IN  as the kernel counts datagrams: several at once are one
  DROPS         datagrams that came in and found the socket's receive buffer full
  AUDIT         /proc/net/snmp over the interval beside culprit's own sums, of all
                network namespaces, also when filters choose some connections, or of
                the one that --namespace chooses

Why connections stall. A stall has the first cause that applies:
  rto                   segments were lost, and only a timeout told
  tail_loss_probe       the last segments were lost, and a probe told
  fast_retransmit       segments were lost, and later ones told
  zero_window           the other end had no room at all
  receive_window        the other end had room for less than there was to send
  pacing                the sender's own rate limit
  slow_start_restart    after idling, only a little may be on its way again
  cwnd_limited          as much was on its way as congestion control allows
  nagle_delayed_ack     a small segment waited for the acknowledgement of another,
                        and the other end had put that off
  send_buffer           the writer waited for room; all it wrote was on its way
  delayed_ack           the other end waited for an acknowledgement put off here
  reader_not_scheduled  data was there, and its reader waited for a CPU
  reader_not_reading    data was there, and its reader did something else
  unexplained           none of these
Narrow tables shorten them: no_cpu is reader_not_scheduled. --worst adds what to do,
and who had the CPU, for which it watches the scheduler, too (see culprit sched).

Filters choose whose connections are shown, --port and --remote which of them: rows
and lists are made of these alone, without UDP. The audit stays that of everybody, and a process's
round-trip times are those of all its connections. With --namespace, everything is of
that network namespace.`,
		Example: `  culprit tcp 5                      a report every 5 seconds
  culprit tcp --duration 1m --stalls --worst  each pause, and what to do about it
  culprit tcp --app api --connections  its connections one by one
  culprit tcp --port 5432 --hist     round-trip times to and from PostgreSQL
  culprit tcp --remote 10.0.0.0/8 5  inside of the data center only
  culprit tcp --namespace blue 5     inside of ip netns blue only
  culprit tcp --json 1 | jq .        for programs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(args, snapshot.TCPSorts); err != nil {
				return err
			}
			if err := f.tableOnly("hist", f.hist); err != nil {
				return err
			}
			if len(f.remotes) == 0 && cmd.Flags().Changed("remote") { // an empty variable of a script
				f.remotes = []string{""}
			}
			if err := f.checkEnds(); err != nil {
				return err
			}
			if f.minStall <= 0 {
				return usagef("bad --min-stall %v: give a time of more than 0, such as 5ms", f.minStall)
			}
			if cmd.Flags().Changed("namespace") {
				if err := f.checkNamespace(); err != nil {
					return err
				}
			}
			probes := []attach{f.attach}
			if f.worst {
				probes = []attach{f.attachWaits(cmd.ErrOrStderr(), sched.Load), f.attach}
			}
			return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), owner.Options{Proc: f.proc}, probes...)
		},
	}
	f.register(cmd, snapshot.TCPSorts, "sent and received")
	flags := cmd.Flags()
	flags.IntSliceVar(&f.ports, "port", nil, "only connections with one of the ports `PORT,…` at either end")
	flags.StringSliceVar(&f.remotes, "remote", nil, "only connections to and from the addresses or networks `ADDR[/LEN],…`")
	f.registerNamespace(cmd)
	flags.BoolVar(&f.stalls, "stalls", false, "add all causes of each application's stalls")
	flags.BoolVar(&f.connections, "connections", false, "add the connections, one by one; as json or csv, too")
	flags.BoolVar(&f.peers, "peers", false, "add whom each application talked to most")
	flags.BoolVar(&f.worst, "worst", false, "add each application's longest stalls, who had the CPU meanwhile, and what to do")
	flags.BoolVar(&f.hist, "hist", false, "draw how long round trips, connecting and first bytes took, of each of the top applications")
	flags.DurationVar(&f.minStall, "min-stall", defaultMinStall, "count stalls from this `TIME` on")
	return cmd
}

// checkEnds finds ports and addresses that no connection can have.
func (f *tcpFlags) checkEnds() error {
	for _, p := range f.ports {
		if p < 1 || p > 65535 {
			return usagef("bad --port %d: give a number from 1 to 65535", p)
		}
	}
	for _, given := range f.remotes {
		network, err := netip.ParsePrefix(given)
		if address, alone := netip.ParseAddr(given); alone == nil {
			address = address.Unmap().WithZone("")
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil || network.Addr().Is4In6() {
			return usagef("bad --remote %q: give an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32", given)
		}
		f.networks = append(f.networks, network)
	}
	return nil
}

// match is whether a connection is one of those asked for; nil if all are.
func (f *tcpFlags) match() func(local, remote netip.AddrPort) bool {
	if len(f.ports)+len(f.networks) == 0 {
		return nil
	}
	return func(local, remote netip.AddrPort) bool {
		port := func(p int) bool { return p == int(local.Port()) || p == int(remote.Port()) }
		address := remote.Addr().Unmap().WithZone("") // as networks have none
		return (len(f.ports) == 0 || slices.ContainsFunc(f.ports, port)) &&
			(len(f.networks) == 0 || slices.ContainsFunc(f.networks, func(n netip.Prefix) bool { return n.Contains(address) }))
	}
}

// attach brings up the tcp probe.
func (f *tcpFlags) attach(owners *owner.Table, out *table.Table) (*part, error) {
	probe, err := tcp.Load(owners, tcp.Options{
		Proc: f.proc, Connections: f.connections, Worst: f.worst || f.format == "json" || f.format == "csv",
		StallMin: f.minStall, Match: f.match(), Namespace: f.netns, Waits: f.waits,
	})
	if err != nil {
		return nil, err
	}
	return newPart(probe, f.shape, f.printer(out)), nil
}

// printer is what prints a report.
func (f *tcpFlags) printer(out *table.Table) func(snapshot.TCP) error {
	return printer(&f.watchFlags, out.W, json.TCP, (*csv.Writer).TCP, []section[snapshot.TCP]{
		{true, out.TCP},
		{f.stalls, out.TCPStalls},
		{f.connections, out.TCPConnections},
		{f.peers, out.TCPRemotes},
		{f.hist, func(s snapshot.TCP) error { return out.TCPHist(s, f.top) }},
		{f.worst, out.TCPWorst},
	})
}

// shape applies the filters and the grouping.
func (f *tcpFlags) shape(s snapshot.TCP) snapshot.TCP {
	if f.chooses() {
		s = s.Filter(f.keeps)
	}
	return s.Group(snapshot.By(f.by)).SortBy(f.sort)
}
