/* SPDX-License-Identifier: MIT */
/*
 * The store of one domain: its segments, made when the index first places a page in them, and closed when
 * nothing in them is in use and nothing can be placed in them any more. Places come from the index, chunk
 * after chunk in ascending order; within the chunk that a client is filling, in any order. So a segment is
 * finished when a later one has been begun, no client fills a chunk of it, and each page that was placed has
 * been punched.
 *
 * Written by pwrite and not mapped, but for a moment in sp_segment_huge (H14). Never truncated, no offset
 * used twice (I3).
 */
#ifndef SP_DAEMON_STORE_H
#define SP_DAEMON_STORE_H

#include "core/node.h"
#include "os/filling.h"
#include "os/store.h"

struct store_segment {
    struct sp_segment file; /* -1, -1 when not open */
    bool open;
    uint64_t pages;   /* placed and not punched */
    uint64_t writers; /* clients whose current chunk lies here */
};

struct store {
    struct store_segment *segments; /* by number */
    uint64_t n;
};

#define STORE_SEGMENT_NONE UINT64_MAX

void store_deinit(struct store *s);

/* The index placed a page for a writer whose current segment is *segment (STORE_SEGMENT_NONE at first), which
 * is brought up to date. 0, or why there is no such segment: then the page must be punched all the same. */
SP_WARN_UNUSED int store_place(struct store *s, sp_store_page page, uint64_t *segment);
/* The writer has gone. */
void store_writer_gone(struct store *s, uint64_t segment);

/* Writes `n` pages from consecutive memory to consecutive pages of one segment, to lie on that node, or, with
 * SP_NODE_ANY, anywhere. */
SP_WARN_UNUSED int store_write(struct store *s, sp_store_page first, const void *pages, size_t n, int node);
/* After that: the chunk may be one that its writer wants huge. */
void store_wrote(const struct store *s, struct sp_filling *f, sp_store_page first);
/* Gives the memory of pages back, across segments. An error leaves memory taken, nothing else. */
SP_WARN_UNUSED int store_punch(struct store *s, sp_store_page first, uint64_t n);
/* The read-only descriptor of a segment, the store's. -ENOENT: no such segment (any more). */
SP_WARN_UNUSED int store_descriptor(const struct store *s, uint64_t segment, int *ret_fd);
/* Memory held, bytes. */
uint64_t store_memory(const struct store *s);

#endif
