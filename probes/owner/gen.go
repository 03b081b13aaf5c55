package owner

//go:generate go tool bpf2go -cc clang-19 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror" -no-global-types -type process -type identity -type name -type pool -type process_key -type name_key -type owner -type process_flags -type followed -type loss bpf ../../bpf/owner.bpf.c
