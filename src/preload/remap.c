/* SPDX-License-Identifier: MIT */
/*
 * mremap. The kernel moves and grows one mapping; what the program sees as one may be many by now: pieces of
 * the store among anonymous ones (H20). So for memory that is or was registered the call is done by hand:
 *
 *     shrinking            unmaps the tail
 *     growing in place     maps fresh memory behind, if nothing is there
 *     moving, and growing  reserves the new place, moves every mapping into it, leaves the rest fresh
 *     DONTUNMAP            moves every mapping so; what is left behind of the store becomes fresh memory
 *
 * Before memory moves it is made private: the engine finds its windows by address.
 */
#include <errno.h>
#include <sys/mman.h>

#include "os/mapping.h"
#include "os/proc.h"
#include "preload/shim.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct remap {
    uint64_t old, old_bytes, new_bytes, target;
    int flags;
    bool refused;    /* some of it: all of it is where it goes */
    struct call raw; /* as the program made it */
};

static uint64_t old_end(const struct remap *m) {
    return m->old + m->old_bytes;
}

/* Everything the kernel refuses before it has looked at a mapping: it shall say so itself (mremap(2)). */
static bool is_refused(const struct remap *m) {
    uint64_t target_end = m->target + m->new_bytes;
    if (!is_aligned(m->old) || !m->old_bytes || !m->new_bytes || old_end(m) < m->old ||
        (m->flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)))
        return true;
    if ((m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && !(m->flags & MREMAP_MAYMOVE))
        return true;
    if ((m->flags & MREMAP_DONTUNMAP) && m->old_bytes != m->new_bytes)
        return true;
    if (!(m->flags & MREMAP_FIXED))
        return false;
    return !is_aligned(m->target) || target_end < m->target ||
           (m->target < old_end(m) && m->old < target_end);
}

/* What was mapped at the new place: it is as little wanted as the old one. */
static void refuse_new_locked(const struct remap *m, uint64_t start, uint64_t end) {
    if (m->refused)
        (void)!ranges_add(&shim.refused, start, end);
}

/* The kernel can do it, for the range was never registered; the sets follow. */
static long remap_ordinary_locked(const struct remap *m) {
    bool tracked = ranges_cover(&shim.tracked, m->old, old_end(m));
    bool fixed = m->flags & MREMAP_FIXED;

    long r = call_make(&m->raw);
    if (is_error(r)) {
        if (fixed)
            shim_unmap_failed_locked(m->target, m->target + m->new_bytes);
        return r;
    }
    if (!(m->flags & MREMAP_DONTUNMAP))
        shim_forget_locked(m->old, old_end(m));
    shim_unmapped_locked((uint64_t)r, (uint64_t)r + m->new_bytes);
    refuse_new_locked(m, (uint64_t)r, (uint64_t)r + m->new_bytes);
    if (tracked && m->new_bytes >= SHIM_TRACKED_MIN_BYTES)
        shim_track_locked((uint64_t)r, (uint64_t)r + m->new_bytes);
    return r;
}

/* What is to go on in the new place: was it advised, and what does its last mapping look like. */
struct tail {
    uint64_t end;
    int prot;
    unsigned attributes;
};

static bool visit_tail(void *ctx, const struct sp_mapping *m) {
    struct tail *t = ctx;
    t->end = m->end;
    t->prot = m->prot;
    t->attributes = m->attributes;
    return true;
}

static int tail_read(const struct remap *m, struct tail *ret) {
    *ret = (struct tail){0};
    int r = sp_proc_mappings(old_end(m) - SP_PAGE_SIZE, old_end(m), visit_tail, ret);
    return r < 0 ? -ENOMEM : 0;
}

static void enter_new_locked(const struct remap *m, uint64_t start, uint64_t end, bool wanted) {
    if (!ranges_cover(&shim.tracked, m->old, old_end(m)) || !ranges_add(&shim.tracked, start, end))
        return;
    if (wanted || shim.merge_any)
        shim_want_locked(start, end);
}

static long shrink_locked(const struct remap *m) {
    uint64_t start = m->old + m->new_bytes, end = old_end(m);
    if (start == end)
        return (long)m->old;
    long r = sp_syscall(SYS_munmap, start, end - start);
    if (r < 0) {
        shim_unmap_failed_locked(start, end);
        return r;
    }
    shim_unmapped_locked(start, end);
    return (long)m->old;
}

