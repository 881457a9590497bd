/* SPDX-License-Identifier: MIT */
/*
 * Windows that are one huge page of the kernel's: kept whole, or split on purpose.
 *
 * Such a window is asked about as a whole, so that it is seen whether all of its pages are shared in the
 * order of one chunk of the store. Then it goes as a whole: one move, one comparison, one mapping, and where
 * its publisher's window was huge, the chunk is a huge page, too (os/filling.h), so that the mapping is a
 * huge one again. Where only some of its pages have twins the setting huge_split_percent says whether the
 * memory that splitting it frees is worth what is lost with it: fewer stay as they are, untouched.
 *
 * That only some have twins may be a matter of the moment: somebody is just publishing the others. So hints
 * about a part of such a window wait for the next look, and it is split only when it was found so more than
 * once.
 *
 * All of this is about speed: whether a window is huge may change at any moment, and whatever is decided on
 * old knowledge is as safe as it is for other windows.
 */
#include <string.h>

#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"

/* Tries in a row that find twins for enough of its pages, before it is split. */
#define TRIES 3

static bool is_full(const sp_bits *pages) {
    return sp_bits_count(pages) == SP_WINDOW_PAGES;
}

/* Whether the window is mapped by one huge entry, with pages of its own that may all be merged. */
static bool is_huge(struct sp_worker *w, const struct sp_window *win) {
    sp_bits pages = win->fresh;
    sp_bits_or(&pages, &win->known);
    if (!is_full(&pages) || sp_bits_any(&win->mapped) || !is_full(&w->work.bits.eligible))
        return false; /* no need to ask the kernel */
    /* The entry that maps its first page maps all of it. */
    if (sp_pagemap_window(w->pagemap, SP_PAGEMAP_HUGE, win->number, 0, 1, &pages)) {
        w->engine->counters.v[SP_COUNTER_errors]++;
        return false;
    }
    return sp_bits_get(&pages, 0);
}

bool sp_huge_choose(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates) {
    sp_bits all = *candidates;
    if (!is_huge(w, win))
        return true;
    sp_bits_or(&all, &win->known);
    w->work.huge = is_full(&all);
    if (w->work.huge)
        w->scan_left -= w->scan_left < SP_WINDOW_PAGES ? w->scan_left : SP_WINDOW_PAGES;
    return w->work.huge;
}

bool sp_huge_hinted(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates) {
    sp_bits waiting = win->known;
    if (!is_huge(w, win))
        return true;
    sp_bits_minus(&waiting, &win->reask);
    if (sp_bits_any(&waiting) || sp_bits_any(&win->written))
        return false;
    *candidates = win->fresh;
    sp_bits_minus(candidates, &win->known);
    w->work.huge = true;
    return true;
}

static bool in_order(const struct sp_work *work) {
    sp_store_page first = work->sites[0].store;
    if (work->n_sites < SP_WINDOW_PAGES || (first.v != SP_STORE_ZERO.v && first.v % SP_WINDOW_PAGES))
        return false;
    for (size_t i = 1; i < work->n_sites; i++)
        if (work->sites[i].store.v != (first.v == SP_STORE_ZERO.v ? first.v : first.v + i))
            return false;
    return true;
}

enum sp_huge_verdict sp_huge_judge(struct sp_worker *w, struct sp_window *win, bool now) {
    const struct sp_work *work = &w->work;
    if (work->n_sites && in_order(work))
        return SP_HUGE_WHOLE;
    uint64_t percent = w->engine->settings.v[SP_SETTING_huge_split_percent];
    if (work->n_sites * 100 < percent * SP_WINDOW_PAGES)
        return SP_HUGE_LEAVE;
    if (!now && ++win->huge_tries < TRIES)
        return SP_HUGE_LEAVE;
    win->huge_tries = 0;
    return SP_HUGE_SPLIT;
}

/* What splits it at the first page that is moved takes 0.3 ms, while that page is frozen. Advice that a piece
 * of it is cold does the same with nothing frozen; where that is refused the move does it after all. */
void sp_huge_split(uint64_t window) {
    int unused = sp_advise(window * SP_WINDOW_SIZE, SP_PAGE_SIZE, MADV_COLD);
    (void)unused;
}
