/* SPDX-License-Identifier: MIT */
/*
 * Looking: which pages were written since the last look. Cost follows what was written: clean memory costs a
 * walk over its page tables in the kernel (1.3 ns for each page), memory that was never touched nothing
 * (H16). Windows that are written all the time are left out for longer and longer, because each look costs
 * the application one short fault for each page it writes next.
 *
 * The lock is held for one system call at a time, and the stretch that one call walks is sized by the time it
 * took.
 */
#include <errno.h>

#include "merge/state.h"
#include "os/mapping.h"
#include "os/uffd.h"

#define LOOK_STRETCH_MIN (UINT64_C(16) << 20)
#define LOOK_NS_MAX      UINT64_C(200000)
#define LOOK_WINDOWS_MAX 2048

/* Registers one stretch that is not a mapping of the store. */
struct arm {
    struct sp_worker *w;
    int error;
};

static bool arm_piece(void *ctx, uint64_t start, uint64_t end, bool store) {
    struct arm *arm = ctx;
    if (!store)
        arm->error = sp_uffd_register(arm->w->uffd, start, end - start, SP_UFFD_MODE_WP);
    return !arm->error;
}

static bool is_not_ours(int error) {
    /* The program has a userfaultfd of its own there (H11), or it is no longer memory of the kind we
     * registered. */
    return error == -EBUSY || error == -EINVAL;
}

/* A region may be many mappings, and what is wrong with one says nothing of its neighbours. */
struct arm_mappings {
    struct sp_worker *w;
    uint64_t start, end;
    int error;
};

static bool arm_mapping(void *ctx, const struct sp_mapping *m) {
    struct arm_mappings *a = ctx;
    struct arm arm = {.w = a->w};
    uint64_t start = m->start > a->start ? m->start : a->start, end = m->end < a->end ? m->end : a->end;
    sp_engine_pieces_locked(a->w->engine, start, end, arm_piece, &arm);
    if (is_not_ours(arm.error))
        sp_engine_remove_locked(a->w->engine, start, end, false);
    else if (arm.error)
        a->error = arm.error;
    return !a->error;
}

/* Arms what can be of a region that cannot be armed whole; the rest leaves. */
static int arm_mappings(struct sp_worker *w, uint64_t start, uint64_t end) {
    struct sp_engine *e = w->engine;
    struct arm_mappings a = {.w = w, .start = start, .end = end};
    int error = sp_proc_mappings(start, end, arm_mapping, &a);
    if (error || a.error)
        return error ? error : a.error;
    for (size_t i = sp_regions_find(&e->regions, start); i < e->regions.n && e->regions.items[i].start < end;
         i++)
        e->regions.items[i].armed = true;
    return 0;
}

/* Ends the registration of ranges that left; whatever is there now and is not ours stays as it is. With the
 * lock held. */
static void disarm_retired(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    for (size_t i = 0; i < e->n_retired && w->uffd >= 0; i++)
        if (sp_uffd_unregister(w->uffd, e->retired[i].start, e->retired[i].end - e->retired[i].start))
            continue; /* unmapped meanwhile */
    __atomic_store_n(&e->n_retired, 0, __ATOMIC_RELAXED);
}

void sp_look_disarm(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    if (!__atomic_load_n(&e->n_retired, __ATOMIC_RELAXED))
        return;
    sp_worker_lock(w);
    disarm_retired(w);
    sp_engine_unlock(e);
    sp_event_post(&e->pass_done);
}

void sp_look_arm(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    bool any = false;
    sp_worker_lock(w);
    if (e->refresh)
        e->refresh();
    disarm_retired(w);
    for (size_t i = 0; i < e->regions.n;) {
        struct sp_region *r = &e->regions.items[i];
        if (r->armed) {
            i++;
            continue;
        }
        struct arm arm = {.w = w};
        uint64_t start = r->start, end = r->end;
        sp_engine_pieces_locked(e, start, end, arm_piece, &arm);
        if (is_not_ours(arm.error)) {
            if (arm_mappings(w, start, end))
                sp_engine_remove_locked(e, start, end, false);
            else
                any = true;
            i = sp_regions_find(&e->regions, end);
            continue;
        }
        if (arm.error)
            e->counters.v[SP_COUNTER_errors]++;
        else
            r->armed = any = true;
        i++;
    }
    if (any) {
        w->next_huge_ns = 0;
        sp_regions_join(&e->regions, 0, UINT64_MAX);
    }
    sp_engine_unlock(e);
}

