/* SPDX-License-Identifier: MIT */
/*
 * Children. One made in the middle of a batch would lack the pages that are frozen (H3), so every way of
 * making a child with its own copy of memory takes the engine's lock:
 *
 *     fork and what is built on it    pthread_atfork handlers, installed by the constructor. The library is
 *                                     linked with -z initfirst, so that they are the first: prepare runs
 *                                     after all others, with no lock of the program still to be taken while
 *                                     ours is held (a malloc with atfork handlers of its own and a thread
 *                                     that unmaps under malloc's lock would be a deadlock otherwise)
 *     _Fork, clone()                  around the C library's function
 *     syscall(SYS_fork, SYS_clone..)  around the system call, when the child goes on with a copy of this
 *                                     stack; with another stack it could not return through here, and
 *                                     merging ends before it (syscall.S)
 *
 * A child of vfork or clone(CLONE_VM) shares memory: nothing to do.
 */
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sys/mman.h>

#include "merge/state.h"
#include "os/mapping.h"
#include "os/proc.h"
#include "preload/names.h"
#include "preload/shim.h"

#define CLONE (int (*fn)(void *), void *stack, int flags, void *arg, void *ptid, void *tls, void *ctid)
SHIM_NEXT(int, _Fork, -1, (void), ())
SHIM_NEXT(int, clone, -1, CLONE, (fn, stack, flags, arg, ptid, tls, ctid))

static void before(void) {
    if (shim.engine)
        sp_engine_fork_prepare(shim.engine);
}

static void after_parent(void) {
    if (shim.engine)
        sp_engine_fork_parent(shim.engine);
}

static bool visit_wipe(void *ctx, const struct sp_mapping *m) {
    const struct sp_range *part = ctx;
    uint64_t start = m->start > part->start ? m->start : part->start;
    uint64_t end = m->end < part->end ? m->end : part->end;
    if (!(m->attributes & SP_ATTR_STORE) || sp_map_fresh(start, end - start, m->prot) < 0)
        return true;
    shim_attributes_set(start, end, m->attributes);
    /* The wish is inherited, and the kernel can fulfil it from now on. */
    sp_syscall(SYS_madvise, start, end - start, MADV_WIPEONFORK);
    return true;
}

static void wipe_locked(void) {
    struct sp_range part = {0};
    while (ranges_first(&shim.wiped, part.end, UINT64_MAX, &part))
        (void)!sp_proc_mappings(part.start, part.end, visit_wipe, &part);
    ranges_cut(&shim.wiped, 0, UINT64_MAX);
}

/* The kernel did not copy these mappings. */
static void drop_dontfork_locked(void) {
    struct sp_range part = {0};
    while (ranges_first(&shim.dontfork, part.end, UINT64_MAX, &part))
        shim_unmapped_locked(part.start, part.end);
    ranges_cut(&shim.dontfork, 0, UINT64_MAX);
}

/* Only the calling thread is there, and whatever others were doing will not be finished here. Memory locks
 * are not inherited. */
static void child_locked(void) {
    sp_engine_fork_child(shim.engine);
    shim.inflight = 0;
    bool taken = shim_lock();
    ranges_cut(&shim.locked, 0, UINT64_MAX);
    drop_dontfork_locked();
    wipe_locked();
    shim_unlock(taken);
}

static void after_child(void) {
    if (!shim.engine)
        return;
    shim.pid = (int)sp_syscall(SYS_getpid);
    shim.forked = true;
    child_locked();
}

/*
 * A child that the C library's fork did not make, or not all of it: the library's list of threads still has
 * the worker in it, and the next fork walks that list. So the copy of the worker's stack, where its entry
 * lies, stays. A child of the raw system call has a C library that takes it for its parent: nothing in it may
 * start a thread, so no worker ever is (shim.pid).
 */
static void after_child_partly(bool raw) {
    if (!shim.engine)
        return;
    shim.pid = raw ? 0 : (int)sp_syscall(SYS_getpid);
    shim.forked = !raw;
    shim.engine->thread_started = false;
    child_locked();
}

long fork_call(const struct call *c) {
    before();
    long r = call_make(c);
    if (r == 0)
        after_child_partly(true);
    else
        after_parent();
    return r;
}

void fork_init(void) {
    SHIM_FIND(_Fork, NULL);
    SHIM_FIND(clone, NULL);
}

void fork_watch(void) {
    pthread_atfork(before, after_parent, after_child);
}

/* _Fork(3): fork without handlers; may be called in a signal handler. */
int names_Fork(void) {
    before();
    int pid = next__Fork();
    int saved = errno;
    if (pid == 0)
        after_child_partly(false);
    else
        after_parent();
    errno = saved;
    return pid;
}

/* What the child of clone() is to run; it has a copy of the caller's stack frame, at the same address. */
struct child {
    int (*main)(void *);
    void *arg;
};

static int child_main(void *p) {
    const struct child *c = p;
    after_child_partly(true);
    return c->main(c->arg);
}

int names_clone(int (*fn)(void *), void *stack, int flags, void *arg, void *parent_tid, void *tls,
                void *child_tid) {
    if (!shim.engine || (flags & CLONE_VM) || !fn || !stack)
        return next_clone(fn, stack, flags, arg, parent_tid, tls, child_tid);
    struct child c = {fn, arg};
    before();
    int pid = next_clone(child_main, stack, flags, &c, parent_tid, tls, child_tid);
    int saved = errno;
    after_parent();
    errno = saved;
    return pid;
}

/* The first words of clone3's arguments; from memory that may not be there. */
static bool clone3_read(long pointer, struct clone_args *ret) {
    return sp_peek(ret, (uintptr_t)pointer, CLONE_ARGS_SIZE_VER0) == 0;
}

/*
 * Asked by syscall.S before it leaves its own path: true, the call must be made from there, for it makes a
 * child that shares memory (and would return through a frame that is no longer what it was) or has a stack
 * of its own.
 */
bool names_syscall_is_raw(long number, long a, long b, long c, long d, long e) {
    struct clone_args args = {0};
    uint64_t flags, stack;

    if (!shim.engine)
        return true;
    if (number == SYS_clone) {
        flags = (uint64_t)a;
        stack = (uint64_t)b;
    } else if (number == SYS_clone3) {
        if (!clone3_read(a, &args))
            return true;
        flags = args.flags;
        stack = args.stack;
    } else {
        return false;
    }
    if (flags & CLONE_VM)
        return true;
    if (stack)
        shim_stop(SP_ENGINE_STOPPED);
    return stack != 0;
}
