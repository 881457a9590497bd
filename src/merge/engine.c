/* SPDX-License-Identifier: MIT */
/*
 * The application's side of the engine: what its threads do to regions and windows, under the lock. The
 * worker's side is worker.c.
 *
 * Invariants kept here: a page that is `shared` holds exactly one reference, and loses the bit together with
 * it (sp_page_unshare); a page that is `known` is known to the index under slot[] (sp_page_unknow); store
 * mappings are never shown to a MADV_DONTNEED (H5): sp_engine_discard_locked replaces them first.
 */
#include "merge/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/wake.h"

/* A forked child gets no worker before it has lived this long: most exec at once. */
#define CHILD_PATIENCE_NS UINT64_C(200000000)

const char *sp_engine_state_text(enum sp_engine_state s) {
    static const char *const texts[] = {
#define X(name, text) [SP_ENGINE_##name] = text,
        SP_ENGINE_STATES(X)
#undef X
    };
    return (size_t)s < sizeof(texts) / sizeof(*texts) ? texts[s] : "unknown";
}

void sp_engine_set_state(struct sp_engine *e, enum sp_engine_state state, int error) {
    e->stopped_by = state == SP_ENGINE_RUNNING ? 0 : error;
    __atomic_store_n(&e->state, state, __ATOMIC_RELEASE);
    sp_event_post(&e->pass_done);
}

void sp_engine_raw_call(struct sp_engine *e) {
    if (e->quit)
        return;
    sp_engine_quit(e);
    sp_engine_set_state(e, SP_ENGINE_RAW_CALLS, -ECANCELED);
}

enum sp_engine_state sp_engine_state(const struct sp_engine *e) {
    return __atomic_load_n(&e->state, __ATOMIC_ACQUIRE);
}

uint64_t sp_engine_own_bytes(const struct sp_engine *e) {
    return sp_memory_bytes(e->memory) + (e->worker ? SP_WORKER_USED_BYTES + sp_copy_bytes(e->worker) : 0);
}

/* ---- pages ---- */

void sp_engine_queue(struct sp_engine *e, struct sp_window *win) {
    if (win->queued)
        return;
    win->queued = true;
    win->next = NULL;
    if (e->todo_last)
        e->todo_last->next = win;
    else
        e->todo_first = win;
    e->todo_last = win;
}

void sp_page_unknow(struct sp_engine *e, struct sp_window *win, unsigned slot) {
    if (!sp_bits_get(&win->known, slot))
        return;
    sp_bits_clear(&win->known, slot);
    sp_bits_clear(&win->reask, slot);
    e->counters.v[SP_COUNTER_pages_unshared]--;
    sp_debts_forget(&e->debts, (sp_page){win->number * SP_WINDOW_PAGES + slot},
                    (sp_fp){sp_window_value(win, slot)});
}

void sp_page_unshare(struct sp_engine *e, struct sp_window *win, unsigned slot) {
    if (!sp_bits_get(&win->shared, slot))
        return;
    sp_bits_clear(&win->shared, slot);
    sp_debts_release(&e->debts, (sp_store_page){sp_window_value(win, slot)});
}

void sp_page_unzero(struct sp_engine *e, struct sp_window *win, unsigned slot) {
    if (!sp_bits_get(&win->zeroed, slot))
        return;
    sp_bits_clear(&win->zeroed, slot);
    e->counters.v[SP_COUNTER_ksm_zero_pages]--;
}

/* Nothing that was believed about the page holds any more; it lies in a mapping of the store or not as
 * before. */
static void page_forget(struct sp_engine *e, struct sp_window *win, unsigned slot) {
    sp_huge_unask(e, win);
    sp_page_unknow(e, win, slot);
    sp_page_unzero(e, win, slot);
    sp_bits_clear(&win->written, slot);
    sp_bits_clear(&win->fresh, slot);
}

/* ---- life ---- */

