/* SPDX-License-Identifier: MIT */
/*
 * See plan.h. A window has at most 512 runs and a run at most 512 pages, so the budget is spent by counting
 * the runs of each length: no sorting by length, no memory.
 */
#include "core/plan.h"

#include <string.h>

static bool is_zero(sp_store_page p) {
    return p.v == SP_STORE_ZERO.v;
}

/* Whether `site` carries `run` on: the next slot, and the next page of the same segment (or zeros both). */
static bool continues(const struct sp_run *run, const struct sp_site *site) {
    if (site->slot != run->slot + run->pages)
        return false;
    if (is_zero(run->store) || is_zero(site->store))
        return is_zero(run->store) && is_zero(site->store);
    return site->store.v == run->store.v + run->pages && site->store.v % SP_SEGMENT_PAGES != 0;
}

size_t sp_plan_runs(const struct sp_site *sites, size_t n, struct sp_run *ret_runs) {
    size_t runs = 0;
    for (size_t i = 0; i < n; i++) {
        if (runs > 0 && continues(&ret_runs[runs - 1], &sites[i]))
            ret_runs[runs - 1].pages++;
        else
            ret_runs[runs++] = (struct sp_run){sites[i].slot, 1, sites[i].store};
    }
    return runs;
}

static size_t length_of(const struct sp_run *run) {
    return run->pages < SP_WINDOW_PAGES ? run->pages : SP_WINDOW_PAGES;
}

/* By slot; what sp_plan_runs made is in order already, which costs one look at each. */
static void sort_by_slot(struct sp_run *runs, size_t n) {
    for (size_t i = 1; i < n; i++) {
        struct sp_run run = runs[i];
        size_t to = i;
        for (; to > 0 && runs[to - 1].slot > run.slot; to--)
            runs[to] = runs[to - 1];
        runs[to] = run;
    }
}

/* All runs longer than `length` are kept, and the first `more` of exactly that length. */
struct threshold {
    size_t length;
    uint64_t more;
};

/* `for_long` of `runs_max` are for long runs. */
static struct threshold threshold_find(const struct sp_run *runs, size_t n, uint64_t runs_max,
                                       uint64_t for_long) {
    uint64_t of_length[SP_WINDOW_PAGES + 1];
    memset(of_length, 0, sizeof of_length);
    for (size_t i = 0; i < n; i++)
        if (!is_zero(runs[i].store))
            of_length[length_of(&runs[i])]++;
    for (size_t length = SP_WINDOW_PAGES; length > 0; length--) {
        if (length == SP_RUN_LONG - 1)
            runs_max = runs_max > for_long ? runs_max - for_long : 0;
        if (of_length[length] > runs_max)
            return (struct threshold){length, runs_max};
        runs_max -= of_length[length];
    }
    return (struct threshold){0, 0};
}

size_t sp_plan_budget(struct sp_run *runs, size_t n, uint64_t mappings_left, uint64_t for_long) {
    sort_by_slot(runs, n);
    struct threshold t = threshold_find(runs, n, mappings_left / SP_RUN_MAPPINGS, for_long / SP_RUN_MAPPINGS);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct sp_run run = runs[i];
        bool keep = is_zero(run.store) || length_of(&run) > t.length;
        if (!keep && length_of(&run) == t.length && t.more > 0) {
            t.more--;
            keep = true;
        }
        if (keep) {
            runs[i] = runs[kept];
            runs[kept++] = run;
        }
    }
    return kept;
}
