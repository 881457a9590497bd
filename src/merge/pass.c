/* SPDX-License-Identifier: MIT */
/*
 * What is done about one window: choose the pages that settled, fingerprint them, ask the index, publish what
 * it asks for, plan runs and merge them in batches.
 *
 *   choose    lock   written pages wait, settled ones are read and fingerprinted (H22: under the lock)
 *   ask       -      one question for the window, then the contents that the index wants
 *   sort      lock   unknown pages are remembered, the others become sites
 *   merge     lock, for one batch at a time: freeze, verify, remap, thaw; then account for each page
 *
 * Between these steps the application may do anything; each begins by looking up afresh what is still
 * registered. Whatever was decided on old knowledge is caught by the comparison.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/node.h"
#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"

/* What a freeze costs, to size batches; corrected by what is measured. */
#define COST_RUN_NS  4500.0
#define COST_PAGE_NS 400.0
/* Of a new measurement: few batches are to take longer than they should. */
#define COST_WEIGHT_UP   0.2
#define COST_WEIGHT_DOWN 0.07

static uint8_t *page_memory(const struct sp_window *win, unsigned slot) {
    return (uint8_t *)(uintptr_t)(win->number * SP_WINDOW_SIZE + slot * SP_PAGE_SIZE);
}

static sp_page page_number(uint64_t window, unsigned slot) {
    return (sp_page){window * SP_WINDOW_PAGES + slot};
}

/* ---- choose ---- */

/* Takes over what the look found: pages that were known or zero and were written are no longer so. */
static void note_written(struct sp_engine *e, struct sp_window *win) {
    if (sp_bits_any(&win->written))
        sp_huge_unask(e, win);
    SP_BITS_EACH(&win->written, slot) {
        if (sp_bits_get(&win->known, slot)) {
            sp_page_unknow(e, win, slot);
            sp_volatility_failed(&win->volatility[slot]);
        }
        sp_page_unzero(e, win, slot);
    }
}

/* Pages that may be tried now. */
static void choose_settled(struct sp_worker *w, struct sp_window *win, enum sp_pass_mode mode, sp_bits *ret) {
    struct sp_engine *e = w->engine;
    sp_bits candidates = win->fresh;
    if (mode == SP_PASS_BACKGROUND)
        sp_bits_minus(&candidates, &win->written);
    else
        sp_bits_or(&candidates, &win->written);
    sp_bits_or(&win->fresh, &win->written);
    memset(&win->written, 0, sizeof(win->written));
    sp_bits_and(&candidates, &w->work.bits.eligible);
    sp_bits_minus(&candidates, &win->known);
    bool smart = e->settings.v[SP_SETTING_smart_scan];
    if (mode == SP_PASS_BACKGROUND)
        SP_BITS_EACH(&candidates, slot) {
            if (sp_volatility_ready(&win->volatility[slot]))
                continue;
            w->retried += !smart;
            if (smart) {
                sp_bits_clear(&candidates, slot);
                e->counters.v[SP_COUNTER_pages_skipped]++;
            }
        }
    *ret = candidates;
}

/* No more pages than the pass may still read; the others stay fresh, and the next pass begins with them: not
 * with those before them, which may be fresh again by then, because they failed. */
static void bound_scan(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates) {
    unsigned from = w->cut_window == win->number ? w->cut_slot : 0;
    w->cut_slot = 0;
    SP_BITS_EACH(candidates, slot) {
        if (slot >= from && w->scan_left) {
            w->scan_left--;
            continue;
        }
        sp_bits_clear(candidates, slot);
        if (slot < from || w->scan_cut)
            continue;
        w->scan_cut = true;
        w->cut_window = win->number;
        w->cut_slot = slot;
    }
}

static void queue_first(struct sp_engine *e, struct sp_window *win) {
    if (!e->todo_first || win->queued) {
        sp_engine_queue(e, win);
        return;
    }
    win->queued = true;
    win->next = e->todo_first;
    e->todo_first = win;
}

/* Pages that a parent or child still shares are shared already, and cannot be moved: left alone until they
 * are ours alone. */
static void drop_forked(struct sp_worker *w, struct sp_window *win, sp_bits *candidates) {
    sp_bits exclusive, shared = *candidates;
    if (sp_pagemap_exclusive_window(w->pagemap, win->number, &exclusive)) {
        w->engine->counters.v[SP_COUNTER_errors]++;
        memset(&exclusive, 0, sizeof(exclusive));
    }
    sp_bits_minus(&shared, &exclusive);
    sp_bits_minus(candidates, &shared);
    SP_BITS_EACH(&shared, slot) {
        sp_volatility_failed(&win->volatility[slot]);
    }
}

/* The pages of the window that may be read and merged. What lies in a mapping of the store may not, but what
 * is broken there and quiescent (H13). A synchronous merge touches its own range only: nobody promised that
 * the rest of the window is quiescent. */
static void eligible_pages(struct sp_worker *w, const struct sp_window *win, sp_bits *ret) {
    sp_bits closed = win->mapped;
    sp_regions_window(&w->engine->regions, win->number, ret);
    sp_bits_minus(&closed, &w->work.bits.broken);
    sp_bits_minus(ret, &closed);
    if (!w->request)
        return;
    sp_bits range = {0};
    unsigned first, last;
    sp_window_clip(win, w->request->start, w->request->end, &first, &last);
    sp_bits_range(&range, first, last);
    sp_bits_and(ret, &range);
}

