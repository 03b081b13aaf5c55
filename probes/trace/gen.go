package trace

//go:generate go tool bpf2go -cc clang-19 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror" -no-global-types -type trace_record -type trace_kind -type trace_chunk -type trace_cpu -type trace_notice -type notice -type trace_function bpf ../../bpf/trace.bpf.c