int sp_engine_new(struct sp_link *link, const struct sp_settings *settings, struct sp_engine **ret_engine) {
    struct sp_memory *memory;
    int error = sp_memory_new(false, &memory);
    if (error) {
        link->ops->free(link);
        return error;
    }
    struct sp_alloc alloc = sp_memory_alloc(memory);
    struct sp_engine *e = sp_alloc_get(&alloc, sizeof(*e));
    if (!e) {
        sp_memory_free(memory);
        link->ops->free(link);
        return -ENOMEM;
    }
    e->memory = memory;
    e->alloc = alloc;
    e->link = link;
    e->settings = *settings;
    e->mappings = sp_proc_mappings;
    sp_regions_init(&e->regions, &e->alloc);
    sp_windows_init(&e->windows, &e->alloc);
    sp_debts_init(&e->debts, &e->alloc);
    *ret_engine = e;
    return 0;
}

static void engine_wake(struct sp_engine *e) {
    sp_wake(__atomic_load_n(&e->worker_tid, __ATOMIC_ACQUIRE));
}

struct sp_engine *sp_engine_free(struct sp_engine *e) {
    if (!e)
        return NULL;
    sp_engine_lock(e);
    sp_engine_quit(e);
    e->start_wanted = false;
    bool join = e->thread_started;
    sp_lock_release(&e->lock);
    engine_wake(e);
    if (join)
        sp_thread_join(&e->thread);
    e->link->ops->free(e->link);
    struct sp_memory *memory = e->memory;
    sp_memory_free(memory); /* the engine itself lies in it */
    return NULL;
}

/* Starts the worker. Not with the lock held: creating an ordinary thread calls the application's allocator,
 * which may map memory through us. */
static void engine_start(struct sp_engine *e) {
    int error = e->bare_thread ? sp_thread_start_bare(&e->thread, "samepage", true, sp_worker_main, e)
                               : sp_thread_start(&e->thread, "samepage", true, sp_worker_main, e);
    sp_lock_acquire(&e->lock);
    if (error)
        sp_engine_set_state(e, SP_ENGINE_NO_THREAD, error);
    else
        e->thread_started = true;
    sp_lock_release(&e->lock);
}

/* With the lock held: a worker is started when it is released. */
static void engine_want_start(struct sp_engine *e) {
    if (e->state != SP_ENGINE_IDLE || e->thread_started || e->quit)
        return;
    sp_engine_set_state(e, SP_ENGINE_STARTING, 0);
    e->start_wanted = true;
}

void sp_engine_lock(struct sp_engine *e) {
    sp_lock_acquire(&e->lock);
}

void sp_engine_unlock(struct sp_engine *e) {
    bool start = e->start_wanted;
    e->start_wanted = false;
    sp_lock_release(&e->lock);
    if (start)
        engine_start(e);
}

bool sp_engine_lock_mine(const struct sp_engine *e) {
    return sp_lock_mine(&e->lock);
}

void sp_engine_stop(struct sp_engine *e, enum sp_engine_state why) {
    sp_lock_acquire(&e->lock);
    bool ended = e->quit;
    sp_engine_quit(e);
    e->start_wanted = false;
    /* Children inherit why it ended for good. */
    if (!ended || why != SP_ENGINE_SINGLE)
        sp_engine_set_state(e, why, -ECANCELED);
    sp_lock_release(&e->lock);
    engine_wake(e);
}

void sp_engine_mappings(struct sp_engine *e, sp_mappings_reader *reader) {
    e->mappings = reader;
}

void sp_engine_nodes(struct sp_engine *e, sp_nodes_reader *reader) {
    e->nodes = reader;
}

void sp_engine_begin_at(struct sp_engine *e, uint64_t ns) {
    e->begin_ns = ns;
}

void sp_engine_refresh(struct sp_engine *e, void (*refresh)(void)) {
    e->refresh = refresh;
}

void sp_engine_bare(struct sp_engine *e) {
    e->bare_thread = true;
}

/* How long the program waits for a worker that is busy, in steps of 100 ms. */
#define IDENTITY_TRIES 10

void sp_engine_identity(struct sp_engine *e) {
    struct sp_identity identity;
    if (!e->bare_thread || !__atomic_load_n(&e->thread_started, __ATOMIC_RELAXED))
        return;
    if (sp_identity_read(&identity)) {
        sp_engine_stop(e, SP_ENGINE_STOPPED);
        return;
    }
    sp_engine_lock(e);
    e->identity = identity;
    __atomic_store_n(&e->identity_wanted, true, __ATOMIC_RELEASE);
    sp_engine_unlock(e);
    for (unsigned tries = 0; tries < IDENTITY_TRIES; tries++) {
        uint32_t seen = __atomic_load_n(&e->pass_done.word, __ATOMIC_ACQUIRE);
        int tid = __atomic_load_n(&e->worker_tid, __ATOMIC_ACQUIRE);
        if (!__atomic_load_n(&e->identity_wanted, __ATOMIC_ACQUIRE) || !tid || !sp_wake_alive(tid))
            return;
        engine_wake(e);
        sp_event_wait(&e->pass_done, seen, UINT64_C(100000000));
    }
}

