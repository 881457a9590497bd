/* SPDX-License-Identifier: MIT */
/*
 * Threads of ours inside somebody's program: on a stack that is a mapping of our own (H2), all signals
 * blocked (except those the C library needs for itself), named, and with a descriptor table of its own from
 * its first moment (close_range with CLOSE_RANGE_UNSHARE, H9). Also clocks.
 */
#ifndef SP_OS_THREAD_H
#define SP_OS_THREAD_H

#include <pthread.h>

#include "core/types.h"

struct sp_thread {
    pthread_t handle;   /* of an ordinary one */
    uint32_t *bare_tid; /* of a bare one, in its stack: 0 when it has ended; NULL: it is ordinary */
    void *stack;
    size_t stack_bytes;
};

/*
 * Starts `main(arg)`. With `own_files` the thread begins by leaving the process's descriptor table: it has no
 * descriptor open, not even 0, 1, 2, and what it opens nobody else sees. -EAGAIN: no more threads; -ENOMEM.
 * When leaving the table fails main is called with a negative errno as `status` and must return.
 */
SP_WARN_UNUSED int sp_thread_start(struct sp_thread *t, const char *name, bool own_files,
                                   void (*main)(void *arg, int status), void *arg);
/*
 * The same by a bare system call, for a caller that may be anywhere in the program: in the middle of its
 * malloc, say, which pthread_create calls. The C library does not know of such a thread. So it must be told
 * of changes of identity (os/identity.h); every signal is blocked; and it may call only those functions of
 * the C library that need nothing of their thread but errno and a stack guard. x86-64 only: -ENOSYS
 * elsewhere.
 */
SP_WARN_UNUSED int sp_thread_start_bare(struct sp_thread *t, const char *name, bool own_files,
                                        void (*main)(void *arg, int status), void *arg);
/* Waits for its end and frees the stack. */
void sp_thread_join(struct sp_thread *t);
/* In a child after fork, where the thread does not exist: frees the stack. */
void sp_thread_forget(struct sp_thread *t);

uint64_t sp_now_ns(void);         /* CLOCK_MONOTONIC (vDSO) */
uint64_t sp_thread_cpu_ns(void);  /* CPU time of the calling thread */
uint64_t sp_process_cpu_ns(void); /* CPU time of the calling process */
void sp_sleep_ns(uint64_t ns);

#endif
