/* SPDX-License-Identifier: MIT */
/*
 * The search for broken pages: pages that were merged, and that a write has made private again, give their
 * references back, so that the store page goes when nobody needs it. On the way it is seen whether the
 * mappings of a window are still those that we know of (H1).
 *
 * Nobody tells which merged pages were written; one has to look at every window in turn, 2 us for a window
 * that is one mapping, 15 where its page table is in no cache, 50 where each page is a mapping of its own. So
 * that this does not cost what memory there is, the search may use a small part of a processor only: enough
 * for a round in a minute, if that is not more than a thousandth. What it finds pays for more: where a page
 * in a few windows has been broken since the last round, rounds follow one another with each pass.
 */
#include <errno.h>

#include "merge/state.h"
#include "os/mapping.h"

#define ROUND_NS        UINT64_C(60000000000)
#define PART_LEAST      (1.0 / 6000)
#define PART_MOST       (1.0 / 1000)
#define FOUND_NS        10000            /* what a page found pays for */
#define CREDIT_NS_MAX   INT64_C(5000000) /* no more than this is saved up, or owed */
#define SEARCH_NS_MAX   UINT64_C(20000000)
#define LOCKED_WINDOWS  8
#define DROPPED_WINDOWS 256
#define LOCKED_NS_MAX   UINT64_C(200000)

/*
 * Whether the mappings of a window are those that we know of (H1). Armed memory is watched; where it is not,
 * and we did not map the store there, somebody has put something in its place. And where we did map the store
 * something is mapped. (Not so in a child whose parent excluded the range, MADV_DONTFORK.)
 */
static bool window_is_ours(const struct sp_engine *e, const struct sp_window *win, const sp_bits *unwatched) {
    sp_bits replaced, gone = win->mapped;
    sp_regions_armed(&e->regions, win->number, &replaced);
    sp_bits_and(&replaced, unwatched);
    sp_bits_minus(&replaced, &win->mapped);
    sp_bits_minus(&gone, unwatched);
    return !sp_bits_any(&replaced) && (e->child_since_ns || !sp_bits_any(&gone));
}

enum place { PLACE_STORE, PLACE_OTHER, PLACE_UNKNOWN };

/*
 * Whether a page lies in the mapping of the store that we made there. If the program has moved that mapping
 * away by a call that nobody saw, and mapped other memory, then this is no broken page, and the store page is
 * still in use elsewhere: its reference must not go back (I8). `known` is the mapping asked about last.
 */
static enum place page_place(struct sp_worker *w, const struct sp_window *win, unsigned slot,
                             struct sp_file_mapping *known) {
    uint64_t address = win->number * SP_WINDOW_SIZE + slot * SP_PAGE_SIZE;
    if (w->maps < 0)
        return PLACE_STORE;
    if (address < known->start || address >= known->end) {
        int error = sp_maps_file(w->maps, address, known);
        if (error == -ENOENT)
            return PLACE_OTHER;
        if (error)
            return PLACE_UNKNOWN;
    }
    uint64_t offset = known->offset_bytes + (address - known->start);
    bool same = offset == sp_window_value(win, slot) % SP_SEGMENT_PAGES * SP_PAGE_SIZE;
    return same && !known->shared ? PLACE_STORE : PLACE_OTHER;
}

/* The page is private in what we believe to be a mapping of the store. If that is true it gives its reference
 * back. `known`: as for page_place. */
static bool page_broken(struct sp_worker *w, struct sp_window *win, unsigned slot,
                        struct sp_file_mapping *known) {
    struct sp_engine *e = w->engine;
    enum place place = page_place(w, win, slot, known);
    if (place == PLACE_OTHER)
        sp_engine_raw_call(e);
    e->counters.v[SP_COUNTER_errors] += place == PLACE_UNKNOWN;
    if (place != PLACE_STORE)
        return false;
    sp_page_unshare(e, win, slot);
    sp_volatility_failed(&win->volatility[slot]);
    e->counters.v[SP_COUNTER_pages_broken]++;
    return true;
}

/* Returns how many broken pages it found. One call passes over armed mappings as a whole, and costs 5 ns for
 * each page of long runs of the store. */
