/* SPDX-License-Identifier: MIT */
/*
 * Copies: the store pages of short runs, read before the freeze into a window of the worker's own, so that
 * they can be compared without a fault.
 *
 * Where much is merged the window is needed again at once. When there is no more to do for now it goes back
 * to the kernel: it is most of the memory that a worker has, in every process, and would be kept for a merge
 * that may never come.
 */
#include <sys/mman.h>

#include "merge/state.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/store.h"

bool sp_copy_read(struct sp_worker *w, struct sp_batch_run *run) {
    uint8_t *copy = w->store_copy + run->slot * SP_PAGE_SIZE;
    run->expected = copy;
    __atomic_store_n(&w->copied, true, __ATOMIC_RELAXED);
    return sp_store_read(run->fd, run->offset / SP_PAGE_SIZE, copy, run->pages) == 0;
}

void sp_copy_drop(struct sp_worker *w) {
    /* Where it fails it is tried again before the next wait. */
    if (sp_copy_bytes(w) && !sp_advise((uintptr_t)w->store_copy, SP_WINDOW_SIZE, MADV_DONTNEED))
        __atomic_store_n(&w->copied, false, __ATOMIC_RELAXED);
}

size_t sp_copy_bytes(const struct sp_worker *w) {
    return __atomic_load_n(&w->copied, __ATOMIC_RELAXED) ? SP_WINDOW_SIZE : 0;
}
