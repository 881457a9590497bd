/* SPDX-License-Identifier: MIT */
/*
 * Views: a long run is compared with a mapping of its store pages, made before the freeze so that nothing
 * need be read in while pages are frozen. What is found equal becomes the program's mapping, page tables and
 * all (batch.c); the rest is unmapped when the batch is over.
 *
 * Views have a place of their own in the address space, aligned like a window so that whole page tables can
 * be moved, but nothing holds it between batches: where a view was moved away there is nothing, and whoever
 * maps something there has it. So a view is only made where nothing is, and when somebody is there we go
 * elsewhere.
 */
#include <errno.h>
#include <sys/mman.h>

#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/pagemap.h"

/* Stretches of a view that are looked at together. */
#define THERE_MAX 16

/*
 * Reads in what is missing of a view, so that it can be read without a fault. Mostly all of it is there: the
 * kernel maps what is in memory around a fault, but for pages that somebody else is about at that moment,
 * such as another process that maps the same. Only those are asked for one by one: it costs five times as
 * much.
 */
static int view_fill(const struct sp_worker *w, uint64_t start, uint64_t end) {
    int error = 0;
    while (start < end && !error) {
        struct sp_range there[THERE_MAX];
        size_t n = 0;
        uint64_t next = end;
        if (sp_pagemap_scan(w->pagemap, SP_PAGEMAP_PRESENT, start, end, there, THERE_MAX, &n, &next))
            n = 0; /* without an answer nothing is there */
        for (size_t i = 0; i < n && !error; i++) {
            if (there[i].start > start)
                error = sp_advise(start, there[i].start - start, MADV_POPULATE_READ);
            start = there[i].end;
        }
        if (start < next && !error)
            error = sp_advise(start, next - start, MADV_POPULATE_READ);
        start = start < next ? next : start;
    }
    return error;
}

/* Where a window of address space is free at this moment. By a mapping of a file: anonymous memory that
 * nobody has marked might be registered for merging (H2). */
static int place_find(struct sp_worker *w, int segment) {
    void *room;
    int error = sp_map_file(segment, 0, 2 * SP_WINDOW_SIZE, false, &room);
    if (!error)
        error = sp_unmap(room, 2 * SP_WINDOW_SIZE);
    w->view_place = error ? 0 : ((uintptr_t)room + SP_WINDOW_SIZE - 1) / SP_WINDOW_SIZE * SP_WINDOW_SIZE;
    return error;
}

static int view_map(struct sp_worker *w, const struct sp_batch_run *run, uintptr_t *ret_view) {
    int error = -EEXIST;
    for (int i = 0; i < 2 && error == -EEXIST; i++) {
        error = w->view_place && i == 0 ? 0 : place_find(w, run->fd);
        *ret_view = w->view_place + run->slot * SP_PAGE_SIZE;
        if (!error)
            error = sp_map_view(*ret_view, run->pages * SP_PAGE_SIZE, run->fd, run->offset);
    }
    return error;
}

bool sp_view_make(struct sp_worker *w, struct sp_batch_run *run) {
    uintptr_t view;
    size_t bytes = run->pages * SP_PAGE_SIZE;
    if (view_map(w, run, &view))
        return false;
    if (view_fill(w, view, view + bytes)) {
        int unused = sp_unmap((void *)view, bytes); /* where it stays, the next one goes elsewhere */
        (void)unused;
        return false;
    }
    run->expected = (const uint8_t *)view;
    run->view = true;
    run->view_moves = w->views_move;
    return true;
}

static void run_drop(struct sp_worker *w, const struct sp_batch_run *run, const sp_bits *moved) {
    uintptr_t view = (uintptr_t)run->expected;
    for (unsigned first = 0, last; first < run->pages; first = last) {
        last = first + 1;
        if (sp_bits_get(moved, run->slot + first))
            continue;
        while (last < run->pages && !sp_bits_get(moved, run->slot + last))
            last++;
        w->engine->counters.v[SP_COUNTER_errors] +=
            sp_unmap((void *)(view + first * SP_PAGE_SIZE), (last - first) * SP_PAGE_SIZE) != 0;
    }
}

void sp_views_drop(struct sp_worker *w, const struct sp_batch *b) {
    for (size_t k = 0; k < b->n; k++)
        if (b->runs[k].view)
            run_drop(w, &b->runs[k], &b->view_moved);
}