static long grow_in_place_locked(const struct remap *m, const struct tail *tail, bool wanted) {
    uint64_t start = old_end(m), end = m->old + m->new_bytes;
    if (tail->end != start)
        return -ENOMEM; /* the mapping goes on: there is something behind it */
    long r = sp_syscall(SYS_mmap, start, end - start, tail->prot,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (is_error(r))
        return -ENOMEM;
    shim_attributes_set(start, end, tail->attributes);
    refuse_new_locked(m, start, end);
    enter_new_locked(m, start, end, wanted);
    return (long)m->old;
}

/* A walk that moves each mapping of the old range by `distance`. */
struct move_walk {
    const struct remap *remap;
    uint64_t distance; /* new address - old address, modulo 2^64 */
    uint64_t done;     /* everything below has been moved */
    int result;
};

static int move_piece(const struct move_walk *w, uint64_t start, uint64_t end, const struct sp_mapping *m) {
    if (!(w->remap->flags & MREMAP_DONTUNMAP))
        return sp_remap(start, end - start, start + w->distance);
    long r = sp_syscall(SYS_mremap, start, end - start, end - start,
                        MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, start + w->distance);
    if (is_error(r))
        return (int)r;
    if (m->attributes & SP_ATTR_STORE && sp_map_fresh(start, end - start, m->prot) >= 0)
        shim_attributes_set(start, end, m->attributes);
    return 0;
}

static bool visit_move(void *ctx, const struct sp_mapping *m) {
    struct move_walk *w = ctx;
    uint64_t start = m->start > w->remap->old ? m->start : w->remap->old;
    uint64_t end = m->end < old_end(w->remap) ? m->end : old_end(w->remap);
    w->result = move_piece(w, start, end, m);
    if (w->result >= 0)
        w->done = end;
    return w->result >= 0;
}

/* The new place, as fresh memory like the old one's end; -ENOMEM. */
static long reserve(const struct remap *m, const struct tail *tail) {
    int fixed = m->flags & MREMAP_FIXED ? MAP_FIXED : 0;
    long r = sp_syscall(SYS_mmap, fixed ? m->target : 0, m->new_bytes, tail->prot,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
    if (!is_error(r) && m->new_bytes > m->old_bytes)
        shim_attributes_set((uint64_t)r + m->old_bytes, (uint64_t)r + m->new_bytes, tail->attributes);
    return r;
}

/*
 * Each move frees as many mappings as it makes, so that the limit (H4) is met at the first, or not at all
 * unless another thread comes in between; then everything goes back.
 */
static bool visit_move_back(void *ctx, const struct sp_mapping *m) {
    const struct move_walk *w = ctx;
    uint64_t last = w->done + w->distance, end = m->end < last ? m->end : last;
    uint64_t first = w->remap->old + w->distance, start = m->start > first ? m->start : first;
    return sp_remap(start, end - start, start - w->distance) >= 0;
}

static long move_failed(const struct move_walk *w, uint64_t target) {
    if (w->done > w->remap->old)
        (void)!sp_proc_mappings(target, w->done + w->distance, visit_move_back, (void *)(uintptr_t)w);
    sp_syscall(SYS_munmap, target, w->remap->new_bytes);
    return -ENOMEM;
}

static long move_locked(const struct remap *m, const struct tail *tail, bool wanted) {
    bool fixed = m->flags & MREMAP_FIXED;
    bool tracked = ranges_cover(&shim.tracked, m->old, old_end(m));

    if (shim_retire_locked(m->old, old_end(m)) < 0)
        return -ENOMEM;
    long r = reserve(m, tail);
    if (is_error(r)) {
        if (fixed)
            shim_unmap_failed_locked(m->target, m->target + m->new_bytes);
        return -ENOMEM;
    }
    uint64_t target = (uint64_t)r;
    shim_unmapped_locked(target, target + m->new_bytes);
    refuse_new_locked(m, target, target + m->new_bytes);

    struct move_walk w = {.remap = m, .distance = target - m->old, .done = m->old};
    int walked = sp_proc_mappings(m->old, old_end(m), visit_move, &w);
    if (walked < 0 || w.result < 0)
        return move_failed(&w, target);

    /* Mappings of the store have come along. */
    bool known = ranges_add(&shim.former, target, target + m->old_bytes);
    if (!(m->flags & MREMAP_DONTUNMAP))
        shim_forget_locked(m->old, old_end(m));
    if (tracked && known && !shim.stopped && ranges_add(&shim.tracked, target, target + m->new_bytes) &&
        (wanted || shim.merge_any))
        shim_want_locked(target, target + m->new_bytes);
    return (long)target;
}

static long remap_special_locked(const struct remap *m) {
    bool wanted = ranges_overlap(&shim.wanted, m->old, old_end(m));
    struct tail tail;

    if (!shim_mapped(m->old, old_end(m)))
        return -EFAULT;
    if (!(m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && m->new_bytes <= m->old_bytes)
        return shrink_locked(m);
    int r = tail_read(m, &tail);
    if (r < 0)
        return r;
    if (!(m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))) {
        long grown = grow_in_place_locked(m, &tail, wanted);
        if (!is_error(grown) || !(m->flags & MREMAP_MAYMOVE))
            return grown;
    }
    if (m->new_bytes >= m->old_bytes)
        return move_locked(m, &tail, wanted);
    /* FIXED and smaller: the tail goes first, then the rest moves. */
    struct remap rest = *m;
    long shrunk = shrink_locked(m);
    if (is_error(shrunk))
        return shrunk;
    rest.old_bytes = m->new_bytes;
    r = tail_read(&rest, &tail);
    return r < 0 ? r : move_locked(&rest, &tail, wanted);
}

long call_mremap(uint64_t old, uint64_t old_bytes, uint64_t new_bytes, int flags, uint64_t target) {
    struct remap m = {
        .old = old,
        .old_bytes = page_up(old_bytes),
        .new_bytes = page_up(new_bytes),
        .target = target,
        .flags = flags,
        .raw = {SYS_mremap, {(long)old, (long)old_bytes, (long)new_bytes, flags, (long)target}},
    };
    /* Without an old length shared memory is mapped a second time (mremap(2)): the target is all that
     * changes. */
    if (!m.old_bytes && (flags & MREMAP_FIXED) && is_aligned(target) && target + m.new_bytes > target)
        return shim_replace(target, target + m.new_bytes, &m.raw);
    if (!shim.engine || is_refused(&m))
        return call_make(&m.raw);
    bool fixed = flags & MREMAP_FIXED;
    if (!shim_overlaps(old, old_end(&m)) && !(fixed && shim_overlaps(target, target + m.new_bytes)))
        return call_make(&m.raw);

    bool taken = shim_lock();
    shim.opaque = true; /* what was set on it moves along */
    m.refused = ranges_overlap(&shim.refused, old, old_end(&m));
    long r = shim_special_locked(old, old_end(&m)) ? remap_special_locked(&m) : remap_ordinary_locked(&m);
    shim_unlock(taken);
    return r;
}
