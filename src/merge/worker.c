/* SPDX-License-Identifier: MIT */
/*
 * The worker: one thread for each process, started when enough memory is registered (H10), with descriptors,
 * stack and buffers of its own (H2, H9). It sleeps until it is time for the next look, a hint or a fork event
 * comes in, or the application's side wakes it.
 *
 * Lock order: the engine's lock only, never held while talking to the index. sp_worker_lock keeps reading
 * fork events while it waits, because the holder may be inside fork, and its fork waits in the kernel until
 * its event is read.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "merge/state.h"
#include "os/mapping.h"
#include "os/socket.h"
#include "os/uffd.h"
#include "os/wake.h"

#define MS UINT64_C(1000000)

/* Tries, half a millisecond apart at least where the lock is waited for. */
#define FORKS_FAILED_MAX 100
#define RELINK_NS        (1000 * MS)
#define REPORT_NS        (500 * MS)
#define NOW_ROUNDS_MAX   16
/* For fewer pages it is not worth looking at everything again soon: most programs write to some all the time,
 * and a pause that has grown does no harm where only few pages wait for its end. */
#define HURRY_PAGES 64
#define HINTS_MAX   64

/* ---- lock and fork events ---- */

/*
 * Reads events; true: there were children. Where that goes on failing (a program that forbids itself
 * descriptors) the userfaultfd is closed, which lets go of whoever forks: nothing is frozen now. Merging has
 * ended then.
 */
static bool forks_take(struct sp_worker *w) {
    int children = w->fork_events ? sp_batch_forks(w->uffd) : 0;
    w->forks_failed = children < 0 ? w->forks_failed + 1 : 0;
    if (w->forks_failed < FORKS_FAILED_MAX)
        return children > 0;
    int unused = sp_close(w->uffd);
    (void)unused;
    w->uffd = w->engine->link->idle_fd = -1;
    w->fork_events = false;
    __atomic_store_n(&w->engine->quit, true, __ATOMIC_RELEASE);
    sp_engine_set_state(w->engine, SP_ENGINE_STOPPED, children);
    return false;
}

void sp_worker_forks(struct sp_worker *w) {
    if (forks_take(w)) {
        sp_worker_lock(w);
        w->engine->forked = true;
        sp_engine_unlock(w->engine);
    }
}

void sp_worker_lock(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    bool forked = false;
    while (!sp_lock_timed(&e->lock, MS / 2))
        forked |= forks_take(w);
    e->forked |= forked;
}

/* While the link waits for the daemon. */
static void worker_idle(void *ctx) {
    sp_worker_forks(ctx);
}

/* ---- the link and the userfaultfd ---- */

static void set_state(struct sp_worker *w, enum sp_engine_state state, int error) {
    sp_worker_lock(w);
    if (w->engine->state != SP_ENGINE_STOPPED && !w->engine->quit)
        sp_engine_set_state(w->engine, state, error);
    sp_engine_unlock(w->engine);
}

/* What a page's state rested on the index is void: known pages are asked about again, shared ones stay
 * shared, without a reference that could be given back (I7). */
static void forget_index(struct sp_engine *e) {
    for (struct sp_window *win = sp_windows_next(&e->windows, 0); win;
         win = sp_windows_next(&e->windows, win->number + 1)) {
        sp_bits_or(&win->fresh, &win->known);
        e->counters.v[SP_COUNTER_pages_unshared] -= sp_bits_count(&win->known);
        memset(&win->known, 0, sizeof(win->known));
        memset(&win->reask, 0, sizeof(win->reask));
        memset(&win->shared, 0, sizeof(win->shared));
        sp_huge_forgotten(win);
        if (sp_bits_any(&win->fresh))
            sp_engine_queue(e, win);
    }
    sp_debts_clear(&e->debts);
}

