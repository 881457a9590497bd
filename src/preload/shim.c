/* SPDX-License-Identifier: MIT */
/*
 * State, locks and registration of the shim. See shim.h.
 */
#include "preload/shim.h"

#include <errno.h>
#include <sys/mman.h>

#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/proc.h"
#include "os/thread.h"

/* Bounds: beyond them new memory is simply not merged. In .bss: what is not used is never touched. */
#define TRACKED_MAX 16384
#define WANTED_MAX  16384
#define FORMER_MAX  8192
#define SMALL_MAX   1024

static struct sp_range tracked_items[TRACKED_MAX], wanted_items[WANTED_MAX], former_items[FORMER_MAX];
static struct sp_range refused_items[SMALL_MAX], wiped_items[SMALL_MAX], locked_items[SMALL_MAX],
    dontfork_items[SMALL_MAX], dontdump_items[SMALL_MAX], hugepage_items[SMALL_MAX],
    nohugepage_items[SMALL_MAX];

struct shim shim = {
    .tracked = {.items = tracked_items, .room = TRACKED_MAX},
    .wanted = {.items = wanted_items, .room = WANTED_MAX, .keep = true},
    .former = {.items = former_items, .room = FORMER_MAX, .keep = true},
    .refused = {.items = refused_items, .room = SMALL_MAX, .keep = true},
    .wiped = {.items = wiped_items, .room = SMALL_MAX},
    .locked = {.items = locked_items, .room = SMALL_MAX},
    .dontfork = {.items = dontfork_items, .room = SMALL_MAX, .keep = true},
    .dontdump = {.items = dontdump_items, .room = SMALL_MAX, .keep = true},
    .hugepage = {.items = hugepage_items, .room = SMALL_MAX, .keep = true},
    .nohugepage = {.items = nohugepage_items, .room = SMALL_MAX, .keep = true},
};

/* What is wanted becomes former before it leaves that set: it is seen in one of the two, in this order. */
static bool is_special(uint64_t start, uint64_t end) {
    return ranges_overlap(&shim.wanted, start, end) || ranges_overlap(&shim.former, start, end);
}

bool shim_overlaps(uint64_t start, uint64_t end) {
    if (!shim.engine)
        return false;
    if (__atomic_load_n(&shim.state, __ATOMIC_SEQ_CST) == SHIM_UNARMED)
        return true;
    /* The journal first: what leaves it enters the sets before it is gone from there. */
    return journal_any(&shim.journal) || ranges_overlap(&shim.tracked, start, end) || is_special(start, end);
}

bool shim_special_locked(uint64_t start, uint64_t end) {
    return is_special(start, end);
}

/* A child of vfork runs in our memory, and its next exec would kill a worker that it started, batch or not.
 */
bool shim_is_owner(void) {
    return sp_syscall(SYS_getpid) == shim.pid;
}

/* When it fails some of the range may be registered: all of it stays wanted, so that calls on it take the
 * lock (H1) and mappings of the store in it are remembered (H5). */
static void register_locked(uint64_t start, uint64_t end) {
    (void)!sp_engine_add_locked(shim.engine, start, end, false, NULL);
}

/* Somebody up the stack keeps the journal sealed, and will open it. Guarded by the lock. */
static bool journal_busy;

/*
 * The last call that runs without the lock has gone: from now on nobody touches tracked memory without it.
 * The stores to `state` and the loads of `inflight` here, and the other way round in shim_enter, are
 * sequentially consistent: one of the two sees the other.
 */
static void finish_arming_locked(void) {
    if (__atomic_load_n(&shim.state, __ATOMIC_SEQ_CST) != SHIM_ARMING || !shim_is_owner() ||
        __atomic_load_n(&shim.inflight, __ATOMIC_SEQ_CST) > 0)
        return;
    __atomic_store_n(&shim.state, SHIM_ARMED, __ATOMIC_SEQ_CST);
    /* As in register_locked, but the mappings are read once. */
    (void)!sp_engine_add_ranges_locked(shim.engine, shim.wanted.items, shim.wanted.n);
    if (!journal_busy)
        journal_open(&shim.journal);
}

/* ---- the journal ---- */

/* What was mapped since the journal was last empty, and is still there. It enters the other sets when all
 * notes have been read: until then it may turn out to be gone. Each note makes one range more at most.
 * Guarded by the lock. */
