/* SPDX-License-Identifier: MIT */
/* See blocks.h. */
#include "core/blocks.h"

/* Spreads block numbers over the table (a bijection that keeps 0, so no block has the key 0). */
static sp_fp key_of(uint64_t number) {
    uint64_t x = number + 1;
    x = (x ^ x >> 33) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ x >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return (sp_fp){x ^ x >> 33};
}

static uint64_t number_of(sp_store_page page) {
    return page.v / SP_BLOCK_PAGES;
}

void sp_blocks_init(struct sp_blocks *b, const struct sp_alloc *alloc, size_t block_bytes,
                    unsigned shard_bits) {
    *b = (struct sp_blocks){.alloc = alloc, .block_bytes = block_bytes};
    sp_table_init(&b->table, alloc, shard_bits);
}

void sp_blocks_deinit(struct sp_blocks *b) {
    for (struct sp_block *block = b->first, *next; block; block = next) {
        next = block->next;
        sp_alloc_put(b->alloc, block, b->block_bytes);
    }
    sp_table_deinit(&b->table);
    b->first = b->last = b->recent = NULL;
}

const struct sp_block *sp_blocks_peek(const struct sp_blocks *b, sp_store_page page) {
    uint64_t number = number_of(page), value;
    if (b->recent && b->recent->number == number)
        return b->recent;
    return sp_table_find(&b->table, key_of(number), &value) ? (const struct sp_block *)(uintptr_t)value
                                                            : NULL;
}

struct sp_block *sp_blocks_find(struct sp_blocks *b, sp_store_page page) {
    uint64_t number = number_of(page), value;
    if (b->recent && b->recent->number == number)
        return b->recent;
    if (!sp_table_find(&b->table, key_of(number), &value))
        return NULL;
    b->recent = (struct sp_block *)(uintptr_t)value;
    return b->recent;
}

struct sp_block *sp_blocks_get(struct sp_blocks *b, sp_store_page page) {
    struct sp_block *block = sp_blocks_find(b, page);
    if (block)
        return block;
    block = sp_alloc_get(b->alloc, b->block_bytes);
    if (!block)
        return NULL;
    block->number = number_of(page);
    if (sp_table_insert(&b->table, key_of(block->number), (uintptr_t)block) < 0) {
        sp_alloc_put(b->alloc, block, b->block_bytes);
        return NULL;
    }
    block->previous = b->last;
    if (b->last)
        b->last->next = block;
    else
        b->first = block;
    b->last = block;
    b->recent = block;
    return block;
}

void sp_blocks_trim(struct sp_blocks *b, struct sp_block *block) {
    if (block->used > 0)
        return;
    (void)sp_table_remove(&b->table, key_of(block->number), (uintptr_t)block);
    if (block->previous)
        block->previous->next = block->next;
    else
        b->first = block->next;
    if (block->next)
        block->next->previous = block->previous;
    else
        b->last = block->previous;
    if (b->recent == block)
        b->recent = NULL;
    sp_alloc_put(b->alloc, block, b->block_bytes);
}

/* Cuts the list behind its first `n` blocks; returns the rest. */
static struct sp_block *list_cut(struct sp_block *list, size_t n) {
    while (list && --n > 0)
        list = list->next;
    if (!list)
        return NULL;
    struct sp_block *rest = list->next;
    list->next = NULL;
    return rest;
}

/* Appends two sorted lists, merged, at `*tail`; returns the new tail. */
static struct sp_block **list_merge(struct sp_block **tail, struct sp_block *a, struct sp_block *b) {
    while (a || b) {
        struct sp_block **least = !b || (a && a->number <= b->number) ? &a : &b;
        *tail = *least;
        tail = &(*least)->next;
        *least = *tail;
    }
    *tail = NULL;
    return tail;
}

/* Merge sort from below: needs no memory. */
void sp_blocks_sort(struct sp_blocks *b) {
    bool done = false;
    for (size_t width = 1; !done; width *= 2) {
        struct sp_block *rest = b->first, **tail = &b->first;
        size_t pairs = 0;
        for (; rest; pairs++) {
            struct sp_block *left = rest;
            struct sp_block *right = list_cut(left, width);
            rest = list_cut(right, width);
            tail = list_merge(tail, left, right);
        }
        done = pairs <= 1;
    }
    b->last = NULL;
    for (struct sp_block *block = b->first; block; block = block->next) {
        block->previous = b->last;
        b->last = block;
    }
}