/* ---- regions ---- */

struct add {
    struct sp_engine *e;
    uint64_t start, end;
    uint64_t eligible_bytes;
    int error;
};

static bool add_free(struct add *a, const struct sp_region *region);

/* Memory that left the registration and is back before the worker has ended it with the kernel: the
 * userfaultfd that smaps tells of is ours on these parts. It is armed anew like any other. */
static bool add_retired(struct add *a, const struct sp_region *region) {
    struct sp_engine *e = a->e;
    for (size_t i = 0; i < e->n_retired && !a->error; i++) {
        struct sp_region part = *region;
        if (e->retired[i].start > part.start)
            part.start = e->retired[i].start;
        if (e->retired[i].end < part.end)
            part.end = e->retired[i].end;
        if (part.start < part.end)
            add_free(a, &part);
    }
    return !a->error;
}

/* Private memory of our own kind that is at present not both readable and writable may become so: registered,
 * but not touched until then. */
static bool add_mapping(void *ctx, const struct sp_mapping *m) {
    struct add *a = ctx;
    bool ours = m->attributes & SP_ATTR_STORE;
    bool watched = !ours && m->eligible == SP_USERFAULTFD;
    enum sp_eligible eligible = ours ? m->use : m->eligible;
    if (!watched && eligible != SP_ELIGIBLE && eligible != SP_PROTECTION)
        return true;
    struct sp_region region = {
        .start = m->start > a->start ? m->start : a->start,
        .end = m->end < a->end ? m->end : a->end,
        .prot = m->prot,
        .attributes = m->attributes & ~SP_ATTR_STORE,
    };
    if (region.end > SP_WINDOWS_MAX * SP_WINDOW_SIZE)
        return true;
    if (watched)
        return add_retired(a, &region);
    if (ours)
        for (uint64_t at = region.start; at < region.end && !a->error; at += SP_PAGE_SIZE) {
            struct sp_window *win = sp_windows_get(&a->e->windows, at / SP_WINDOW_SIZE);
            if (win)
                sp_bits_set(&win->mapped, (unsigned)(at % SP_WINDOW_SIZE >> SP_PAGE_SHIFT));
            else
                a->error = -ENOMEM;
        }
    return !a->error && add_free(a, &region);
}

/* Adds the parts of `region` that are not registered yet. */
static bool add_free(struct add *a, const struct sp_region *region) {
    struct sp_regions *regions = &a->e->regions;
    for (uint64_t at = region->start; at < region->end && !a->error;) {
        size_t i = sp_regions_find(regions, at);
        const struct sp_region *next = i < regions->n ? &regions->items[i] : NULL;
        if (next && next->start <= at) {
            at = next->end;
            continue;
        }
        struct sp_region part = *region;
        part.start = at;
        if (next && next->start < part.end)
            part.end = next->start;
        a->error = sp_regions_add(regions, &part);
        at = part.end;
    }
    a->eligible_bytes += region->end - region->start;
    return !a->error;
}

/* Something was registered. */
static void added(struct sp_engine *e, bool now) {
    sp_engine_changed(e);
    e->settled = false;
    if (e->regions.bytes && (now || e->regions.bytes >= e->settings.v[SP_SETTING_worker_start_kbytes] * 1024))
        engine_want_start(e);
}

int sp_engine_add_locked(struct sp_engine *e, uint64_t start, uint64_t end, bool now,
                         uint64_t *ret_eligible_bytes) {
    struct add a = {.e = e, .start = start, .end = end};
    int error = e->mappings(start, end, add_mapping, &a);
    if (!error)
        error = a.error;
    if (ret_eligible_bytes)
        *ret_eligible_bytes = a.eligible_bytes;
    added(e, now);
    engine_wake(e);
    return error;
}

struct add_ranges {
    struct add add;
    const struct sp_range *ranges;
    size_t n;
};

