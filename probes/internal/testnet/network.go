// Package testnet makes the networks that tests of TCP need: two network namespaces, joined by a pair of virtual
// Ethernet devices, or by a relay that delays and drops what a test tells it to; and processes that do known work over
// them (see Load). It needs root and /dev/net/tun, but no programs. Everything is gone when the test ends.
package testnet

import (
	"fmt"
	"net/netip"
	"testing"

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
	return newNetwork(t, func(n *Network) error {
		return n.Client.Do(func() error {
			attributes := netlink.NewLinkAttrs()
			attributes.Name = client
			err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: server, PeerNamespace: netlink.NsFd(n.Server.fd)})
			if err != nil {
				return fmt.Errorf("making a pair of veth devices: %w", err)
			}
			return nil
		})
	}, client, server)
}
