/* SPDX-License-Identifier: MIT */
/*
 * A sparse array over store pages, in blocks of 64 that are got when first needed and given back when nothing
 * in them is used. Store pages are never used twice (I3), so their numbers grow for ever while only some of
 * them are alive: blocks are found by hashing their number, not by a directory that would grow too.
 * Internal to core/.
 */
#ifndef SP_CORE_BLOCKS_H
#define SP_CORE_BLOCKS_H

#include "core/table.h"

#define SP_BLOCK_PAGES 64

/* Stands at the start of each block; the user's part follows. */
struct sp_block {
    struct sp_block *previous, *next; /* all blocks, in the order of their making */
    uint64_t number;                  /* of its first store page, / SP_BLOCK_PAGES */
    uint64_t used;                    /* pages in use; kept by the user */
};

struct sp_blocks {
    const struct sp_alloc *alloc;
    size_t block_bytes; /* including struct sp_block */
    struct sp_table table;
    struct sp_block *first, *last;
    struct sp_block *recent; /* the one found last: store pages are asked for in runs */
};

void sp_blocks_init(struct sp_blocks *b, const struct sp_alloc *alloc, size_t block_bytes,
                    unsigned shard_bits);
void sp_blocks_deinit(struct sp_blocks *b);

/* The block of the store page, or NULL. */
struct sp_block *sp_blocks_find(struct sp_blocks *b, sp_store_page page);
const struct sp_block *sp_blocks_peek(const struct sp_blocks *b, sp_store_page page);
/* The same; makes a zeroed one when there is none. NULL: no memory. */
struct sp_block *sp_blocks_get(struct sp_blocks *b, sp_store_page page);
/* Gives the block back when no page of it is used. */
void sp_blocks_trim(struct sp_blocks *b, struct sp_block *block);

/* Puts the list of blocks into the order of their numbers. */
void sp_blocks_sort(struct sp_blocks *b);

static inline unsigned sp_block_slot(sp_store_page page) {
    return (unsigned)(page.v % SP_BLOCK_PAGES);
}

#endif
