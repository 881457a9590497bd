/* SPDX-License-Identifier: MIT */
/*
 * How fast a process merges: by its own wish (struct sp_pace), and as its domain allows (max_pages_to_merge,
 * of which it has a share). The work between two passes, hints included, is paid for by the pause that
 * follows. A pass ends with the window in which it has merged what it may, so that the pauses stay near to
 * what was meant.
 */
#include "merge/state.h"

#define NS_PER_MS UINT64_C(1000000)
/* A pause longer than this is as good as none; and sums stay small. */
#define PAUSE_MAX_NS (UINT64_C(24) * 3600 * 1000000000)

void sp_pace_begin(struct sp_worker *w) {
    const uint64_t *v = w->engine->counters.v;
    w->paced_scans = v[SP_COUNTER_pages_scanned];
    w->paced_merges = v[SP_COUNTER_pages_merged];
}

static uint64_t scanned(const struct sp_worker *w) {
    return w->engine->counters.v[SP_COUNTER_pages_scanned] - w->paced_scans;
}

static uint64_t merged(const struct sp_worker *w) {
    return w->engine->counters.v[SP_COUNTER_pages_merged] - w->paced_merges;
}

/* 0: none. */
static uint64_t domain_bound(const struct sp_worker *w) {
    uint64_t bound = w->engine->settings.v[SP_SETTING_max_pages_to_merge];
    return bound == SP_UNBOUNDED_PAGES ? 0 : bound;
}

bool sp_pace_is_used(const struct sp_worker *w) {
    const struct sp_pace *pace = &w->engine->pace;
    uint64_t bound = domain_bound(w), pages = merged(w);
    return (bound && pages >= bound) || (pace->sleep_ns && pages >= pace->merge_pages);
}

/* How many times `bound` fits into what came since; 1 at least. */
static uint64_t rounds(uint64_t pages, uint64_t bound) {
    uint64_t n = bound ? (pages + bound - 1) / bound : 1;
    return n ? n : 1;
}

static uint64_t times(uint64_t sleep_ns, uint64_t n) {
    uint64_t pause;
    return __builtin_mul_overflow(sleep_ns, n, &pause) || pause > PAUSE_MAX_NS ? PAUSE_MAX_NS : pause;
}

uint64_t sp_pace_pause_ns(const struct sp_worker *w, uint64_t wanted_ns) {
    const struct sp_pace *pace = &w->engine->pace;
    uint64_t scans = rounds(scanned(w), pace->scan_pages), merges = rounds(merged(w), pace->merge_pages);
    uint64_t own = times(pace->sleep_ns, scans > merges ? scans : merges);
    uint64_t sleep_ns = w->engine->settings.v[SP_SETTING_sleep_millisecs] * NS_PER_MS;
    uint64_t allowed = domain_bound(w) ? times(sleep_ns, rounds(merged(w), domain_bound(w))) : 0;
    uint64_t pause = own > allowed ? own : allowed;
    return pause > wanted_ns ? pause : wanted_ns;
}
