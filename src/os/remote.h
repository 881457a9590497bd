/* SPDX-License-Identifier: MIT */
/*
 * Looking at other processes: which there are, what kind they are, and their memory, without a part of theirs
 * in it. Reading needs what ptrace(2) would need (PTRACE_MODE_ATTACH_REALCREDS): root, or the same user where
 * the Yama module does not forbid it. Nothing here is called in somebody's program: it may allocate.
 */
#ifndef SP_OS_REMOTE_H
#define SP_OS_REMOTE_H

#include <sys/uio.h>

#include "os/proc.h"

/* How many pieces one call of sp_remote_read takes (the kernel's UIO_MAXIOV). */
#define SP_REMOTE_PIECES 1024

/*
 * Copies `n` pieces of the memory of a process, one behind the other, to `to` (process_vm_readv(2)).
 * *ret_bytes: how much could be read before the first page that could not, which is no error even when it is
 * nothing. What is not present is made present by this: ask pagemap first. -ESRCH: it has ended; -EPERM.
 */
SP_WARN_UNUSED int sp_remote_read(int pid, const struct iovec *pieces, size_t n, void *to, size_t *ret_bytes);

/* Calls `visit` for every mapping of a process, ascending, from /proc/PID/smaps; NUMA policies are not known
 * from outside. Until it returns false. -EACCES, -ENOENT, -ESRCH as above. */
SP_WARN_UNUSED int sp_remote_mappings(int pid, bool (*visit)(void *ctx, const struct sp_mapping *m),
                                      void *ctx);

/* Whether two processes have one and the same memory (CLONE_VM; kcmp(2)). False where that cannot be told. */
bool sp_remote_same(int pid, int other);

struct sp_process {
    int pid, parent;
    char state; /* as ps(1) has it: 'Z' is one that has ended */
    bool kernel_thread;
    uint64_t resident_pages;
    uint64_t stack,
        heap; /* where they begin: processes with the same memory have the same; 0: not to be known */
};

/* From /proc/PID/stat. -ENOENT, -ESRCH: there is none. */
SP_WARN_UNUSED int sp_process_read(int pid, struct sp_process *ret_process);

/* Calls `visit` for every process, until it returns false. */
SP_WARN_UNUSED int sp_process_each(bool (*visit)(void *ctx, int pid), void *ctx);

/* Whether a worker of ours runs in it: a thread of that name. A process that has ended has none. */
bool sp_process_has_worker(int pid);

#endif
