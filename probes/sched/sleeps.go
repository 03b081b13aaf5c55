package sched

import "golang.org/x/sys/unix"

const syscalls = 512 // SYSCALLS of bpf/lib/sleep.bpf.h

// sleepKinds tell of system calls, by number, what a thread that sleeps in them waits for.
func sleepKinds() (kinds [syscalls]uint8) {
	set := func(kind bpfSleepKind, numbers ...int) {
		for _, n := range numbers {
			kinds[n] = uint8(kind)
		}
	}
	set(bpfSleepKindSLEEP_FILE, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2,
		unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
		unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_SENDFILE)
	set(bpfSleepKindSLEEP_POLL, unix.SYS_PPOLL)
	set(bpfSleepKindSLEEP_LOCK, unix.SYS_FUTEX, unix.SYS_FUTEX_WAITV, unix.SYS_FUTEX_WAIT, unix.SYS_FLOCK, unix.SYS_FCNTL, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP)
	set(bpfSleepKindSLEEP_EVENTS, unix.SYS_PSELECT6, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_IO_URING_ENTER)
	for number, kind := range olderSleepKinds {
		set(kind, number)
	}
	return kinds
}
