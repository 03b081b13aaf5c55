package tcp

//go:generate go tool bpf2go -cc clang-19 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror" -no-global-types -type conn -type trace_kind -type trace_ends -type conn_flags -type conn_error -type stall_cause -type tcp_process -type datagram_counts -type datagram_audit -type stall_event -type netns_found -type synack_counts -type hist_chunk -type pool -type owner bpf ../../bpf/tcp.bpf.c
