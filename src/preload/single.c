/* SPDX-License-Identifier: MIT */
/*
 * Calls that the kernel allows only to a process with one thread, and that the worker would therefore take
 * away from it (H10): unshare and setns of a user namespace, setns of a mount namespace (which minds that the
 * worker shares the working directory) or a time namespace. The program comes first: where the kernel refuses
 * and the worker is the only thread besides, merging ends and the kernel is asked again. What is merged stays
 * merged. Asked first, because most such calls mind no thread, and because what a descriptor of setns stands
 * for only the kernel knows. Programs that count their threads are made room for in the same way (counted.c).
 */
#include <errno.h>

#include "merge/state.h"
#include "os/proc.h"
#include "os/thread.h"
#include "preload/shim.h"

/* unshare(2), setns(2). */
static bool minds_threads(long r) {
    return r == -EINVAL || r == -EUSERS;
}

bool single_is_near(void) {
    return shim.engine && __atomic_load_n(&shim.engine->thread_started, __ATOMIC_RELAXED);
}

static bool worker_is_the_other(void) {
    uint64_t threads;
    return single_is_near() && shim_is_owner() && !sp_proc_threads(&threads) && threads == 2;
}

/* A thread has given back its stack some time before the kernel no longer counts it. */
#define TRIES    1000
#define PAUSE_NS UINT64_C(100000)

static void await_single(void) {
    uint64_t threads;
    for (int tries = 0; tries < TRIES && !sp_proc_threads(&threads) && threads > 1; tries++)
        sp_sleep_ns(PAUSE_NS);
}

bool single_make_room(void) {
    if (!worker_is_the_other() || sp_engine_lock_mine(shim.engine))
        return false;
    shim_rest();
    await_single();
    return true;
}

long call_single(const struct call *c) {
    long r = call_make(c);
    if (!minds_threads(r) || !worker_is_the_other())
        return r;
    shim_stop(SP_ENGINE_STOPPED);
    await_single();
    return call_make(c);
}