static struct sp_range young_items[JOURNAL_SLOTS];
static struct ranges young = {.items = young_items, .room = JOURNAL_SLOTS};
/* What is special in the range leaves the sets by the hand of whoever unmaps it (shim_replace). */
static void forget_ordinary_locked(uint64_t start, uint64_t end) {
    while (start < end) {
        struct sp_range wanted = {end, end}, former = {end, end};
        (void)!ranges_first(&shim.wanted, start, end, &wanted);
        (void)!ranges_first(&shim.former, start, end, &former);
        const struct sp_range *next = wanted.start < former.start ? &wanted : &former;
        if (start < next->start)
            shim_forget_locked(start, next->start);
        start = next->end;
    }
}

/* Once armed all that is noted is readable and writable; what was noted before by somebody who was asleep
 * since, and is not, is left alone. */
static void visit_note(uint64_t start, uint64_t end, enum journal_kind kind) {
    bool armed = shim.state == SHIM_ARMED;
    if (kind == JOURNAL_MAPPED_RW || (kind == JOURNAL_MAPPED && !armed)) {
        (void)!ranges_add(&young, start, end);
        return;
    }
    ranges_cut(&young, start, end);
    if (kind == JOURNAL_UNMAPPED)
        forget_ordinary_locked(start, end);
}

static void track_fresh_locked(uint64_t start, uint64_t end, int prot);

static void young_flush_locked(void) {
    struct sp_range part = {0};
    while (ranges_first(&young, part.end, UINT64_MAX, &part)) {
        if (shim.state == SHIM_ARMED)
            track_fresh_locked(part.start, part.end, PROT_READ | PROT_WRITE);
        else
            (void)!ranges_add(&shim.tracked, part.start, part.end);
    }
    ranges_cut(&young, 0, UINT64_MAX);
}

/* Everything noted so far enters the sets, and until journal_end_locked nothing more is noted. False: not
 * the caller's business, nor is the end. */
static bool journal_begin_locked(void) {
    if (journal_busy || shim.state == SHIM_ARMING)
        return false;
    journal_busy = true;
    journal_take(&shim.journal, visit_note);
    young_flush_locked();
    return true;
}

/* While arming it stays sealed: finish_arming_locked opens it. */
static void journal_end_locked(void) {
    if (shim.state != SHIM_ARMING)
        journal_open(&shim.journal);
    journal_busy = false;
}

void shim_refresh_locked(void) {
    if (journal_any(&shim.journal) && journal_begin_locked())
        journal_end_locked();
}

static uint64_t tracked_bytes_locked(void) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < shim.tracked.n; i++)
        bytes += shim.tracked.items[i].end - shim.tracked.items[i].start;
    return bytes;
}

/* An allocator maps more than it will use (mimalloc 32 MiB from the start): the address space alone counts
 * from this many times what is enough. Whoever maps as much at once may never map anything again. */
#define ROOMY 64

static bool is_worth_it_locked(uint64_t enough) {
    uint64_t tracked = tracked_bytes_locked(), resident = 0;
    if (shim.merge_any || tracked >= ROOMY * enough)
        return true;
    return tracked >= enough && !sp_proc_anonymous(&resident) && resident >= enough;
}

/* Is there enough to be worth a worker? A program that maps and unmaps much and keeps little is asked less
 * and less often. */
static void measure_locked(void) {
    uint64_t enough = shim.engine->settings.v[SP_SETTING_worker_start_kbytes] * 1024;
    if (shim.state != SHIM_UNARMED)
        return;
    __atomic_store_n(&shim.grown_bytes, 0, __ATOMIC_RELAXED);
    if (is_worth_it_locked(enough))
        shim_want_locked(0, UINT64_MAX);
    else if (shim.allowed_bytes < 64 * enough)
        __atomic_store_n(&shim.allowed_bytes, shim.allowed_bytes ? 2 * shim.allowed_bytes : enough,
                         __ATOMIC_RELAXED);
}

static void grow(uint64_t bytes) {
    if ((!shim.all && !shim.merge_any) || __atomic_load_n(&shim.state, __ATOMIC_RELAXED) != SHIM_UNARMED)
        return;
    if (__atomic_add_fetch(&shim.grown_bytes, bytes, __ATOMIC_RELAXED) <
        __atomic_load_n(&shim.allowed_bytes, __ATOMIC_RELAXED))
        return;
    bool taken = shim_lock();
    measure_locked();
    shim_unlock(taken);
}

bool shim_lock(void) {
    bool taken = !sp_engine_lock_mine(shim.engine);
    if (taken) {
        sp_engine_lock(shim.engine);
        finish_arming_locked();
    }
    shim_refresh_locked();
    return taken;
}

void shim_unlock(bool taken) {
    if (!taken)
        return;
    sp_engine_unlock(shim.engine);
    if (shim.forked && !shim.stopped && shim.wanted.n && shim_is_owner())
        sp_engine_kick(shim.engine);
}