void sp_worker_unlink(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    if (!w->linked)
        return;
    w->linked = false;
    e->link->ops->close(e->link);
    sp_worker_lock(w);
    forget_index(e);
    if (e->state == SP_ENGINE_RUNNING)
        sp_engine_set_state(e, SP_ENGINE_NO_LINK, -ENOTCONN);
    sp_engine_unlock(e);
    w->next_link_ns = sp_now_ns() + RELINK_NS;
}

static int open_userfaultfd(struct sp_worker *w) {
    struct sp_link *link = w->engine->link;
    int error = link->ops->userfaultfd(link, &w->uffd, &w->fork_events);
    if (error) {
        w->uffd = -1;
        w->fork_events = false;
        return error;
    }
    error = sp_uffd_register(w->uffd, (uintptr_t)w->scratch, SP_WINDOW_SIZE, SP_UFFD_MODE_MISSING);
    if (error) {
        int unused = sp_close(w->uffd);
        (void)unused;
        w->uffd = -1;
        w->fork_events = false;
        return error;
    }
    link->idle_fd = w->fork_events ? w->uffd : -1;
    link->idle = worker_idle;
    link->idle_ctx = w;
    return 0;
}

/* Joins the domain, and gets the userfaultfd the first time. */
static void worker_link(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    struct sp_welcome welcome;
    w->next_link_ns = sp_now_ns() + RELINK_NS;
    int error = e->link->ops->open(e->link, &welcome);
    if (error) {
        set_state(w, SP_ENGINE_NO_LINK, error);
        return;
    }
    w->linked = true;
    w->key = welcome.key;
    w->paused = welcome.pause;
    if (w->uffd < 0)
        error = open_userfaultfd(w);
    sp_obey_welcome(w, &welcome);
    sp_worker_lock(w);
    sp_engine_changed(e);
    sp_engine_unlock(e);
    set_state(w, w->uffd >= 0 ? SP_ENGINE_RUNNING : SP_ENGINE_NO_USERFAULTFD, error);
    w->next_pass_ns = w->next_report_ns = 0; /* the report asks for CPU time */
}

/* ---- hints, debts, reports ---- */

/* Pages of the window that are known and among `pages` are to be asked about again. With the lock held. */
static void reask(struct sp_engine *e, struct sp_window *win, sp_bits pages) {
    sp_bits_and(&pages, &win->known);
    sp_bits_or(&win->reask, &pages);
    if (sp_bits_any(&pages))
        sp_engine_queue(e, win);
}

static void take_hint(struct sp_worker *w, const struct sp_hint *hint) {
    struct sp_engine *e = w->engine;
    sp_worker_lock(w);
    struct sp_window *win = sp_windows_next(&e->windows, hint->window == SP_HINT_ALL ? 0 : hint->window);
    for (; win && hint->window == SP_HINT_ALL; win = sp_windows_next(&e->windows, win->number + 1)) {
        reask(e, win, win->known);
        sp_huge_reask(e, win);
    }
    if (win && win->number == hint->window) {
        reask(e, win, hint->pages);
        if (sp_bits_get(&hint->pages, 0))
            sp_huge_reask(e, win);
    }
    sp_engine_unlock(e);
}

/* Returns how many came. */
static size_t take_hints(struct sp_worker *w) {
    struct sp_link *link = w->engine->link;
    struct sp_hint hints[HINTS_MAX];
    size_t total = 0, n = HINTS_MAX;
    while (w->linked && n == HINTS_MAX) {
        n = 0;
        if (link->ops->hints(link, hints, HINTS_MAX, &n)) {
            sp_worker_unlink(w);
            return total;
        }
        for (size_t i = 0; i < n; i++)
            take_hint(w, &hints[i]);
        total += n;
    }
    w->hinted |= total > 0;
    w->tell_settled |= total > 0;
    return total;
}

/* Takes up to what fits into the work area of the debts, from their end; sends them without the lock. True
 * when there may be more. */
