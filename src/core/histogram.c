/* SPDX-License-Identifier: MIT */
/*
 * See histogram.h. A bucket is the exponent of a value and the three bits that follow its highest one. The
 * buckets of 1, 2 and 4 ns are finer than a nanosecond, so some of them stay empty; nobody minds.
 */
#include "core/histogram.h"

#define SUB_BITS 3

static unsigned bucket_of(uint64_t ns) {
    if (ns == 0)
        return 0;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(ns);
    if (exponent >= SP_HISTOGRAM_BUCKETS >> SUB_BITS)
        return SP_HISTOGRAM_BUCKETS - 1;
    unsigned sub = (unsigned)((ns << SUB_BITS) >> exponent) & ((1 << SUB_BITS) - 1);
    return (exponent << SUB_BITS) + sub;
}

/* The largest value that falls into the bucket. The last one has no end. */
static uint64_t bucket_upper_ns(unsigned bucket) {
    if (bucket == SP_HISTOGRAM_BUCKETS - 1)
        return UINT64_MAX;
    uint64_t next = (1 << SUB_BITS) + (bucket & ((1 << SUB_BITS) - 1)) + 1;
    unsigned exponent = bucket >> SUB_BITS;
    return (((next << exponent) + (1 << SUB_BITS) - 1) >> SUB_BITS) - 1;
}

/* Counts stop at their largest value rather than wrap. */
static void count_add(uint32_t *count, uint32_t n) {
    if (__builtin_add_overflow(*count, n, count))
        *count = UINT32_MAX;
}

void sp_histogram_add(struct sp_histogram *h, uint64_t ns) {
    count_add(&h->count[bucket_of(ns)], 1);
    if (ns > h->max_ns)
        h->max_ns = ns;
}

void sp_histogram_merge(struct sp_histogram *into, const struct sp_histogram *from) {
    for (unsigned i = 0; i < SP_HISTOGRAM_BUCKETS; i++)
        count_add(&into->count[i], from->count[i]);
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
}

uint64_t sp_histogram_total(const struct sp_histogram *h) {
    uint64_t total = 0;
    for (unsigned i = 0; i < SP_HISTOGRAM_BUCKETS; i++)
        total += h->count[i];
    return total;
}

/* Of `total` durations in it. */
static uint64_t percentile(const struct sp_histogram *h, uint64_t total, double percent) {
    double wanted = (double)total * percent / 100;
    uint64_t seen = 0;
    for (unsigned i = 0; i < SP_HISTOGRAM_BUCKETS; i++) {
        seen += h->count[i];
        if (h->count[i] && (double)seen >= wanted) {
            uint64_t upper = bucket_upper_ns(i);
            return upper < h->max_ns ? upper : h->max_ns;
        }
    }
    return h->max_ns;
}

uint64_t sp_histogram_percentile(const struct sp_histogram *h, double percent) {
    return percentile(h, sp_histogram_total(h), percent);
}

struct sp_durations sp_histogram_durations(const struct sp_histogram *h) {
    uint64_t count = sp_histogram_total(h);
    if (!count)
        return (struct sp_durations){0};
    return (struct sp_durations){.count = count,
                                 .p50_ns = percentile(h, count, 50),
                                 .p99_ns = percentile(h, count, 99),
                                 .max_ns = h->max_ns};
}
