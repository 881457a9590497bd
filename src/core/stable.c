/* SPDX-License-Identifier: MIT */
/* See stable.h. */
#include "core/stable.h"

#include <assert.h>
#include <errno.h>

/* 1,024 shards: at a hundred million pages one of them holds 2 MB, which is what growing needs on top, and
 * copying it takes about a millisecond. */
#define SHARD_BITS       10
#define BLOCK_SHARD_BITS 6

struct stable_block {
    struct sp_block head;
    uint64_t closed; /* one bit for each page */
    uint64_t fp[SP_BLOCK_PAGES];
    uint64_t probe[SP_BLOCK_PAGES];
    uint32_t references[SP_BLOCK_PAGES]; /* 0: the page is not in the set */
};

void sp_stable_init(struct sp_stable *s, const struct sp_alloc *alloc, struct sp_sieve *sieve) {
    *s = (struct sp_stable){.sieve = sieve};
    sp_table_init(&s->table, alloc, SHARD_BITS);
    sp_table_init(&s->probes, alloc, SHARD_BITS);
    sp_blocks_init(&s->blocks, alloc, sizeof(struct stable_block), BLOCK_SHARD_BITS);
}

void sp_stable_deinit(struct sp_stable *s) {
    sp_table_deinit(&s->table);
    sp_table_deinit(&s->probes);
    sp_blocks_deinit(&s->blocks);
}

bool sp_stable_find(const struct sp_stable *s, sp_fp fp, sp_store_page *ret_store) {
    return sp_table_find(&s->table, fp, &ret_store->v);
}

bool sp_stable_probe(const struct sp_stable *s, sp_fp probe, sp_store_page *ret_store) {
    return sp_table_find(&s->probes, probe, &ret_store->v);
}

bool sp_stable_has_probe(struct sp_stable *s, sp_store_page store, sp_fp probe) {
    const struct stable_block *b = (const struct stable_block *)sp_blocks_find(&s->blocks, store);
    unsigned slot = sp_block_slot(store);
    return b && b->references[slot] > 0 && !(b->closed >> slot & 1) && b->probe[slot] == probe.v;
}

uint64_t sp_stable_references(const struct sp_stable *s, sp_store_page store) {
    const struct stable_block *b = (const struct stable_block *)sp_blocks_peek(&s->blocks, store);
    return b ? b->references[sp_block_slot(store)] : 0;
}

/* Makes the page found by its probe, or counts it as hidden. Where there is no memory for one, the other. */
static int probe_add(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store) {
    sp_store_page other;
    if (!sp_stable_probe(s, probe, &other) && sp_table_insert(&s->probes, probe, store.v) == 0)
        return 0;
    return sp_sieve_add(s->sieve, fp);
}

static void probe_remove(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store) {
    if (!sp_table_remove(&s->probes, probe, store.v))
        sp_sieve_remove(s->sieve, fp);
}

/* Makes the page found by its fingerprint and its probe. */
static int find_add(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store) {
    int r = probe_add(s, fp, probe, store);
    if (r < 0)
        return r;
    r = sp_table_insert(&s->table, fp, store.v);
    if (r < 0)
        probe_remove(s, fp, probe, store);
    return r;
}

static void find_remove(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store) {
    bool removed = sp_table_remove(&s->table, fp, store.v);
    assert(removed);
    (void)removed;
    probe_remove(s, fp, probe, store);
}

int sp_stable_add(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store) {
    struct stable_block *b = (struct stable_block *)sp_blocks_get(&s->blocks, store);
    if (!b)
        return -ENOMEM;
    assert(b->references[sp_block_slot(store)] == 0);
    int r = fp.v ? find_add(s, fp, probe, store) : 0;
    if (r < 0) {
        sp_blocks_trim(&s->blocks, &b->head);
        return r;
    }
    b->fp[sp_block_slot(store)] = fp.v;
    b->probe[sp_block_slot(store)] = probe.v;
    b->references[sp_block_slot(store)] = 1;
    b->head.used++;
    s->pages++;
    s->references++;
    return 0;
}

int sp_stable_take(struct sp_stable *s, sp_store_page store) {
    struct stable_block *b = (struct stable_block *)sp_blocks_find(&s->blocks, store);
    assert(b && b->references[sp_block_slot(store)] > 0);
    if (b->references[sp_block_slot(store)] == UINT32_MAX)
        return -EOVERFLOW;
    b->references[sp_block_slot(store)]++;
    s->references++;
    return 0;
}

static bool is_closed(const struct stable_block *b, unsigned slot) {
    return b->closed >> slot & 1;
}

/* By its fingerprint and its probe, where it has them. */
static void found_no_more(struct sp_stable *s, const struct stable_block *b, unsigned slot,
                          sp_store_page store) {
    if (b->fp[slot])
        find_remove(s, (sp_fp){b->fp[slot]}, (sp_fp){b->probe[slot]}, store);
}

void sp_stable_close(struct sp_stable *s, sp_store_page store) {
    struct stable_block *b = (struct stable_block *)sp_blocks_find(&s->blocks, store);
    unsigned slot = sp_block_slot(store);
    assert(b && b->references[slot] > 0);
    if (is_closed(b, slot))
        return;
    found_no_more(s, b, slot, store);
    b->closed |= UINT64_C(1) << slot;
    s->closed++;
}

bool sp_stable_give(struct sp_stable *s, sp_store_page store, uint32_t n) {
    struct stable_block *b = (struct stable_block *)sp_blocks_find(&s->blocks, store);
    unsigned slot = sp_block_slot(store);
    assert(b && b->references[slot] >= n && n > 0);
    b->references[slot] -= n;
    s->references -= n;
    if (b->references[slot] > 0)
        return false;
    if (!is_closed(b, slot))
        found_no_more(s, b, slot, store);
    s->closed -= is_closed(b, slot);
    b->closed &= ~(UINT64_C(1) << slot);
    s->pages--;
    b->head.used--;
    sp_blocks_trim(&s->blocks, &b->head);
    return true;
}
