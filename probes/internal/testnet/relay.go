package testnet

import (
	"container/heap"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
)

// Relay is a network whose packets all pass through this process.
type Relay struct {
	Network

	t     testing.TB
	tun   [2]int // whom packets of a Direction come from
	stop  int    // an eventfd
	done  chan struct{}
	ended sync.Once

	// The thread's own.
	queue queue
	limit int
	free  []*packet
	order uint64
	late  lateness

	mu      sync.Mutex
	delays  [2]time.Duration // by Direction
	rules   []Rule
	flows   flows
	traffic [2]Traffic
}

// Delays are how long a packet takes, each way.
type Delays struct{ ToServer, ToClient time.Duration }

// Traffic is what came from one side.
type Traffic struct {
	Segments        int // of TCP
	Retransmissions int
	Dropped         int // by rules
}

const (
	device = "tun0"
	mtu    = 1500
	// Packets that a relay keeps, and that may wait for it in a device: 50 MB, most of a second's worth.
	queueLimit  = 1 << 15
	deviceLimit = 1 << 14
)

// NewRelay makes a network that takes this long, and does with TCP what the rules say. Packets stay in order where no
// rule delays them, and are late by up to 0.2 ms, by more where more than 100 MB/s pass. The log of the test has how late.
// None gets lost but by rules: where there are too many, the test fails.
func NewRelay(t testing.TB, delays Delays, rules ...Rule) *Relay {
	t.Helper()
	return newRelay(t, queueLimit, delays, rules...)
}

func newRelay(t testing.TB, limit int, delays Delays, rules ...Rule) *Relay {
	t.Helper()
	livetest.LoadModule("tun", tunDevice)
	r := &Relay{t: t, limit: limit, tun: [2]int{-1, -1}, stop: -1, flows: flows{}, done: make(chan struct{})}
	t.Cleanup(func() {
		for _, fd := range []int{r.tun[0], r.tun[1], r.stop} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	})
	r.Network = *newNetwork(t, func(n *Network) (err error) {
		if r.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			return err
		}
		for from, ns := range []*Namespace{n.Client, n.Server} {
			if err := ns.Do(func() error { r.tun[from], err = openTUN(); return err }); err != nil {
				return err
			}
		}
		return nil
	}, device, device)
	// A thread back from waiting for packets needs one of these, and others are for who makes use of a CPU each.
	before := runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 2)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	go r.run()
	t.Cleanup(func() { r.ended.Do(r.end) })
	if err := r.reach(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delays, r.rules = [2]time.Duration{delays.ToServer, delays.ToClient}, rules
	return r
}

const tunDevice = "/dev/net/tun"

// openTUN makes a device of the calling thread's namespace that exists until it is closed. It takes packets of at most its MTU:
// the kernel cuts them and adds their checksums itself.
func openTUN() (fd int, err error) {
	fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", tunDevice, err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	request, err := unix.NewIfreq(device)
	if err != nil {
		return fd, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fd, fmt.Errorf("making a TUN device: %w", err)
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fd, err
	}
	return fd, errors.Join(netlink.LinkSetMTU(link, mtu), netlink.LinkSetTxQLen(link, deviceLimit))
}

// Rules replaces the rules, from the next segment on.
func (r *Relay) Rules(rules ...Rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = rules
}

// Traffic is what came from one side until now.
func (r *Relay) Traffic(from Direction) Traffic {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.traffic[from]
}

// end stops the relay, and fails the test if a device had to drop packets.
func (r *Relay) end() {
	if _, err := unix.Write(r.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		r.t.Error(err)
		return
	}
	<-r.done
	r.t.Logf("relay: of %d packets, %d were more than %v late, at most %v", r.late.packets, r.late.much, muchTooLate, r.late.most)
	for _, ns := range []*Namespace{r.Client, r.Server} {
		err := ns.Do(func() error {
			link, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			if s := link.Attrs().Statistics; s.TxDropped+s.RxDropped > 0 {
				return fmt.Errorf("the relay was too slow: its devices dropped %d packets, and %d that it wrote", s.TxDropped, s.RxDropped)
			}
			return nil
		})
		if err != nil {
			r.t.Error(err)
		}
	}
}

// lateness is by how much packets were delivered later than they were due.
type lateness struct {
	packets, much int
	most          time.Duration
}

const muchTooLate = 500 * time.Microsecond