/*
 * Whether the pages may be read: where they were armed they still are, or somebody has unmapped or
 * replaced them unseen (H1), and reading what has gone would kill the process (H22). What happens while they
 * are being read is not noticed.
 */
bool sp_pass_may_read(struct sp_worker *w, const struct sp_window *win, const sp_bits *pages) {
    struct sp_engine *e = w->engine;
    sp_bits gone, watched;
    sp_regions_armed(&e->regions, win->number, &gone);
    sp_bits_and(&gone, pages);
    sp_bits_minus(&gone, &win->mapped); /* mappings of the store are not */
    if (!sp_bits_any(&gone))
        return true;
    unsigned first = sp_bits_next(&gone, 0), last = first;
    SP_BITS_EACH(&gone, slot) {
        last = slot + 1;
    }
    if (sp_pagemap_window(w->pagemap, SP_PAGEMAP_WATCHED, win->number, first, last, &watched)) {
        e->counters.v[SP_COUNTER_errors]++;
        return false;
    }
    sp_bits_minus(&gone, &watched);
    if (sp_bits_any(&gone))
        sp_engine_raw_call(e);
    return !e->quit;
}

/* With its probe where it is asked about as a whole. */
static void query_add(struct sp_worker *w, const struct sp_window *win, unsigned slot, sp_fp fp) {
    struct sp_query *q = &w->work.queries[w->work.n++];
    *q = (struct sp_query){page_number(win->number, slot), fp, {0}};
    if (sp_fp_whole(fp))
        q->probe = sp_probe(&w->key, page_memory(win, slot));
}

/* A candidate is asked about by its probe, unless its probe has misled before. It is no longer fresh. */
static void fingerprint_candidate(struct sp_worker *w, struct sp_window *win, unsigned slot) {
    struct sp_engine *e = w->engine;
    const uint8_t *page = page_memory(win, slot);
    sp_bits_clear(&win->fresh, slot);
    e->counters.v[SP_COUNTER_pages_scanned]++;
    bool hole = e->settings.v[SP_SETTING_use_zero_pages] && !sp_bits_get(&win->mapped, slot);
    if (win->noted)
        query_add(w, win, slot, (sp_fp){win->slot[slot]});
    else if (hole && sp_page_is_zero(page))
        sp_bits_set(&w->work.bits.zeros, slot);
    else if (sp_bits_get(&win->misled, slot))
        query_add(w, win, slot, sp_fingerprint(&w->key, page));
    else
        query_add(w, win, slot, sp_probe(&w->key, page));
    sp_bits_clear(&win->misled, slot);
}

/* Known pages that were hinted at, and may be read. */
static sp_bits hinted_pages(const struct sp_worker *w, const struct sp_window *win) {
    sp_bits pages = win->reask;
    sp_bits_and(&pages, &win->known);
    sp_bits_and(&pages, &w->work.bits.eligible);
    return pages;
}

/* What a known page is asked about by again: what is known of it. Where nodes are kept apart it may lie on
 * another by now, so it is read again, and that changed in sp_nodes_ask. */
static sp_fp known_fp(const struct sp_worker *w, const struct sp_window *win, unsigned slot) {
    sp_fp known = {sp_window_value(win, slot)};
    if (!sp_nodes_apart(w))
        return known;
    const uint8_t *page = page_memory(win, slot);
    return sp_fp_whole(known) ? sp_fingerprint(&w->key, page) : sp_probe(&w->key, page);
}

/* Reads the candidates, and known pages that were hinted at, and writes the questions. */
static void fingerprint(struct sp_worker *w, struct sp_window *win, const sp_bits *candidates) {
    sp_bits hinted = w->work.huge ? win->known : hinted_pages(w, win), pages = *candidates;
    sp_bits_or(&pages, &hinted);
    if (!win->noted && !sp_pass_may_read(w, win, &pages))
        return;
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++) {
        if (!win->noted && slot + SP_PROBE_AHEAD < SP_WINDOW_PAGES &&
            sp_bits_get(candidates, slot + SP_PROBE_AHEAD))
            sp_probe_prefetch(&w->key, page_memory(win, slot + SP_PROBE_AHEAD));
        if (sp_bits_get(candidates, slot))
            fingerprint_candidate(w, win, slot);
        else if (sp_bits_get(&hinted, slot))
            query_add(w, win, slot, known_fp(w, win, slot));
    }
    sp_bits_minus(&win->reask, &w->work.bits.eligible);
}

/* Nothing new is merged for now: the domain wants it so (H15), or the process, or no mapping is left (H4), or
 * none that this window has a use for. */
static bool resting(const struct sp_worker *w, const struct sp_window *win) {
    uint64_t needed = SP_RUN_MAPPINGS + (win->over_budget ? w->mappings_long : 0);
    return w->paused || w->engine->pace.held || w->mappings_left < needed;
}

