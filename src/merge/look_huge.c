/* SPDX-License-Identifier: MIT */
/*
 * Looking at huge pages that are not armed. Arming one costs the program dear: its first write then splits
 * it, for good. So the ordinary look leaves them alone (SP_PAGEMAP_WRITTEN_SMALL), and a huge page is armed
 * only when it seems to be at rest: a sample of it, one word of each 4 KiB, is the same in two looks. Those
 * that are not are sampled less and less often. From when it is armed a huge page is treated like other
 * memory.
 *
 * A sample may miss a write. Then a huge page is armed, and split, that a closer look would have spared; no
 * content is at stake.
 *
 * Finding them walks the page tables of registered memory once more, so it is done when memory was
 * registered, while samples wait for their second look, and otherwise every few seconds. A huge page of which
 * only a part is registered is armed at once, like small pages: it cannot stay whole anyway.
 */
#include <string.h>

#include "merge/state.h"
#include "os/kernel.h"

#define EVERY_NS    UINT64_C(3000000000)
#define STRETCH     (8 * SP_WINDOW_SIZE) /* under one lock: some 80 us of sampling */
#define LOOK_NS_MAX UINT64_C(200000)
#define HEAT_MAX    6

static struct sp_huge_sample *sample_of(struct sp_worker *w, uint64_t number) {
    return &w->huge_samples[number % SP_HUGE_SAMPLES];
}

/* What the window holds, with the lock held: it was there just now. */
static uint64_t sample_take(uint64_t number) {
    uint64_t sum = number;
    for (uint64_t slot = 0; slot < SP_WINDOW_PAGES; slot++) {
        uint64_t word = (slot + 1) * UINT64_C(0x9e3779b97f4a7c15) >> 55; /* of the page's 512 */
        const uint64_t *at = (const uint64_t *)(uintptr_t)(number * SP_WINDOW_SIZE + slot * SP_PAGE_SIZE);
        sum = (sum ^ __atomic_load_n(at + word, __ATOMIC_RELAXED)) * UINT64_C(0xff51afd7ed558ccd);
        sum ^= sum >> 29;
    }
    return sum;
}

/* Arms pages that are written, and marks them so. */
static void arm(struct sp_worker *w, struct sp_window *win, unsigned first, unsigned last) {
    sp_bits written;
    if (sp_pagemap_window(w->pagemap, SP_PAGEMAP_WRITTEN, win->number, first, last, &written)) {
        w->engine->counters.v[SP_COUNTER_errors]++;
        return;
    }
    sp_bits_or(&win->written, &written);
    sp_engine_queue(w->engine, win);
}

/* At rest: whatever was known of it may be of before, and all of it has settled. */
static void arm_settled(struct sp_worker *w, struct sp_window *win) {
    struct sp_engine *e = w->engine;
    arm(w, win, 0, SP_WINDOW_PAGES);
    if (sp_bits_any(&win->written))
        sp_huge_unask(e, win);
    SP_BITS_EACH(&win->written, slot) {
        if (sp_bits_get(&win->known, slot))
            sp_page_unknow(e, win, slot);
        sp_page_unzero(e, win, slot);
    }
    sp_bits_or(&win->fresh, &win->written);
    memset(&win->written, 0, sizeof(win->written));
}

/* Another window has the place, and was met in the last round: no place for this one. */
static bool is_taken(const struct sp_worker *w, const struct sp_huge_sample *s, uint64_t number) {
    return s->number_plus_1 && s->number_plus_1 != number + 1 && (uint8_t)(w->huge_round - s->round) <= 1;
}