static void leave_counted(void) {
    if (__atomic_sub_fetch(&shim.inflight, 1, __ATOMIC_SEQ_CST) <= 0 &&
        __atomic_load_n(&shim.state, __ATOMIC_SEQ_CST) == SHIM_ARMING)
        shim_unlock(shim_lock());
}

enum shim_path shim_enter(uint64_t start, uint64_t end) {
    if (!shim_overlaps(start, end))
        return SHIM_RAW;
    if (__atomic_load_n(&shim.state, __ATOMIC_RELAXED) == SHIM_UNARMED) {
        __atomic_add_fetch(&shim.inflight, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&shim.state, __ATOMIC_SEQ_CST) == SHIM_UNARMED)
            return SHIM_COUNTED;
        leave_counted();
    }
    return shim_lock() ? SHIM_LOCKED : SHIM_NESTED;
}

void shim_leave(enum shim_path path) {
    if (path == SHIM_COUNTED)
        leave_counted();
    else if (path == SHIM_LOCKED)
        shim_unlock(true);
}

void shim_track_locked(uint64_t start, uint64_t end) {
    if (shim.stopped || !ranges_add(&shim.tracked, start, end))
        return;
    if (shim.merge_any || (shim.all && shim.state != SHIM_UNARMED))
        shim_want_locked(start, end);
}

/*
 * The kernel gives out no address that is in use: what the sets say of this one was unmapped behind our back,
 * by a call that we do not see.
 */
static void heal_locked(uint64_t start, uint64_t end) {
    if (ranges_overlap(&shim.tracked, start, end) || shim_special_locked(start, end))
        shim_unmapped_locked(start, end);
}

/* Nothing has to be read: see shim_track in the header. */
static void track_fresh_locked(uint64_t start, uint64_t end, int prot) {
    heal_locked(start, end);
    /* Where there is a worker none is started: a child of vfork may read here what its parent has noted. */
    bool may = single_is_near() || shim_is_owner();
    if (shim.state != SHIM_ARMED || !may || !(shim.all || shim.merge_any)) {
        shim_track_locked(start, end);
        return;
    }
    if (!shim.stopped && ranges_add(&shim.tracked, start, end) && ranges_add(&shim.wanted, start, end))
        (void)!sp_engine_add_fresh_locked(shim.engine, start, end, prot);
}

/* Where there ought to be a worker and is none, whoever maps something takes the lock, which starts one when
 * it is time for it (shim_unlock). */
static bool may_note(bool rw) {
    return __atomic_load_n(&shim.state, __ATOMIC_RELAXED) == SHIM_UNARMED || (rw && single_is_near());
}

void shim_track(uint64_t start, uint64_t end, int prot) {
    const bool rw = prot == (PROT_READ | PROT_WRITE);
    if (shim.stopped)
        return;
    if (may_note(rw) && journal_note(&shim.journal, start, end, rw ? JOURNAL_MAPPED_RW : JOURNAL_MAPPED)) {
        grow(end - start);
        return;
    }
    bool taken = shim_lock();
    track_fresh_locked(start, end, prot);
    shim_unlock(taken);
}

void shim_forget_locked(uint64_t start, uint64_t end) {
    ranges_cut(&shim.tracked, start, end);
    ranges_cut(&shim.wanted, start, end);
    ranges_cut(&shim.former, start, end);
    ranges_cut(&shim.refused, start, end);
    ranges_cut(&shim.wiped, start, end);
    ranges_cut(&shim.locked, start, end);
    shim_forget_attributes_locked(start, end);
}

/* A part that is tracked, not refused, and not to be wiped in children (those mappings of the store must not
 * be shared again: a child would lose them). */
static void want_part_locked(uint64_t start, uint64_t end) {
    if (start >= end || ranges_overlap(&shim.wiped, start, end) || !ranges_add(&shim.wanted, start, end))
        return;
    if (shim.state == SHIM_ARMED && shim_is_owner())
        register_locked(start, end);
}

static void want_tracked_locked(uint64_t start, uint64_t end) {
    struct sp_range refused = {.end = start};
    for (uint64_t at = start; at < end; at = refused.end) {
        if (!ranges_first(&shim.refused, at, end, &refused))
            refused = (struct sp_range){end, end};
        want_part_locked(at, refused.start);
    }
}

static void want_all_locked(uint64_t start, uint64_t end) {
    struct sp_range part = {.end = start};
    while (ranges_first(&shim.tracked, part.end, end, &part))
        want_tracked_locked(part.start, part.end);
    if (shim.state != SHIM_UNARMED || !shim.wanted.n)
        return;
    __atomic_store_n(&shim.state, SHIM_ARMING, __ATOMIC_SEQ_CST);
    finish_arming_locked();
}