/* Mappings and ranges both ascend: the first range left is the first that may overlap the mapping. */
static bool add_overlaps(void *ctx, const struct sp_mapping *m) {
    struct add_ranges *r = ctx;
    while (r->n && r->ranges->end <= m->start) {
        r->ranges++;
        r->n--;
    }
    for (size_t i = 0; i < r->n && r->ranges[i].start < m->end; i++) {
        r->add.start = r->ranges[i].start;
        r->add.end = r->ranges[i].end;
        if (!add_mapping(&r->add, m))
            return false;
    }
    return r->n > 0;
}

int sp_engine_add_ranges_locked(struct sp_engine *e, const struct sp_range *ranges, size_t n) {
    struct add_ranges r = {.add = {.e = e}, .ranges = ranges, .n = n};
    if (!n)
        return 0;
    int error = e->mappings(ranges[0].start, ranges[n - 1].end, add_overlaps, &r);
    added(e, false);
    engine_wake(e);
    return error ? error : r.add.error;
}

int sp_engine_add_fresh_locked(struct sp_engine *e, uint64_t start, uint64_t end, int prot) {
    struct add a = {.e = e};
    struct sp_region region = {.start = start, .end = end, .prot = prot};
    if (end <= SP_WINDOWS_MAX * SP_WINDOW_SIZE)
        add_free(&a, &region);
    added(e, false);
    return a.error;
}

static bool retired_reserve(struct sp_engine *e) {
    if (e->n_retired < e->room_retired)
        return true;
    size_t room = e->room_retired ? e->room_retired * 2 : 64;
    struct sp_range *more = sp_alloc_get(&e->alloc, room * sizeof(*more));
    if (!more)
        return false;
    if (e->n_retired)
        memcpy(more, e->retired, e->n_retired * sizeof(*more));
    sp_alloc_put(&e->alloc, e->retired, e->room_retired * sizeof(*more));
    e->retired = more;
    e->room_retired = room;
    return true;
}

/* Leaves to the worker to end the registration of what is armed in the range. Nothing else of it: the program
 * may have a userfaultfd of its own on the rest, and older kernels let any userfaultfd end that. Short of
 * memory it stays registered, as it would with a program that does this itself. */
static void retire(struct sp_engine *e, uint64_t start, uint64_t end) {
    for (size_t i = sp_regions_find(&e->regions, start); i < e->regions.n && e->regions.items[i].start < end;
         i++) {
        const struct sp_region *r = &e->regions.items[i];
        if (!r->armed || !retired_reserve(e))
            continue;
        e->retired[e->n_retired] = (struct sp_range){
            r->start > start ? r->start : start,
            r->end < end ? r->end : end,
        };
        /* The worker looks at the number without the lock, to see whether there is anything to do. */
        __atomic_store_n(&e->n_retired, e->n_retired + 1, __ATOMIC_RELAXED);
    }
}

void sp_engine_remove_locked(struct sp_engine *e, uint64_t start, uint64_t end, bool unmapped) {
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        for (unsigned slot = first; slot < last; slot++) {
            page_forget(e, win, slot);
            if (unmapped)
                sp_page_unshare(e, win, slot);
            else
                sp_bits_clear(&win->shared, slot); /* still mapped: the reference stays for good */
            sp_bits_clear(&win->mapped, slot);
            win->volatility[slot] = (sp_volatility){0};
        }
        if (last - first == SP_WINDOW_PAGES)
            win->heat = (struct sp_heat){0};
    }
    if (!unmapped)
        retire(e, start, end);
    /* Short of memory a region may lose more than asked for: then more is left alone than need be. */
    int unused = sp_regions_remove(&e->regions, start, end);
    (void)unused;
    sp_engine_changed(e);
}

void sp_engine_wait_disarmed(struct sp_engine *e) {
    /* Not for ever: the worker may have been killed alone (H19), and its userfaultfd with it. */
    for (unsigned tries = 0; tries < 100; tries++) {
        uint32_t seen = __atomic_load_n(&e->pass_done.word, __ATOMIC_ACQUIRE);
        sp_engine_lock(e);
        bool waiting = e->n_retired && !e->quit && e->worker_tid;
        sp_engine_unlock(e);
        if (!waiting)
            return;
        engine_wake(e);
        sp_event_wait(&e->pass_done, seen, UINT64_C(100000000));
    }
}

