/* SPDX-License-Identifier: MIT */
/* See ordered.h. The header's insertion descends by comparing; here it follows the way that the search has
 * gone just before, so that each content is read once. A way fits into 64 turns: a red-black tree of n nodes
 * is at most 2 log2(n + 1) high, and a node needs 64 bytes. */
#include "core/ordered.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define SHARD_BITS 6
#define TURNS_MAX  64

struct node_block {
    struct sp_block head;
    uint64_t present; /* which nodes there are: one bit each */
    uint64_t ordered; /* which of them are in the tree */
    struct sp_ordered_node node[SP_BLOCK_PAGES];
};

static int follow(struct sp_ordered_node *node, struct sp_ordered_node *unused) {
    int right = (int)(node->path & 1);
    node->path >>= 1;
    return right ? 1 : -1;
}

/* Debian's libbsd leaves this out, because headers of the kernel use the name; its sys/tree.h needs it. */
#ifndef __unused
#define __unused __attribute__((unused))
#endif
RB_GENERATE_STATIC(sp_ordered_root, sp_ordered_node, link, follow)

/* The blocks are made for store pages; here they hold whatever has numbers. */
static sp_store_page place_of(uint64_t number) {
    return (sp_store_page){number};
}

static uint64_t bit_of(const struct sp_ordered_node *node) {
    return UINT64_C(1) << node->number % SP_BLOCK_PAGES;
}

static struct node_block *block_of(const struct sp_ordered_node *node) {
    uintptr_t first = (uintptr_t)(node - node->number % SP_BLOCK_PAGES);
    return (struct node_block *)(first - offsetof(struct node_block, node));
}

void sp_ordered_init(struct sp_ordered *o, const struct sp_alloc *alloc, sp_ordered_content *content,
                     void *ctx) {
    *o = (struct sp_ordered){.content = content, .ctx = ctx};
    sp_blocks_init(&o->blocks, alloc, sizeof(struct node_block), SHARD_BITS);
}

void sp_ordered_deinit(struct sp_ordered *o) {
    sp_blocks_deinit(&o->blocks);
    RB_INIT(&o->root);
    o->nodes = 0;
}

struct sp_ordered_node *sp_ordered_node(struct sp_ordered *o, uint64_t number) {
    struct node_block *b = (struct node_block *)sp_blocks_find(&o->blocks, place_of(number));
    unsigned slot = sp_block_slot(place_of(number));
    return b && b->present >> slot & 1 ? &b->node[slot] : NULL;
}

struct sp_ordered_node *sp_ordered_node_get(struct sp_ordered *o, uint64_t number) {
    struct node_block *b = (struct node_block *)sp_blocks_get(&o->blocks, place_of(number));
    if (!b)
        return NULL;
    struct sp_ordered_node *node = &b->node[sp_block_slot(place_of(number))];
    if (!(b->present >> sp_block_slot(place_of(number)) & 1)) {
        *node = (struct sp_ordered_node){.number = number};
        b->present |= bit_of(node);
        b->head.used++;
    }
    return node;
}

void sp_ordered_node_drop(struct sp_ordered *o, struct sp_ordered_node *node) {
    struct node_block *b = block_of(node);
    sp_ordered_remove(o, node);
    b->present &= ~bit_of(node);
    b->head.used--;
    sp_blocks_trim(&o->blocks, &b->head);
}

enum sp_ordered_found sp_ordered_search(struct sp_ordered *o, const void *content,
                                        struct sp_ordered_node **ret_node, uint64_t *ret_path) {
    struct sp_ordered_node *node = RB_ROOT(&o->root);
    uint64_t path = 0;
    for (unsigned turn = 0; node; turn++) {
        const void *there = o->content(o->ctx, node->number);
        int order = there ? memcmp(content, there, SP_PAGE_SIZE) : 0;
        o->compared++;
        if (order == 0) {
            *ret_node = node;
            return there ? SP_ORDERED_EQUAL : SP_ORDERED_LOST;
        }
        assert(turn < TURNS_MAX);
        path |= (uint64_t)(order > 0) << turn;
        node = order > 0 ? RB_RIGHT(node, link) : RB_LEFT(node, link);
    }
    *ret_path = path;
    return SP_ORDERED_NONE;
}

bool sp_ordered_has(const struct sp_ordered_node *node) {
    return block_of(node)->ordered & bit_of(node);
}

void sp_ordered_insert(struct sp_ordered *o, struct sp_ordered_node *node, uint64_t path) {
    assert(!sp_ordered_has(node));
    node->path = path;
    RB_INSERT(sp_ordered_root, &o->root, node);
    block_of(node)->ordered |= bit_of(node);
    o->nodes++;
}

void sp_ordered_remove(struct sp_ordered *o, struct sp_ordered_node *node) {
    if (!sp_ordered_has(node))
        return;
    RB_REMOVE(sp_ordered_root, &o->root, node);
    block_of(node)->ordered &= ~bit_of(node);
    o->nodes--;
}

void sp_ordered_clear(struct sp_ordered *o) {
    for (struct sp_block *b = o->blocks.first; b; b = b->next)
        ((struct node_block *)b)->ordered = 0;
    RB_INIT(&o->root);
    o->nodes = 0;
}
