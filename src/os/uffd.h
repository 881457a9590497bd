/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst, ioctl_userfaultfd(2)).
 *
 * Everything here is one ioctl without allocation, stdio or locks, and may be called between freeze and thaw
 * (H2). errno becomes a negative return value here.
 */
#ifndef SP_OS_UFFD_H
#define SP_OS_UFFD_H

#include "core/types.h"

/* Feature bits that we use (asm-generic, from the kernel's uapi/linux/userfaultfd.h). */
#define SP_UFFD_EVENT_FORK (UINT64_C(1) << 1)
#define SP_UFFD_WP_HUGE_SHMEM                                                                                \
    (UINT64_C(1) << 12) /* UFFD_FEATURE_WP_HUGETLBFS_SHMEM: write-protect on shmem too */
#define SP_UFFD_WP_UNPOPULATED (UINT64_C(1) << 13)
#define SP_UFFD_WP_ASYNC       (UINT64_C(1) << 15)
#define SP_UFFD_MOVE           (UINT64_C(1) << 16)
/* What the worker cannot do without. */
#define SP_UFFD_NEEDED (SP_UFFD_MOVE | SP_UFFD_WP_ASYNC | SP_UFFD_WP_UNPOPULATED)

#define SP_UFFD_MODE_MISSING UINT64_C(1)
#define SP_UFFD_MODE_WP      UINT64_C(2)

/*
 * A userfaultfd for this process, close-on-exec and non-blocking, not enabled yet: userfaultfd(2), else
 * /dev/userfaultfd, else `dev_fd` (an open /dev/userfaultfd from a daemon; -1: none). Only ones that resolve
 * faults of the kernel too (never UFFD_USER_MODE_ONLY). -EPERM/-EACCES: not allowed by any of the ways;
 * -ENOSYS: not in this kernel; -EMFILE, -ENFILE, -ENOMEM.
 */
SP_WARN_UNUSED int sp_uffd_new(int dev_fd, int *ret_fd);

/* UFFDIO_API with exactly `features`. -EPERM: EVENT_FORK without CAP_SYS_PTRACE; -EINVAL: a feature is
 * missing, or already enabled. May be called by another process that was handed the descriptor. After a
 * failure the descriptor is unusable: close it and make a new one. */
SP_WARN_UNUSED int sp_uffd_enable(int fd, uint64_t features);

/* What this kernel offers: UFFDIO_API with no features on a descriptor of its own. */
SP_WARN_UNUSED int sp_uffd_features(int dev_fd, uint64_t *ret_features);

SP_WARN_UNUSED int sp_uffd_register(int fd, uintptr_t start, size_t bytes, uint64_t mode);
SP_WARN_UNUSED int sp_uffd_unregister(int fd, uintptr_t start, size_t bytes);

/*
 * Moves pages from `source` to `target` (UFFDIO_MOVE, no holes allowed). 0: all. Otherwise a negative errno,
 * and *ret_moved says how many bytes were moved before it (always set). -EBUSY: pinned or shared with a
 * child; -ENOENT: a hole; -EINVAL: read-only, locked, not anonymous; -EFAULT: guard page; -EEXIST: target not
 * empty; any error with *ret_moved > 0: stopped early, call again for the rest to learn why; -EAGAIN with 0:
 * a fork event waits to be read (mmap_changing).
 *
 * The target must be empty and stay so but for this call, and holes of the source must be none but those that
 * it makes: that is how pages are found again, by `pagemap` (sp_pagemap_open), that the kernel has moved
 * without saying so.
 */
SP_WARN_UNUSED int sp_uffd_move(int fd, int pagemap, uintptr_t target, uintptr_t source, size_t bytes,
                                size_t *ret_moved);

/* UFFDIO_COPY without waking. -EEXIST: a page is there already; -EAGAIN as above; -ESRCH: the process has
 * gone. */
SP_WARN_UNUSED int sp_uffd_copy(int fd, uintptr_t target, const void *source, size_t bytes);

/* Wakes whoever sleeps on a fault in the range (UFFDIO_WAKE). */
SP_WARN_UNUSED int sp_uffd_wake(int fd, uintptr_t start, size_t bytes);

/* UFFDIO_WRITEPROTECT: protect (true) or unprotect and wake (false). */
SP_WARN_UNUSED int sp_uffd_protect(int fd, uintptr_t start, size_t bytes, bool protect);

enum sp_uffd_event_kind { SP_UFFD_NOTHING, SP_UFFD_FORKED, SP_UFFD_OTHER };

/* Reads one event without blocking. SP_UFFD_FORKED: *ret_child is the child's userfaultfd, the caller's to
 * close (in the caller's descriptor table). Page-fault messages are SP_UFFD_OTHER. Returns an
 * sp_uffd_event_kind, or a negative errno. */
SP_WARN_UNUSED int sp_uffd_read(int fd, int *ret_child);

#endif
