/* SPDX-License-Identifier: MIT */
/*
 * Waking the worker. It sleeps in ppoll(2) on descriptors of its own table, which the application's threads
 * cannot write to; a futex cannot be polled together with them. So the application's side sends a
 * thread-directed signal that the worker keeps blocked, and the worker polls a signalfd(2) for it: a blocked
 * signal is queued whatever its disposition is, no handler exists or runs, and no other thread can receive
 * it.
 */
#ifndef SP_OS_WAKE_H
#define SP_OS_WAKE_H

#include "core/types.h"

/* Called by the thread that is to be woken (which has all signals blocked): the descriptor to poll, and its
 * thread id for sp_wake. */
SP_WARN_UNUSED int sp_wake_open(int *ret_fd, int *ret_tid);
/* Takes what was posted, so that the descriptor is no longer readable. */
void sp_wake_clear(int fd);
/* Wakes the thread `tid` of this process; does nothing when it has gone. Safe in signal handlers. */
void sp_wake(int tid);

/* Whether the thread `tid` of this process still exists. */
bool sp_wake_alive(int tid);

#endif
