/* SPDX-License-Identifier: MIT */
/*
 * Windows of small pages that are asked about as a whole, as huge pages are (huge.c).
 *
 * Where processes hold the same they mostly hold it in the same order, and then one question, one entry of
 * the index and one hint do for 512 pages. To find out costs nobody any time: while all pages of a window are
 * fresh, and it is seen whether they settle, their probes are taken and the window is *noted* with the index,
 * together with others. The index says, or hints later, that somebody else has the same. Only then is the
 * window asked about as a whole when it has settled, and waits where somebody is just sending it. All other
 * windows are asked about page by page as ever, by the probes that were taken: what has been written since is
 * known, and no longer noted.
 *
 * Unlike a huge page such a window is not kept together: its pages are merged as far as they are the same.
 */
#include "core/fingerprint.h"
#include "merge/state.h"

/* Whether all of it is new to us, may be read, and is to be told to an index that knows of windows. */
static bool may_note(struct sp_worker *w, const struct sp_window *win) {
    const struct sp_engine *e = w->engine;
    return e->link->windows && w->linked && w->uffd >= 0 && !sp_nodes_apart(w) && !e->forked && !win->noted &&
           !win->asked && !win->heat.until_ns && w->scan_left == UINT64_MAX && sp_bits_all(&win->fresh) &&
           sp_bits_all(&w->work.bits.eligible) && !sp_bits_any(&win->known) && !sp_bits_any(&win->misled) &&
           !sp_huge_is(w, win);
}

/* False: there is a page of zeros, which is not to be asked about. */
static bool take_probes(const struct sp_worker *w, struct sp_window *win) {
    bool holes = w->engine->settings.v[SP_SETTING_use_zero_pages];
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++) {
        const uint8_t *page = (const uint8_t *)(win->number * SP_WINDOW_SIZE + slot * SP_PAGE_SIZE);
        if (slot + SP_PROBE_AHEAD < SP_WINDOW_PAGES)
            sp_probe_prefetch(&w->key, page + SP_PROBE_AHEAD * SP_PAGE_SIZE);
        if (holes && sp_page_is_zero(page))
            return false;
        win->slot[slot] = sp_probe(&w->key, page).v;
    }
    return true;
}

void sp_whole_note(struct sp_worker *w, struct sp_window *win) {
    if (w->n_notes == SP_NOTES_MAX || !may_note(w, win) || !sp_pass_may_read(w, win, &win->fresh) ||
        !sp_window_slots(&w->engine->windows, win))
        return;
    win->noted = take_probes(w, win);
    if (!win->noted)
        return;
    sp_fp probe = sp_window_probe(win->slot);
    win->asked = probe.v;
    w->notes[w->n_notes++] = (struct sp_query){{win->number * SP_WINDOW_PAGES}, probe, SP_PROBE_WINDOW_NOTE};
}

/* What was noted and has changed since is told all the same: that it is to be forgotten is told later. */
int sp_whole_tell(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    struct sp_answer answers[SP_NOTES_MAX];
    size_t n = w->n_notes;
    w->n_notes = 0;
    int error = n ? e->link->ops->ask(e->link, w->notes, n, answers) : 0;
    if (error || !n)
        return error;
    sp_worker_lock(w);
    for (size_t i = 0; i < n; i++) {
        struct sp_window *win = sp_windows_find(&e->windows, sp_page_window(w->notes[i].page));
        if (!win || win->asked != w->notes[i].fp.v)
            continue;
        win->twin |= answers[i].kind == SP_ANSWER_REFINE;
        if (answers[i].kind == SP_ANSWER_DECLINED)
            win->asked = 0;
    }
    sp_engine_unlock(e);
    return 0;
}

bool sp_whole_choose(struct sp_worker *w, struct sp_window *win, const sp_bits *candidates) {
    if (!win->noted || !sp_bits_all(candidates))
        return true;
    if (win->huge_wait && !w->request) {
        win->huge_wait--;
        return false;
    }
    w->work.whole = win->twin;
    return true;
}

void sp_whole_hinted(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates) {
    if (!win->noted || !win->huge_waited || !sp_bits_get(&win->reask, 0) || sp_bits_any(&win->written) ||
        w->engine->forked || !sp_bits_all(&win->fresh) || !sp_bits_all(&w->work.bits.eligible))
        return;
    *candidates = win->fresh;
    w->work.whole = true;
}