/* Only what the index hinted at, by the fingerprints that are known: there was no look since. */
static void hinted(struct sp_worker *w, struct sp_window *win) {
    sp_bits candidates = {0};
    eligible_pages(w, win, &w->work.bits.eligible);
    if (w->linked && !resting(w, win) && sp_huge_hinted(w, win, &candidates))
        fingerprint(w, win, &candidates);
    sp_bits waiting = hinted_pages(w, win);
    if (sp_bits_any(&win->fresh) || sp_bits_any(&win->written) || sp_bits_any(&waiting))
        sp_engine_queue(w->engine, win);
}

/* Pages that are still to be tried, or to be asked about again, keep the window in the list; of the former
 * those that are not merely being left alone for a while (or would be, by smart_scan) count as pending. Pages
 * that may not be read keep nothing: sp_engine_protection_locked brings their window back. */
static void requeue(struct sp_worker *w, struct sp_window *win, bool rests) {
    sp_bits rest = win->fresh, waiting = hinted_pages(w, win);
    sp_bits_and(&rest, &w->work.bits.eligible);
    if (!sp_bits_any(&rest) && !sp_bits_any(&waiting))
        return;
    if (w->scan_cut && w->cut_window == win->number)
        queue_first(w->engine, win);
    else
        sp_engine_queue(w->engine, win);
    if (rests)
        return;
    SP_BITS_EACH(&rest, slot) {
        w->pending += !sp_volatility_skipping(win->volatility[slot]);
    }
}

/* True when there is something to ask about or to give back. */
static bool choose(struct sp_worker *w, uint64_t number, enum sp_pass_mode mode) {
    struct sp_engine *e = w->engine;
    struct sp_work *work = &w->work;
    work->n = work->n_publish = work->n_sites = 0;
    work->huge = work->whole = false;
    memset(&work->bits, 0, sizeof(work->bits));
    sp_worker_lock(w);
    struct sp_window *win = e->quit ? NULL : sp_windows_find(&e->windows, number);
    if (!win) {
        sp_engine_unlock(e);
        return false;
    }
    if (mode == SP_PASS_QUIESCENT)
        sp_again_find(w, win);
    sp_again_pass_over(w, win);
    if (mode == SP_PASS_HINTED) {
        hinted(w, win);
        sp_engine_unlock(e);
        return work->n;
    }
    if (mode == SP_PASS_BACKGROUND && sp_heat_skips(w, win)) { /* was not looked at */
        sp_engine_queue(e, win);
        sp_engine_unlock(e);
        return false;
    }
    bool settles = mode != SP_PASS_BACKGROUND || sp_heat_settles(w, win);
    note_written(e, win);
    eligible_pages(w, win, &work->bits.eligible);
    sp_bits candidates;
    choose_settled(w, win, mode, &candidates);
    /* Candidates wait, and what was hinted at. */
    bool rests = !settles || (mode == SP_PASS_BACKGROUND && resting(w, win));
    if (!rests && e->forked && mode != SP_PASS_QUIESCENT)
        drop_forked(w, win, &candidates);
    sp_bits hints = hinted_pages(w, win);
    bool ready = sp_bits_any(&candidates) || sp_bits_any(&hints) ? sp_huge_choose(w, win, &candidates) : true;
    if (!rests && ready && mode == SP_PASS_BACKGROUND && !work->huge)
        bound_scan(w, win, &candidates);
    if (!rests && w->linked && ready)
        fingerprint(w, win, &candidates);
    if (!rests && mode == SP_PASS_BACKGROUND && !sp_bits_any(&candidates))
        sp_whole_note(w, win);
    requeue(w, win, rests);
    sp_engine_unlock(e);
    return work->n || sp_bits_any(&work->bits.zeros);
}

/* The window as it is now, and which of its pages may still be merged. NULL: it has gone, and with it all
 * that was to be done. */
static struct sp_window *window_again(struct sp_worker *w, uint64_t number) {
    struct sp_engine *e = w->engine;
    struct sp_window *win = sp_windows_find(&e->windows, number);
    if (!win)
        return NULL;
    eligible_pages(w, win, &w->work.bits.eligible);
    return win;
}

/* ---- ask ---- */

/* Publishes what was asked for; its answers replace those that said "send". */
static int publish(struct sp_worker *w) {
    struct sp_work *work = &w->work;
    struct sp_link *link = w->engine->link;
    for (size_t i = 0; i < work->n; i++)
        if (work->answers[i].kind == SP_ANSWER_SEND) {
            work->publish[work->n_publish] = work->queries[i];
            work->contents[work->n_publish++] =
                (const void *)(uintptr_t)(work->queries[i].page.v << SP_PAGE_SHIFT);
        }
    if (!work->n_publish)
        return 0;
    link->whole = work->huge && work->n_publish == SP_WINDOW_PAGES;
    int error = link->ops->publish(link, work->publish, work->contents, work->n_publish, work->published);
    if (error)
        return error;
    size_t k = 0;
    for (size_t i = 0; i < work->n; i++)
        if (work->answers[i].kind == SP_ANSWER_SEND)
            work->answers[i] = work->published[k++];
    return 0;
}

/* The pages that were answered "refine", and may be read still. With the lock held. */
static sp_bits refine_pages(struct sp_worker *w, uint64_t number) {
    struct sp_work *work = &w->work;
    const struct sp_window *win = window_again(w, number);
    sp_bits pages = {0}, none = {0};
    for (size_t i = 0; i < work->n; i++)
        if (work->answers[i].kind == SP_ANSWER_REFINE)
            sp_bits_set(&pages, sp_page_slot(work->queries[i].page));
    sp_bits_and(&pages, &work->bits.eligible);
    return win && sp_pass_may_read(w, win, &pages) ? pages : none;
}

