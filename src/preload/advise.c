/* SPDX-License-Identifier: MIT */
/*
 * madvise, process_madvise, prctl, seccomp: the advice that asks us to merge, and the advice whose meaning a
 * mapping of the store would change.
 */
#include <errno.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "os/kernel.h"
#include "os/mapping.h"
#include "os/proc.h"
#include "preload/shim.h"

/* include/uapi/asm-generic/mman-common.h; the C library leaves it out. */
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
/* include/uapi/linux/pidfd.h, Linux 6.15 */
#define SELF_THREAD       (-10000)
#define SELF_THREAD_GROUP (-10001)

struct advice {
    uint64_t start, end;
    int advice;
    struct call raw;
};

static void attributes_of(int advice, unsigned *ret_set, unsigned *ret_clear) {
    *ret_set = *ret_clear = 0;
    switch (advice) {
    case MADV_DONTFORK:
        *ret_set = SP_ATTR_DONTFORK;
        break;
    case MADV_DOFORK:
        *ret_clear = SP_ATTR_DONTFORK;
        break;
    case MADV_DONTDUMP:
        *ret_set = SP_ATTR_DONTDUMP;
        break;
    case MADV_DODUMP:
        *ret_clear = SP_ATTR_DONTDUMP;
        break;
    case MADV_HUGEPAGE:
        *ret_set = SP_ATTR_HUGEPAGE;
        *ret_clear = SP_ATTR_NOHUGEPAGE;
        break;
    case MADV_NOHUGEPAGE:
        *ret_set = SP_ATTR_NOHUGEPAGE;
        *ret_clear = SP_ATTR_HUGEPAGE;
        break;
    default:
        break;
    }
}

static long advise_attributes(const struct advice *a) {
    unsigned set, clear;
    attributes_of(a->advice, &set, &clear);
    if (!shim_overlaps(a->start, a->end))
        return call_make(&a->raw);
    bool taken = shim_lock();
    long r = call_make(&a->raw);
    /* ENOMEM: there was a hole, and everything around it has the attribute. */
    if (!is_error(r) || r == -ENOMEM) {
        if (shim.state == SHIM_ARMED && ranges_overlap(&shim.wanted, a->start, a->end))
            sp_engine_attributes_locked(shim.engine, a->start, a->end, set, clear);
        shim_note_attributes_locked(a->start, a->end, set, clear);
    }
    shim_unlock(taken);
    return r;
}

/*
 * Advice that throws content away. The kernel goes through the mappings in order and stops at one that is
 * locked, so we discard only as far as that.
 */
static long discard_locked(const struct advice *a) {
    uint64_t end = a->end;
    struct sp_range locked;
    bool stops = a->advice != MADV_DONTNEED_LOCKED && ranges_first(&shim.locked, a->start, end, &locked);

    if (stops)
        end = locked.start;
    if (end > a->start) {
        int r = shim_discard_locked(a->start, end);
        if (r < 0)
            return r;
        struct call c = a->raw;
        c.a[1] = (long)(end - a->start);
        long result = call_make(&c);
        if (is_error(result) && (!stops || result != -ENOMEM))
            return result;
    }
    return stops ? -EINVAL : 0;
}

/* MADV_REMOVE is for shared files only: on anonymous memory it fails and content stays. */
static long remove_locked(const struct advice *a) {
    struct sp_range wanted, former;
    uint64_t first = a->end;
    if (ranges_first(&shim.wanted, a->start, a->end, &wanted))
        first = wanted.start;
    if (ranges_first(&shim.former, a->start, first, &former))
        first = former.start;
    if (first > a->start) {
        struct call c = a->raw;
        c.a[1] = (long)(first - a->start);
        long r = call_make(&c);
        if (is_error(r))
            return r;
    }
    return -EINVAL;
}

/* The kernel does this for anonymous memory only; mappings of the store are remembered and wiped by us when
 * a child is made. */
static long wipe_locked(const struct advice *a) {
    int r = shim_retire_locked(a->start, a->end);
    if (r < 0)
        return r;
    return shim_apply_locked(&a->raw, 0, a->start, a->end, &shim.wiped);
}

static long keep_locked(const struct advice *a) {
    long r = call_make(&a->raw);
    if (!is_error(r) || r == -ENOMEM)
        ranges_cut(&shim.wiped, a->start, a->end);
    return r;
}

