/* SPDX-License-Identifier: MIT */
/* See store.h. */
#include "daemon/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t segment_of(sp_store_page page) {
    return page.v / SP_SEGMENT_PAGES;
}

void store_deinit(struct store *s) {
    for (uint64_t i = 0; i < s->n; i++)
        if (s->segments[i].open)
            sp_segment_deinit(&s->segments[i].file);
    free(s->segments);
    *s = (struct store){0};
}

static struct store_segment *segment_find(const struct store *s, uint64_t segment) {
    return segment < s->n ? &s->segments[segment] : NULL;
}

static int segment_grow(struct store *s, uint64_t segment) {
    if (segment < s->n)
        return 0;
    struct store_segment *segments = reallocarray(s->segments, segment + 1, sizeof *segments);
    if (!segments)
        return -ENOMEM;
    memset(segments + s->n, 0, (segment + 1 - s->n) * sizeof *segments);
    for (uint64_t i = s->n; i <= segment; i++)
        segments[i].file = (struct sp_segment){-1, -1};
    s->segments = segments;
    s->n = segment + 1;
    return 0;
}

static void segment_finish(struct store *s, uint64_t segment) {
    struct store_segment *g = segment_find(s, segment);
    if (!g || !g->open || g->pages || g->writers || segment + 1 == s->n)
        return;
    sp_segment_deinit(&g->file);
    g->open = false;
}

void store_writer_gone(struct store *s, uint64_t segment) {
    struct store_segment *g = segment_find(s, segment);
    if (!g || !g->writers)
        return;
    g->writers--;
    segment_finish(s, segment);
}

int store_place(struct store *s, sp_store_page page, uint64_t *segment) {
    uint64_t number = segment_of(page);
    int r = segment_grow(s, number);
    if (r)
        return r;
    struct store_segment *g = &s->segments[number];
    g->pages++;
    if (*segment != number) {
        g->writers++;
        store_writer_gone(s, *segment);
        *segment = number;
    }
    if (g->open)
        return 0;
    r = sp_segment_init(&g->file);
    g->open = r == 0;
    return r;
}

int store_write(struct store *s, sp_store_page first, const void *pages, size_t n, int node) {
    const struct store_segment *g = segment_find(s, segment_of(first));
    if (!g || !g->open)
        return -ENOENT;
    return sp_segment_write_on(&g->file, first.v % SP_SEGMENT_PAGES, pages, n, node);
}

void store_wrote(const struct store *s, struct sp_filling *f, sp_store_page first) {
    const struct store_segment *g = segment_find(s, segment_of(first));
    if (g && g->open)
        sp_filling_wrote(f, &g->file, first);
}

static int punch_part(struct store *s, uint64_t segment, uint64_t index, uint64_t n) {
    struct store_segment *g = segment_find(s, segment);
    if (!g)
        return 0; /* placed when there was no memory for the segment: nothing was written */
    g->pages -= n < g->pages ? n : g->pages;
    int r = g->open ? sp_segment_punch(&g->file, index, n) : 0;
    segment_finish(s, segment);
    return r;
}

int store_punch(struct store *s, sp_store_page first, uint64_t n) {
    int error = 0;
    while (n) {
        uint64_t index = first.v % SP_SEGMENT_PAGES, part = SP_SEGMENT_PAGES - index;
        if (part > n)
            part = n;
        int r = punch_part(s, segment_of(first), index, part);
        error = error ? error : r;
        first.v += part;
        n -= part;
    }
    return error;
}

int store_descriptor(const struct store *s, uint64_t segment, int *ret_fd) {
    const struct store_segment *g = segment_find(s, segment);
    if (!g || !g->open)
        return -ENOENT;
    *ret_fd = g->file.fd_shared;
    return 0;
}

uint64_t store_memory(const struct store *s) {
    uint64_t total = 0;
    for (uint64_t i = 0; i < s->n; i++) {
        uint64_t bytes;
        if (s->segments[i].open && !sp_segment_memory(&s->segments[i].file, &bytes))
            total += bytes;
    }
    return total;
}