static void window_sample(struct sp_worker *w, struct sp_window *win) {
    struct sp_huge_sample *s = sample_of(w, win->number);
    bool known = s->number_plus_1 == win->number + 1;
    if (is_taken(w, s, win->number)) {
        arm_settled(w, win);
        return;
    }
    if (known && s->skip) {
        s->round = w->huge_round;
        s->skip--;
        return;
    }
    uint64_t now = sample_take(win->number);
    if (known && s->sample == now) {
        arm_settled(w, win);
        *s = (struct sp_huge_sample){0};
        return;
    }
    unsigned heat = !known ? 0 : s->heat < HEAT_MAX ? s->heat + 1u : s->heat;
    *s = (struct sp_huge_sample){.sample = now,
                                 .number_plus_1 = (uint32_t)(win->number + 1),
                                 .round = w->huge_round,
                                 .heat = (uint8_t)heat,
                                 .skip = (uint8_t)((1u << heat) - 1)};
    if (!known) {
        w->huge_again = true;
        w->pending += SP_WINDOW_PAGES;
    }
}

static void stretch_look(struct sp_worker *w, uint64_t start, uint64_t end) {
    struct sp_engine *e = w->engine;
    for (uint64_t number = start / SP_WINDOW_SIZE; number * SP_WINDOW_SIZE < end; number++) {
        struct sp_window *win = sp_windows_get(&e->windows, number);
        unsigned first, last;
        sp_bits readable;
        if (!win) {
            e->counters.v[SP_COUNTER_errors]++;
            return;
        }
        sp_window_clip(win, start, end, &first, &last);
        sp_regions_window(&e->regions, number, &readable);
        if (last - first < SP_WINDOW_PAGES)
            arm(w, win, first, last);
        else if (sp_bits_all(&readable))
            window_sample(w, win);
    }
}

/* One call, with the lock held; of what it finds no more than STRETCH is sampled. Returns where to go on. */
static uint64_t look_once(struct sp_worker *w, uint64_t at, uint64_t end, bool *ret_found) {
    struct sp_range range;
    size_t n = 0;
    uint64_t next = end;
    if (sp_pagemap_scan(w->pagemap, SP_PAGEMAP_WRITTEN_HUGE, at, end, &range, 1, &n, &next)) {
        w->engine->counters.v[SP_COUNTER_errors]++;
        return end;
    }
    *ret_found = n > 0;
    if (!n)
        return next > at ? next : end;
    if (range.end > range.start + STRETCH)
        range.end = (range.start + STRETCH) / SP_WINDOW_SIZE * SP_WINDOW_SIZE;
    stretch_look(w, range.start, range.end);
    return range.end;
}

/* What one call walks: much where nothing is found, as long as it does not take long. */
static uint64_t stretch_next(uint64_t stretch, bool found, uint64_t took_ns) {
    if (found)
        return STRETCH;
    if (took_ns > LOOK_NS_MAX)
        return stretch > STRETCH ? stretch / 2 : stretch;
    return took_ns < LOOK_NS_MAX / 4 && stretch < UINT64_MAX / 4 ? stretch * 2 : stretch;
}

void sp_look_huge(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    uint64_t stretch = STRETCH;
    if (sp_now_ns() < w->next_huge_ns)
        return;
    w->huge_again = false;
    w->huge_round++;
    for (uint64_t at = 0;;) {
        sp_worker_lock(w);
        uint64_t begin = sp_now_ns();
        size_t i = sp_regions_find(&e->regions, at);
        if (i == e->regions.n || e->quit) {
            sp_engine_unlock(e);
            break;
        }
        const struct sp_region *r = &e->regions.items[i];
        uint64_t start = at > r->start ? at : r->start;
        uint64_t stop =
            r->end - start > stretch ? (start + stretch) / SP_WINDOW_SIZE * SP_WINDOW_SIZE : r->end;
        uint64_t skip = 0;
        bool found = false;
        if (r->armed)
            stop = sp_look_stretch(w, start, stop, &skip);
        at = !r->armed ? r->end : skip ? skip : look_once(w, start, stop, &found);
        sp_engine_unlock(e);
        stretch = stretch_next(stretch, found, sp_now_ns() - begin);
    }
    w->next_huge_ns = w->huge_again ? 0 : sp_now_ns() + EVERY_NS;
}
