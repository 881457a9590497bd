/* SPDX-License-Identifier: MIT */
/*
 * Calls that map, unmap, protect, lock and place memory.
 *
 * Not here, because nothing they can do concerns tracked memory: brk and sbrk (the heap is not tracked, and
 * the kernel lets it grow over nothing), remap_file_pages (shared mappings only), posix_madvise (none of its
 * advice changes memory: the C library ignores POSIX_MADV_DONTNEED).
 */
#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "os/kernel.h"
#include "preload/shim.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static bool is_trackable(uint64_t bytes, int prot, int flags) {
    return (flags & MAP_TYPE) == MAP_PRIVATE && (flags & MAP_ANONYMOUS) && bytes >= SHIM_TRACKED_MIN_BYTES &&
           !(flags & (MAP_STACK | MAP_GROWSDOWN | MAP_LOCKED | MAP_HUGETLB)) && !(prot & PROT_EXEC);
}

static bool replaces(int flags) {
    return (flags & MAP_FIXED) && !(flags & MAP_FIXED_NOREPLACE);
}

long call_mmap(uint64_t address, uint64_t bytes, int prot, int flags, int fd, long offset) {
    const struct call c = {SYS_mmap, {(long)address, (long)bytes, prot, flags, fd, offset}};
    uint64_t length = page_up(bytes);
    long r;

    if (!shim.engine)
        return call_make(&c);
    if (replaces(flags) && length && is_aligned(address))
        r = shim_replace(address, address + length, &c);
    else
        r = call_make(&c);
    if (!is_error(r) && is_trackable(length, prot, flags))
        shim_track((uint64_t)r, (uint64_t)r + length, prot);
    return r;
}

long call_munmap(uint64_t start, uint64_t bytes) {
    const struct call c = {SYS_munmap, {(long)start, (long)bytes}};
    if (!bytes || !is_aligned(start) || start + page_up(bytes) < start)
        return call_make(&c);
    return shim_replace(start, start + page_up(bytes), &c);
}

/* SHM_REMAP is the one way in which attaching a segment unmaps something (shmat(2)). */
long call_shmat(int id, uint64_t address, int flags) {
    struct call c = {SYS_shmat, {id, (long)address, flags}};
    struct shmid_ds segment;

    if (!(flags & SHM_REMAP) || !shim.engine || sp_syscall(SYS_shmctl, id, IPC_STAT, &segment) < 0)
        return call_make(&c);
    uint64_t start = flags & SHM_RND ? page_down(address) : address;
    if (!start || !is_aligned(start))
        return call_make(&c);
    return shim_replace(start, start + page_up(segment.shm_segsz), &c);
}

/* What succeeded, or may have in part: mprotect changes what lies before the hole that it fails at. */
static void tell_protection_locked(uint64_t start, uint64_t end, int prot, bool failed) {
    struct sp_range part = {.end = start};
    if (failed && (prot & PROT_READ) && (prot & PROT_WRITE))
        return;
    while (shim.state == SHIM_ARMED && ranges_first(&shim.wanted, part.end, end, &part)) {
        if (sp_engine_protection_locked(shim.engine, part.start, part.end, prot) < 0 &&
            ranges_add(&shim.former, part.start, part.end))
            ranges_cut(&shim.wanted, part.start, part.end);
    }
}

long call_mprotect(uint64_t start, uint64_t bytes, int prot, int pkey, bool with_pkey) {
    const struct call c = {with_pkey ? SYS_pkey_mprotect : SYS_mprotect,
                           {(long)start, (long)bytes, prot, pkey}};
    uint64_t end = start + page_up(bytes);
    enum shim_path path = is_aligned(start) && end > start ? shim_enter(start, end) : SHIM_RAW;
    long r = 0;

    if (with_pkey && pkey > 0)
        shim.opaque = true;
    /* Executable memory and memory with a key are never merged (H7, H12): a remap would lose the key. */
    if (shim_has_lock(path) && ((prot & PROT_EXEC) || (with_pkey && pkey >= 0)))
        r = shim_retire_locked(start, end);
    if (r >= 0)
        r = call_make(&c);
    if (shim_has_lock(path))
        tell_protection_locked(start, end, prot & (PROT_READ | PROT_WRITE | PROT_EXEC), is_error(r));
    shim_leave(path);
    return r;
}

