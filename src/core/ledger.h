/* SPDX-License-Identifier: MIT */
/*
 * What a client holds: for each store page how many references, and how many of these were given back but
 * must stay until forked children have gone (H6). A deferred reference is still held: held >= deferred for
 * every page. Internal to core/.
 */
#ifndef SP_CORE_LEDGER_H
#define SP_CORE_LEDGER_H

#include "core/blocks.h"

/* Counts for store pages, most of them 0. */
struct sp_counts {
    struct sp_blocks blocks;
    uint64_t total;
};

struct sp_deferral {
    sp_store_page first;
    uint64_t n;
    uint64_t epoch;
};

struct sp_deferral_node;

struct sp_ledger {
    const struct sp_alloc *alloc;
    struct sp_counts held;
    struct sp_counts deferred;
    /* The queue of deferrals, in the order of their epochs. */
    struct sp_deferral_node *head, *tail;
    uint64_t epoch_last; /* of the latest deferral */
    uint64_t epoch_done; /* everything up to it has taken effect */
};

void sp_ledger_init(struct sp_ledger *l, const struct sp_alloc *alloc);
void sp_ledger_deinit(struct sp_ledger *l);

/* One more reference. -ENOMEM, -EOVERFLOW. */
SP_WARN_UNUSED int sp_ledger_take(struct sp_ledger *l, sp_store_page page);
/* One fewer; it must be held. */
void sp_ledger_give(struct sp_ledger *l, sp_store_page page);

/* Whether one reference to each of the pages is held and not deferred yet. */
bool sp_ledger_covers(struct sp_ledger *l, sp_store_page first, uint64_t n);
/* Defers one reference to each of the pages, which the ledger covers. `epoch` is not
 * below epoch_last. -ENOMEM: nothing is changed. */
SP_WARN_UNUSED int sp_ledger_defer(struct sp_ledger *l, sp_store_page first, uint64_t n, uint64_t epoch);
/* Takes the next deferral off the queue whose epoch is at most `epoch`: its pages are no longer deferred, but
 * still held. False: there is none. */
bool sp_ledger_due(struct sp_ledger *l, uint64_t epoch, struct sp_deferral *ret);

/* How often the page at `slot` of a block of held.blocks is held. */
uint32_t sp_ledger_held_at(const struct sp_block *block, unsigned slot);

#endif
