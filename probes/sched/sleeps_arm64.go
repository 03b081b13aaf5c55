package sched

// olderSleepKinds are of system calls that only older architectures have.
var olderSleepKinds map[int]bpfSleepKind