/* A stretch was written: marks its pages in their windows. */
static void mark_written(struct sp_engine *e, uint64_t start, uint64_t end) {
    for (uint64_t number = start / SP_WINDOW_SIZE; number * SP_WINDOW_SIZE < end; number++) {
        struct sp_window *win = sp_windows_get(&e->windows, number);
        if (!win) {
            e->counters.v[SP_COUNTER_errors]++;
            return;
        }
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        sp_bits_range(&win->written, first, last);
        sp_engine_queue(e, win);
    }
}

static bool is_passed_over(const struct sp_worker *w, const struct sp_window *win) {
    return sp_bits_all(&win->mapped) || sp_heat_skips(w, win);
}

uint64_t sp_look_stretch(const struct sp_worker *w, uint64_t at, uint64_t end, uint64_t *ret_skip) {
    const struct sp_windows *windows = &w->engine->windows;
    uint64_t number = at / SP_WINDOW_SIZE;
    unsigned left = LOOK_WINDOWS_MAX;
    const struct sp_window *win = sp_windows_next(windows, number);
    for (; win && win->number == number && is_passed_over(w, win) && left; left--)
        win = sp_windows_next(windows, ++number);
    *ret_skip = number > at / SP_WINDOW_SIZE ? number * SP_WINDOW_SIZE : 0;
    if (*ret_skip)
        return end;
    for (; win && win->number * SP_WINDOW_SIZE < end && !is_passed_over(w, win) && left; left--)
        win = sp_windows_next(windows, win->number + 1);
    return win && win->number * SP_WINDOW_SIZE < end ? win->number * SP_WINDOW_SIZE : end;
}

/* One call, with the lock held. Returns where to go on. */
static uint64_t look_once(struct sp_worker *w, uint64_t at, uint64_t end) {
    struct sp_engine *e = w->engine;
    size_t n = 0;
    uint64_t next = end;
    if (sp_pagemap_scan(w->pagemap, SP_PAGEMAP_WRITTEN_SMALL, at, end, w->ranges, SP_RANGES_MAX, &n, &next)) {
        e->counters.v[SP_COUNTER_errors]++;
        return end;
    }
    for (size_t i = 0; i < n; i++)
        mark_written(e, w->ranges[i].start, w->ranges[i].end);
    return next > at ? next : end;
}

void sp_look_written(struct sp_worker *w, uint64_t start, uint64_t end) {
    struct sp_engine *e = w->engine;
    uint64_t stretch = LOOK_STRETCH_MIN;
    for (uint64_t at = start; at < end;) {
        sp_worker_lock(w);
        uint64_t begin = sp_now_ns();
        size_t i = sp_regions_find(&e->regions, at);
        if (i == e->regions.n || e->regions.items[i].start >= end) {
            sp_engine_unlock(e);
            return;
        }
        const struct sp_region *r = &e->regions.items[i];
        if (at < r->start)
            at = r->start;
        uint64_t stop = r->end < end ? r->end : end, skip;
        if (!r->armed) {
            at = stop;
        } else {
            stop = sp_look_stretch(w, at, stop - at > stretch ? at + stretch : stop, &skip);
            at = skip ? skip : look_once(w, at, stop);
        }
        uint64_t took = sp_now_ns() - begin;
        sp_engine_unlock(e);
        if (took > LOOK_NS_MAX && stretch > LOOK_STRETCH_MIN / 8)
            stretch /= 2;
        else if (took < LOOK_NS_MAX / 4 && stretch < UINT64_MAX / 4)
            stretch *= 2;
    }
}

void sp_look_resident(struct sp_worker *w, uint64_t start, uint64_t end) {
    struct sp_engine *e = w->engine;
    for (uint64_t at = start; at < end;) {
        sp_worker_lock(w);
        size_t i = sp_regions_find(&e->regions, at);
        if (i == e->regions.n || e->regions.items[i].start >= end) {
            sp_engine_unlock(e);
            return;
        }
        const struct sp_region *r = &e->regions.items[i];
        if (at < r->start)
            at = r->start;
        uint64_t stop = r->end < end ? r->end : end, next = stop;
        size_t n = 0;
        if (sp_pagemap_scan(w->pagemap, SP_PAGEMAP_PRESENT, at, stop, w->ranges, SP_RANGES_MAX, &n, &next))
            e->counters.v[SP_COUNTER_errors]++;
        for (size_t k = 0; k < n; k++)
            mark_written(e, w->ranges[k].start, w->ranges[k].end);
        at = next > at ? next : stop;
        sp_engine_unlock(e);
    }
}
