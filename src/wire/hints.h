/* SPDX-License-Identifier: MIT */
/*
 * A bounded queue of hints, one entry for each window, with the bits of further hints for a window that is
 * already waiting merged in. The daemon keeps one for each client that does not read fast enough, the link
 * one for what arrives while it waits for a reply. A page is hinted once, and would wait for ever if that
 * were lost: when a hint does not fit, one that stands for all pages takes the place of everything that
 * waits.
 *
 * A dense array in the order of arrival, and an index by window with open addressing. Nothing is ever deleted
 * from the index: it is wiped when the array has been drained. Not locked. Memory is passed in, because the
 * link must not use malloc.
 */
#ifndef SP_WIRE_HINTS_H
#define SP_WIRE_HINTS_H

#include "wire/message.h"

#define SP_HINT_QUEUE_WINDOWS 4096

struct sp_hint_queue {
    uint32_t head, count; /* entries head ... count - 1 wait */
    bool lost;            /* one did not fit */
    struct sp_wire_hint entry[SP_HINT_QUEUE_WINDOWS];
    uint32_t index[2 * SP_HINT_QUEUE_WINDOWS]; /* entry number + 1; 0: free */
};

/* A queue in zeroed memory is empty and valid. */

/* Adds pages of a window, which may be SP_WIRE_HINT_ALL. */
void sp_hint_queue_add(struct sp_hint_queue *q, uint64_t window, const sp_bits *pages);
void sp_hint_queue_add_page(struct sp_hint_queue *q, sp_page page);

/* Takes out at most `max` hints, at least 1, oldest first; returns how many. */
size_t sp_hint_queue_take(struct sp_hint_queue *q, struct sp_wire_hint *ret_hints, size_t max);

static inline bool sp_hint_queue_empty(const struct sp_hint_queue *q) {
    return q->head == q->count && !q->lost;
}

/* Drops everything. */
void sp_hint_queue_clear(struct sp_hint_queue *q);

#endif
