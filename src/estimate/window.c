/* SPDX-License-Identifier: MIT */
/*
 * Reads the pages of one window that merging could free (pagemap), as many with one system call as the
 * processor's cache holds. What is not present is never touched, so nothing is brought in from swap or from a
 * disk, except what leaves between the look and the reading.
 *
 * With a sample (core/sample.h) the lines of each page are read first, then whole those that are in the
 * sample, or whose lines decide nothing, and the page before each, for the runs.
 */
#include "estimate/reader.h"

#include <errno.h>

#include "os/pagemap.h"

/* Pages of a window, ascending. */
struct slots {
    uint16_t slot[SP_WINDOW_PAGES];
    size_t n;
};

static uint64_t address_of(const struct sp_reader *r, unsigned slot) {
    return r->window * SP_WINDOW_SIZE + slot * SP_PAGE_SIZE;
}

static struct sp_census_cell *cell_of(const struct sp_reader *r, unsigned slot) {
    const struct sp_census_mapping *m = &r->e->counted[r->mapping];
    uint64_t page = (address_of(r, slot) - r->e->mapping[r->mapping].start) / SP_PAGE_SIZE;
    return m->cells ? &m->cells[page * SP_CENSUS_CELLS / m->pages] : NULL;
}

static void count_zero(struct sp_reader *r, unsigned slot) {
    struct sp_census_cell *cell = cell_of(r, slot);
    sp_reader_figures(r)->zero++;
    if (cell)
        cell->zero++;
}

static void count_unread(struct sp_reader *r) {
    sp_reader_figures(r)->unread++;
}

static void add_page(struct sp_reader *r, unsigned slot, uint64_t content) {
    struct sp_estimate *e = r->e;
    uint64_t page = (address_of(r, slot) - e->mapping[r->mapping].start) / SP_PAGE_SIZE;
    r->record[slot] = e->n_pages;
    e->pages[e->n_pages++] = (struct sp_census_page){
        .content = content,
        .mapping = (uint32_t)r->mapping | (sp_bits_get(&r->huge, slot) ? SP_CENSUS_HUGE : 0),
        .page = page < UINT32_MAX ? (uint32_t)page : UINT32_MAX,
    };
}

/* --- Reading ------------------------------------------------------------------------------------------- */

typedef void take(struct sp_reader *r, unsigned slot, const void *bytes);

/* The pieces of at most `max` pages, `bytes` of each from `offset` on; whole ones that are neighbours are one
 * piece. Returns the number of pieces. */
static size_t gather(const struct sp_reader *r, const uint16_t *slot, size_t max, size_t offset, size_t bytes,
                     struct iovec *ret_pieces) {
    size_t n = 0;
    for (size_t i = 0; i < max; i++) {
        if (i && bytes == SP_PAGE_SIZE && slot[i] == slot[i - 1] + 1)
            ret_pieces[n - 1].iov_len += bytes;
        else
            ret_pieces[n++] = (struct iovec){(void *)(uintptr_t)(address_of(r, slot[i]) + offset), bytes};
    }
    return n;
}

/* Gives `bytes` of each page to `take`. A page that cannot be read any more is passed over; `lost` may count
 * it. */
static int read_slots(struct sp_reader *r, const struct slots *s, size_t offset, size_t bytes,
                      take *take_page, void (*lost)(struct sp_reader *r)) {
    size_t most = SP_READER_PAGES * SP_PAGE_SIZE / bytes;
    struct iovec pieces[SP_WINDOW_PAGES];
    for (size_t at = 0; at < s->n;) {
        size_t pages = s->n - at < most ? s->n - at : most, read_bytes = 0;
        size_t n = gather(r, s->slot + at, pages, offset, bytes, pieces);
        int error = sp_remote_read(r->pid, pieces, n, r->buffer, &read_bytes);
        if (error)
            return error;
        size_t good = read_bytes / bytes;
        r->e->bytes_read += read_bytes;
        for (size_t i = 0; i < good; i++)
            take_page(r, s->slot[at + i], r->buffer + i * bytes);
        at += good;
        if (good == pages)
            continue;
        if (lost)
            lost(r);
        at++;
    }
    return 0;
}

/* --- Everything ---------------------------------------------------------------------------------------- */

