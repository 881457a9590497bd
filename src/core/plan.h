/* SPDX-License-Identifier: MIT */
/*
 * Planning of runs: which pages of a window are remapped together. A run is the longest stretch of
 * consecutive pages of the client whose store pages are consecutive too, so that one mapping serves them all;
 * pages of zeros form runs of their own (they need no mapping). Mappings are a limited good (H4,
 * vm.max_map_count): the budget goes to the longest runs first, and a part of it to long runs only, because
 * those may come last.
 */
#ifndef SP_CORE_PLAN_H
#define SP_CORE_PLAN_H

#include "core/types.h"

/* A page of the window that may be merged: where, and onto what (a store page or SP_STORE_ZERO). */
struct sp_site {
    unsigned slot;
    sp_store_page store;
};

struct sp_run {
    unsigned slot;       /* first page, within the window */
    unsigned pages;      /* how many */
    sp_store_page store; /* of the first page; SP_STORE_ZERO for a run of zero pages */
};

/* Mappings that a run can add at most: itself and the cut of what was there. */
#define SP_RUN_MAPPINGS 2
/* From so many pages on a run is a long one. */
#define SP_RUN_LONG 16

/* Joins `sites` (ascending slots, no slot twice) into runs; never crosses a segment of the store. `ret_runs`
 * holds at least `n` entries. Returns their number. */
size_t sp_plan_runs(const struct sp_site *sites, size_t n, struct sp_run *ret_runs);

/*
 * Keeps the runs that fit into `mappings_left` mappings, longest first (ties: lower slot first); runs of
 * zeros are free. Of these mappings the last `for_long` are for long runs only. Kept runs come first, in
 * ascending slot order; the dropped ones follow, so that the caller can give their references back. Returns
 * how many are kept.
 */
size_t sp_plan_budget(struct sp_run *runs, size_t n, uint64_t mappings_left, uint64_t for_long);

#endif