int sp_engine_protection_locked(struct sp_engine *e, uint64_t start, uint64_t end, int prot) {
    int error = sp_regions_cut(&e->regions, start);
    if (!error)
        error = sp_regions_cut(&e->regions, end);
    if (error) {
        sp_engine_remove_locked(e, start, end, false);
        return error;
    }
    for (size_t i = sp_regions_find(&e->regions, start); i < e->regions.n && e->regions.items[i].start < end;
         i++)
        e->regions.items[i].prot = prot;
    sp_regions_join(&e->regions, start, end);
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        if (sp_bits_any(&win->fresh) || sp_bits_any(&win->reask))
            sp_engine_queue(e, win);
    }
    sp_engine_changed(e);
    return 0;
}

void sp_engine_attributes_locked(struct sp_engine *e, uint64_t start, uint64_t end, unsigned set,
                                 unsigned clear) {
    if (sp_regions_cut(&e->regions, start) || sp_regions_cut(&e->regions, end)) {
        /* Without a record of them the attributes would be lost: leave the range alone instead (H7). */
        sp_engine_remove_locked(e, start, end, false);
        return;
    }
    for (size_t i = sp_regions_find(&e->regions, start); i < e->regions.n && e->regions.items[i].start < end;
         i++) {
        struct sp_region *r = &e->regions.items[i];
        r->attributes = (r->attributes & ~clear) | set;
    }
    sp_regions_join(&e->regions, start, end);
}

bool sp_engine_overlaps(const struct sp_engine *e, uint64_t start, uint64_t end) {
    if (!__atomic_load_n(&e->regions.n, __ATOMIC_ACQUIRE))
        return false;
    if (sp_lock_mine(&e->lock))
        return sp_regions_overlap(&e->regions, start, end);
    /* A look without the lock could read a table that is being moved. */
    struct sp_lock *lock = (struct sp_lock *)(uintptr_t)&e->lock;
    sp_lock_acquire(lock);
    bool overlap = sp_regions_overlap(&e->regions, start, end);
    sp_lock_release(lock);
    return overlap;
}

void sp_engine_pieces_locked(struct sp_engine *e, uint64_t start, uint64_t end,
                             bool (*visit)(void *ctx, uint64_t start, uint64_t end, bool store), void *ctx) {
    uint64_t piece = start; /* where the present piece begins */
    bool store = false;     /* what it is */
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        uint64_t base = win->number * SP_WINDOW_SIZE;
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        for (unsigned slot = first; slot < last; slot++) {
            bool here = sp_bits_get(&win->mapped, slot);
            uint64_t at = base + slot * SP_PAGE_SIZE;
            if (here != store && at > piece) {
                if (!visit(ctx, piece, at, store))
                    return;
                piece = at;
            }
            store = here;
        }
        /* Windows that nothing is known of hold no mapping of the store: end a piece of it here. */
        uint64_t next = base + (uint64_t)last * SP_PAGE_SIZE;
        if (store && next < end && !sp_windows_find(&e->windows, win->number + 1)) {
            if (!visit(ctx, piece, next, true))
                return;
            piece = next;
            store = false;
        }
    }
    if (piece < end)
        visit(ctx, piece, end, store);
}

void sp_engine_pace_locked(struct sp_engine *e, const struct sp_pace *pace) {
    e->pace = *pace;
    sp_engine_changed(e);
    engine_wake(e);
}

/* ---- unmerging and discarding ---- */

struct piece {
    struct sp_engine *e;
    int error;
};

static int region_prot(const struct sp_engine *e, uint64_t address) {
    size_t i = sp_regions_find(&e->regions, address);
    return i < e->regions.n && e->regions.items[i].start <= address ? e->regions.items[i].prot
                                                                    : PROT_READ | PROT_WRITE;
}

/*
 * Makes [start, end), a mapping of the store, private page by page: the kernel copies as if it were written
 * (madvise(2), MADV_POPULATE_WRITE; private memory that is not writable at present is made so for the time).
 */
static int make_private(struct sp_engine *e, uint64_t start, uint64_t end) {
    int prot = region_prot(e, start), error = 0;
    bool writable = prot & PROT_WRITE;
    if (!writable)
        error = sp_protect(start, end - start, PROT_READ | PROT_WRITE);
    if (!error)
        error = sp_advise(start, end - start, MADV_POPULATE_WRITE);
    if (!writable) {
        int back = sp_protect(start, end - start, prot);
        if (!error)
            error = back;
    }
    return error == -EFAULT ? -ENOMEM : error;
}