static bool pay_some(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    struct sp_link *link = e->link;
    struct sp_store_run runs[256];
    struct sp_query *forgets = w->work.queries;
    sp_worker_lock(w);
    struct sp_debts *d = &e->debts;
    size_t n_runs = d->n_runs < 256 ? d->n_runs : 256;
    size_t n_forgets = d->n_forgets < SP_WINDOW_PAGES ? d->n_forgets : SP_WINDOW_PAGES;
    if (n_runs)
        memcpy(runs, &d->runs[d->n_runs - n_runs], n_runs * sizeof(*runs));
    if (n_forgets)
        memcpy(forgets, &d->forgets[d->n_forgets - n_forgets], n_forgets * sizeof(*forgets));
    d->n_runs -= n_runs;
    d->n_forgets -= n_forgets;
    sp_engine_unlock(e);
    int error = 0;
    if (n_forgets)
        error = link->ops->forget(link, forgets, n_forgets);
    if (!error && n_runs)
        error = link->ops->release(link, runs, n_runs);
    if (error)
        sp_worker_unlink(w);
    return !error && (n_runs == 256 || n_forgets == SP_WINDOW_PAGES);
}

/* Once mappings have turned out not to be what we believed, nothing that is owed is certain: what was moved
 * away unseen still needs its references. */
static void pay_debts(struct sp_worker *w) {
    while (w->linked && sp_engine_state(w->engine) != SP_ENGINE_RAW_CALLS && pay_some(w))
        ;
}

/* Gauges that are cheaper to count than to keep. With the lock held. */
static void count_gauges(struct sp_engine *e) {
    uint64_t fresh = 0, resident = 0;
    for (struct sp_window *win = sp_windows_next(&e->windows, 0); win;
         win = sp_windows_next(&e->windows, win->number + 1)) {
        sp_bits all = win->known;
        sp_bits_or(&all, &win->fresh);
        fresh += sp_bits_count(&win->fresh);
        sp_bits_or(&all, &win->mapped);
        resident += sp_bits_count(&all);
    }
    e->counters.v[SP_COUNTER_pages_volatile] = fresh;
    e->counters.v[SP_COUNTER_resident_pages] = resident;
    e->counters.v[SP_COUNTER_registered_bytes] = e->regions.bytes;
    e->counters.v[SP_COUNTER_own_bytes] = sp_engine_own_bytes(e);
}

static void worker_report(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    uint64_t cpu_ns = sp_thread_cpu_ns();
    sp_worker_lock(w);
    if (e->refresh)
        e->refresh();
    e->counters.v[SP_COUNTER_cpu_ns] = cpu_ns;
    count_gauges(e);
    w->report.state = e->state;
    w->report.settled = e->settled && e->settled_generation == e->generation && !w->hinted;
    w->report.settings_number = w->obeyed_number;
    w->tell_settled &= !w->report.settled;
    w->report.counters = e->counters;
    w->report.freezes = e->freezes;
    sp_engine_unlock(e);
    w->reported_ns = sp_now_ns();
    w->next_report_ns = w->reported_ns + REPORT_NS;
    if (w->linked && e->link->ops->report(e->link, &w->report, &w->paused))
        sp_worker_unlink(w);
}

static void report_when_due(struct sp_worker *w) {
    if (w->linked && sp_now_ns() >= w->next_report_ns)
        worker_report(w);
}

/* ---- passes ---- */

/* Takes the first window off the list; NULL: it is empty. */
static struct sp_window *todo_take(struct sp_engine *e) {
    struct sp_window *win = e->todo_first;
    if (!win)
        return NULL;
    e->todo_first = win->next;
    if (!e->todo_first)
        e->todo_last = NULL;
    win->next = NULL;
    win->queued = false;
    return win;
}