func (l *lateness) add(late time.Duration) {
	l.packets++
	l.most = max(l.most, late)
	if late > muchTooLate {
		l.much++
	}
}

type packet struct {
	due   time.Time
	order uint64
	from  Direction
	size  int
	bytes [mtu]byte
}

// queue is a heap: what is due first is first.
type queue []*packet

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].order < q[j].order
	}
	return q[i].due.Before(q[j].due)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(p any)   { *q = append(*q, p.(*packet)) }
func (q *queue) Pop() any {
	old := *q
	p := old[len(old)-1]
	*q = old[:len(old)-1]
	return p
}

// run is the relay's thread. It is one for both directions, so that rules see segments one by one, and ppoll is what
// wakes it: package time is late by up to a millisecond.
func (r *Relay) run() {
	runtime.LockOSThread() // to its end
	defer close(r.done)
	if err := r.forward(); err != nil {
		r.t.Error("relay:", err)
	}
}

func (r *Relay) forward() error {
	// Even at nice -20 it would be late by milliseconds where others compute.
	if err := livetest.BecomeRealTime(livetest.RelayPriority); err != nil {
		return err
	}
	fds := []unix.PollFd{
		{Fd: int32(r.tun[FromClient]), Events: unix.POLLIN}, {Fd: int32(r.tun[FromServer]), Events: unix.POLLIN},
		{Fd: int32(r.stop), Events: unix.POLLIN},
	}
	for {
		timeout, err := r.deliver()
		if err != nil {
			return err
		}
		if _, err := unix.Ppoll(fds, timeout, nil); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("waiting for packets: %w", err)
		}
		if fds[2].Revents != 0 {
			return nil
		}
		for from := FromClient; from <= FromServer; from++ {
			switch fds[from].Revents {
			case 0:
			case unix.POLLIN:
				if err := r.receive(from); err != nil {
					return err
				}
			default:
				return fmt.Errorf("the device has events %#x", fds[from].Revents)
			}
		}
	}
}

// deliver writes what is due, and tells how long it is to the next, nil for ever.
func (r *Relay) deliver() (*unix.Timespec, error) {
	for len(r.queue) > 0 {
		p := r.queue[0]
		if left := time.Until(p.due); left > 0 {
			t := unix.NsecToTimespec(int64(left))
			return &t, nil
		}
		r.late.add(time.Since(p.due))
		heap.Pop(&r.queue)
		if _, err := unix.Write(r.tun[1-p.from], p.bytes[:p.size]); err != nil {
			return nil, fmt.Errorf("writing a packet: %w", err)
		}
		r.free = append(r.free, p)
	}
	return nil, nil
}

// receive takes what a device has, but no more than a few at a time: others may be due meanwhile.
func (r *Relay) receive(from Direction) error {
	for range 16 {
		p := r.newPacket()
		var err error
		p.size, err = unix.Read(r.tun[from], p.bytes[:])
		if errors.Is(err, unix.EAGAIN) {
			r.free = append(r.free, p)
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a packet: %w", err)
		}
		now := time.Now()
		delay, pass := r.judge(p.bytes[:p.size], from, now)
		if !pass {
			r.free = append(r.free, p)
			continue
		}
		if len(r.queue) == r.limit {
			return fmt.Errorf("more than %d packets are on their way: the test must send less, or over a shorter distance", r.limit)
		}
		p.from, p.due, p.order = from, now.Add(delay), r.order
		r.order++
		heap.Push(&r.queue, p)
	}
	return nil
}

func (r *Relay) newPacket() *packet {
	if n := len(r.free); n > 0 {
		p := r.free[n-1]
		r.free = r.free[:n-1]
		return p
	}
	return new(packet)
}

// judge asks the rules.
func (r *Relay) judge(bytes []byte, from Direction, at time.Time) (delay time.Duration, pass bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delay = r.delays[from]
	s, ok := r.flows.decode(bytes, from, at)
	if !ok {
		return delay, true
	}
	traffic := &r.traffic[from]
	traffic.Segments++
	if s.Retransmission {
		traffic.Retransmissions++
	}
	for _, rule := range r.rules {
		switch verdict := rule(s); verdict {
		case Pass:
		case Drop:
			traffic.Dropped++
			return 0, false
		default:
			return delay + time.Duration(verdict), true
		}
	}
	return delay, true
}
