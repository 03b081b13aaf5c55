package sched

import "golang.org/x/sys/unix"

// olderSleepKinds are of system calls that only older architectures have.
var olderSleepKinds = map[int]bpfSleepKind{
	unix.SYS_POLL: bpfSleepKindSLEEP_POLL, unix.SYS_SELECT: bpfSleepKindSLEEP_EVENTS, unix.SYS_EPOLL_WAIT: bpfSleepKindSLEEP_EVENTS,
}
