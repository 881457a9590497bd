/* SPDX-License-Identifier: MIT */
/*
 * The pace that a process has set for itself (struct sp_pace): the work between two passes, hints included,
 * is paid for by the pause that follows.
 */
#include "merge/state.h"

/* A pause longer than this is as good as none; and sums stay small. */
#define PAUSE_MAX_NS (UINT64_C(24) * 3600 * 1000000000)

void sp_pace_begin(struct sp_worker *w) {
    const uint64_t *v = w->engine->counters.v;
    w->paced_scans = v[SP_COUNTER_pages_scanned];
    w->paced_merges = v[SP_COUNTER_pages_merged];
}

/* How many times `bound` fits into what came since; 1 at least. */
static uint64_t rounds(uint64_t now, uint64_t before, uint64_t bound) {
    uint64_t n = bound ? (now - before + bound - 1) / bound : 1;
    return n ? n : 1;
}

uint64_t sp_pace_pause_ns(const struct sp_worker *w, uint64_t wanted_ns) {
    const struct sp_pace *pace = &w->engine->pace;
    const uint64_t *v = w->engine->counters.v;
    uint64_t scans = rounds(v[SP_COUNTER_pages_scanned], w->paced_scans, pace->scan_pages);
    uint64_t merges = rounds(v[SP_COUNTER_pages_merged], w->paced_merges, pace->merge_pages);
    uint64_t pause;
    if (__builtin_mul_overflow(pace->sleep_ns, scans > merges ? scans : merges, &pause) ||
        pause > PAUSE_MAX_NS)
        pause = PAUSE_MAX_NS;
    return pause > wanted_ns ? pause : wanted_ns;
}