/* Reads these pages as a whole; the others that were answered "refine" count as declined. Returns how many
 * there are, in work->publish, which is not in use yet. */
static size_t refine_read(struct sp_worker *w, uint64_t number) {
    struct sp_work *work = &w->work;
    size_t n = 0;
    sp_worker_lock(w);
    sp_bits pages = refine_pages(w, number);
    for (size_t i = 0; i < work->n; i++) {
        if (work->answers[i].kind != SP_ANSWER_REFINE)
            continue;
        struct sp_query *q = &work->queries[i];
        if (sp_bits_get(&pages, sp_page_slot(q->page))) {
            const void *page = (const void *)(uintptr_t)(q->page.v << SP_PAGE_SHIFT);
            q->fp = sp_fp_on_node(sp_fingerprint(&w->key, page), sp_nodes_asked(w, i));
            q->probe = sp_fp_on_node(sp_probe(&w->key, page), sp_nodes_asked(w, i));
            work->publish[n++] = *q;
        } else {
            work->answers[i].kind = SP_ANSWER_DECLINED;
        }
    }
    sp_engine_unlock(w->engine);
    return n;
}

/* Asks again, by the whole, about what was answered "refine". */
static int refine(struct sp_worker *w, uint64_t number) {
    struct sp_work *work = &w->work;
    struct sp_link *link = w->engine->link;
    size_t n = refine_read(w, number), k = 0;
    int error = n ? link->ops->ask(link, work->publish, n, work->published) : 0;
    if (error)
        return error;
    for (size_t i = 0; i < work->n; i++)
        if (work->answers[i].kind == SP_ANSWER_REFINE)
            work->answers[i] = work->published[k++];
    return 0;
}

/* It may be read and merged, or will be when it has got back its protection. */
static bool registered(const struct sp_engine *e, const struct sp_window *win, unsigned slot) {
    uint64_t at = (uintptr_t)page_memory(win, slot);
    size_t i = sp_regions_find(&e->regions, at);
    return i < e->regions.n && e->regions.items[i].start <= at;
}

/* Nobody answered, or nobody is to be asked for now: the pages that were chosen are still to be tried, by
 * whoever is asked next (I7). */
static void unanswered(struct sp_worker *w, uint64_t number) {
    struct sp_work *work = &w->work;
    sp_worker_lock(w);
    struct sp_window *win = window_again(w, number);
    if (win) {
        sp_bits pages = work->bits.zeros;
        sp_bits_or(&pages, &work->bits.nowhere);
        for (size_t i = 0; i < work->n; i++)
            sp_bits_set(&pages, sp_page_slot(work->queries[i].page));
        SP_BITS_EACH(&pages, slot) {
            if (registered(w->engine, win, slot))
                sp_bits_set(&win->fresh, slot);
        }
        sp_engine_queue(w->engine, win);
    }
    sp_engine_unlock(w->engine);
}

/* A window by one question; what that leaves open by its pages. */
static int ask_whole(struct sp_worker *w, uint64_t number, bool may_wait, bool *ret_done) {
    int asked = sp_huge_ask(w, number, may_wait);
    *ret_done = asked != SP_HUGE_PAGES;
    if (asked == SP_HUGE_LATER) {
        unanswered(w, number);
        w->work.n = 0; /* nothing is left to be done about it now */
        w->work.huge = false;
    }
    if (asked != SP_HUGE_ANSWERED)
        return asked < 0 ? asked : 0;
    bool sends = w->work.answers[0].kind == SP_ANSWER_SEND;
    int error = publish(w);
    if (!error && sends)
        sp_huge_sent(w, number);
    return error;
}

static int ask(struct sp_worker *w, uint64_t number, bool may_wait) {
    struct sp_work *work = &w->work;
    bool done = false;
    sp_nodes_ask(w);
    if (!work->n)
        return 0;
    int whole_error = work->huge || work->whole ? ask_whole(w, number, may_wait, &done) : 0;
    if (whole_error || done)
        return whole_error;
    struct sp_link *link = w->engine->link;
    int error = link->ops->ask(link, work->queries, work->n, work->answers);
    if (!error)
        error = refine(w, number);
    return error ? error : publish(w);
}

/* ---- sort ---- */

static void site_add(struct sp_work *work, unsigned slot, sp_store_page store) {
    work->sites[work->n_sites++] = (struct sp_site){slot, store};
}

/* The page waits in the index, under this fingerprint or probe. */
static void page_known(struct sp_engine *e, struct sp_window *win, unsigned slot, sp_fp fp) {
    if (!sp_bits_get(&win->known, slot))
        e->counters.v[SP_COUNTER_pages_unshared]++;
    else if (sp_window_value(win, slot) != fp.v) /* its probe, until now */
        sp_debts_forget(&e->debts, page_number(win->number, slot), (sp_fp){sp_window_value(win, slot)});
    win->slot[slot] = fp.v;
    sp_bits_set(&win->known, slot);
    sp_volatility_calmed(&win->volatility[slot]);
}

