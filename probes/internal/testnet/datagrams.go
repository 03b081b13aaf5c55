package testnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tell sends datagrams to Hear: in each round one of each size, after which it waits for an answer.
type Tell struct {
	End
	Rounds int
	Sizes  []int
	// MSG_MORE, UDP_CORK and UDP_SEGMENT make one datagram, or several, of all those of a round; sendmmsg sends them by one call.
	By      Calls
	Segment int // bytes
}

// Hear receives what Tell sends: so many datagrams a round.
type Hear struct {
	End
	Rounds, Datagrams int
	By                Calls
	Room              int // bytes of a datagram that are asked for
	Answer            int // bytes
}

// Deaf has a socket for datagrams, receives so many, and no more until the test ends. If there is a Heir, which is a process that it
// starts then, that one inherits the socket, and does the same.
type Deaf struct {
	End
	First int
	Heir  string
}

// Calls are those that a load for datagrams makes.
type Calls string

const (
	ByOne     Calls = "sendto, recvfrom"
	ByWrite   Calls = "write, read" // on a connected socket
	ByMany    Calls = "sendmmsg, recvmmsg"
	ByMore    Calls = "MSG_MORE"
	ByCork    Calls = "UDP_CORK"
	BySegment Calls = "UDP_SEGMENT"
	ByPeek    Calls = "MSG_PEEK" // and recvfrom after that
)

// datagrams is a socket for them.
type datagrams struct {
	fd     int
	counts Counts
}

// openDatagrams makes a socket that is bound to the address if the load listens, and connected to it if that is asked for.
func (e End) openDatagrams(connected bool) (d *datagrams, err error) {
	family := unix.AF_INET
	if e.Address.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	err = errors.Join(e.Socket.apply(fd), impatient(fd))
	switch {
	case err != nil:
	case e.Listen:
		err = unix.Bind(fd, sockaddr(e.Address))
	case connected:
		err = unix.Connect(fd, sockaddr(e.Address))
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("preparing a socket for %s: %w", e.Address, err)
	}
	return &datagrams{fd: fd}, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func (l Tell) run() (Counts, error) {
	d, err := l.openDatagrams(l.By == ByWrite)
	if err != nil {
		return Counts{}, err
	}
	defer unix.Close(d.fd)
	for i := range l.Rounds {
		if err := d.tell(l); err != nil {
			return d.counts, fmt.Errorf("sending, round %d: %w", i, err)
		}
		if _, err := d.receive(1<<16, 0); err != nil {
			return d.counts, fmt.Errorf("waiting for an answer, round %d: %w", i, err)
		}
	}
	return d.counts, nil
}

// tell sends the datagrams of a round.
func (d *datagrams) tell(l Tell) error {
	to := sockaddr(l.Address)
	var all []byte
	for _, size := range l.Sizes {
		all = append(all, make([]byte, size)...)
	}
	switch l.By {
	case ByOne:
		for _, size := range l.Sizes {
			if err := d.send(size, 0, to, 1); err != nil {
				return err
			}
		}
	case ByWrite:
		for _, size := range l.Sizes {
			if _, err := unix.Write(d.fd, make([]byte, size)); err != nil {
				return err
			}
			d.sent(size, 1)
		}
	case ByMany:
		return d.sendMany(l.Sizes, to)
	case ByMore:
		for i, size := range l.Sizes {
			flags, datagrams := unix.MSG_MORE, 0
			if i == len(l.Sizes)-1 {
				flags, datagrams = 0, 1
			}
			if err := d.send(size, flags, to, datagrams); err != nil {
				return err
			}
		}
	case ByCork:
		if err := unix.SetsockoptInt(d.fd, unix.IPPROTO_UDP, unix.UDP_CORK, 1); err != nil {
			return err
		}
		for _, size := range l.Sizes {
			if err := d.send(size, 0, to, 0); err != nil {
				return err
			}
		}
		d.sent(0, 1) // by the following
		return unix.SetsockoptInt(d.fd, unix.IPPROTO_UDP, unix.UDP_CORK, 0)
	case BySegment:
		if err := unix.SetsockoptInt(d.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, l.Segment); err != nil {
			return err
		}
		return d.send(len(all), 0, to, 1)
	}
	return nil
}

func (d *datagrams) sent(bytes, datagrams int) {
	d.counts.Sent += int64(bytes)
	d.counts.DatagramsOut += int64(datagrams)
}

func (d *datagrams) send(size, flags int, to unix.Sockaddr, datagrams int) error {
	n, err := unix.SendmsgN(d.fd, make([]byte, size), nil, to, flags)
	if err != nil {
		return err
	}
	d.sent(n, datagrams)
	return nil
}

// many is struct mmsghdr.
type many struct {
	unix.Msghdr
	len uint32
}

// newMany makes messages of these sizes, and the parts that they point to.
func newMany(sizes []int) (messages []many, parts []unix.Iovec) {
	messages, parts = make([]many, len(sizes)), make([]unix.Iovec, len(sizes))
	for i, size := range sizes {
		parts[i].Base = &make([]byte, size+1)[0]
		parts[i].SetLen(size)
		messages[i].Iov = &parts[i]
		messages[i].SetIovlen(1)
	}
	return messages, parts
}

// callMany is sendmmsg or recvmmsg, and returns for how many messages it was.
func callMany(call uintptr, fd int, messages []many, flags int) (n int, err error) {
	err = again(func() error {
		done, _, failed := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), uintptr(flags), 0, 0)
		if failed != 0 {
			return failed
		}
		n = int(done)
		return nil
	})
	return n, err
}

