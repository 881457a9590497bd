/* SPDX-License-Identifier: MIT */
/*
 * What the worker owes the index: references to give back, and fingerprints to forget. Collected under the
 * engine's lock, wherever a page stops being what the index believes, and sent by the worker between two
 * passes. When memory is short an entry is dropped: a reference is then kept until the process ends, a
 * forgotten fingerprint proposes a twin that is not one; both are safe (I8).
 */
#ifndef SP_MERGE_DEBTS_H
#define SP_MERGE_DEBTS_H

#include "core/alloc.h"
#include "core/domain.h"
#include "core/types.h"

struct sp_debts {
    const struct sp_alloc *alloc;
    struct sp_store_run *runs; /* references to give back */
    size_t n_runs, room_runs;
    struct sp_query *forgets;
    size_t n_forgets, room_forgets;
    uint64_t dropped; /* references that could not be remembered */
};

void sp_debts_init(struct sp_debts *d, const struct sp_alloc *alloc);
void sp_debts_deinit(struct sp_debts *d);
/* One reference to `page` is no longer needed. */
void sp_debts_release(struct sp_debts *d, sp_store_page page);
/* The index must no longer propose `page` for `fp`. */
void sp_debts_forget(struct sp_debts *d, sp_page page, sp_fp fp);
/* The index itself has gone: nothing is owed. */
void sp_debts_clear(struct sp_debts *d);

#endif