/* The index has dropped what it knew of the page by this fingerprint or probe: nothing to be forgotten. */
static void page_answered(struct sp_engine *e, struct sp_window *win, unsigned slot, sp_fp fp) {
    if (!sp_bits_get(&win->known, slot) || sp_window_value(win, slot) != fp.v)
        return;
    sp_bits_clear(&win->known, slot);
    e->counters.v[SP_COUNTER_pages_unshared]--;
}

/* The page is not merged this time, and is to be tried again, also if it may not be read just now. */
static void page_again(struct sp_engine *e, struct sp_window *win, unsigned slot) {
    if (!registered(e, win, slot))
        return;
    sp_page_unknow(e, win, slot);
    sp_volatility_failed(&win->volatility[slot]);
    sp_bits_set(&win->fresh, slot);
    sp_engine_queue(e, win);
}

static void sort_answer(struct sp_worker *w, struct sp_window *win, const struct sp_query *q,
                        const struct sp_answer *a) {
    struct sp_engine *e = w->engine;
    unsigned slot = sp_page_slot(q->page);
    bool eligible = win && sp_bits_get(&w->work.bits.eligible, slot);
    if (a->kind == SP_ANSWER_SHARE && eligible) {
        site_add(&w->work, slot, a->store);
        page_answered(e, win, slot, q->fp);
        if (!sp_fp_whole(q->fp))
            sp_bits_set(&w->work.bits.guessed, slot);
        return;
    }
    if (a->kind == SP_ANSWER_SHARE)
        sp_debts_release(&e->debts, a->store);
    if (a->kind == SP_ANSWER_UNKNOWN && eligible && sp_window_slots(&e->windows, win)) {
        page_known(e, win, slot, q->fp);
        return;
    }
    if (a->kind == SP_ANSWER_UNKNOWN)
        sp_debts_forget(&e->debts, q->page, q->fp);
    if (win) /* declined, no memory to remember it, or not to be read just now: with patience */
        page_again(e, win, slot);
}

/* Answers and zeros become sites, in the order of their slots. */
static void sort(struct sp_worker *w, uint64_t number) {
    struct sp_work *work = &w->work;
    sp_worker_lock(w);
    struct sp_window *win = window_again(w, number);
    size_t i = 0;
    if (win && work->n)
        win->noted = false; /* slot[] holds what the answers say from now on */
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++) {
        if (sp_bits_get(&work->bits.zeros, slot)) {
            if (win && sp_bits_get(&work->bits.eligible, slot))
                site_add(work, slot, SP_STORE_ZERO);
            else if (win)
                page_again(w->engine, win, slot);
        } else if (i < work->n && sp_page_slot(work->queries[i].page) == slot) {
            sort_answer(w, win, &work->queries[i], &work->answers[i]);
            i++;
        } else if (win && sp_bits_get(&work->bits.nowhere, slot)) {
            page_again(w->engine, win, slot);
        }
    }
    sp_engine_unlock(w->engine);
}

/* ---- merge ---- */

/* The site will not be merged this time: its reference goes back, the page waits. With the lock held. */
static void site_fail(struct sp_engine *e, struct sp_window *win, unsigned slot, sp_store_page store) {
    if (store.v != SP_STORE_ZERO.v)
        sp_debts_release(&e->debts, store);
    if (win)
        page_again(e, win, slot);
}

/* `pages` pages further on in the store; zeros stay zeros. */
static sp_store_page run_store(const struct sp_run *run, unsigned pages) {
    return run->store.v == SP_STORE_ZERO.v ? run->store : (sp_store_page){run->store.v + pages};
}

static void run_fail(struct sp_engine *e, struct sp_window *win, const struct sp_run *run) {
    for (unsigned i = 0; i < run->pages; i++)
        site_fail(e, win, run->slot + i, run_store(run, i));
}

static void account_merged(struct sp_engine *e, struct sp_window *win, unsigned slot, sp_store_page store) {
    sp_huge_unask(e, win);
    sp_page_unknow(e, win, slot);
    sp_bits_clear(&win->fresh, slot);
    sp_bits_set(&win->mapped, slot);
    sp_bits_set(&win->shared, slot);
    win->slot[slot] = store.v;
    e->counters.v[SP_COUNTER_pages_merged]++;
    sp_volatility_calmed(&win->volatility[slot]);
}

/* What the index guessed from the page's probe was another page: asked about as a whole, soon. */
static void guess_wrong(struct sp_worker *w, struct sp_window *win, unsigned slot, sp_store_page store) {
    struct sp_engine *e = w->engine;
    sp_debts_release(&e->debts, store);
    sp_page_unknow(e, win, slot);
    e->link->guessed_wrong++;
    sp_bits_set(&win->misled, slot);
    sp_bits_set(&win->fresh, slot);
    sp_engine_queue(e, win);
    w->misled = true;
    w->pending++;
}

/* A page whose child has gone is still treated as shared until it is written: make it our own
 * (MADV_POPULATE_WRITE changes no content; a write by hand could fault). A pinned page is not harmed by it.
 */
static void own_again(struct sp_worker *w, const struct sp_window *win, unsigned slot) {
    if (w->work.huge && !(w->engine->forked && slot == 0))
        return; /* the kernel owns a huge page as one, and would split it if it is armed */
    if (sp_pagemap_exclusive(w->pagemap, page_number(win->number, slot)) != 1)
        return;
    if (sp_advise((uintptr_t)page_memory(win, slot), SP_PAGE_SIZE, MADV_POPULATE_WRITE))
        w->engine->counters.v[SP_COUNTER_errors]++;
    w->pending++; /* worth another look soon */
}

