/* SPDX-License-Identifier: MIT */
/*
 * What a batch needs besides memory to work on, for tests of the primitive without an engine: a userfaultfd,
 * scratch, and a segment of the store with a view of all of it.
 */
#ifndef SP_TEST_MERGE_BATCH_RIG_H
#define SP_TEST_MERGE_BATCH_RIG_H

#include "merge/batch.h"
#include "merge_test.h"

/* The batch has no base and no runs yet. */
static inline void batch_open(struct sp_batch *b, bool fork_events, struct sp_segment *ret_segment,
                              void **ret_view) {
    memset(b, 0, sizeof(*b));
    must(sp_uffd_new(-1, &b->uffd), "userfaultfd");
    must(sp_uffd_enable(b->uffd, SP_UFFD_NEEDED | (fork_events ? SP_UFFD_EVENT_FORK : 0)), "enable");
    b->fork_events = fork_events;
    must(sp_pagemap_open(&b->pagemap), "pagemap");
    b->scratch = memory_new(SP_WINDOW_SIZE);
    must(sp_advise((uintptr_t)b->scratch, SP_WINDOW_SIZE, MADV_DONTFORK), "dontfork");
    must(sp_uffd_register(b->uffd, (uintptr_t)b->scratch, SP_WINDOW_SIZE, SP_UFFD_MODE_MISSING), "scratch");
    must(sp_segment_init(ret_segment), "segment");
    must(sp_map_file(ret_segment->fd_shared, 0, SP_SEGMENT_PAGES * PAGE, false, ret_view), "view");
    must(sp_advise((uintptr_t)*ret_view, SP_SEGMENT_PAGES * PAGE, MADV_DONTFORK), "dontfork");
}

static inline void batch_close(struct sp_batch *b, struct sp_segment *segment, void *view) {
    memory_free(b->scratch, SP_WINDOW_SIZE);
    must(sp_unmap(view, SP_SEGMENT_PAGES * PAGE), "unmap view");
    sp_segment_deinit(segment);
    close(b->pagemap);
    close(b->uffd);
}

/* Memory that batches may work on. */
static inline void batch_arm(const struct sp_batch *b, const uint8_t *memory, size_t bytes) {
    must(sp_uffd_register(b->uffd, (uintptr_t)memory, bytes, SP_UFFD_MODE_WP), "arm");
}

#endif
