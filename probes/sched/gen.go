package sched

//go:generate go tool bpf2go -cc clang-19 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror" -no-global-types -type thread -type cpu -type chapter -type sched_process -type flow -type culprit_key -type off -type sleep_kind -type exemplar -type hist_chunk -type pool -type owner bpf ../../bpf/sched.bpf.c