static void account(struct sp_worker *w, struct sp_window *win, unsigned slot, sp_store_page store,
                    enum sp_outcome outcome, struct sp_merge_result *result) {
    struct sp_engine *e = w->engine;
    switch (outcome) {
    case SP_OUTCOME_MERGED:
        account_merged(e, win, slot, store);
        sp_bits_clear(&w->work.bits.broken, slot);
        result->merged_pages++;
        return;
    case SP_OUTCOME_ZEROED:
        sp_page_unknow(e, win, slot);
        sp_bits_clear(&win->fresh, slot);
        sp_bits_set(&win->zeroed, slot);
        e->counters.v[SP_COUNTER_ksm_zero_pages]++;
        result->zero_pages++;
        return;
    case SP_OUTCOME_CHANGED:
        e->counters.v[SP_COUNTER_pages_differed]++;
        result->changed_pages++;
        if (sp_bits_get(&w->work.bits.guessed, slot)) {
            guess_wrong(w, win, slot, store);
            return;
        }
        break;
    case SP_OUTCOME_BUSY:
        e->counters.v[SP_COUNTER_pages_pinned]++;
        result->refused_pages++;
        own_again(w, win, slot);
        break;
    default:
        result->refused_pages++;
        break;
    }
    site_fail(e, win, slot, store);
}

/* So many of `pages` that they come in equal parts, of which none has more than `fits`. */
static unsigned equal_part(unsigned pages, double fits) {
    unsigned most = fits < 1 ? 1 : (unsigned)fits, parts = (pages + most - 1) / most;
    return (pages + parts - 1) / parts;
}

/* Adds runs from `next` on to the batch until its time is spent; cuts the last one where needed. A huge page
 * stays whole: one move, one mapping. */
static size_t batch_fill(struct sp_worker *w, struct sp_run *runs, size_t n, size_t next, size_t *ret_taken) {
    double budget = (double)w->engine->settings.v[SP_SETTING_freeze_micros] * 1000.0 / w->cost;
    size_t taken = 0;
    while (next + taken < n) {
        struct sp_run *run = &runs[next + taken];
        bool whole = w->work.huge && run->pages == SP_WINDOW_PAGES;
        double fits = (budget - COST_RUN_NS) / COST_PAGE_NS;
        if (taken && (fits < 1 || whole))
            break;
        taken++;
        if (!whole && fits < run->pages) {
            *ret_taken = taken;
            return equal_part(run->pages, fits);
        }
        budget -= COST_RUN_NS + COST_PAGE_NS * run->pages;
        if (whole)
            break;
    }
    *ret_taken = taken;
    return runs[next + taken - 1].pages;
}

/* From this length on looking at the store pages of a run through a mapping costs less than reading them. */
#define VIEW_PAGES 32

/*
 * What is needed to verify and remap a run: its store pages, before the freeze, in memory of our own. Those
 * of a long run are mapped there, which saves copying them (0.2 against 0.7 us for each page of a whole
 * window); those of a short run are read, because mapping them would cost more (4 against 1 us for a single
 * page). False: the segment cannot be had.
 */
static bool batch_prepare(struct sp_worker *w, const struct sp_run *run, unsigned pages,
                          struct sp_batch_run *ret) {
    *ret = (struct sp_batch_run){.slot = run->slot, .pages = pages, .fd = -1};
    if (run->store.v == SP_STORE_ZERO.v)
        return true;
    struct sp_link *link = w->engine->link;
    if (link->ops->segment(link, run->store.v / SP_SEGMENT_PAGES, &ret->fd))
        return false;
    ret->offset = run->store.v % SP_SEGMENT_PAGES * SP_PAGE_SIZE;
    if (pages >= VIEW_PAGES && sp_view_make(w, ret))
        return true;
    return sp_copy_read(w, ret);
}

/* Attributes of the regions that the runs lie in (H7). A run never crosses regions: see split_by_region. */
static void batch_attributes(struct sp_worker *w, struct sp_batch *b) {
    const struct sp_regions *regions = &w->engine->regions;
    for (size_t k = 0; k < b->n; k++) {
        size_t i = sp_regions_find(regions, b->base + b->runs[k].slot * SP_PAGE_SIZE);
        b->runs[k].attributes = i < regions->n ? regions->items[i].attributes : 0;
    }
}

/* Whether every page of the runs may still be merged, each run within one region. One that is not armed
 * became so since it was chosen: a freeze would leave it armed in a way that nobody knows of. With the lock
 * held. */
static bool batch_still_eligible(struct sp_worker *w, struct sp_batch *b) {
    const struct sp_regions *regions = &w->engine->regions;
    for (size_t k = 0; k < b->n; k++) {
        uint64_t start = b->base + b->runs[k].slot * SP_PAGE_SIZE;
        uint64_t end = start + b->runs[k].pages * SP_PAGE_SIZE;
        size_t i = sp_regions_find(regions, start);
        if (i == regions->n || regions->items[i].start > start || regions->items[i].end < end)
            return false;
        if (b->uffd >= 0 && !regions->items[i].armed)
            return false;
        for (unsigned s = b->runs[k].slot; s < b->runs[k].slot + b->runs[k].pages; s++)
            if (!sp_bits_get(&w->work.bits.eligible, s))
                return false;
    }
    return true;
}

