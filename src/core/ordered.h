/* SPDX-License-Identifier: MIT */
/*
 * Pages in the order of their contents, in a red-black tree: sys/tree.h of the BSDs (Debian's libbsd), whose
 * nodes lie in memory of the user's and which calls nothing. The tree holds no contents: every comparison
 * reads the page that a node stands for, through a function that is passed in.
 *
 * There is a node for each number that is known, whether it is in the tree or not; nodes lie in blocks of 64
 * neighbours (blocks.h), 64 bytes each with what the allocator adds. What pages contain may change while they
 * are in the tree: then a search may fail to find what is there, but the tree stays a tree. Internal to
 * core/.
 */
#ifndef SP_CORE_ORDERED_H
#define SP_CORE_ORDERED_H

#include <bsd/sys/tree.h>

#include "core/blocks.h"

struct sp_ordered_node {
    RB_ENTRY(sp_ordered_node) link;
    uint64_t number;   /* of the page */
    uint64_t path;     /* while it is put into the tree: the turns on the way to its place */
    uint32_t checksum; /* the user's */
};

RB_HEAD(sp_ordered_root, sp_ordered_node);

/* The content of a page, SP_PAGE_SIZE bytes that stay until the next call; NULL: it cannot be had. */
typedef const void *sp_ordered_content(void *ctx, uint64_t number);

struct sp_ordered {
    struct sp_blocks blocks;
    struct sp_ordered_root root;
    uint64_t nodes;    /* in the tree */
    uint64_t compared; /* contents, so far */
    sp_ordered_content *content;
    void *ctx;
};

void sp_ordered_init(struct sp_ordered *o, const struct sp_alloc *alloc, sp_ordered_content *content,
                     void *ctx);
void sp_ordered_deinit(struct sp_ordered *o);

/* The node of the page, or NULL; the same, made when there is none (NULL: no memory). */
struct sp_ordered_node *sp_ordered_node(struct sp_ordered *o, uint64_t number);
struct sp_ordered_node *sp_ordered_node_get(struct sp_ordered *o, uint64_t number);
/* Out of the tree, if it is in it, and out of existence. */
void sp_ordered_node_drop(struct sp_ordered *o, struct sp_ordered_node *node);

enum sp_ordered_found {
    SP_ORDERED_NONE,  /* no page of the tree has this content */
    SP_ORDERED_EQUAL, /* *ret_node's has */
    SP_ORDERED_LOST,  /* *ret_node was on the way, and its content cannot be had: nothing is known */
};

/* Looks for a page with this content. SP_ORDERED_NONE: *ret_path is the way to where it would be, until the
 * tree changes. */
enum sp_ordered_found sp_ordered_search(struct sp_ordered *o, const void *content,
                                        struct sp_ordered_node **ret_node, uint64_t *ret_path);

bool sp_ordered_has(const struct sp_ordered_node *node);
/* Puts a node that is not in the tree where the search had ended. */
void sp_ordered_insert(struct sp_ordered *o, struct sp_ordered_node *node, uint64_t path);
/* Takes it out of the tree, if it is in it. Reads no content. */
void sp_ordered_remove(struct sp_ordered *o, struct sp_ordered_node *node);
/* Takes all out of the tree. */
void sp_ordered_clear(struct sp_ordered *o);

#endif
