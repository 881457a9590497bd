/* SPDX-License-Identifier: MIT */
/*
 * A histogram of durations with a relative error of at most 12.5 %: 8 buckets for each power of two, from 1
 * ns to 2^40 ns (18 minutes). Fixed size, so that it travels in a message and is written without an
 * allocation.
 */
#ifndef SP_CORE_HISTOGRAM_H
#define SP_CORE_HISTOGRAM_H

#include <stdint.h>

#define SP_HISTOGRAM_BUCKETS 320

struct sp_histogram {
    uint64_t max_ns; /* exact */
    uint32_t count[SP_HISTOGRAM_BUCKETS];
};

/* What is told of one in a hurry. All 0 when it is empty. */
struct sp_durations {
    uint64_t count, p50_ns, p99_ns, max_ns; /* as sp_histogram_total and sp_histogram_percentile have them */
};

void sp_histogram_add(struct sp_histogram *h, uint64_t ns);
void sp_histogram_merge(struct sp_histogram *into, const struct sp_histogram *from);
uint64_t sp_histogram_total(const struct sp_histogram *h);
/* The upper bound in ns of the bucket that holds the given percentile (0 < percent <= 100), at most max_ns; 0
 * if empty. */
uint64_t sp_histogram_percentile(const struct sp_histogram *h, double percent);
struct sp_durations sp_histogram_durations(const struct sp_histogram *h);

#endif
