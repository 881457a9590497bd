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
    uint64_t fp[SP_BLOCK_PAGES];
    uint32_t references[SP_BLOCK_PAGES]; /* 0: the page is not in the set */
};

void sp_stable_init(struct sp_stable *s, const struct sp_alloc *alloc) {
    *s = (struct sp_stable){0};
    sp_table_init(&s->table, alloc, SHARD_BITS);
    sp_blocks_init(&s->blocks, alloc, sizeof(struct stable_block), BLOCK_SHARD_BITS);
}

void sp_stable_deinit(struct sp_stable *s) {
    sp_table_deinit(&s->table);
    sp_blocks_deinit(&s->blocks);
}

bool sp_stable_find(const struct sp_stable *s, sp_fp fp, sp_store_page *ret_store) {
    return sp_table_find(&s->table, fp, &ret_store->v);
}

uint64_t sp_stable_references(const struct sp_stable *s, sp_store_page store) {
    const struct stable_block *b = (const struct stable_block *)sp_blocks_peek(&s->blocks, store);
    return b ? b->references[sp_block_slot(store)] : 0;
}

int sp_stable_add(struct sp_stable *s, sp_fp fp, sp_store_page store) {
    struct stable_block *b = (struct stable_block *)sp_blocks_get(&s->blocks, store);
    if (!b)
        return -ENOMEM;
    assert(b->references[sp_block_slot(store)] == 0);
    int r = sp_table_insert(&s->table, fp, store.v);
    if (r < 0) {
        sp_blocks_trim(&s->blocks, &b->head);
        return r;
    }
    b->fp[sp_block_slot(store)] = fp.v;
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

bool sp_stable_give(struct sp_stable *s, sp_store_page store, uint32_t n) {
    struct stable_block *b = (struct stable_block *)sp_blocks_find(&s->blocks, store);
    unsigned slot = sp_block_slot(store);
    assert(b && b->references[slot] >= n && n > 0);
    b->references[slot] -= n;
    s->references -= n;
    if (b->references[slot] > 0)
        return false;
    bool removed = sp_table_remove(&s->table, (sp_fp){b->fp[slot]}, store.v);
    assert(removed);
    (void)removed;
    s->pages--;
    b->head.used--;
    sp_blocks_trim(&s->blocks, &b->head);
    return true;
}