/* Tells the index which windows were noted, when they are many or there will be no more. */
static void tell_notes(struct sp_worker *w, bool now) {
    if ((now || w->n_notes == SP_NOTES_MAX) && w->linked && sp_whole_tell(w))
        sp_worker_unlink(w);
    if (!w->linked)
        w->n_notes = 0;
}

/* Works through the windows that are in the list now; those queued meanwhile wait for the next pass. With
 * `hinted` only those that have hints. Ends early where the settings allow no more pages to be read or
 * merged, or no more CPU time to be used: then the windows that are left come first in the next pass, hinted
 * ones as well. */
static void work_through(struct sp_worker *w, bool hinted) {
    struct sp_engine *e = w->engine;
    struct sp_merge_result unused = {0};
    sp_worker_lock(w);
    size_t n = 0;
    for (struct sp_window *win = e->todo_first; win; win = win->next)
        n++;
    sp_engine_unlock(e);
    if (!hinted && (!w->round_left || w->round_left > n))
        w->round_left = n;
    while (n-- && !__atomic_load_n(&e->quit, __ATOMIC_ACQUIRE) && !sp_obey_stopped(w)) {
        if (sp_cpu_is_used(w) || sp_pace_is_used(w) || (!hinted && !w->scan_left)) {
            w->scan_cut |= !hinted;
            break;
        }
        sp_worker_lock(w);
        struct sp_window *win = todo_take(e);
        uint64_t number = win ? win->number : 0;
        bool skip = win && hinted && !sp_bits_any(&win->reask);
        if (skip)
            sp_engine_queue(e, win);
        sp_engine_unlock(e);
        if (!win)
            break;
        w->round_left -= !hinted && w->round_left;
        if (!skip)
            sp_pass_window(w, number, hinted ? SP_PASS_HINTED : SP_PASS_BACKGROUND, &unused);
        w->round_left += !hinted && w->scan_cut;
        tell_notes(w, false);
        take_hints(w);
        report_when_due(w);
        sp_obey(w);
    }
}

/* Follows hints between two looks. Where nothing can be merged they wait: the answers would be references to
 * pages that nobody maps. */
static void worker_hinted(struct sp_worker *w) {
    if (!sp_cpu_may_begin(w))
        return;
    if (w->uffd >= 0)
        work_through(w, true);
    pay_debts(w);
    uint64_t paced = w->last_pass_ns + sp_pace_pause_ns(w, 0);
    w->next_pass_ns = paced > w->next_pass_ns ? paced : w->next_pass_ns;
}

static void post_pass(struct sp_worker *w, uint64_t generation) {
    struct sp_engine *e = w->engine;
    sp_worker_lock(w);
    e->counters.v[SP_COUNTER_full_scans] += !w->round_left && !sp_obey_stopped(w);
    e->settled = w->linked && !w->pending && !w->scan_cut && !w->to_unmerge && !w->heat_due_ns;
    e->settled_generation = generation;
    if (e->settled && w->tell_settled)
        w->next_report_ns = 0;
    sp_engine_unlock(e);
    sp_event_post(&e->pass_done);
}

/* Pages shared or dropped so far, less those that were written again. */
static uint64_t gained(struct sp_worker *w) {
    const uint64_t *v = w->engine->counters.v;
    sp_worker_lock(w);
    uint64_t pages = v[SP_COUNTER_pages_merged] + v[SP_COUNTER_ksm_zero_pages] - v[SP_COUNTER_pages_broken];
    sp_engine_unlock(w->engine);
    return pages;
}

static bool much_to_do(const struct sp_worker *w) {
    return w->pending + w->done >= HURRY_PAGES || w->scan_cut;
}

static void learn_worth(struct sp_worker *w, uint64_t cost_ns) {
    uint64_t pages = gained(w), longest = w->engine->settings.v[SP_SETTING_sleep_max_millisecs] * MS;
    sp_worth_pass(&w->worth, sp_now_ns() - w->last_pass_ns, cost_ns, (int64_t)(pages - w->gained),
                  w->linked && much_to_do(w), longest);
    w->gained = pages;
}