void shim_want_locked(uint64_t start, uint64_t end) {
    if (shim.stopped)
        return;
    /* What was noted by now is known by now; what comes later waits for the lock. */
    bool begun = journal_begin_locked();
    want_all_locked(start, end);
    if (begun)
        journal_end_locked();
}

void shim_advise_locked(uint64_t start, uint64_t end) {
    ranges_cut(&shim.refused, start, end);
    shim_want_locked(start, end);
}

static int refuse_locked(uint64_t start, uint64_t end) {
    struct sp_range part = {.end = start};
    while (ranges_first(&shim.tracked, part.end, end, &part))
        if (!ranges_add(&shim.refused, part.start, part.end))
            return -ENOMEM;
    return 0;
}

static int retire_part_locked(uint64_t start, uint64_t end) {
    if (shim.state == SHIM_ARMED) {
        if (!ranges_add(&shim.former, start, end))
            return -ENOMEM;
        int r = sp_engine_unmerge_locked(shim.engine, start, end);
        if (r < 0)
            return r;
        sp_engine_remove_locked(shim.engine, start, end, false);
    }
    ranges_cut(&shim.wanted, start, end);
    return 0;
}

int shim_retire_locked(uint64_t start, uint64_t end) {
    struct sp_range part = {.end = start};
    while (ranges_first(&shim.wanted, part.end, end, &part)) {
        int r = retire_part_locked(part.start, part.end);
        if (r < 0)
            return r;
    }
    return 0;
}

int shim_unmerge_locked(uint64_t start, uint64_t end) {
    struct sp_range part = {.end = start};
    while (shim.state == SHIM_ARMED && ranges_first(&shim.wanted, part.end, end, &part)) {
        int r = sp_engine_refill_locked(shim.engine, part.start, part.end);
        if (r < 0)
            return r;
    }
    return shim_retire_locked(start, end);
}

int shim_unadvise_locked(uint64_t start, uint64_t end) {
    int r = shim_unmerge_locked(start, end);
    return r >= 0 && (shim.all || shim.merge_any) ? refuse_locked(start, end) : r;
}

void shim_unmapped_locked(uint64_t start, uint64_t end) {
    if (shim.state == SHIM_ARMED && shim_special_locked(start, end))
        sp_engine_remove_locked(shim.engine, start, end, true);
    shim_forget_locked(start, end);
}

/*
 * Nothing has changed, unless mmap unmapped what was there before it failed (kernels before 6.12). References
 * are not given back then: what of the range is still mapped is not known, and a page given back too early is
 * lost (I8).
 */
void shim_unmap_failed_locked(uint64_t start, uint64_t end) {
    if (shim_mapped(start, end))
        return;
    if (shim.state == SHIM_ARMED && shim_special_locked(start, end))
        sp_engine_remove_locked(shim.engine, start, end, false);
    shim_forget_locked(start, end);
}

/*
 * That the range will be unmapped, for whoever reads the journal. Only memory of which the sets know nothing
 * may go without a note: they may be wrong (a mapping that went behind our back), and the note is what puts
 * them right. What they know of it cannot change meanwhile: that would take the last note away.
 */
static bool note_unmapping(uint64_t start, uint64_t end) {
    return (!ranges_overlap(&shim.tracked, start, end) && journal_shorten(&shim.journal, start, end)) ||
           journal_note(&shim.journal, start, end, JOURNAL_UNMAPPED);
}

/*
 * Makes a note of it where that is all that must be done: nothing of the range is special. Asked again when
 * the note stands: whoever made it special after the first look had taken the journal before, and whoever
 * takes the journal later finds the note in it.
 */
static bool leaves_unlocked(uint64_t start, uint64_t end) {
    return !is_special(start, end) && note_unmapping(start, end) && !is_special(start, end);
}

/* Unregistered memory leaves the set first, so that it cannot be registered while the call runs. */
long shim_replace(uint64_t start, uint64_t end, const struct call *c) {
    if (!shim.engine || leaves_unlocked(start, end) || !shim_overlaps(start, end))
        return call_make(c);
    bool taken = shim_lock();
    if (!shim_special_locked(start, end)) {
        shim_forget_locked(start, end);
        shim_unlock(taken);
        return call_make(c);
    }
    long r = call_make(c);
    if (is_error(r))
        shim_unmap_failed_locked(start, end);
    else
        shim_unmapped_locked(start, end);
    shim_unlock(taken);
    return r;
}

