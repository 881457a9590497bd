/* SPDX-License-Identifier: MIT */
/*
 * Merging again what is broken: pages that were merged and written since, or unmerged. They are private
 * memory in a mapping of the store, which UFFDIO_MOVE does not take, so that nothing can freeze them and
 * nothing tells whether a device still writes to them (H13). A quiescent merge needs neither: its caller
 * promises that nobody touches the range. There, and nowhere else, a broken page is a candidate like any
 * other: read, asked about, compared and mapped over where it lies.
 *
 * What is broken the kernel says, at the beginning of each window's turn, not our records: a page that holds
 * no reference of ours may map the store all the same (what was merged for a daemon that has gone, or for the
 * parent of a forked child), and is left alone. Who still holds a reference to the store page that he has
 * written since gives it back first.
 *
 * A broken page whose content nobody else has waits in the index, so that others find it in calls of their
 * own, but nobody watches it in between. So a hint about it is not followed then: it leaves the index, which
 * lets another one that waits there be hinted. An index that keeps pages in the order of their contents would
 * no longer find its way once one of them has changed unseen: there it leaves at the end of the call.
 *
 * Zeros are a content like any other here. A hole would show what the store has in that place.
 */
#include <string.h>

#include "merge/state.h"

void sp_again_begin(struct sp_worker *w, const struct sp_request *r) {
    if (r->quiescent)
        sp_look_broken_in(w, r->start, r->end);
}

void sp_again_find(struct sp_worker *w, const struct sp_window *win) {
    sp_bits *broken = &w->work.bits.broken;
    memset(broken, 0, sizeof(*broken));
    if (!sp_bits_any(&win->mapped))
        return;
    if (sp_pagemap_window(w->pagemap, SP_PAGEMAP_BROKEN, win->number, 0, SP_WINDOW_PAGES, broken)) {
        w->engine->counters.v[SP_COUNTER_errors]++;
        return;
    }
    sp_bits_and(broken, &win->mapped);
    sp_bits_minus(broken, &win->shared);
}

void sp_again_pass_over(struct sp_worker *w, struct sp_window *win) {
    sp_bits left = win->mapped, hinted = win->reask;
    sp_bits_minus(&left, &w->work.bits.broken);
    sp_bits_minus(&win->written, &left);
    sp_bits_minus(&win->fresh, &left);
    sp_bits_and(&hinted, &left);
    SP_BITS_EACH(&hinted, slot) {
        sp_page_unknow(w->engine, win, slot);
    }
}

void sp_again_end(struct sp_worker *w, struct sp_window *win) {
    struct sp_engine *e = w->engine;
    sp_bits_minus(&win->fresh, &win->mapped);
    if (!e->link->ordered)
        return;
    SP_BITS_EACH(&win->mapped, slot) {
        sp_page_unknow(e, win, slot);
    }
}