/* Poisoning a page of the store would poison it for everybody. */
static long poison_locked(const struct advice *a) {
    int r = shim_retire_locked(a->start, a->end);
    return r < 0 ? r : call_make(&a->raw);
}

static long advise_special_locked(const struct advice *a) {
    /* With no length a call only says whether the kernel knows the advice. */
    long known = sp_syscall(SYS_madvise, a->start, 0, a->advice);
    if (known < 0)
        return known;
    switch (a->advice) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
    case MADV_FREE:
    case MADV_GUARD_INSTALL:
        return discard_locked(a);
    case MADV_REMOVE:
        return remove_locked(a);
    case MADV_WIPEONFORK:
        return wipe_locked(a);
    case MADV_KEEPONFORK:
        return keep_locked(a);
    case MADV_HWPOISON:
    case MADV_SOFT_OFFLINE:
        return poison_locked(a);
    default:
        return call_make(&a->raw);
    }
}

static long advise_special(const struct advice *a) {
    enum shim_path path = shim_enter(a->start, a->end);
    long r = shim_has_lock(path) && shim_special_locked(a->start, a->end) ? advise_special_locked(a)
                                                                          : call_make(&a->raw);
    shim_leave(path);
    return r;
}

/* As the kernel: silent about memory that cannot be merged, ENOMEM for holes, EAGAIN for want of memory. */
static long advise_merge(const struct advice *a) {
    long r = 0;
    if (a->start == a->end)
        return 0;
    if (shim_overlaps(a->start, a->end)) {
        bool taken = shim_lock();
        if (a->advice == MADV_MERGEABLE)
            shim_advise_locked(a->start, a->end);
        else
            r = shim_unadvise_locked(a->start, a->end);
        shim_unlock(taken);
    }
    if (r == -ENOMEM)
        return -EAGAIN;
    if (r >= 0 && !shim_mapped(a->start, a->end))
        r = -ENOMEM;
    return r;
}

long call_madvise(uint64_t start, uint64_t bytes, int advice) {
    const struct advice a = {
        .start = start,
        .end = start + page_up(bytes),
        .advice = advice,
        .raw = {SYS_madvise, {(long)start, (long)bytes, advice}},
    };
    bool valid = is_aligned(start) && a.end >= start && (page_up(bytes) || !bytes);

    if (!shim.engine)
        return call_make(&a.raw);
    if (advice == MADV_MERGEABLE || advice == MADV_UNMERGEABLE)
        return valid ? advise_merge(&a) : -EINVAL;
    if (!valid || a.start == a.end)
        return call_make(&a.raw);
    switch (advice) {
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
        return advise_attributes(&a);
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
    case MADV_FREE:
    case MADV_REMOVE:
    case MADV_GUARD_INSTALL:
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK:
    case MADV_HWPOISON:
    case MADV_SOFT_OFFLINE:
        return advise_special(&a);
    default:
        return call_make(&a.raw);
    }
}

/* Whether a pidfd, or what Linux takes for one, stands for this process. */
static bool is_self(int pidfd) {
    return pidfd == SELF_THREAD || pidfd == SELF_THREAD_GROUP || sp_proc_pidfd_is_self(pidfd);
}

/* The most bytes that one call advises (MAX_RW_COUNT in the kernel). */
#define BYTES_MAX UINT64_C(0x7ffff000)

/* Range by range, as the kernel: how much was done, or the first error. */
static long advise_ranges(uint64_t v, uint64_t count, int advice) {
    uint64_t wanted = 0, done = 0;
    struct iovec range;

    for (uint64_t i = 0; i < count && !sp_peek(&range, v + i * sizeof(range), sizeof(range)); i++)
        wanted += range.iov_len;
    wanted = wanted < BYTES_MAX ? wanted : BYTES_MAX;
    for (; done < wanted; v += sizeof(range)) {
        if (sp_peek(&range, v, sizeof(range)))
            return done ? (long)done : -EFAULT;
        uint64_t bytes = range.iov_len < wanted - done ? range.iov_len : wanted - done;
        long r = call_madvise((uint64_t)(uintptr_t)range.iov_base, bytes, advice);
        if (is_error(r))
            return done ? (long)done : r;
        done += bytes;
    }
    return (long)done;
}

/* Advice to ourselves goes the way of madvise. What is wrong with the ranges themselves the kernel says, when
 * it is asked to read nothing into them. */
