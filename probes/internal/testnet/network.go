// Package testnet makes the networks that tests of TCP and UDP need: two network namespaces, joined by a pair of virtual
// Ethernet devices, or by a relay that delays and drops what a test tells it to; and processes that do known work over
// them (see Load). It needs root and /dev/net/tun, but no programs. Everything is gone when the test ends.
package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"culprit/probes/internal/livetest"
)

// Network is a client's and a server's namespace that reach each other by IPv4 and IPv6.
type Network struct {
	Client, Server *Namespace
}

// These are for documentation (RFC 5737, RFC 3849): no test can reach anybody else's machine by mistake.
var (
	clientIPv4 = netip.MustParsePrefix("198.51.100.1/24")
	serverIPv4 = netip.MustParsePrefix("198.51.100.2/24")
	clientIPv6 = netip.MustParsePrefix("2001:db8::1/64")
	serverIPv6 = netip.MustParsePrefix("2001:db8::2/64")
)

// newNetwork makes the namespaces, without any connection. connect makes it, of a device in each.
func newNetwork(t testing.TB, connect func(n *Network) error, clientDevice, serverDevice string) *Network {
	t.Helper()
	livetest.NeedRoot(t)
	n := &Network{
		Client: newNamespace(t, clientIPv4.Addr(), clientIPv6.Addr()),
		Server: newNamespace(t, serverIPv4.Addr(), serverIPv6.Addr()),
	}
	err := connect(n)
	if err == nil {
		err = n.Client.Do(func() error { return n.Client.up(clientDevice, clientIPv4, clientIPv6) })
	}
	if err == nil {
		err = n.Server.Do(func() error { return n.Server.up(serverDevice, serverIPv4, serverIPv6) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// NewVeth makes a network whose ends are the two of a virtual Ethernet cable.
func NewVeth(t testing.TB) *Network {
	t.Helper()
	const client, server = "veth0", "veth1"
	n := newNetwork(t, func(n *Network) error {
		return n.Client.Do(func() error {
			attributes := netlink.NewLinkAttrs()
			attributes.Name = client
			// Of two devices with the same index, the kernel takes a second to see that they are connected (linkwatch_urgent_event()).
			attributes.Index = 100
			err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: server, PeerNamespace: netlink.NsFd(n.Server.fd)})
			if err != nil {
				return fmt.Errorf("making a pair of veth devices: %w", err)
			}
			return nil
		})
	}, client, server)
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := errors.Join(n.Client.Do(isUp(client)), n.Server.Do(isUp(server)))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(n.Client.introduce(client, n.Server, server), n.Server.introduce(server, n.Client, client)); err != nil {
		t.Fatal(err)
	}
	if err := n.reach(); err != nil {
		t.Fatal(err)
	}
	return n
}

func isUp(device string) func() error {
	return func() error {
		link, err := netlink.LinkByName(device)
		if err == nil && link.Attrs().OperState != netlink.OperUp {
			err = fmt.Errorf("%s is %v", device, link.Attrs().OperState)
		}
		return err
	}
}

// introduce tells a device its neighbour: who asks too early asks again after a second.
func (n *Namespace) introduce(device string, other *Namespace, its string) error {
	var neighbour netlink.Link
	err := other.Do(func() (err error) {
		neighbour, err = netlink.LinkByName(its)
		return err
	})
	if err != nil {
		return fmt.Errorf("finding %s: %w", its, err)
	}
	return n.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("finding %s: %w", device, err)
		}
		for _, address := range []netip.Addr{other.IPv4, other.IPv6} {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, IP: address.AsSlice(), HardwareAddr: neighbour.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
			})
			if err != nil {
				return fmt.Errorf("telling %s where %s is: %w", device, address, err)
			}
		}
		return nil
	})
}

// reach is until datagrams get to the server and back: devices drop some just after they are switched on, and a test's first
// segments shall not be sent twice for that.
func (n *Network) reach() error {
	deadline := time.Now().Add(10 * time.Second)
	for _, ends := range [][2]netip.Addr{{n.Client.IPv4, n.Server.IPv4}, {n.Client.IPv6, n.Server.IPv6}} {
		client, err := n.Client.datagrams(ends[0])
		if err != nil {
			return err
		}
		defer client.Close()
		server, err := n.Server.datagrams(ends[1])
		if err != nil {
			return err
		}
		defer server.Close()
		for _, way := range [][2]*net.UDPConn{{client, server}, {server, client}} {
			if err := deliver(way[0], way[1], deadline); err != nil {
				return fmt.Errorf("reaching %s: %w", way[1].LocalAddr(), err)
			}
		}
	}
	return nil
}

func (n *Namespace) datagrams(address netip.Addr) (c *net.UDPConn, err error) {
	err = n.Do(func() error {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		return err
	})
	return c, err
}

// deliver sends datagrams until one arrives.
func deliver(from, to *net.UDPConn, deadline time.Time) error {
	for {
		_, err := from.WriteTo([]byte{1}, to.LocalAddr())
		if err == nil {
			to.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err = to.Read(make([]byte, 1))
		} else {
			time.Sleep(time.Millisecond) // there is no route yet
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