/* The shortest pause that may follow: long while passes cost more than they are worth. */
static uint64_t pause_least_ns(const struct sp_worker *w) {
    uint64_t shortest = w->engine->settings.v[SP_SETTING_sleep_millisecs] * MS;
    uint64_t worth = sp_worth_pause_ns(&w->worth);
    return sp_pace_pause_ns(w, worth > shortest ? worth : shortest);
}

static uint64_t later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Short while there is much to do, longer and longer when there is not. */
static uint64_t pause_ns(const struct sp_worker *w) {
    uint64_t least = pause_least_ns(w);
    uint64_t longest = w->engine->settings.v[SP_SETTING_sleep_max_millisecs] * MS;
    uint64_t pause = much_to_do(w) ? least : w->interval_ns ? w->interval_ns * 2 : MS;
    if (pause > longest)
        pause = longest;
    return pause > least ? pause : least;
}

/* Merging has been stopped: what was merged and is written gives its references back all the same. */
static void stopped_pass(struct sp_worker *w) {
    uint64_t generation = __atomic_load_n(&w->engine->generation, __ATOMIC_ACQUIRE);
    w->pending = w->round_left = w->heat_due_ns = 0;
    w->scan_cut = w->hinted = false;
    sp_look_broken(w);
    pay_debts(w);
    post_pass(w, generation);
    w->interval_ns = w->engine->settings.v[SP_SETTING_sleep_max_millisecs] * MS;
    w->last_pass_ns = sp_now_ns();
    w->next_pass_ns = w->last_pass_ns + w->interval_ns;
}

static void scanning_pass(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    uint64_t cpu_ns = sp_thread_cpu_ns();
    uint64_t generation = __atomic_load_n(&e->generation, __ATOMIC_ACQUIRE);
    uint64_t bound = e->settings.v[SP_SETTING_pages_to_scan];
    w->pending = w->done = w->retried = 0;
    w->scan_left = bound == SP_UNBOUNDED_PAGES ? UINT64_MAX : bound;
    w->scan_cut = w->hinted = false;
    sp_mappings_before_pass(w);
    sp_pace_begin(w);
    sp_look_arm(w);
    w->looked_before_ns = w->looked_ns;
    w->looked_ns = sp_now_ns();
    sp_look_written(w, 0, UINT64_MAX);
    sp_look_huge(w);
    sp_cpu_looked(w, cpu_ns);
    pay_debts(w); /* what is to be forgotten is, before it is asked about anew */
    work_through(w, false);
    tell_notes(w, true);
    sp_heat_wait(w);
    sp_look_broken(w);
    pay_debts(w);
    if (w->linked && !w->round_left && e->link->ops->scanned)
        e->link->ops->scanned(e->link);
    if (take_hints(w) || w->done > w->retried)
        w->pending++;
    post_pass(w, generation);
    learn_worth(w, sp_thread_cpu_ns() - cpu_ns);
    w->interval_ns = pause_ns(w);
    w->last_pass_ns = sp_now_ns();
    w->next_pass_ns = w->last_pass_ns + (sp_obey_stopped(w) ? 0 : w->interval_ns);
    if (w->heat_due_ns && w->heat_due_ns < w->next_pass_ns)
        w->next_pass_ns = later(w->heat_due_ns, w->last_pass_ns + pause_least_ns(w));
}

static void worker_pass(struct sp_worker *w) {
    if (!sp_cpu_may_begin(w))
        sp_cpu_wait(w);
    else if (sp_obey_stopped(w))
        stopped_pass(w);
    else
        scanning_pass(w);
}

/* ---- synchronous merges ---- */

/* One round over the range. Returns whether another one could find more: the index made hints of pages of
 * ours, or had guessed wrong. */
