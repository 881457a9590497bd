/* SPDX-License-Identifier: MIT */
/*
 * Calls that the kernel allows only to a process with one thread, and that the worker would therefore take
 * away from it (H10): unshare and setns of a user namespace, setns of a mount namespace (which minds that the
 * worker shares the working directory) or a time namespace. The program comes first: where the kernel refuses
 * and the worker is the only thread besides, merging ends and the kernel is asked again. What is merged stays
 * merged. Asked first, because most such calls mind no thread, and because what a descriptor of setns stands
 * for only the kernel knows.
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

static bool worker_is_the_other(void) {
    uint64_t threads;
    return shim.engine && shim_is_owner() && shim.engine->thread_started && !sp_proc_threads(&threads) &&
           threads == 2;
}

/* A thread has given back its stack some time before the kernel no longer counts it. */
#define TRIES    1000
#define PAUSE_NS UINT64_C(100000)

long call_single(const struct call *c) {
    long r = call_make(c);
    if (!minds_threads(r) || !worker_is_the_other())
        return r;
    shim_stop(SP_ENGINE_STOPPED);
    for (int tries = 0; tries < TRIES; tries++) {
        uint64_t threads;
        bool gone = sp_proc_threads(&threads) || threads == 1;
        r = call_make(c);
        if (gone || !minds_threads(r))
            break;
        sp_sleep_ns(PAUSE_NS);
    }
    return r;
}