static bool unmerge_piece(void *ctx, uint64_t start, uint64_t end, bool store) {
    struct piece *p = ctx;
    struct sp_engine *e = p->e;
    for (uint64_t at = start; store && at < end && !p->error;) {
        size_t i = sp_regions_find(&e->regions, at);
        uint64_t stop = i < e->regions.n && e->regions.items[i].end < end ? e->regions.items[i].end : end;
        p->error = make_private(e, at, stop);
        if (p->error)
            break;
        SP_WINDOWS_EACH(&e->windows, at, stop, win) {
            unsigned first, last;
            sp_window_clip(win, at, stop, &first, &last);
            for (unsigned slot = first; slot < last; slot++)
                sp_page_unshare(e, win, slot);
        }
        at = stop;
    }
    return !p->error;
}

int sp_engine_unmerge_locked(struct sp_engine *e, uint64_t start, uint64_t end) {
    struct piece p = {.e = e};
    sp_engine_pieces_locked(e, start, end, unmerge_piece, &p);
    engine_wake(e);
    return p.error;
}

/* From `slot` on, pages below `last` that are given back, in one region: where they end. */
static unsigned zeroed_end(const struct sp_engine *e, const struct sp_window *win, unsigned slot,
                           unsigned last) {
    uint64_t at = win->number * SP_WINDOW_SIZE + slot * SP_PAGE_SIZE;
    size_t i = sp_regions_find(&e->regions, at);
    while (slot < last && sp_bits_get(&win->zeroed, slot)) {
        slot++;
        at += SP_PAGE_SIZE;
        if (i < e->regions.n && at == e->regions.items[i].end)
            break;
    }
    return slot;
}

static int refill_window(struct sp_engine *e, struct sp_window *win, unsigned first, unsigned last) {
    uint64_t base = win->number * SP_WINDOW_SIZE;
    for (unsigned slot = first, stop; slot < last; slot = stop) {
        stop = zeroed_end(e, win, slot, last);
        if (stop == slot) {
            stop++;
            continue;
        }
        int error = make_private(e, base + slot * SP_PAGE_SIZE, base + stop * SP_PAGE_SIZE);
        if (error)
            return error;
        for (; slot < stop; slot++)
            sp_page_unzero(e, win, slot);
    }
    return 0;
}

int sp_engine_refill_locked(struct sp_engine *e, uint64_t start, uint64_t end) {
    int error = 0;
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        if (!error)
            error = refill_window(e, win, first, last);
    }
    return error;
}

/* One stretch within one region. */
static int discard_stretch(struct sp_engine *e, uint64_t start, uint64_t end) {
    size_t i = sp_regions_find(&e->regions, start);
    bool registered = i < e->regions.n && e->regions.items[i].start <= start;
    unsigned attributes = registered ? e->regions.items[i].attributes : 0;
    int error = sp_map_fresh(start, end - start, region_prot(e, start));
    if (error)
        return error;
    /* An attribute that cannot be set again concerns memory that is empty now: no content is at stake. */
    if (sp_map_attributes(start, end - start, attributes))
        e->counters.v[SP_COUNTER_errors]++;
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        for (unsigned slot = first; slot < last; slot++) {
            sp_page_unshare(e, win, slot);
            sp_bits_clear(&win->mapped, slot);
            win->volatility[slot] = (sp_volatility){0};
        }
    }
    /* Where a cut fails, more than need be is armed anew. */
    if (registered && (sp_regions_cut(&e->regions, start) || sp_regions_cut(&e->regions, end)))
        e->counters.v[SP_COUNTER_errors]++;
    sp_regions_unarm(&e->regions, start, end);
    return 0;
}

static bool discard_piece(void *ctx, uint64_t start, uint64_t end, bool store) {
    struct piece *p = ctx;
    for (uint64_t at = start; store && at < end && !p->error;) {
        size_t i = sp_regions_find(&p->e->regions, at);
        uint64_t stop =
            i < p->e->regions.n && p->e->regions.items[i].end < end ? p->e->regions.items[i].end : end;
        p->error = discard_stretch(p->e, at, stop);
        at = stop;
    }
    return !p->error;
}