/* Locked memory of ours is remembered: a discard must fail for it as it does for anonymous memory. */
static void note_locked(uint64_t start, uint64_t end) {
    struct sp_range part = {.end = start};
    while (ranges_first(&shim.former, part.end, end, &part))
        if (!ranges_add(&shim.locked, part.start, part.end))
            return;
}

/*
 * Locking a mapping of the store would copy every page of it anyway (H21). The call is made with no length
 * first: it then fails for wrong flags or a missing right without having done anything.
 */
long call_mlock(uint64_t start, uint64_t bytes, int flags, bool with_flags) {
    const struct call c = {with_flags ? SYS_mlock2 : SYS_mlock, {(long)start, (long)bytes, flags}};
    uint64_t first = page_down(start), end = page_up(start + bytes);
    enum shim_path path = bytes && end > first ? shim_enter(first, end) : SHIM_RAW;
    long r = 0;

    if (shim_has_lock(path)) {
        const struct call probe = {c.number, {c.a[0], 0, flags}};
        r = call_make(&probe);
        if (r >= 0)
            r = shim_retire_locked(first, end);
    }
    if (r >= 0)
        r = call_make(&c);
    if (shim_has_lock(path) && !is_error(r))
        note_locked(first, end);
    shim_leave(path);
    return r;
}

long call_munlock(uint64_t start, uint64_t bytes) {
    const struct call c = {SYS_munlock, {(long)start, (long)bytes}};
    uint64_t first = page_down(start), end = page_up(start + bytes);
    if (!shim.engine || !ranges_overlap(&shim.locked, first, end))
        return call_make(&c);
    bool taken = shim_lock();
    long r = call_make(&c);
    if (!is_error(r))
        ranges_cut(&shim.locked, first, end);
    shim_unlock(taken);
    return r;
}

/* A program that locks everything it has is not served (H21). Its flags are looked at first: see mlockall(2).
 */
long call_mlockall(int flags) {
    const struct call c = {SYS_mlockall, {flags}};
    const int known = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
    if (!shim.engine || (flags & ~known) || !(flags & (MCL_CURRENT | MCL_FUTURE)))
        return call_make(&c);
    shim_stop(SP_ENGINE_LOCKED_MEMORY);
    bool taken = shim_lock();
    struct sp_range part = {0};
    while (ranges_first(&shim.wanted, part.end, UINT64_MAX, &part))
        if (!ranges_add(&shim.former, part.start, part.end))
            break;
    long r = call_make(&c);
    if (!is_error(r) && (flags & MCL_CURRENT))
        note_locked(0, UINT64_MAX);
    shim_unlock(taken);
    return r;
}

long call_munlockall(void) {
    const struct call c = {SYS_munlockall, {0}};
    if (!shim.engine || !ranges_overlap(&shim.locked, 0, UINT64_MAX))
        return call_make(&c);
    bool taken = shim_lock();
    long r = call_make(&c);
    ranges_cut(&shim.locked, 0, UINT64_MAX);
    shim_unlock(taken);
    return r;
}

/*
 * A policy set on a mapping of the store would be the store's, and everybody's (H7): it is set on anonymous
 * memory only. What was merged is private by then and stays where it is.
 */
long call_mbind(const long a[6]) {
    const struct call c = {SYS_mbind, {a[0], a[1], a[2], a[3], a[4], a[5]}};
    uint64_t start = (uint64_t)a[0], end = start + page_up((uint64_t)a[1]);
    enum shim_path path = is_aligned(start) && end > start ? shim_enter(start, end) : SHIM_RAW;
    long r;

    if (!shim_has_lock(path) || !shim_special_locked(start, end)) {
        r = call_make(&c);
    } else {
        const struct call probe = {SYS_mbind, {a[0], 0, a[2], a[3], a[4], a[5]}};
        r = call_make(&probe);
        if (r >= 0)
            r = shim_retire_locked(start, end);
        if (r >= 0)
            r = shim_apply_locked(&c, 0, start, end, NULL);
    }
    shim_leave(path);
    return r;
}
