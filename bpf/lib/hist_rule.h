/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * The bucket rule of every histogram of durations, written here only. It is
 * pure C: a test compiles it for the host and holds the Go reader against it.
 *
 * A duration is counted in units of 16 ns. The first octave is linear (0..15
 * units); each further one spans a factor of two in 16 equal buckets. From
 * 256 ns on, a bucket's width is at most 1/16 of its lower bound, so its middle is
 * at most 3.2 % from any value in it. The last bucket begins at 266 s and
 * takes everything beyond.
 */
#pragma once

enum hist_rule {
	HIST_UNIT_SHIFT = 4,
	HIST_SUB_BITS = 4,
	HIST_SUBS = 1 << HIST_SUB_BITS,
	HIST_OCTAVES = 32,
};

/* hist_bucket returns octave * HIST_SUBS + sub. */
static inline __attribute__((always_inline)) unsigned int hist_bucket(unsigned long long ns)
{
	unsigned long long v = ns >> HIST_UNIT_SHIFT;
	unsigned int msb = 0, octave;

	if (v < HIST_SUBS)
		return v;
	if (v >> (HIST_OCTAVES + HIST_SUB_BITS - 1))
		return HIST_OCTAVES * HIST_SUBS - 1;
	/* v < 2^35: the position of its highest bit, in five steps. */
	if (v >> 32) {
		msb += 32;
		v >>= 32;
	}
	if (v >> 16) {
		msb += 16;
		v >>= 16;
	}
	if (v >> 8) {
		msb += 8;
		v >>= 8;
	}
	if (v >> 4) {
		msb += 4;
		v >>= 4;
	}
	if (v >> 2) {
		msb += 2;
		v >>= 2;
	}
	msb += v >> 1;
	octave = msb - HIST_SUB_BITS + 1;
	v = ns >> HIST_UNIT_SHIFT;
	return octave * HIST_SUBS + ((v >> (msb - HIST_SUB_BITS)) & (HIST_SUBS - 1));
}