int sp_engine_discard_locked(struct sp_engine *e, uint64_t start, uint64_t end) {
    struct piece p = {.e = e};
    sp_engine_pieces_locked(e, start, end, discard_piece, &p);
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        for (unsigned slot = first; slot < last; slot++)
            if (!sp_bits_get(&win->mapped, slot))
                page_forget(e, win, slot);
    }
    sp_engine_changed(e);
    engine_wake(e);
    return p.error;
}

/* ---- fork ---- */

void sp_engine_fork_prepare(struct sp_engine *e) {
    sp_lock_acquire(&e->lock);
}

void sp_engine_fork_parent(struct sp_engine *e) {
    e->forked = true;
    sp_lock_release(&e->lock);
}

/* Copies of the worker's own mappings: of no use here. Scratch and the copy of store pages are not copied
 * (MADV_DONTFORK). */
static void child_drop_worker(struct sp_engine *e) {
    if (e->thread_started)
        sp_thread_forget(&e->thread);
    e->thread_started = false;
    if (e->worker) {
        int unused = sp_unmap(e->worker, SP_WORKER_BYTES);
        (void)unused;
    }
    e->worker = NULL;
    e->worker_tid = 0;
}

static void child_forget(struct sp_engine *e) {
    struct sp_window *next;
    for (struct sp_window *win = sp_windows_next(&e->windows, 0); win; win = next) {
        next = sp_windows_next(&e->windows, win->number + 1);
        win->queued = false;
        win->next = NULL;
        memset(&win->written, 0, sizeof(win->written));
        memset(&win->fresh, 0, sizeof(win->fresh));
        memset(&win->known, 0, sizeof(win->known));
        memset(&win->reask, 0, sizeof(win->reask));
        memset(&win->zeroed, 0, sizeof(win->zeroed));
        memset(&win->shared, 0, sizeof(win->shared)); /* the family's references, not ours */
        sp_huge_forgotten(win);
        win->heat = (struct sp_heat){0};
        if (sp_window_empty(win))
            sp_windows_drop(&e->windows, win);
    }
    e->todo_first = e->todo_last = NULL;
    sp_debts_clear(&e->debts);
    for (size_t i = 0; i < e->regions.n; i++)
        e->regions.items[i].armed = false;
    e->n_retired = 0;
    e->requests = NULL;
    memset(&e->counters, 0, sizeof(e->counters));
    memset(&e->freezes, 0, sizeof(e->freezes));
}

void sp_engine_fork_child(struct sp_engine *e) {
    bool stopped = e->quit && (e->state == SP_ENGINE_STOPPED || e->state == SP_ENGINE_RAW_CALLS);
    child_drop_worker(e);
    child_forget(e);
    e->link->ops->forked(e->link);
    e->forked = e->child = true;
    e->child_since_ns = sp_now_ns();
    e->start_wanted = false;
    e->quit = stopped;
    e->settled = false;
    if (!stopped)
        sp_engine_set_state(e, SP_ENGINE_IDLE, 0);
    sp_lock_reset(&e->lock);
}

void sp_engine_kick(struct sp_engine *e) {
    if (!e->child || sp_lock_mine(&e->lock) || sp_now_ns() - e->child_since_ns < CHILD_PATIENCE_NS)
        return;
    sp_engine_lock(e);
    e->child = false;
    if (e->regions.bytes >= e->settings.v[SP_SETTING_worker_start_kbytes] * 1024 && e->regions.bytes)
        engine_want_start(e);
    sp_engine_unlock(e);
}

/* ---- requests and reports ---- */

