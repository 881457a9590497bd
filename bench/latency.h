/* SPDX-License-Identifier: MIT */
/* How long something took, for the programs that the benchmark measures; each thread has a histogram of its
 * own. */
#ifndef BENCH_LATENCY_H
#define BENCH_LATENCY_H

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "core/histogram.h"

static inline uint64_t latency_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* "N P50_NS P99_NS MAX_NS" */
static inline void latency_print(const struct sp_histogram *h) {
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", sp_histogram_total(h),
           sp_histogram_percentile(h, 50), sp_histogram_percentile(h, 99), h->max_ns);
}

#endif