static void take_all(struct sp_reader *r, unsigned slot, const void *bytes) {
    struct sp_estimate *e = r->e;
    uint64_t before = r->before && r->last + 1 == slot ? r->before : 0;
    r->last = slot;
    r->before = 0;
    if (sp_page_is_zero(bytes)) {
        count_zero(r, slot);
        return;
    }
    r->before = sp_fingerprint(&e->key, bytes).v;
    add_page(r, slot, r->before);
    e->pages[e->n_pages - 1].before = before;
}

/* --- A sample ------------------------------------------------------------------------------------------ */

static void take_lines(struct sp_reader *r, unsigned slot, const void *lines) {
    r->unit[slot] = sp_lines_plain(lines) ? 0 : sp_sample_unit(&r->e->sample, lines) | 1;
}

static void take_sampled(struct sp_reader *r, unsigned slot, const void *bytes) {
    struct sp_estimate *e = r->e;
    bool plain = !r->unit[slot];
    if (plain && sp_page_is_zero(bytes)) {
        count_zero(r, slot);
        return;
    }
    sp_fp whole = sp_fingerprint(&e->key, bytes);
    uint64_t unit = plain ? sp_sample_unit_whole(whole) : r->unit[slot];
    if (sp_sample_takes(&e->sample, unit))
        add_page(r, slot, sp_sample_content(&e->sample, unit, whole));
}

static void take_before(struct sp_reader *r, unsigned slot, const void *bytes) {
    if (!sp_page_is_zero(bytes))
        r->e->pages[r->record[slot + 1]].before = sp_fingerprint(&r->e->key, bytes).v;
}

static int read_sample(struct sp_reader *r, const struct slots *all) {
    struct slots chosen = {.n = 0}, before = {.n = 0};
    const struct sp_sample *sample = &r->e->sample;
    for (size_t i = 0; i < all->n; i++) {
        r->unit[all->slot[i]] = UINT64_MAX; /* as if it were outside, for those that cannot be read */
        r->record[all->slot[i]] = SIZE_MAX;
    }
    int error = read_slots(r, all, sample->offset_bytes, SP_LINES_BYTES, take_lines, count_unread);
    for (size_t i = 0; i < all->n; i++)
        if (!r->unit[all->slot[i]] || sp_sample_takes(sample, r->unit[all->slot[i]]))
            chosen.slot[chosen.n++] = all->slot[i];
    if (!error)
        error = read_slots(r, &chosen, 0, SP_PAGE_SIZE, take_sampled, count_unread);
    for (size_t i = 0; i < chosen.n; i++) {
        unsigned slot = chosen.slot[i];
        if (r->record[slot] != SIZE_MAX && slot && sp_bits_get(&r->private, slot - 1))
            before.slot[before.n++] = (uint16_t)(slot - 1);
    }
    return error ? error : read_slots(r, &before, 0, SP_PAGE_SIZE, take_before, NULL);
}

/* --- Windows ------------------------------------------------------------------------------------------- */

static struct slots slots_of(const sp_bits *bits) {
    struct slots s = {.n = 0};
    for (size_t w = 0; w < SP_WINDOW_PAGES / 64; w++)
        for (uint64_t b = bits->w[w]; b; b &= b - 1)
            s.slot[s.n++] = (uint16_t)(w * 64 + (size_t)__builtin_ctzll(b));
    return s;
}

static void count_private(struct sp_reader *r, const struct slots *all, bool look_huge) {
    struct sp_estimate_figures *f = sp_reader_figures(r);
    f->private += all->n;
    for (size_t i = 0; i < all->n; i++) {
        struct sp_census_cell *cell = cell_of(r, all->slot[i]);
        if (cell)
            cell->private ++;
        f->huge += look_huge && sp_bits_get(&r->huge, all->slot[i]);
    }
}

int sp_reader_window(struct sp_reader *r, unsigned first, unsigned last, bool look_huge) {
    r->huge = (sp_bits){0};
    r->before = 0;
    int error = sp_pagemap_private_window(r->pagemap, r->window, first, last, &r->private);
    if (!error && look_huge)
        error = sp_pagemap_window(r->pagemap, SP_PAGEMAP_HUGE, r->window, first, last, &r->huge);
    if (error == -ENOTTY) /* a kernel without PAGEMAP_SCAN, before Linux 6.7 */
        error = 0;
    if (error)
        return error;
    struct slots all = slots_of(&r->private);
    error = sp_estimate_reserve_pages(r->e, all.n);
    if (error)
        return error;
    count_private(r, &all, look_huge);
    if (r->e->one_in > 1)
        return read_sample(r, &all);
    return read_slots(r, &all, 0, SP_PAGE_SIZE, take_all, count_unread);
}