long call_process_madvise(const long a[6]) {
    const struct call raw = {SYS_process_madvise, {a[0], a[1], a[2], a[3], a[4], a[5]}};
    uint64_t count = (uint64_t)a[2];
    int advice = (int)a[3];
    bool merge = advice == MADV_MERGEABLE || advice == MADV_UNMERGEABLE;

    if (!shim.engine || !(merge || shim_overlaps(0, UINT64_MAX)) || count > 1024 || a[4] ||
        !is_self((int)a[0]))
        return call_make(&raw);
    long r = sp_syscall(SYS_process_vm_readv, sp_syscall(SYS_getpid), a[1], a[2], 0, 0, 0);
    return r < 0 ? r : advise_ranges((uint64_t)a[1], count, advice);
}

static long merge_any_begin_locked(void) {
    shim.merge_any = true;
    __atomic_store_n(&shim.allowed_bytes, 0, __ATOMIC_RELAXED);
    shim_advise_locked(0, UINT64_MAX);
    return 0;
}

/* What the program advised ends, too; and --all: the program knows what it wants. */
static long merge_any_end_locked(void) {
    int r = shim_unmerge_locked(0, UINT64_MAX);
    if (r < 0)
        return r;
    shim.merge_any = shim.all = false;
    /* It may have been set by who executed the program. */
    sp_syscall(SYS_prctl, PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
    return 0;
}

/* PR_SET_MEMORY_MERGE, all that is there and all that will be, in programs executed from here too; to set
 * what is set does nothing. See PR_SET_MEMORY_MERGE(2const). */
static long merge_any_set(const long a[6]) {
    long r = 0;
    if (a[2] || a[3] || a[4])
        return -EINVAL;
    bool taken = shim_lock();
    if (!shim.merge_any != !a[1])
        r = a[1] ? merge_any_begin_locked() : merge_any_end_locked();
    bool merge_any = shim.merge_any;
    shim_unlock(taken);
    inherit_write(merge_any); /* to memory that may be registered */
    return r;
}

/* A name cannot be given to a mapping of the store: named memory is not merged. */
static long name_set(const struct call *c) {
    uint64_t start = (uint64_t)c->a[2], end = start + page_up((uint64_t)c->a[3]);
    enum shim_path path = is_aligned(start) && end > start ? shim_enter(start, end) : SHIM_RAW;
    long r;

    if (!shim_has_lock(path) || !shim_special_locked(start, end)) {
        r = call_make(c);
    } else {
        struct call probe = *c;
        probe.a[3] = 0;
        r = call_make(&probe);
        if (r >= 0)
            r = shim_retire_locked(start, end);
        if (r >= 0)
            r = shim_apply_locked(c, 2, start, end, NULL);
    }
    shim_leave(path);
    return r;
}

/*
 * A program that binds itself by a filter did not ask for a thread in its middle that is not bound, nor for
 * system calls of ours in threads that are: merging ends first (H11, H19). A filter without a program is
 * how libraries ask what the kernel can do.
 */
static void filter_coming(long mode, long program) {
    if (mode == SECCOMP_MODE_STRICT || (mode == SECCOMP_MODE_FILTER && program))
        shim_stop(SP_ENGINE_SECCOMP);
}

long call_prctl(const long a[6]) {
    const struct call c = {SYS_prctl, {a[0], a[1], a[2], a[3], a[4], a[5]}};
    if (!shim.engine)
        return call_make(&c);
    switch ((int)a[0]) {
    case PR_SET_MEMORY_MERGE:
        return merge_any_set(a);
    case PR_GET_MEMORY_MERGE:
        return a[1] || a[2] || a[3] || a[4] ? -EINVAL : shim.merge_any;
    case PR_SET_SECCOMP:
        filter_coming(a[1], a[2]);
        return call_make(&c);
    case PR_SET_VMA:
        return a[1] == PR_SET_VMA_ANON_NAME ? name_set(&c) : call_make(&c);
    default:
        return call_make(&c);
    }
}

long call_seccomp(const long a[6]) {
    const struct call c = {SYS_seccomp, {a[0], a[1], a[2]}};
    if (a[0] == SECCOMP_SET_MODE_STRICT)
        filter_coming(SECCOMP_MODE_STRICT, 0);
    else if (a[0] == SECCOMP_SET_MODE_FILTER)
        filter_coming(SECCOMP_MODE_FILTER, a[2]);
    return call_make(&c);
}
