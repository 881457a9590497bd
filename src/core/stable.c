/* SPDX-License-Identifier: MIT */
/* See stable.h. */
#include "core/stable.h"

#include <assert.h>
#include <errno.h>

#include "core/fingerprint.h"

/* 1,024 shards: at a hundred million pages one of them holds 2 MB, which is what growing needs on top, and
 * copying it takes about a millisecond. */
#define SHARD_BITS        10
#define BLOCK_SHARD_BITS  6
#define WINDOW_SHARD_BITS 3

struct stable_block {
    struct sp_block head;
    uint64_t closed; /* one bit for each page */
    uint64_t window; /* the probe by which its chunk is found as a whole; 0: not, or not any more */
    uint64_t fp[SP_BLOCK_PAGES];
    uint64_t probe[SP_BLOCK_PAGES];
    uint32_t references[SP_BLOCK_PAGES]; /* 0: the page is not in the set */
};

void sp_stable_init(struct sp_stable *s, const struct sp_alloc *alloc, struct sp_sieve *sieve) {
    *s = (struct sp_stable){.sieve = sieve};
    sp_table_init(&s->table, alloc, SHARD_BITS);
    sp_table_init(&s->probes, alloc, SHARD_BITS);
    sp_table_init(&s->windows, alloc, WINDOW_SHARD_BITS);
    sp_blocks_init(&s->blocks, alloc, sizeof(struct stable_block), BLOCK_SHARD_BITS);
}

void sp_stable_deinit(struct sp_stable *s) {
    sp_table_deinit(&s->table);
    sp_table_deinit(&s->probes);
    sp_table_deinit(&s->windows);
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

static sp_store_page chunk_first(sp_store_page store) {
    return (sp_store_page){store.v - store.v % SP_WINDOW_PAGES};
}

/* A store page is used once (I3), so that what was whole once never is again: the other blocks of the chunk
 * may keep what no longer leads to it. */
static void window_no_more(struct sp_stable *s, struct stable_block *b, sp_store_page store) {
    if (b->window)
        (void)sp_table_remove(&s->windows, (sp_fp){b->window}, chunk_first(store).v);
    b->window = 0;
}

/* By its fingerprint and its probe, where it has them. */
static void found_no_more(struct sp_stable *s, struct stable_block *b, unsigned slot, sp_store_page store) {
    window_no_more(s, b, store);
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

#define CHUNK_BLOCKS (SP_WINDOW_PAGES / SP_BLOCK_PAGES)

/* Whether each of its pages is found by its fingerprint. */
static bool block_is_whole(const struct stable_block *b) {
    bool whole = b && b->head.used == SP_BLOCK_PAGES && !b->closed;
    for (unsigned slot = 0; whole && slot < SP_BLOCK_PAGES; slot++)
        whole = b->fp[slot] != 0;
    return whole;
}

sp_fp sp_stable_window_made(struct sp_stable *s, sp_store_page store) {
    struct stable_block *blocks[CHUNK_BLOCKS];
    uint64_t probes[SP_WINDOW_PAGES];
    sp_store_page first = chunk_first(store), other;
    if (!block_is_whole((const struct stable_block *)sp_blocks_find(&s->blocks, store)))
        return (sp_fp){0};
    for (unsigned i = 0; i < CHUNK_BLOCKS; i++) {
        sp_store_page at = {first.v + i * SP_BLOCK_PAGES};
        blocks[i] = (struct stable_block *)sp_blocks_find(&s->blocks, at);
        if (!block_is_whole(blocks[i]))
            return (sp_fp){0};
        for (unsigned slot = 0; slot < SP_BLOCK_PAGES; slot++)
            probes[i * SP_BLOCK_PAGES + slot] = blocks[i]->probe[slot];
    }
    sp_fp probe = sp_window_probe(probes);
    if (sp_stable_window(s, probe, &other) || sp_table_insert(&s->windows, probe, first.v) < 0)
        return (sp_fp){0};
    for (unsigned i = 0; i < CHUNK_BLOCKS; i++)
        blocks[i]->window = probe.v;
    return probe;
}

bool sp_stable_window(const struct sp_stable *s, sp_fp probe, sp_store_page *ret_first) {
    return sp_table_find(&s->windows, probe, &ret_first->v);
}
