/* SPDX-License-Identifier: MIT */
/* Reads the pages of a process, mapping by mapping, and these window by window (window.c). */
#include "estimate/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "os/pagemap.h"

/* A mapping with less than an eighth of it present is walked by what is there. */
#define SPARSE 8

static void tell(struct sp_reader *r, uint64_t pages) {
    if (r->progress && pages > r->told)
        r->progress->tell(r->progress->ctx, r->told = pages);
}

/* [start, end) of the mapping. */
static int read_span(struct sp_reader *r, uint64_t start, uint64_t end, bool look_huge, uint64_t done) {
    for (uint64_t at = start; at < end;) {
        r->window = at / SP_WINDOW_SIZE;
        uint64_t base = r->window * SP_WINDOW_SIZE, next = base + SP_WINDOW_SIZE;
        if (next > end)
            next = end;
        int error = sp_reader_window(r, (unsigned)((at - base) >> SP_PAGE_SHIFT),
                                     (unsigned)((next - base) >> SP_PAGE_SHIFT), look_huge);
        if (error)
            return error;
        tell(r, done + sp_reader_figures(r)->private);
        at = next;
    }
    return 0;
}

static int read_sparse(struct sp_reader *r, uint64_t start, uint64_t end, bool look_huge, uint64_t done) {
    while (start < end) {
        struct sp_range found;
        size_t n;
        uint64_t next;
        int error = sp_pagemap_scan(r->pagemap, SP_PAGEMAP_PRESENT, start, end, &found, 1, &n, &next);
        if (error == -ENOTTY)
            return read_span(r, start, end, look_huge, done);
        if (error || !n)
            return error;
        /* To the end of its window, so that no window is read twice. */
        uint64_t stop = (found.end + SP_WINDOW_SIZE - 1) / SP_WINDOW_SIZE * SP_WINDOW_SIZE;
        if (stop > end)
            stop = end;
        error = read_span(r, found.start, stop, look_huge, done);
        if (error)
            return error;
        start = stop;
    }
    return 0;
}

static int read_mapping(struct sp_reader *r, uint64_t done) {
    struct sp_estimate_mapping *m = &r->e->mapping[r->mapping];
    struct sp_estimate_figures *f = &m->figures;
    bool wanted = f->private > 0, look_huge = f->huge > 0;
    bool sparse = (m->end - m->start) / SP_PAGE_SIZE / SPARSE > f->resident + SP_WINDOW_PAGES;
    f->private = f->huge = 0;
    int error = 0;
    if (wanted && sparse)
        error = read_sparse(r, m->start, m->end, look_huge, done);
    else if (wanted)
        error = read_span(r, m->start, m->end, look_huge, done);
    /* Counted by the kernel a moment before. */
    if (f->resident < f->private)
        f->resident = f->private;
    f->shared = f->resident - f->private;
    return error;
}

static int read_mappings(struct sp_reader *r, const struct sp_estimate_process *p) {
    uint64_t done = 0;
    for (size_t i = 0; i < p->listed; i++) {
        r->mapping = p->first + i;
        int error = read_mapping(r, done);
        if (error)
            return error;
        done += r->e->mapping[r->mapping].figures.resident;
        tell(r, done);
    }
    /* Was it there to the end? Otherwise what was read may be of another program, or of nobody. */
    sp_bits bits;
    return sp_pagemap_private_window(r->pagemap, 0, 0, 1, &bits);
}

int sp_estimate_read_pages(struct sp_estimate *e, const struct sp_estimate_progress *progress) {
    const struct sp_estimate_process *p = &e->process[e->n_processes - 1];
    struct sp_reader *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    *r = (struct sp_reader){.e = e, .pid = p->pid, .pagemap = -1, .progress = progress};
    r->buffer = malloc(SP_READER_PAGES * SP_PAGE_SIZE);
    int error = r->buffer ? sp_pagemap_open_of(p->pid, &r->pagemap) : -ENOMEM;
    if (!error)
        error = read_mappings(r, p);
    if (r->pagemap >= 0)
        (void)close(r->pagemap);
    free(r->buffer);
    free(r);
    return error == -ENOENT ? -ESRCH : error;
}
