/* SPDX-License-Identifier: MIT */
/* See ledger.h. */
#include "core/ledger.h"

#include <assert.h>
#include <errno.h>

#define SHARD_BITS     3
#define NODE_DEFERRALS 40

struct counts_block {
    struct sp_block head;
    uint32_t count[SP_BLOCK_PAGES];
};

struct sp_deferral_node {
    struct sp_deferral_node *next;
    unsigned from, to; /* those in use */
    struct sp_deferral deferral[NODE_DEFERRALS];
};

static void counts_init(struct sp_counts *c, const struct sp_alloc *alloc) {
    sp_blocks_init(&c->blocks, alloc, sizeof(struct counts_block), SHARD_BITS);
    c->total = 0;
}

static int counts_add(struct sp_counts *c, sp_store_page page) {
    struct counts_block *b = (struct counts_block *)sp_blocks_get(&c->blocks, page);
    if (!b)
        return -ENOMEM;
    uint32_t *count = &b->count[sp_block_slot(page)];
    if (*count == UINT32_MAX)
        return -EOVERFLOW;
    if ((*count)++ == 0)
        b->head.used++;
    c->total++;
    return 0;
}

static void counts_subtract(struct sp_counts *c, sp_store_page page) {
    struct counts_block *b = (struct counts_block *)sp_blocks_find(&c->blocks, page);
    assert(b && b->count[sp_block_slot(page)] > 0);
    c->total--;
    if (--b->count[sp_block_slot(page)] == 0) {
        b->head.used--;
        sp_blocks_trim(&c->blocks, &b->head);
    }
}

static uint32_t counts_get(struct sp_counts *c, sp_store_page page) {
    const struct counts_block *b = (const struct counts_block *)sp_blocks_find(&c->blocks, page);
    return b ? b->count[sp_block_slot(page)] : 0;
}

void sp_ledger_init(struct sp_ledger *l, const struct sp_alloc *alloc) {
    *l = (struct sp_ledger){.alloc = alloc};
    counts_init(&l->held, alloc);
    counts_init(&l->deferred, alloc);
}

static void queue_pop_node(struct sp_ledger *l) {
    struct sp_deferral_node *node = l->head;
    l->head = node->next;
    if (!l->head)
        l->tail = NULL;
    sp_alloc_put(l->alloc, node, sizeof *node);
}

void sp_ledger_deinit(struct sp_ledger *l) {
    sp_blocks_deinit(&l->held.blocks);
    sp_blocks_deinit(&l->deferred.blocks);
    while (l->head)
        queue_pop_node(l);
}

int sp_ledger_take(struct sp_ledger *l, sp_store_page page) {
    return counts_add(&l->held, page);
}

void sp_ledger_give(struct sp_ledger *l, sp_store_page page) {
    counts_subtract(&l->held, page);
}

bool sp_ledger_covers(struct sp_ledger *l, sp_store_page first, uint64_t n) {
    uint64_t end;
    if (__builtin_add_overflow(first.v, n, &end))
        return false;
    for (sp_store_page p = first; p.v < end; p.v++)
        if (counts_get(&l->held, p) <= counts_get(&l->deferred, p))
            return false;
    return true;
}

/* Makes room for one more deferral behind the last. */
static int queue_reserve(struct sp_ledger *l) {
    if (l->tail && l->tail->to < NODE_DEFERRALS)
        return 0;
    struct sp_deferral_node *node = sp_alloc_get(l->alloc, sizeof *node);
    if (!node)
        return -ENOMEM;
    if (l->tail)
        l->tail->next = node;
    else
        l->head = node;
    l->tail = node;
    return 0;
}

static void queue_push(struct sp_ledger *l, struct sp_deferral d) {
    struct sp_deferral_node *node = l->tail;
    struct sp_deferral *last = node->to > node->from ? &node->deferral[node->to - 1] : NULL;
    if (last && last->epoch == d.epoch && last->first.v + last->n == d.first.v)
        last->n += d.n;
    else
        node->deferral[node->to++] = d;
}

static void counts_subtract_range(struct sp_counts *c, sp_store_page first, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        counts_subtract(c, (sp_store_page){first.v + i});
}

/* All or nothing. */
static int counts_add_range(struct sp_counts *c, sp_store_page first, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        int r = counts_add(c, (sp_store_page){first.v + i});
        if (r < 0) {
            counts_subtract_range(c, first, i);
            return r;
        }
    }
    return 0;
}

int sp_ledger_defer(struct sp_ledger *l, sp_store_page first, uint64_t n, uint64_t epoch) {
    int r = queue_reserve(l);
    if (r < 0)
        return r;
    r = counts_add_range(&l->deferred, first, n);
    if (r < 0)
        return r;
    l->epoch_last = epoch;
    queue_push(l, (struct sp_deferral){first, n, epoch});
    return 0;
}

/* Room that was made and not used is found by sp_ledger_due at the latest. */
bool sp_ledger_due(struct sp_ledger *l, uint64_t epoch, struct sp_deferral *ret) {
    while (l->head && l->head->from == l->head->to)
        queue_pop_node(l);
    if (!l->head || l->head->deferral[l->head->from].epoch > epoch)
        return false;
    *ret = l->head->deferral[l->head->from++];
    counts_subtract_range(&l->deferred, ret->first, ret->n);
    return true;
}

uint32_t sp_ledger_held_at(const struct sp_block *block, unsigned slot) {
    return ((const struct counts_block *)block)->count[slot];
}
