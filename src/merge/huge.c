/* SPDX-License-Identifier: MIT */
/*
 * Windows that are one huge page of the kernel's: kept whole, or split on purpose.
 *
 * Such a window is asked about by one question, its pages' probes taken together (core/domain.h). Where that
 * says nothing yet its pages wait for some passes, in which somebody else may ask about the same window: then
 * nobody ever asks about single pages. Only after that, or when the index wants it so, are the pages asked
 * about one by one, which finds twins that are no whole windows; what is known of them is asked about again
 * all together, so that it is seen whether all of them are shared in the order of one chunk of the store.
 *
 * Then the window goes as a whole: one move, one comparison, one mapping, and where
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

#include "core/fingerprint.h"
#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"

/* Tries in a row that find twins for enough of its pages, before it is split. */
#define TRIES 3

bool sp_huge_is(struct sp_worker *w, const struct sp_window *win) {
    sp_bits pages = win->fresh;
    sp_bits_or(&pages, &win->known);
    if (!sp_bits_all(&pages) || sp_bits_any(&win->mapped) || !sp_bits_all(&w->work.bits.eligible))
        return false; /* no need to ask the kernel */
    /* The entry that maps its first page maps all of it. */
    if (sp_pagemap_window(w->pagemap, SP_PAGEMAP_HUGE, win->number, 0, 1, &pages)) {
        w->engine->counters.v[SP_COUNTER_errors]++;
        return false;
    }
    return sp_bits_get(&pages, 0);
}

bool sp_huge_choose(struct sp_worker *w, struct sp_window *win, sp_bits *candidates) {
    sp_bits all = *candidates;
    if (!sp_huge_is(w, win))
        return sp_whole_choose(w, win, candidates);
    if (win->huge_wait && !w->request) {
        win->huge_wait--;
        return false;
    }
    sp_bits_or(&all, &win->known);
    w->work.huge = sp_bits_all(&all);
    if (w->work.huge)
        w->scan_left -= w->scan_left < SP_WINDOW_PAGES ? w->scan_left : SP_WINDOW_PAGES;
    return w->work.huge;
}

bool sp_huge_hinted(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates) {
    sp_bits waiting = win->known;
    if (!sp_huge_is(w, win)) {
        sp_whole_hinted(w, win, candidates);
        return true;
    }
    sp_bits_minus(&waiting, &win->reask);
    if (sp_bits_any(&waiting) || sp_bits_any(&win->written))
        return false;
    *candidates = win->fresh;
    sp_bits_minus(candidates, &win->known);
    w->work.huge = true;
    return true;
}

/* ---- one question for all of it ---- */

/* Passes that a huge page which nobody else seems to have waits before its pages are asked about. */
#define WAIT_PASSES 8

void sp_huge_forgotten(struct sp_window *win) {
    win->asked = 0;
    win->huge_wait = 0;
    win->huge_waited = win->noted = win->twin = false;
}

void sp_huge_unask(struct sp_engine *e, struct sp_window *win) {
    if (win->asked)
        sp_debts_forget(&e->debts, (sp_page){win->number * SP_WINDOW_PAGES}, (sp_fp){win->asked});
    sp_huge_forgotten(win);
}

void sp_huge_reask(struct sp_engine *e, struct sp_window *win) {
    if (!win->asked || sp_bits_any(&win->known))
        return;                            /* the pages have hints of their own */
    if (win->noted && !win->huge_waited) { /* has not been asked about yet */
        win->twin = true;
        return;
    }
    win->huge_wait = 0;
    sp_bits_set(&win->reask, 0);
    sp_engine_queue(e, win);
}

/* The question, if every page was read, and is known by its probe. */
static bool whole_question(const struct sp_work *work, uint64_t number, struct sp_query *ret) {
    uint64_t probes[SP_WINDOW_PAGES];
    if (work->n < SP_WINDOW_PAGES)
        return false;
    for (size_t i = 0; i < SP_WINDOW_PAGES; i++) {
        probes[i] = work->queries[i].fp.v;
        if (sp_fp_whole((sp_fp){probes[i]}))
            return false;
    }
    *ret = (struct sp_query){{number * SP_WINDOW_PAGES}, sp_window_probe(probes), SP_PROBE_WINDOW};
    return true;
}

/* The same for each page. */
static void answer_all(struct sp_work *work, const struct sp_answer *a) {
    for (size_t i = 0; i < SP_WINDOW_PAGES; i++) {
        work->answers[i] = *a;
        if (a->kind == SP_ANSWER_SHARE)
            work->answers[i].store.v += i;
    }
}

/* The index knows the window as a whole. True: that is to do for now; its pages are left for later: also when
 * it is no whole window any more, which nobody is to send anything for. */
static bool known_whole(struct sp_worker *w, uint64_t number, sp_fp probe, bool may_wait) {
    struct sp_engine *e = w->engine;
    sp_bits registered;
    sp_worker_lock(w);
    struct sp_window *win = sp_windows_find(&e->windows, number);
    sp_regions_window(&e->regions, number, &registered);
    if (!win || !sp_bits_all(&registered)) {
        sp_debts_forget(&e->debts, (sp_page){number * SP_WINDOW_PAGES}, probe);
        sp_engine_unlock(e);
        return true;
    }
    if (win->asked && win->asked != probe.v)
        sp_huge_unask(e, win);
    win->asked = probe.v;
    bool wait = may_wait && !win->huge_waited && !sp_bits_any(&win->known);
    if (wait) {
        win->huge_waited = true;
        win->huge_wait = WAIT_PASSES;
        w->pending += SP_WINDOW_PAGES;
    }
    sp_engine_unlock(e);
    return wait;
}

int sp_huge_ask(struct sp_worker *w, uint64_t number, bool may_wait) {
    struct sp_work *work = &w->work;
    struct sp_link *link = w->engine->link;
    struct sp_query q;
    struct sp_answer a;
    if (!link->windows || !whole_question(work, number, &q))
        return SP_HUGE_PAGES;
    int error = link->ops->ask(link, &q, 1, &a);
    if (error)
        return error;
    if (a.kind == SP_ANSWER_SHARE || a.kind == SP_ANSWER_SEND) {
        answer_all(work, &a);
        return SP_HUGE_ANSWERED;
    }
    if (a.kind == SP_ANSWER_UNKNOWN && known_whole(w, number, q.fp, may_wait))
        return SP_HUGE_LATER;
    return SP_HUGE_PAGES;
}

void sp_huge_sent(struct sp_worker *w, uint64_t number) {
    const struct sp_work *work = &w->work;
    struct sp_engine *e = w->engine;
    struct sp_query q;
    sp_store_page first = work->answers[0].store;
    bool whole = first.v % SP_WINDOW_PAGES == 0;
    for (size_t i = 0; i < SP_WINDOW_PAGES; i++)
        whole &= work->answers[i].kind == SP_ANSWER_SHARE && work->answers[i].store.v == first.v + i;
    if (whole || !whole_question(work, number, &q))
        return;
    sp_worker_lock(w);
    sp_debts_forget(&e->debts, q.page, q.fp);
    sp_engine_unlock(e);
}

/* ---- what to do with the answers ---- */

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