// sendMany sends a datagram of each size by one call.
func (d *datagrams) sendMany(sizes []int, to unix.Sockaddr) error {
	if err := unix.Connect(d.fd, to); err != nil {
		return err
	}
	messages, parts := newMany(sizes)
	n, err := callMany(unix.SYS_SENDMMSG, d.fd, messages, 0)
	runtime.KeepAlive(parts)
	if err == nil && n != len(sizes) {
		err = fmt.Errorf("%d of %d datagrams were sent", n, len(sizes))
	}
	if err != nil {
		return err
	}
	for _, m := range messages {
		d.sent(int(m.len), 1)
	}
	return nil
}

func (l Hear) run() (Counts, error) {
	d, err := l.openDatagrams(false)
	if err != nil {
		return Counts{}, err
	}
	defer unix.Close(d.fd)
	for i := range l.Rounds {
		from, err := d.hear(l)
		if err != nil {
			return d.counts, fmt.Errorf("receiving, round %d: %w", i, err)
		}
		if err := d.send(l.Answer, 0, from, 1); err != nil {
			return d.counts, fmt.Errorf("answering, round %d: %w", i, err)
		}
	}
	return d.counts, nil
}

// hear receives the datagrams of a round, and tells whom from.
func (d *datagrams) hear(l Hear) (from unix.Sockaddr, err error) {
	if l.By == ByMany {
		return d.receiveMany(l.Datagrams, l.Room)
	}
	for range l.Datagrams {
		if l.By == ByPeek {
			peeked := *d
			if _, err := peeked.receive(l.Room, unix.MSG_PEEK); err != nil {
				return nil, err
			}
		}
		if from, err = d.receive(l.Room, 0); err != nil {
			return nil, err
		}
	}
	return from, nil
}

func (d *datagrams) received(bytes int) {
	d.counts.Received += int64(bytes)
	d.counts.DatagramsIn++
}

func (d *datagrams) receive(room, flags int) (from unix.Sockaddr, err error) {
	var n int
	err = again(func() error {
		n, from, err = unix.Recvfrom(d.fd, make([]byte, room), flags)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.received(n)
	return from, nil
}

// receiveMany receives so many datagrams by as few calls as that takes.
func (d *datagrams) receiveMany(count, room int) (unix.Sockaddr, error) {
	looking := *d
	from, err := looking.receive(room, unix.MSG_PEEK)
	if err != nil {
		return nil, err
	}
	for count > 0 {
		messages, parts := newMany(slices.Repeat([]int{room}, count))
		n, err := callMany(unix.SYS_RECVMMSG, d.fd, messages, unix.MSG_WAITFORONE)
		runtime.KeepAlive(parts)
		if err != nil {
			return nil, err
		}
		for _, m := range messages[:n] {
			d.received(int(m.len))
		}
		count -= n
	}
	return from, nil
}

func (l Deaf) run() (Counts, error) {
	d, err := l.openDatagrams(false)
	if err != nil {
		return Counts{}, err
	}
	return d.deaf(l)
}

// deaf is until the parent is gone.
func (d *datagrams) deaf(l Deaf) (Counts, error) {
	for range l.First {
		if _, err := d.receive(1<<16, 0); err != nil {
			return d.counts, err
		}
	}
	if l.Heir != "" {
		return d.counts, inherit(l.Heir, deafHeir{Deaf{First: l.First}}, d.fd, &Counts{})
	}
	for parent := os.Getppid(); os.Getppid() == parent; {
		sleep(10 * time.Millisecond)
	}
	return d.counts, nil
}

// deafHeir goes on with the socket of Deaf that it has inherited.
type deafHeir struct{ Deaf }

func (h deafHeir) run() (Counts, error) { return (&datagrams{fd: int(inherited)}).deaf(h.Deaf) }