/* What the batch could not register again is not watched, and is armed anew before the next look. */
static void batch_unarmed(struct sp_worker *w, const struct sp_batch *b) {
    SP_BITS_EACH(&b->unarmed, slot) {
        uint64_t at = b->base + slot * SP_PAGE_SIZE;
        sp_regions_unarm(&w->engine->regions, at, at + SP_PAGE_SIZE);
    }
}

static void batch_learn(struct sp_worker *w, const struct sp_batch *b) {
    double predicted = 0;
    for (size_t k = 0; k < b->n; k++)
        predicted += COST_RUN_NS + COST_PAGE_NS * b->runs[k].pages;
    double measured = (double)b->frozen_ns / predicted;
    if (measured > 4)
        measured = 4; /* preempted: says nothing about the work */
    double weight = measured > w->cost ? COST_WEIGHT_UP : COST_WEIGHT_DOWN;
    w->cost += (measured - w->cost) * weight;
    if (w->cost < 0.25)
        w->cost = 0.25;
}

/* How often at most it is asked whether UFFDIO_MOVE is still safe. */
#define SAFE_NS UINT64_C(1000000000)

/* Swap can be switched on at any time, and on some kernels moving pages is not safe then (H25). */
static bool move_is_safe(struct sp_worker *w) {
    uint64_t now = sp_now_ns();
    bool safe;
    if (now < w->next_safe_ns)
        return true;
    w->next_safe_ns = now + SAFE_NS;
    return !sp_proc_move_is_safe(&safe) && safe;
}

/*
 * Whether the engine was stopped meanwhile, or is to be; a quiescent merge needs no userfaultfd. With the
 * lock held.
 *
 * A filter that another thread bound to us since (SECCOMP_FILTER_FLAG_TSYNC, by a raw system call: others are
 * announced) could kill this thread inside the batch, and frozen pages would be lost with it (H19). Asked
 * before each batch: whoever is killed by the question itself has frozen nothing.
 */
static bool may_merge(struct sp_worker *w, bool quiescent) {
    struct sp_engine *e = w->engine;
    enum sp_engine_state refuse = SP_ENGINE_RUNNING;
    if (!quiescent && sp_proc_filtered())
        refuse = SP_ENGINE_SECCOMP;
    else if (!quiescent && !move_is_safe(w))
        refuse = SP_ENGINE_UNSAFE_KERNEL;
    if (refuse != SP_ENGINE_RUNNING && !e->quit) {
        sp_engine_quit(e);
        sp_engine_set_state(e, refuse, -EPERM);
    }
    return !e->quit && (e->state == SP_ENGINE_RUNNING || (quiescent && e->state == SP_ENGINE_NO_USERFAULTFD));
}

/* One batch: `taken` runs from `runs`, of the last only `last_pages`. */
static void batch_do(struct sp_worker *w, uint64_t number, const struct sp_run *runs, size_t taken,
                     unsigned last_pages, bool quiescent, struct sp_merge_result *result) {
    struct sp_engine *e = w->engine;
    struct sp_batch *b = &w->batch;
    bool ready = true;
    b->uffd = quiescent ? -1 : w->uffd;
    b->pagemap = w->pagemap;
    b->fork_events = w->fork_events;
    b->scratch = w->scratch;
    b->base = number * SP_WINDOW_SIZE;
    b->whole = w->work.huge && last_pages == SP_WINDOW_PAGES;
    b->runs = w->work.batch_runs;
    b->n = 0;
    memset(&b->view_moved, 0, sizeof(b->view_moved));
    for (size_t k = 0; k < taken && ready; k++)
        ready = batch_prepare(w, &runs[k], k + 1 < taken ? runs[k].pages : last_pages, &b->runs[b->n++]);
    sp_worker_lock(w);
    struct sp_window *win = window_again(w, number);
    ready = ready && win && may_merge(w, quiescent) && sp_window_slots(&e->windows, win) &&
            batch_still_eligible(w, b);
    if (ready) {
        batch_attributes(w, b);
        sp_batch_run(b);
        batch_unarmed(w, b);
        if (b->replaced)
            sp_engine_raw_call(e);
        if (b->frozen_ns) {
            sp_histogram_add(&e->freezes, b->frozen_ns);
            batch_learn(w, b);
        }
        e->counters.v[SP_COUNTER_batches]++;
        e->counters.v[SP_COUNTER_errors] += b->errors;
        if (b->whole && b->outcome[0] == SP_OUTCOME_MERGED)
            e->counters.v[SP_COUNTER_pages_merged_huge] += SP_WINDOW_PAGES;
        if (b->forks)
            e->forked = true;
    }
    for (size_t k = 0; k < taken; k++) {
        unsigned pages = k + 1 < taken ? runs[k].pages : last_pages;
        for (unsigned i = 0; i < pages; i++) {
            unsigned slot = runs[k].slot + i;
            if (ready)
                account(w, win, slot, run_store(&runs[k], i), b->outcome[slot], result);
            else
                site_fail(e, win, slot, run_store(&runs[k], i));
        }
        if (ready && runs[k].store.v != SP_STORE_ZERO.v && w->mappings_left >= SP_RUN_MAPPINGS) {
            w->mappings_left -= SP_RUN_MAPPINGS;
            e->counters.v[SP_COUNTER_mappings] += SP_RUN_MAPPINGS;
        }
    }
    sp_views_drop(w, b);
    sp_engine_unlock(e);
}