static bool now_round(struct sp_worker *w, struct sp_request *r) {
    struct sp_engine *e = w->engine;
    enum sp_pass_mode mode = r->quiescent ? SP_PASS_QUIESCENT : SP_PASS_NOW;
    uint64_t number = r->start / SP_WINDOW_SIZE, end = (r->end + SP_WINDOW_SIZE - 1) / SP_WINDOW_SIZE;
    w->misled = false;
    pay_debts(w);
    while (number < end) {
        sp_worker_lock(w);
        struct sp_window *win = sp_windows_next(&e->windows, number);
        number = win ? win->number : end;
        sp_engine_unlock(e);
        if (number >= end)
            break;
        sp_pass_window(w, number++, mode, &r->result);
    }
    return take_hints(w) > 0 || w->misled;
}

/* Without tracking nobody knows what changed since the pages were made known. */
static void now_unknow(struct sp_worker *w, const struct sp_request *r) {
    struct sp_engine *e = w->engine;
    sp_worker_lock(w);
    SP_WINDOWS_EACH(&e->windows, r->start, r->end, win) {
        unsigned first, last;
        sp_window_clip(win, r->start, r->end, &first, &last);
        sp_huge_unask(e, win);
        for (unsigned slot = first; slot < last; slot++)
            sp_page_unknow(e, win, slot);
    }
    sp_engine_unlock(e);
}

static void serve_request(struct sp_worker *w, struct sp_request *r) {
    struct sp_engine *e = w->engine;
    r->error = !w->linked ? -ENOTCONN : w->uffd < 0 && !r->quiescent ? e->stopped_by : 0;
    if (!r->error && w->uffd < 0 && !r->quiescent)
        r->error = -EPERM;
    if (!r->error && e->settings.v[SP_SETTING_run] != 1)
        r->error = -EBUSY;
    if (r->error)
        return;
    sp_mappings_count(w);
    if (w->uffd >= 0) {
        sp_look_arm(w);
        sp_look_written(w, r->start, r->end);
    }
    sp_again_begin(w, r);
    now_unknow(w, r);
    pay_debts(w); /* or what is to be forgotten would be what is asked about below */
    sp_look_resident(w, r->start, r->end);
    w->request = r;
    for (unsigned round = 0; round < NOW_ROUNDS_MAX && w->linked && now_round(w, r); round++)
        ;
    w->request = NULL;
    sp_worker_lock(w);
    SP_WINDOWS_EACH(&e->windows, r->start, r->end, win) {
        unsigned first, last;
        sp_window_clip(win, r->start, r->end, &first, &last);
        for (unsigned slot = first; slot < last; slot++)
            r->result.shared_pages += sp_bits_get(&win->shared, slot);
        sp_again_end(w, win);
    }
    sp_engine_unlock(e);
    pay_debts(w);
}

static void serve_requests(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    for (bool served = false;; served = true) {
        sp_worker_lock(w);
        struct sp_request *r = e->requests;
        if (r)
            e->requests = r->next;
        sp_engine_unlock(e);
        if (!r) {
            if (served && w->linked)
                worker_hinted(w); /* what the index hinted at lies outside the ranges asked for */
            return;
        }
        serve_request(w, r);
        sp_event_post(&r->done);
    }
}

/* ---- life ---- */

/* Reasons not to work in this process at all. 0: none. */
static enum sp_engine_state worker_refuse(void) {
    int seccomp = 0;
    bool locked = false, safe = true;
    if (sp_proc_seccomp(&seccomp) || seccomp)
        return SP_ENGINE_SECCOMP;
    if (sp_proc_locked(&locked) || locked)
        return SP_ENGINE_LOCKED_MEMORY;
    if (sp_proc_move_is_safe(&safe) || !safe)
        return SP_ENGINE_UNSAFE_KERNEL;
    return SP_ENGINE_RUNNING;
}