static unsigned window_look(struct sp_worker *w, struct sp_window *win) {
    struct sp_engine *e = w->engine;
    struct sp_file_mapping known = {0};
    unsigned found = 0;
    sp_bits unwatched, broken;
    if (sp_pagemap_unwatched_window(w->pagemap, win->number, &unwatched, &broken)) {
        e->counters.v[SP_COUNTER_errors]++;
        return 0; /* no answer, no sign */
    }
    if (!window_is_ours(e, win, &unwatched)) {
        sp_engine_raw_call(e);
        return 0;
    }
    sp_bits_and(&broken, &win->shared);
    SP_BITS_EACH(&broken, slot) {
        if (!e->quit)
            found += page_broken(w, win, slot, &known);
    }
    return found;
}

static void credit(struct sp_worker *w, int64_t ns) {
    w->search_credit_ns += ns;
    if (w->search_credit_ns > CREDIT_NS_MAX)
        w->search_credit_ns = CREDIT_NS_MAX;
    if (w->search_credit_ns < -CREDIT_NS_MAX)
        w->search_credit_ns = -CREDIT_NS_MAX;
}

/* What the time since the last search has earned: as much as a round would take, if that is not too much. */
static void earn(struct sp_worker *w, uint64_t now, size_t windows) {
    uint64_t elapsed = now - w->searched_ns;
    double wanted = (double)windows * w->search_window_ns / ROUND_NS;
    double part = wanted < PART_LEAST ? PART_LEAST : wanted < PART_MOST ? wanted : PART_MOST;
    w->searched_ns = now;
    credit(w, elapsed < ROUND_NS ? (int64_t)((double)elapsed * part) : CREDIT_NS_MAX);
}

/* Looks at the next window, in a circle. Returns how many broken pages it found. */
static unsigned next_window(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    struct sp_window *win = sp_windows_next(&e->windows, w->search_next);
    for (unsigned left = DROPPED_WINDOWS; win && sp_window_empty(win) && left; left--) {
        w->search_next = win->number + 1;
        sp_windows_drop(&e->windows, win);
        win = sp_windows_next(&e->windows, w->search_next);
    }
    w->search_next = win ? win->number + 1 : 0;
    return win ? window_look(w, win) : 0;
}

/* At most `most` windows under one lock. Returns how many. */
static size_t search_some(struct sp_worker *w, size_t most) {
    struct sp_engine *e = w->engine;
    uint64_t cpu_ns = sp_thread_cpu_ns();
    unsigned found = 0;
    size_t n = 0;
    sp_worker_lock(w);
    uint64_t begin = sp_now_ns();
    for (bool time_left = true; time_left && n < most && !e->quit; n++) {
        found += next_window(w);
        time_left = sp_now_ns() - begin < LOCKED_NS_MAX;
    }
    sp_engine_unlock(e);
    cpu_ns = sp_thread_cpu_ns() - cpu_ns;
    credit(w, (int64_t)found * FOUND_NS - (int64_t)cpu_ns);
    if (n && !found)
        w->search_window_ns = w->search_window_ns * 0.9 + (double)cpu_ns / (double)n * 0.1;
    return n;
}

void sp_look_broken(struct sp_worker *w) {
    uint64_t begin = sp_now_ns();
    sp_worker_lock(w);
    size_t left = w->engine->windows.n;
    sp_engine_unlock(w->engine);
    earn(w, begin, left++); /* the end of the circle counts for one */
    while (left && w->search_credit_ns > 0 && sp_now_ns() - begin < SEARCH_NS_MAX) {
        size_t n = search_some(w, left < LOCKED_WINDOWS ? left : LOCKED_WINDOWS);
        if (!n) /* the worker is to end */
            return;
        left -= n;
    }
}

void sp_look_broken_in(struct sp_worker *w, uint64_t start, uint64_t end) {
    struct sp_engine *e = w->engine;
    struct sp_window *win;
    uint64_t number = start / SP_WINDOW_SIZE;
    do {
        sp_worker_lock(w);
        win = sp_windows_next(&e->windows, number);
        if (win && win->number * SP_WINDOW_SIZE >= end)
            win = NULL;
        number = win ? win->number + 1 : 0;
        if (win && !e->quit)
            window_look(w, win);
        sp_engine_unlock(e);
    } while (win);
}
