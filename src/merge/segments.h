/* SPDX-License-Identifier: MIT */
/*
 * The store as the worker reads it for verification: each segment mapped read-only and shared, once, on first
 * need. Not copied by fork and not dumped. What was read is unmapped again after each pass
 * (sp_segments_drop), so that the process's resident set does not count the store twice.
 */
#ifndef SP_MERGE_SEGMENTS_H
#define SP_MERGE_SEGMENTS_H

#include "core/types.h"
#include "merge/link.h"

#define SP_SEGMENTS_MAX 16384 /* 16 TiB of store */

struct sp_segment_view {
    const uint8_t *pages; /* SP_SEGMENT_PAGES of them; NULL: not mapped yet */
    int fd;               /* the link's */
};

struct sp_segments {
    uint64_t end;                  /* segments from here on were never mapped */
    uint64_t populated;            /* pages read since the last drop, at most */
    struct sp_segment_view *views; /* [SP_SEGMENTS_MAX], a mapping of its own, populated as touched */
};

SP_WARN_UNUSED int sp_segments_init(struct sp_segments *s);
void sp_segments_deinit(struct sp_segments *s);
/* Forgets all: the link was closed. */
void sp_segments_clear(struct sp_segments *s);
/* The segment of `page`, asked for and mapped when that has not been done. -ENOTCONN etc. */
SP_WARN_UNUSED int sp_segments_get(struct sp_segments *s, struct sp_link *link, sp_store_page page,
                                   struct sp_segment_view *ret_view);
/* Faults `n` pages in, in one call, so that verification does not fault page by page while the application
 * waits. */
void sp_segments_populate(struct sp_segments *s, const struct sp_segment_view *view, sp_store_page first,
                          size_t n);
/* Unmaps all that was read, when that is much or `all` (the mappings themselves stay). */
void sp_segments_drop(struct sp_segments *s, bool all);

#endif