/* A window of our own, which children and core dumps have no use for. */
static int own_window(size_t align, uint8_t **ret_window) {
    void *window;
    int error = sp_map_own(SP_WINDOW_SIZE, align, &window);
    if (error)
        return error;
    *ret_window = window;
    error = sp_advise((uintptr_t)window, SP_WINDOW_SIZE, MADV_DONTFORK);
    return error ? error : sp_advise((uintptr_t)window, SP_WINDOW_SIZE, MADV_DONTDUMP);
}

static int windows_init(struct sp_worker *w) {
    int error = own_window(SP_WINDOW_SIZE, &w->scratch);
    return error ? error : own_window(SP_PAGE_SIZE, &w->store_copy);
}

static void own_window_free(uint8_t *window) {
    int unused = window ? sp_unmap(window, SP_WINDOW_SIZE) : 0;
    (void)unused;
}

/* On a kernel before 6.11 merging does without it: see page_place. */
static int maps_init(struct sp_worker *w) {
    struct sp_file_mapping unused;
    int error = sp_maps_open(&w->maps);
    if (error || sp_maps_file(w->maps, 0, &unused) != -ENOTTY)
        return error;
    error = sp_close(w->maps);
    w->maps = -1;
    return error;
}

static bool views_may_move(void) {
    uint32_t version;
    bool swap_on;
    return !sp_proc_kernel(&version, &swap_on) && sp_remap_is_safe(version);
}

static int worker_init(struct sp_worker *w) {
    w->uffd = w->pagemap = w->wake = w->maps = -1;
    w->cost = 1.0;
    w->views_move = views_may_move();
    int tid, error = sp_wake_open(&w->wake, &tid);
    if (!error)
        error = sp_pagemap_open(&w->pagemap);
    if (!error)
        error = maps_init(w);
    /* Nobody registers it before it has its name (H2). */
    sp_lock_acquire(&w->engine->lock);
    if (!error)
        error = windows_init(w);
    sp_lock_release(&w->engine->lock);
    if (error)
        return error;
    w->engine->link->idle_fd = -1;
    w->next_link_ns = w->engine->begin_ns;
    __atomic_store_n(&w->engine->worker_tid, tid, __ATOMIC_RELEASE);
    return 0;
}

static void worker_deinit(struct sp_worker *w) {
    int unused = 0;
    if (w->linked)
        w->engine->link->ops->close(w->engine->link);
    if (w->uffd >= 0)
        unused = sp_close(w->uffd);
    if (w->pagemap >= 0)
        unused = sp_close(w->pagemap);
    if (w->maps >= 0)
        unused = sp_close(w->maps);
    if (w->wake >= 0)
        unused = sp_close(w->wake);
    (void)unused;
    own_window_free(w->scratch);
    own_window_free(w->store_copy);
}