bool shim_mapped(uint64_t start, uint64_t end) {
    /* Looks at every mapping of the range and does nothing else: msync(2), ENOMEM. */
    return sp_syscall(SYS_msync, start, end - start, MS_ASYNC) != -ENOMEM;
}

void shim_attributes_set(uint64_t start, uint64_t end, unsigned attributes) {
    /* The memory is there and right without them. */
    (void)!sp_map_attributes(start, end - start, attributes);
}

/* A walk over the mappings of the store in a range. */
struct store_walk {
    uint64_t position, end;
    const struct call *call; /* made on what lies between them; NULL: discard the mappings themselves */
    unsigned at;
    struct ranges *store;
    long result;
};

static void call_between(struct store_walk *w, uint64_t start, uint64_t end) {
    if (start >= end || w->result < 0)
        return;
    struct call c = *w->call;
    c.a[w->at] = (long)start;
    c.a[w->at + 1] = (long)(end - start);
    w->result = call_make(&c);
}

static bool visit_apply(void *ctx, const struct sp_mapping *m) {
    struct store_walk *w = ctx;
    if (!(m->attributes & SP_ATTR_STORE))
        return true;
    uint64_t start = m->start > w->position ? m->start : w->position;
    uint64_t end = m->end < w->end ? m->end : w->end;
    call_between(w, w->position, start);
    if (w->result >= 0 && w->store && start < end && !ranges_add(w->store, start, end))
        w->result = -ENOMEM;
    w->position = end;
    return w->result >= 0;
}

long shim_apply_locked(const struct call *c, unsigned at, uint64_t start, uint64_t end,
                       struct ranges *ret_store) {
    struct store_walk w = {.position = start, .end = end, .call = c, .at = at, .store = ret_store};
    if (shim_special_locked(start, end)) {
        int r = sp_proc_mappings(start, end, visit_apply, &w);
        if (r < 0)
            return -ENOMEM;
    }
    call_between(&w, w.position, end);
    return w.result;
}

static bool visit_discard(void *ctx, const struct sp_mapping *m) {
    struct store_walk *w = ctx;
    if (!(m->attributes & SP_ATTR_STORE))
        return true;
    uint64_t start = m->start > w->position ? m->start : w->position;
    uint64_t end = m->end < w->end ? m->end : w->end;
    w->result = sp_map_fresh(start, end - start, m->prot);
    if (w->result >= 0)
        shim_attributes_set(start, end, m->attributes);
    return w->result >= 0;
}

int shim_discard_locked(uint64_t start, uint64_t end) {
    if (ranges_overlap(&shim.wanted, start, end) && shim.state == SHIM_ARMED) {
        int r = sp_engine_discard_locked(shim.engine, start, end);
        if (r < 0)
            return r;
    }
    struct sp_range part = {.end = start};
    while (ranges_first(&shim.former, part.end, end, &part)) {
        struct store_walk w = {.position = part.start, .end = part.end};
        int r = sp_proc_mappings(part.start, part.end, visit_discard, &w);
        if (r < 0 || w.result < 0)
            return -ENOMEM;
        ranges_cut(&shim.former, part.start, part.end);
    }
    return 0;
}

/* A thread that is just being started cannot be waited for yet. Not for ever: it may be a signal handler on
 * the very thread that starts it that asks. */
static void await_start(void) {
    struct sp_engine *e = shim.engine;
    for (int tries = 0; tries < 1000; tries++) {
        sp_engine_lock(e);
        bool starting = e->state == SP_ENGINE_STARTING && !e->start_wanted && !e->thread_started;
        sp_engine_unlock(e);
        if (!starting)
            break;
        sp_sleep_ns(1000000);
    }
}

/*
 * Waits for the thread's end, not only for the end of its merging: a filter with TSYNC binds it too and would
 * kill it, and us, for what it does when it ends (H19); and mlockall would touch its scratch memory, where
 * every fault waits for a worker (H2).
 */
static void end_worker(enum sp_engine_state why) {
    struct sp_engine *e = shim.engine;
    await_start();
    sp_engine_stop(e, why);
    if (!e->thread_started)
        return;
    sp_thread_join(&e->thread);
    sp_engine_lock(e);
    e->thread_started = false;
    sp_engine_unlock(e);
}

void shim_stop(enum sp_engine_state why) {
    if (shim.engine && shim_is_owner() && !__atomic_exchange_n(&shim.stopped, true, __ATOMIC_SEQ_CST))
        end_worker(why);
}

void shim_rest(void) {
    if (shim.engine && shim_is_owner() && !shim.stopped)
        end_worker(SP_ENGINE_SINGLE);
}
