package testnet

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a load waits for its other end: if that is gone without a word, so is the load soon.
const patience = time.Minute

func (e End) end() End { return e }

// once runs f with one connection.
func (e End) once(f func(conn) (Counts, error)) (Counts, error) {
	return e.each(1, func(_ int, c conn) (Counts, error) { return f(c) })
}

// each runs f with so many connections, one after the other, and adds up what it counted.
func (e End) each(count int, f func(i int, c conn) (Counts, error)) (sum Counts, err error) {
	listening := -1
	if e.Listen {
		if listening, err = e.listen(); err != nil {
			return sum, err
		}
		defer unix.Close(listening)
	}
	return e.eachAt(listening, count, f)
}

// eachAt is each, where somebody listens already.
func (e End) eachAt(listening, count int, f func(i int, c conn) (Counts, error)) (sum Counts, err error) {
	for i := range count {
		begin := time.Now()
		c, err := e.next(listening)
		if err != nil {
			return sum, err
		}
		if !e.Listen {
			sum.Connecting += time.Since(begin)
		}
		counts, err := f(i, c)
		counts.Connections++
		if closed := unix.Close(int(c)); err == nil {
			err = closed
		}
		if err != nil {
			return sum, fmt.Errorf("connection %d: %w", i, err)
		}
		sum.add(counts)
	}
	return sum, nil
}

// next is a new connection: one that is accepted, where somebody listens.
func (e End) next(listening int) (conn, error) {
	if e.Listen {
		return accept(listening)
	}
	return e.dial()
}

// socket makes one, with the options, and the address for it.
func (e End) socket() (fd int, to unix.Sockaddr, err error) {
	family := unix.AF_INET
	to = &unix.SockaddrInet4{Port: int(e.Address.Port())}
	if a := e.Address.Addr(); a.Is4() {
		to.(*unix.SockaddrInet4).Addr = a.As4()
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(e.Address.Port()), Addr: a.As16()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, nil, fmt.Errorf("making a socket: %w", err)
	}
	err = e.Socket.apply(fd)
	if err == nil {
		err = impatient(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, to, nil
}

func impatient(fd int) error {
	limit := unix.NsecToTimeval(int64(patience))
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
}

func (e End) dial() (conn, error) {
	fd, to, err := e.socket()
	if err != nil {
		return -1, err
	}
	if err := again(func() error { return unix.Connect(fd, to) }); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connecting to %s: %w", e.Address, err)
	}
	return conn(fd), nil
}

func (e End) listen() (int, error) {
	fd, at, err := e.socket()
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, at)
	}
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listening at %s: %w", e.Address, err)
	}
	return fd, nil
}

func accept(listening int) (c conn, err error) {
	fd := -1
	err = again(func() error {
		fd, _, err = unix.Accept4(listening, unix.SOCK_CLOEXEC)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("accepting a connection: %w", err)
	}
	return conn(fd), impatient(fd)
}

// again repeats a call that was interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sleep is to the microsecond, which that of package time is not.
func sleep(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	for d > 0 && unix.Nanosleep(&left, &left) == unix.EINTR {
	}
}

// conn is a connected socket.
type conn int

// errEnd is that of a connection, before the first byte of what was to be read.
var errEnd = errors.New("the connection has ended")

// write sends so many bytes, by as few calls as the socket lets it.
func (c conn) write(size int, counts *Counts) error {
	for data := make([]byte, size); len(data) > 0; {
		err := again(func() error {
			n, err := unix.SendmsgN(int(c), data, nil, nil, unix.MSG_NOSIGNAL)
			data = data[max(n, 0):]
			counts.Sent += int64(max(n, 0))
			return err
		})
		if err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// read reads so many bytes.
func (c conn) read(size int, counts *Counts) error {
	for buf := make([]byte, size); len(buf) > 0; {
		n, err := c.readSome(buf)
		switch {
		case err != nil:
			return err
		case n == 0 && len(buf) == size:
			return errEnd
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		buf = buf[n:]
		counts.Received += int64(n)
	}
	return nil
}

// readSome reads what there is, and 0 at the end.
func (c conn) readSome(buf []byte) (n int, err error) {
	err = again(func() error {
		n, err = unix.Read(int(c), buf)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reading: %w", err)
	}
	return n, nil
}

// readUntil reads what comes first, if anything does until then, and tells whether more can come.
func (c conn) readUntil(due time.Time, buf []byte, counts *Counts) (more bool, err error) {
	timeout := unix.NsecToTimespec(max(0, int64(time.Until(due))))
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(c), Events: unix.POLLIN}}, &timeout, nil)
	if errors.Is(err, unix.EINTR) || n == 0 {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("waiting for something to read: %w", err)
	}
	n, err = c.readSome(buf)
	counts.Received += int64(n)
	return n > 0, err
}

// readEnd is until the other end has closed the connection.
func (c conn) readEnd() error {
	if n, err := c.readSome(make([]byte, 1)); err != nil || n != 0 {
		return fmt.Errorf("%d bytes instead of the end: %w", n, err)
	}
	return nil
}

// readReset is until the other end has reset the connection.
func (c conn) readReset() error {
	if n, err := c.readSome(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%d bytes instead of a reset: %w", n, err)
	}
	return nil
}

// resets has close send a reset.
func (c conn) resets() error {
	return unix.SetsockoptLinger(int(c), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// window is the congestion window, in segments.
func (c conn) window() (uint32, error) {
	info, err := unix.GetsockoptTCPInfo(int(c), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("reading TCP_INFO: %w", err)
	}
	return info.Snd_cwnd, nil
}