/* Cuts runs where regions meet, so that each run has one set of attributes. With the lock held. Returns the
 * new number. */
static size_t split_by_region(struct sp_worker *w, uint64_t number, struct sp_run *runs, size_t n) {
    const struct sp_regions *regions = &w->engine->regions;
    for (size_t k = 0; k < n; k++) {
        uint64_t start = number * SP_WINDOW_SIZE + runs[k].slot * SP_PAGE_SIZE;
        size_t i = sp_regions_find(regions, start);
        if (i == regions->n || regions->items[i].start > start)
            continue; /* no longer registered: found when the batch begins */
        unsigned pages = (unsigned)((regions->items[i].end - start) >> SP_PAGE_SHIFT);
        if (regions->items[i].end - start >= runs[k].pages * SP_PAGE_SIZE || n == SP_WINDOW_PAGES)
            continue;
        memmove(&runs[k + 2], &runs[k + 1], (n - k - 1) * sizeof(*runs));
        runs[k + 1] =
            (struct sp_run){runs[k].slot + pages, runs[k].pages - pages, run_store(&runs[k], pages)};
        runs[k].pages = pages;
        n++;
    }
    return n;
}

/* Plans the runs; those over the budget are given up. Returns how many there are. */
static size_t plan(struct sp_worker *w, uint64_t number, struct sp_merge_result *result) {
    struct sp_engine *e = w->engine;
    struct sp_work *work = &w->work;
    size_t n = sp_plan_runs(work->sites, work->n_sites, work->runs);
    sp_worker_lock(w);
    n = split_by_region(w, number, work->runs, n);
    size_t kept = sp_plan_budget(work->runs, n, w->mappings_left, w->mappings_long);
    struct sp_window *win = sp_windows_find(&e->windows, number);
    if (win)
        win->over_budget = kept < n;
    for (size_t k = kept; k < n; k++) {
        e->counters.v[SP_COUNTER_pages_over_budget] += work->runs[k].pages;
        result->refused_pages += work->runs[k].pages;
        run_fail(e, win, &work->runs[k]);
    }
    sp_engine_unlock(e);
    return kept;
}

static void window_fold(struct sp_worker *w, uint64_t number) {
    struct sp_engine *e = w->engine;
    sp_worker_lock(w);
    struct sp_window *win = sp_windows_find(&e->windows, number);
    if (win)
        sp_window_fold(&e->windows, win);
    sp_engine_unlock(e);
}

static void merge(struct sp_worker *w, uint64_t number, bool quiescent, struct sp_merge_result *result) {
    struct sp_work *work = &w->work;
    sp_mappings_before_merge(w);
    size_t n = plan(w, number, result);
    for (size_t next = 0; next < n;) {
        size_t taken;
        unsigned last_pages = (unsigned)batch_fill(w, work->runs, n, next, &taken);
        batch_do(w, number, &work->runs[next], taken, last_pages, quiescent, result);
        struct sp_run *last = &work->runs[next + taken - 1];
        next += taken;
        if (last_pages < last->pages) { /* the rest of it is for the next batch */
            last->store = run_store(last, last_pages);
            last->slot += last_pages;
            last->pages -= last_pages;
            next--;
        }
    }
    window_fold(w, number);
}

/* Leaves a huge page alone, or splits it, or neither. */
static void judge_huge(struct sp_worker *w, uint64_t number, enum sp_pass_mode mode) {
    struct sp_engine *e = w->engine;
    struct sp_work *work = &w->work;
    bool now = mode == SP_PASS_NOW || mode == SP_PASS_QUIESCENT;
    sp_worker_lock(w);
    struct sp_window *win = sp_windows_find(&e->windows, number);
    enum sp_huge_verdict verdict = win ? sp_huge_judge(w, win, now) : SP_HUGE_LEAVE;
    for (size_t i = 0; verdict == SP_HUGE_LEAVE && i < work->n_sites; i++)
        site_fail(e, win, work->sites[i].slot, work->sites[i].store);
    if (verdict == SP_HUGE_LEAVE)
        work->n_sites = 0;
    work->huge = verdict == SP_HUGE_WHOLE;
    sp_engine_unlock(e);
    if (verdict == SP_HUGE_SPLIT)
        sp_huge_split(number);
}

void sp_pass_window(struct sp_worker *w, uint64_t number, enum sp_pass_mode mode,
                    struct sp_merge_result *result) {
    if (!choose(w, number, mode))
        return;
    w->done += w->work.n;
    if (ask(w, number, mode == SP_PASS_BACKGROUND)) {
        sp_worker_unlink(w);
        unanswered(w, number);
        return;
    }
    sort(w, number);
    if (w->work.huge)
        judge_huge(w, number, mode);
    if (w->work.n_sites && (w->uffd >= 0 || mode == SP_PASS_QUIESCENT))
        merge(w, number, mode == SP_PASS_QUIESCENT, result);
}
