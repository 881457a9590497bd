/* SPDX-License-Identifier: MIT */
/*
 * The lock of H1: serialises the application's mapping calls on registered memory with the worker's batches.
 * A futex word in our own memory; the holder blocks all signals (raw rt_sigprocmask, the C library's internal
 * ones too), so that no signal handler can run, and want the lock, while it is held. No libc state, no
 * allocation: may be used in signal handlers and in a child after fork (sp_lock_reset).
 */
#ifndef SP_OS_LOCK_H
#define SP_OS_LOCK_H

#include "core/types.h"

struct sp_lock {
    uint32_t word;       /* 0 free, 1 held, 2 held and waited for */
    uint32_t owner;      /* thread id of the holder, 0 when free: sp_lock_mine */
    uint64_t saved_mask; /* the holder's signal mask, to be put back */
};
#define SP_LOCK_INIT                                                                                         \
    { 0 }

void sp_lock_acquire(struct sp_lock *l);
/* True: acquired. Does not wait. */
bool sp_lock_try(struct sp_lock *l);
/* Waits at most `timeout_ns`. True: acquired. */
bool sp_lock_timed(struct sp_lock *l, uint64_t timeout_ns);
void sp_lock_release(struct sp_lock *l);
/* In a child after fork, where the holder (if any) was copied with the memory: makes the lock free and puts
 * the mask back when the caller held it. */
void sp_lock_reset(struct sp_lock *l);
/* Whether the calling thread holds it. */
bool sp_lock_mine(const struct sp_lock *l);

/* An event that one thread waits for and any thread posts, futex-based, safe in signal handlers. */
struct sp_event {
    uint32_t word;
};
void sp_event_post(struct sp_event *e);
/* Waits until *e->word differs from `seen` or the timeout (UINT64_MAX: none) is over; returns the current
 * value. */
uint32_t sp_event_wait(struct sp_event *e, uint32_t seen, uint64_t timeout_ns);

#endif
