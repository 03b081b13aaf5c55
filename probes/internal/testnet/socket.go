package testnet

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket are options of a TCP socket; those that it accepts inherit them. Nothing set is the kernel's default, without
// TCP_NODELAY, keep-alive probes and Multipath TCP, which package net would ask for.
type Socket struct {
	NoDelay        bool
	Congestion     string // "cubic"
	RcvBuf, SndBuf int    // bytes, of which the kernel makes twice as many
	PacingRate     uint64 // bytes/s at most
}

func (s Socket) apply(fd int) error {
	if s.NoDelay {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("setting TCP_NODELAY: %w", err)
		}
	}
	if s.Congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, s.Congestion); err != nil {
			return fmt.Errorf("choosing congestion control %s: %w", s.Congestion, err)
		}
	}
	if s.RcvBuf != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, s.RcvBuf); err != nil {
			return fmt.Errorf("setting SO_RCVBUF: %w", err)
		}
	}
	if s.SndBuf != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, s.SndBuf); err != nil {
			return fmt.Errorf("setting SO_SNDBUF: %w", err)
		}
	}
	if s.PacingRate != 0 {
		if err := unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, s.PacingRate); err != nil {
			return fmt.Errorf("setting SO_MAX_PACING_RATE: %w", err)
		}
	}
	return nil
}

// control is what package net calls before it connects or listens.
func (s Socket) control(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = s.apply(int(fd)) }); err != nil {
		return err
	}
	return failed
}