int sp_engine_merge(struct sp_engine *e, uint64_t start, uint64_t end, bool quiescent,
                    struct sp_merge_result *ret_result) {
    struct sp_request r = {.start = start, .end = end, .quiescent = quiescent};
    sp_engine_lock(e);
    if (!sp_regions_overlap(&e->regions, start, end)) {
        sp_engine_unlock(e);
        return -EINVAL;
    }
    engine_want_start(e);
    int error = e->quit ? (e->stopped_by ? e->stopped_by : -ECANCELED) : 0;
    if (!error && e->state == SP_ENGINE_NO_THREAD)
        error = e->stopped_by;
    if (!error) {
        r.next = e->requests;
        e->requests = &r;
    }
    sp_engine_unlock(e);
    if (error)
        return error;
    engine_wake(e);
    /* A wake-up before the worker has told its number is lost: it serves requests when it starts; when the
     * thread could not be started it never will. */
    while (!sp_event_wait(&r.done, 0, UINT64_C(100000000))) {
        sp_engine_lock(e);
        bool dead = e->worker_tid && !sp_wake_alive(e->worker_tid); /* killed alone (H19) */
        if (dead)
            sp_engine_set_state(e, SP_ENGINE_STOPPED, -ESRCH);
        bool hopeless = dead || (sp_engine_state(e) == SP_ENGINE_NO_THREAD && !e->thread_started);
        if (hopeless) {
            for (struct sp_request **at = &e->requests; *at; at = &(*at)->next)
                if (*at == &r) {
                    *at = r.next;
                    break;
                }
            error = e->stopped_by;
        }
        sp_engine_unlock(e);
        if (hopeless)
            return error;
        engine_wake(e);
    }
    if (!r.error && ret_result)
        *ret_result = r.result;
    return r.error;
}

int sp_engine_wait_settled(struct sp_engine *e, uint64_t timeout_ns) {
    uint64_t begin = sp_now_ns();
    for (;;) {
        uint32_t seen = __atomic_load_n(&e->pass_done.word, __ATOMIC_ACQUIRE);
        sp_engine_lock(e);
        engine_want_start(e);
        bool settled = e->settled && e->settled_generation == e->generation && !e->quit;
        if (e->worker_tid && !sp_wake_alive(e->worker_tid))
            sp_engine_set_state(e, SP_ENGINE_STOPPED, -ESRCH);
        enum sp_engine_state state = e->state;
        int error = e->stopped_by;
        sp_engine_unlock(e);
        if (settled)
            return 0;
        if (state != SP_ENGINE_RUNNING && state != SP_ENGINE_STARTING && state != SP_ENGINE_NO_LINK)
            return error ? error : -ECANCELED;
        uint64_t passed = sp_now_ns() - begin;
        if (passed >= timeout_ns)
            return -ETIMEDOUT;
        engine_wake(e);
        uint64_t left = timeout_ns - passed;
        sp_event_wait(&e->pass_done, seen, left < UINT64_C(100000000) ? left : UINT64_C(100000000));
    }
}

void sp_engine_report(struct sp_engine *e, struct sp_report *ret_report) {
    sp_engine_lock(e);
    ret_report->state = e->state;
    ret_report->counters = e->counters;
    ret_report->counters.v[SP_COUNTER_registered_bytes] = e->regions.bytes;
    ret_report->counters.v[SP_COUNTER_own_bytes] = sp_engine_own_bytes(e);
    ret_report->freezes = e->freezes;
    sp_engine_unlock(e);
}

void sp_engine_range_counters(struct sp_engine *e, uint64_t start, uint64_t end,
                              struct sp_counters *ret_counters) {
    memset(ret_counters, 0, sizeof(*ret_counters));
    uint64_t *v = ret_counters->v;
    sp_engine_lock(e);
    SP_WINDOWS_EACH(&e->windows, start, end, win) {
        unsigned first, last;
        sp_window_clip(win, start, end, &first, &last);
        for (unsigned slot = first; slot < last; slot++) {
            bool known = sp_bits_get(&win->known, slot), fresh = sp_bits_get(&win->fresh, slot);
            bool mapped = sp_bits_get(&win->mapped, slot), shared = sp_bits_get(&win->shared, slot);
            v[SP_COUNTER_pages_unshared] += known;
            v[SP_COUNTER_pages_volatile] += fresh;
            v[SP_COUNTER_ksm_zero_pages] += sp_bits_get(&win->zeroed, slot);
            v[SP_COUNTER_pages_shared] += shared;
            v[SP_COUNTER_pages_broken] += mapped && !shared;
            v[SP_COUNTER_resident_pages] += known || fresh || mapped;
        }
    }
    for (size_t i = sp_regions_find(&e->regions, start); i < e->regions.n && e->regions.items[i].start < end;
         i++) {
        const struct sp_region *r = &e->regions.items[i];
        uint64_t from = r->start > start ? r->start : start, to = r->end < end ? r->end : end;
        v[SP_COUNTER_registered_bytes] += to - from;
    }
    sp_engine_unlock(e);
}