static uint64_t earliest(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* Sleeps until something is due. */
static void worker_wait(struct sp_worker *w) {
    uint64_t now = sp_now_ns(), due = w->linked ? w->next_pass_ns : w->next_link_ns;
    int fds[3];
    size_t n = 0;
    fds[n++] = w->wake;
    if (w->fork_events)
        fds[n++] = w->uffd;
    int hints = w->linked ? w->engine->link->ops->hint_fd(w->engine->link) : -1;
    if (hints >= 0)
        fds[n++] = hints;
    int ready = due > now ? sp_wait_readable(fds, n, due - now) : 0;
    if (ready < 0) /* fewer descriptors allowed than we wait for */
        sp_sleep_ns(MS);
    if (ready <= 0 || !(ready & 1))
        return;
    sp_wake_clear(w->wake);
    /* Something was registered: look at it soon, but leave what was written its time to settle. */
    uint64_t soon = w->last_pass_ns + pause_least_ns(w);
    w->next_pass_ns = earliest(w->next_pass_ns, soon);
}

/* The program has become somebody else. Who cannot follow must not stay behind with rights that the program
 * has given up. */
static void worker_identity(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    if (!__atomic_load_n(&e->identity_wanted, __ATOMIC_ACQUIRE))
        return;
    sp_worker_lock(w);
    int error = sp_identity_assume(&e->identity);
    __atomic_store_n(&e->identity_wanted, false, __ATOMIC_RELEASE);
    if (error) {
        sp_engine_quit(e);
        sp_engine_set_state(e, SP_ENGINE_STOPPED, error);
    }
    sp_engine_unlock(e);
    sp_event_post(&e->pass_done);
}

static void worker_loop(struct sp_worker *w) {
    struct sp_engine *e = w->engine;
    while (!__atomic_load_n(&e->quit, __ATOMIC_ACQUIRE)) {
        worker_identity(w);
        sp_worker_forks(w);
        if (!w->linked && sp_now_ns() >= w->next_link_ns)
            worker_link(w);
        sp_look_disarm(w);
        bool hints = w->linked && take_hints(w);
        sp_obey(w);
        sp_obey_carry_out(w);
        serve_requests(w);
        if (hints && w->linked)
            worker_hinted(w);
        if (w->linked && w->uffd >= 0 && sp_now_ns() >= w->next_pass_ns)
            worker_pass(w);
        else if (w->uffd < 0)
            w->next_pass_ns = sp_now_ns() + RELINK_NS;
        if (w->uffd < 0 || !much_to_do(w))
            sp_copy_drop(w);
        report_when_due(w);
        if (!__atomic_load_n(&e->quit, __ATOMIC_ACQUIRE))
            worker_wait(w);
    }
    if (w->linked)
        worker_report(w);
}

/* Requests that nobody will serve any more. */
static void fail_requests(struct sp_engine *e) {
    for (;;) {
        sp_lock_acquire(&e->lock);
        struct sp_request *r = e->requests;
        if (r) {
            e->requests = r->next;
            r->error = e->stopped_by ? e->stopped_by : -ECANCELED;
        }
        sp_lock_release(&e->lock);
        if (!r)
            return;
        sp_event_post(&r->done);
    }
}

static void worker_end(struct sp_engine *e, enum sp_engine_state state, int error) {
    sp_lock_acquire(&e->lock);
    __atomic_store_n(&e->worker_tid, 0, __ATOMIC_RELEASE);
    if (e->state != SP_ENGINE_STOPPED && !e->quit)
        sp_engine_set_state(e, state, error);
    sp_engine_quit(e);
    e->worker = NULL;
    sp_lock_release(&e->lock);
    fail_requests(e);
    sp_event_post(&e->pass_done);
}

void sp_worker_main(void *arg, int status) {
    struct sp_engine *e = arg;
    if (status) {
        worker_end(e, SP_ENGINE_NO_THREAD, status);
        return;
    }
    enum sp_engine_state refuse = worker_refuse();
    if (refuse != SP_ENGINE_RUNNING) {
        worker_end(e, refuse, -EPERM);
        return;
    }
    void *memory;
    sp_lock_acquire(&e->lock); /* nobody registers it before it has its name (H2) */
    int error = sp_map_own(SP_WORKER_BYTES, SP_PAGE_SIZE, &memory);
    sp_lock_release(&e->lock);
    if (error) {
        worker_end(e, SP_ENGINE_NO_THREAD, error);
        return;
    }
    struct sp_worker *w = memory;
    w->engine = e;
    error = worker_init(w);
    if (!error) {
        /* Merged memory must stay in core dumps (H8); without this it would only be missing there. */
        int unused = sp_proc_dump_private_files();
        (void)unused;
        sp_lock_acquire(&e->lock);
        e->worker = w;
        sp_lock_release(&e->lock);
        worker_loop(w);
    }
    worker_deinit(w);
    worker_end(e, error ? SP_ENGINE_NO_THREAD : SP_ENGINE_IDLE, error);
    int unused = sp_unmap(memory, SP_WORKER_BYTES);
    (void)unused;
}
