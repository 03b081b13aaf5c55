package testnet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is one end of a network: a network namespace that is gone when the test ends. It has no name, so that
// any number of tests can have theirs at once.
type Namespace struct {
	IPv4, IPv6 netip.Addr

	t  testing.TB
	fd int
}

const ownNamespace = "/proc/thread-self/ns/net"

func newNamespace(t testing.TB, ipv4, ipv6 netip.Addr) *Namespace {
	t.Helper()
	n := &Namespace{IPv4: ipv4, IPv6: ipv6, t: t}
	err := inNamespace(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		n.fd, err = openNamespace()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n.fd) })
	if err := n.Do(func() error { return n.up("lo") }); err != nil {
		t.Fatal(err)
	}
	return n
}

func openNamespace() (int, error) {
	fd, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", ownNamespace, err)
	}
	return fd, nil
}

// inNamespace runs f where enter takes the calling thread, and takes that back, also where f ends the test.
func inNamespace(enter, f func() error) (err error) {
	runtime.LockOSThread()
	home, err := openNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		defer unix.Close(home)
		if failed := unix.Setns(home, unix.CLONE_NEWNET); failed != nil {
			err = errors.Join(err, fmt.Errorf("leaving a network namespace: %w", failed))
			return // the thread stays this goroutine's, and ends with it
		}
		runtime.UnlockOSThread()
	}()
	if err := enter(); err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	return f()
}

// Do calls f on a thread in the namespace. Sockets and processes that f itself makes are the namespace's;
// goroutines that it starts are not in there.
func (n *Namespace) Do(f func() error) error {
	return inNamespace(func() error { return unix.Setns(n.fd, unix.CLONE_NEWNET) }, f)
}

// up gives a device its addresses, and switches it on.
func (n *Namespace) up(device string, addresses ...netip.Prefix) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s: %w", device, err)
	}
	for _, a := range addresses {
		ip := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		// An address of IPv6 is of no use until it is known that nobody else has it.
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("giving %s the address %s: %w", device, a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("switching %s on: %w", device, err)
	}
	return nil
}

// Listen is net.Listen for TCP, with these options on the socket and on those that it accepts.
func (n *Namespace) Listen(address netip.AddrPort, s Socket) (l net.Listener, err error) {
	c := net.ListenConfig{Control: s.control, KeepAlive: -1}
	c.SetMultipathTCP(false) // the default is true
	err = n.Do(func() error {
		l, err = c.Listen(context.Background(), "tcp", address.String())
		return err
	})
	return listener{l, s}, err
}

// listener undoes what package net does to sockets unasked.
type listener struct {
	net.Listener
	socket Socket
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn, conn.(*net.TCPConn).SetNoDelay(l.socket.NoDelay)
}

// Dial is net.Dial for TCP, with these options on the socket.
func (n *Namespace) Dial(address netip.AddrPort, s Socket) (conn net.Conn, err error) {
	d := net.Dialer{Control: s.control, KeepAlive: -1}
	err = n.Do(func() error {
		conn, err = d.Dial("tcp", address.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn, conn.(*net.TCPConn).SetNoDelay(s.NoDelay)
}

// Start starts a process in the namespace. If it has not been waited for when the test ends, it is killed.
func (n *Namespace) Start(cmd *exec.Cmd) {
	n.t.Helper()
	if err := n.Do(cmd.Start); err != nil {
		n.t.Fatalf("starting %s: %v", cmd, err)
	}
	n.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
}

// SNMP are the counters of /proc/net/snmp, snmp6 and netstat: "Tcp.RetransSegs", "Udp6InDatagrams", "TcpExt.TCPTimeouts".
func (n *Namespace) SNMP() map[string]int64 {
	n.t.Helper()
	counters := map[string]int64{}
	err := n.Do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			if err := parseCounters(text, counters); err != nil {
				return fmt.Errorf("reading %s: %w", file, err)
			}
		}
		return parseCounters6(counters)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return counters
}

// parseCounters reads pairs of lines: "Tcp: RtoAlgorithm RtoMin", "Tcp: 1 200".
func parseCounters(text []byte, counters map[string]int64) error {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		names := strings.Fields(lines.Text())
		lines.Scan()
		values := strings.Fields(lines.Text())
		if len(names) == 0 || len(names) != len(values) || names[0] != values[0] {
			return fmt.Errorf("%d names and %d values", len(names), len(values))
		}
		for i, name := range names[1:] {
			value, err := strconv.ParseInt(values[i+1], 10, 64)
			if err != nil {
				return err
			}
			counters[strings.TrimSuffix(names[0], ":")+"."+name] = value
		}
	}
	return nil
}

// parseCounters6 reads lines with a name and a value.
func parseCounters6(counters map[string]int64) error {
	text, err := os.ReadFile("/proc/thread-self/net/snmp6")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		var name string
		var value int64
		if _, err := fmt.Sscan(line, &name, &value); err != nil {
			return fmt.Errorf("reading snmp6: %w", err)
		}
		counters[name] = value
	}
	return nil
}

// Sysctl sets a knob of the namespace: "net.ipv4.tcp_slow_start_after_idle".
func (n *Namespace) Sysctl(name string, value any) {
	n.t.Helper()
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	if err := n.Do(func() error { return os.WriteFile(path, []byte(fmt.Sprint(value)), 0) }); err != nil {
		n.t.Fatal(err)
	}
}

// waitListening is until somebody listens on a port, or receives datagrams there, which no connection shows that would itself be counted.
func (n *Namespace) waitListening(port uint16) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		var tables []byte
		err := n.Do(func() error {
			for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
				text, err := os.ReadFile("/proc/thread-self/net/" + file)
				if err != nil {
					return err
				}
				tables = append(tables, text...)
			}
			return nil
		})
		if err != nil {
			return err
		}
		const listening, unconnected = "0A", "07"
		for line := range strings.Lines(string(tables)) {
			if f := strings.Fields(line); len(f) > 3 && (f[3] == listening || f[3] == unconnected) && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nobody listens on port %d", port)
		}
	}
}

// SteerPackets has a CPU work for what a device receives (RPS), whoever's CPU the packets come from.
func (n *Namespace) SteerPackets(device string, cpu int) {
	n.t.Helper()
	err := n.Do(func() error {
		// The devices that sysfs shows are those of the namespace that it was mounted in.
		out, err := exec.Command("unshare", "--mount", "sh", "-c",
			`mount -t sysfs sysfs /sys && echo "$1" > "/sys/class/net/$2/queues/rx-0/rps_cpus"`, "sh", fmt.Sprintf("%x", 1<<cpu), device).CombinedOutput()
		if err != nil {
			return fmt.Errorf("steering the packets of %s to CPU %d: %w: %s", device, cpu, err, out)
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
