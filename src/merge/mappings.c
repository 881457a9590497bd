/* SPDX-License-Identifier: MIT */
/*
 * How many mappings may still be added to the process (H4): counted, because the application makes and
 * unmakes its own. Counting reads a line for each of them, 0.1 s for 200,000, so it is not done unless it
 * matters: before something is merged, and while pages may be waiting for mappings that become free. And the
 * longer it takes, the more seldom.
 */
#include "merge/state.h"
#include "os/proc.h"

#define COUNT_NS     UINT64_C(1000000000)
#define FAR_COUNT_NS (5 * COUNT_NS) /* where it is far from the limit */
/* The part of a processor that counting may take. */
#define MERGING_PART 50
#define WAITING_PART 400
/* This part of the mappings that a process may use is kept for long runs, which may come when scattered pages
 * have used the others. */
#define LONG_PART 16

void sp_mappings_count(struct sp_worker *w) {
    uint64_t used, most, cpu_ns = sp_thread_cpu_ns();
    w->mappings_left = w->mappings_long = 0;
    w->counted_ns = sp_now_ns();
    w->count_least_ns = COUNT_NS;
    if (!sp_proc_map_count(&used) && !sp_proc_max_map_count(&most)) {
        uint64_t allowed = most / 100 * w->engine->settings.v[SP_SETTING_map_percent];
        w->mappings_left = used < allowed ? allowed - used : 0;
        w->mappings_long = allowed / LONG_PART;
        if (used < allowed / 2)
            w->count_least_ns = FAR_COUNT_NS;
    }
    w->count_took_ns = sp_thread_cpu_ns() - cpu_ns;
}

static bool is_due(const struct sp_worker *w, uint64_t part) {
    uint64_t pause = w->count_took_ns * part;
    return sp_now_ns() - w->counted_ns >= (pause > w->count_least_ns ? pause : w->count_least_ns);
}

void sp_mappings_before_pass(struct sp_worker *w) {
    bool scarce = w->mappings_left < SP_RUN_MAPPINGS + w->mappings_long;
    if (!w->counted_ns || (scarce && is_due(w, WAITING_PART)))
        sp_mappings_count(w);
}

void sp_mappings_before_merge(struct sp_worker *w) {
    if (is_due(w, MERGING_PART))
        sp_mappings_count(w);
}
