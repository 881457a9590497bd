/* SPDX-License-Identifier: MIT */
/*
 * What the domain's settings make the worker do. They come with the welcome and, when somebody changes them,
 * through the link (struct sp_link, settings); the worker looks there between two windows, so that it obeys
 * within the time of one, or when it wakes, which a message makes it do. A process that is stopped obeys when
 * it continues.
 *
 * That a domain tells its clients anew what they know is how it asks them where they stand: they look again,
 * and report what they have carried out, and when they have settled, without waiting for their next report.
 *
 * run = 2 is carried out window by window, with the lock held for one at a time: the program goes on
 * meanwhile. Until all of it is done the worker does not say that it has obeyed. What was merged is private
 * again then, but its mapping is still one of the store, and is not merged again (H13); pages that were given
 * back as zeros are, because they are anonymous memory like any other.
 */
#include "merge/state.h"

#define NS_PER_MS UINT64_C(1000000)

bool sp_obey_stopped(const struct sp_worker *w) {
    const struct sp_settings *s = &w->engine->settings;
    return s->v[SP_SETTING_run] != 1 || s->v[SP_SETTING_pages_to_scan] == 0 ||
           s->v[SP_SETTING_max_pages_to_merge] == 0;
}

/* Known pages are read again, and asked about anew. With the lock held. */
static void read_again(struct sp_engine *e) {
    for (struct sp_window *win = sp_windows_next(&e->windows, 0); win;
         win = sp_windows_next(&e->windows, win->number + 1)) {
        sp_bits known = win->known;
        sp_bits_or(&win->fresh, &known);
        sp_huge_unask(e, win);
        SP_BITS_EACH(&known, slot) {
            sp_page_unknow(e, win, slot);
        }
        if (sp_bits_any(&known))
            sp_engine_queue(e, win);
    }
}

/* Whether something changes for pages that are known: some of them may be zeros, which are to be given back
 * from now on, or the index knows them under other fingerprints (core/node.h). */
static bool concerns_known(const struct sp_settings *old, const struct sp_settings *new) {
    return new->v[SP_SETTING_use_zero_pages] > old->v[SP_SETTING_use_zero_pages] ||
           new->v[SP_SETTING_merge_across_nodes] != old->v[SP_SETTING_merge_across_nodes];
}

/* `joined`: by a welcome, so that whatever is merged was merged for another daemon. */
static void take_over(struct sp_worker *w, const struct sp_settings *new, uint32_t number, bool joined) {
    struct sp_engine *e = w->engine;
    sp_worker_lock(w);
    struct sp_settings old = e->settings;
    e->settings = *new;
    e->settled = false; /* whoever asks wants to know how it is now: the next pass will tell */
    if (concerns_known(&old, new))
        read_again(e);
    sp_engine_unlock(e);
    uint64_t run = new->v[SP_SETTING_run];
    w->to_unmerge = run == 2 && (joined || w->to_unmerge || old.v[SP_SETTING_run] != 2);
    w->settings_number = number;
    w->tell_settled = true;
    w->counted_ns = 0; /* map_percent may be another */
    w->scan_left = 0;  /* what goes on is bound anew, */
    sp_pace_begin(w);  /* and what was done is not paid for at other rates */
    /* Whatever the pause is now, it is not the one that was meant. */
    w->interval_ns = sp_pace_pause_ns(w, new->v[SP_SETTING_sleep_millisecs] * NS_PER_MS);
    w->next_pass_ns = w->last_pass_ns + (sp_obey_stopped(w) || joined ? 0 : w->interval_ns);
}

void sp_obey_welcome(struct sp_worker *w, const struct sp_welcome *welcome) {
    w->obeyed_number = 0;
    if (sp_settings_check(&welcome->settings) == 0)
        take_over(w, &welcome->settings, welcome->settings_number, true);
}

/* False: not all of it could be done, for want of memory. */
static bool unmerge_all(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    bool all = true;
    for (uint64_t number = 0; !__atomic_load_n(&e->quit, __ATOMIC_ACQUIRE); number++) {
        sp_worker_lock(w);
        struct sp_window *win = sp_windows_next(&e->windows, number);
        if (!win) {
            sp_engine_unlock(e);
            return all;
        }
        number = win->number;
        uint64_t start = number * SP_WINDOW_SIZE;
        int error = sp_engine_unmerge_locked(e, start, start + SP_WINDOW_SIZE);
        if (!error)
            error = sp_engine_refill_locked(e, start, start + SP_WINDOW_SIZE);
        e->counters.v[SP_COUNTER_errors] += error != 0;
        all &= !error;
        sp_engine_unlock(e);
        sp_worker_forks(w);
    }
    return false;
}

void sp_obey(struct sp_worker *w) {
    const struct sp_link *l = w->engine->link;
    if (w->linked && l->settings_number != w->settings_number && l->settings_number)
        take_over(w, &l->settings, l->settings_number, false);
}

void sp_obey_carry_out(struct sp_worker *w) {
    if (w->to_unmerge)
        w->to_unmerge = !unmerge_all(w);
    if (w->to_unmerge || w->obeyed_number == w->settings_number)
        return;
    w->obeyed_number = w->settings_number;
    w->next_report_ns = 0; /* somebody may be waiting for it */
}
