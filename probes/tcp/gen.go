package tcp

//go:generate go tool bpf2go -cc clang-19 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror" -no-global-types -type conn -type conn_flags -type stall_cause -type tcp_process -type stall_event -type hist_chunk -type pool -type owner bpf ../../bpf/tcp.bpf.c
