/* SPDX-License-Identifier: MIT */
/*
 * Windows in which much is written (core/heat.h), and that the look is to leave out. A window that rests is
 * not armed, so that the program's writes to it are as fast as without us, and nothing that was known of it
 * holds: what the index knows of it is forgotten.
 */
#include "merge/state.h"
#include "os/uffd.h"

static bool disarm_piece(void *ctx, uint64_t start, uint64_t end, bool store) {
    struct sp_worker *w = ctx;
    /* A refusal (the program has put something else there) leaves pages armed: a fault more for each. */
    int unused = store ? 0 : sp_uffd_protect(w->uffd, start, end - start, false);
    (void)unused;
    return true;
}

static void window_disarm(struct sp_worker *w, const struct sp_window *win) {
    struct sp_engine *e = w->engine;
    uint64_t base = win->number * SP_WINDOW_SIZE;
    for (size_t i = sp_regions_find(&e->regions, base);
         i < e->regions.n && e->regions.items[i].start < base + SP_WINDOW_SIZE; i++) {
        unsigned first, last;
        const struct sp_region *r = &e->regions.items[i];
        sp_window_clip(win, r->start, r->end, &first, &last);
        if (r->armed)
            sp_engine_pieces_locked(e, base + first * SP_PAGE_SIZE, base + last * SP_PAGE_SIZE, disarm_piece,
                                    w);
    }
}

/* All that was known of it is as if it had been written; but for what was broken and waits in the index since
 * a quiescent merge: that is not watched in any case (again.c). */
static void window_unknow(struct sp_engine *e, struct sp_window *win) {
    sp_bits known = win->known;
    sp_huge_unask(e, win);
    sp_bits_minus(&known, &win->mapped);
    sp_bits_or(&win->fresh, &known);
    SP_BITS_EACH(&known, slot) {
        sp_page_unknow(e, win, slot);
    }
    sp_bits_and(&win->reask, &win->known);
}

bool sp_heat_settles(struct sp_worker *w, struct sp_window *win) {
    sp_bits watched = win->fresh, written = win->fresh;
    /* That the others were written for the first time says nothing of the next. */
    sp_bits_or(&watched, &win->known);
    sp_bits_and(&written, &win->written);
    if (!w->engine->settings.v[SP_SETTING_smart_scan]) {
        win->heat = (struct sp_heat){0};
        return true;
    }
    switch (sp_heat_look(&win->heat, sp_bits_count(&watched), sp_bits_count(&written), w->looked_before_ns,
                         w->looked_ns)) {
    case SP_HEAT_SETTLED:
        return true;
    case SP_HEAT_REST:
        window_unknow(w->engine, win);
        window_disarm(w, win);
        return false;
    default:
        return false;
    }
}

void sp_heat_wait(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    w->heat_due_ns = 0;
    sp_worker_lock(w);
    for (struct sp_window *win = e->todo_first; win; win = win->next) {
        struct sp_heat *h = &win->heat;
        if (sp_heat_is_new(h) && (!w->heat_due_ns || h->until_ns < w->heat_due_ns))
            w->heat_due_ns = h->until_ns;
        if (sp_bits_any(&win->written) && !h->since_ns) /* the pass has not come to it */
            h->since_ns = w->looked_before_ns;
    }
    sp_engine_unlock(e);
}
