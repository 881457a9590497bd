/* SPDX-License-Identifier: MIT */
/* The queue of hints: see hints.h for its structure. Pure, no allocation. */
#include "wire/hints.h"

#include <string.h>

#define INDEX_SIZE (2 * SP_HINT_QUEUE_WINDOWS)

static uint32_t index_start(uint64_t window) {
    return (uint32_t)(window * UINT64_C(0x9e3779b97f4a7c15) >> 40) % INDEX_SIZE;
}

/* The place in the index that stands for the window, or the free one where it belongs. There is always a free
 * one: the index is twice as large as the array. */
static uint32_t *index_find(struct sp_hint_queue *q, uint64_t window) {
    uint32_t i = index_start(window);
    while (q->index[i] && q->entry[q->index[i] - 1].window != window)
        i = (i + 1) % INDEX_SIZE;
    return &q->index[i];
}

static void bits_join(sp_bits *into, const sp_bits *from) {
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        into->w[i] |= from->w[i];
}

void sp_hint_queue_add(struct sp_hint_queue *q, uint64_t window, const sp_bits *pages) {
    if (q->lost)
        return;
    uint32_t *place = index_find(q, window);
    /* An entry before head was taken already: the window gets a new one. */
    if (*place > q->head) {
        bits_join(&q->entry[*place - 1].pages, pages);
        return;
    }
    if (window == SP_WIRE_HINT_ALL || q->count == SP_HINT_QUEUE_WINDOWS) {
        sp_hint_queue_clear(q);
        q->lost = true;
        return;
    }
    q->entry[q->count] = (struct sp_wire_hint){.window = window, .pages = *pages};
    *place = ++q->count;
}

void sp_hint_queue_add_page(struct sp_hint_queue *q, sp_page page) {
    sp_bits bits = {{0}};
    sp_bits_set(&bits, sp_page_slot(page));
    sp_hint_queue_add(q, sp_page_window(page), &bits);
}

size_t sp_hint_queue_take(struct sp_hint_queue *q, struct sp_wire_hint *ret_hints, size_t max) {
    if (q->lost) {
        sp_hint_queue_clear(q);
        *ret_hints = (struct sp_wire_hint){.window = SP_WIRE_HINT_ALL};
        return 1;
    }
    size_t n = q->count - q->head;
    if (n > max)
        n = max;
    memcpy(ret_hints, &q->entry[q->head], n * sizeof *ret_hints);
    q->head += (uint32_t)n;
    if (sp_hint_queue_empty(q))
        sp_hint_queue_clear(q);
    return n;
}

void sp_hint_queue_clear(struct sp_hint_queue *q) {
    if (q->count)
        memset(q->index, 0, sizeof q->index);
    q->head = q->count = 0;
    q->lost = false;
}
