package io

//go:generate go tool bpf2go -cc clang-19 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror" -no-global-types -type trace_kind -type io_row -type io_row_key -type io_sleep -type io_via -type io_op -type io_file -type io_file_key -type io_slowest -type dirty_inode -type dirty_folio -type inode_kind -type io_request -type transaction -type transaction_key -type transaction_write -type share -type share_key -type hist_chunk -type hist_rule -type sweep -type pool -type loss -type owner bpf ../../bpf/io.bpf.c
