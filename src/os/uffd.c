/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd: thin wrappers around the ioctls. The only logic is where a descriptor comes from, and the
 * accounting of partial moves and copies, which the kernel gets wrong.
 *
 * Nothing here wakes as a side effect (DONTWAKE everywhere but in sp_uffd_wake and unprotect): one wake ends
 * a batch, however many moves and copies it took.
 */
#include "os/uffd.h"

#include <errno.h>
#include <fcntl.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/pagemap.h"
#include "os/syscall.h"

static int from_device(int dev_fd, int *ret_fd) {
    long fd = sp_syscall(SYS_ioctl, dev_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return (int)fd;
    *ret_fd = (int)fd;
    return 0;
}

static int from_own_device(int *ret_fd) {
    long dev = sp_syscall(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev < 0)
        return (int)dev;
    int r = from_device((int)dev, ret_fd);
    sp_syscall(SYS_close, dev);
    return r;
}

/* Errors that another way to get a descriptor would meet again. */
static bool is_shortage(int r) {
    return r == -EMFILE || r == -ENFILE || r == -ENOMEM;
}

int sp_uffd_new(int dev_fd, int *ret_fd) {
    int fault = sp_fault("uffd_new");
    if (fault)
        return fault;

    /* Without UFFD_USER_MODE_ONLY: -EPERM for the unprivileged unless the sysctl allows it. */
    long fd = sp_syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        *ret_fd = (int)fd;
        return 0;
    }
    int why = (int)fd;
    if (is_shortage(why))
        return why;
    int r = from_own_device(ret_fd);
    if (r == 0 || is_shortage(r))
        return r;
    if (dev_fd >= 0) {
        r = from_device(dev_fd, ret_fd);
        if (r == 0 || is_shortage(r))
            return r;
    }
    return why;
}

int sp_uffd_enable(int fd, uint64_t features) {
    int fault = sp_fault("uffd_enable");
    if (fault)
        return fault;
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    return (int)sp_syscall(SYS_ioctl, fd, UFFDIO_API, &api);
}

int sp_uffd_features(int dev_fd, uint64_t *ret_features) {
    int fd;
    int r = sp_uffd_new(dev_fd, &fd);
    if (r < 0)
        return r;
    struct uffdio_api api = {.api = UFFD_API};
    r = (int)sp_syscall(SYS_ioctl, fd, UFFDIO_API, &api);
    sp_syscall(SYS_close, fd);
    if (r < 0)
        return r;
    *ret_features = api.features;
    return 0;
}

int sp_uffd_register(int fd, uintptr_t start, size_t bytes, uint64_t mode) {
    int fault = sp_fault("uffd_register");
    if (fault)
        return fault;
    struct uffdio_register arg = {.range = {start, bytes}, .mode = mode};
    return (int)sp_syscall(SYS_ioctl, fd, UFFDIO_REGISTER, &arg);
}

int sp_uffd_unregister(int fd, uintptr_t start, size_t bytes) {
    int fault = sp_fault("uffd_unregister");
    if (fault)
        return fault;
    struct uffdio_range arg = {start, bytes};
    return (int)sp_syscall(SYS_ioctl, fd, UFFDIO_UNREGISTER, &arg);
}

/*
 * Linux 6.18 does not count all that it moves. Where it finds that a page has changed while it was about to
 * move it (the program has written to it, so that the entry is another; the page is being migrated by
 * compaction) it tries again, but keeps the -EAGAIN of the first try; so after it has moved the page, and
 * those behind it, it begins with the same page again, finds the target taken, and reports that: EEXIST
 * (move_pages in mm/userfaultfd.c, where `err` is not reset). Such pages are known by the hole they left.
 * They are looked for at once, because a fork that comes next must be given what is away.
 */
static size_t moved_uncounted(int pagemap, uintptr_t target, uintptr_t source, size_t bytes) {
    size_t moved = 0;
    while (moved < bytes && sp_pagemap_there(pagemap, target + moved) &&
           !sp_pagemap_there(pagemap, source + moved))
        moved += SP_PAGE_SIZE;
    return moved;
}

int sp_uffd_move(int fd, int pagemap, uintptr_t target, uintptr_t source, size_t bytes, size_t *ret_moved) {
    *ret_moved = 0;
    int fault = sp_fault("uffd_move");
    if (fault)
        return fault;
    struct uffdio_move arg = {.dst = target, .src = source, .len = bytes, .mode = UFFDIO_MOVE_MODE_DONTWAKE};
    int r = (int)sp_syscall(SYS_ioctl, fd, UFFDIO_MOVE, &arg);
    size_t moved = arg.move > 0 ? (size_t)arg.move : 0;
    if (moved || r == -EEXIST) /* after a part the reason is not told: it may be this one */
        moved += moved_uncounted(pagemap, target + moved, source + moved, bytes - moved);
    *ret_moved = moved;
    return moved == bytes ? 0 : r;
}

int sp_uffd_copy(int fd, uintptr_t target, const void *source, size_t bytes) {
    int fault = sp_fault("uffd_copy");
    if (fault)
        return fault;
    size_t done = 0;
    do { /* once for an empty copy too: it asks whether a fork event waits to be read */
        struct uffdio_copy arg = {.dst = target + done,
                                  .src = (uintptr_t)source + done,
                                  .len = bytes - done,
                                  .mode = UFFDIO_COPY_MODE_DONTWAKE};
        int r = (int)sp_syscall(SYS_ioctl, fd, UFFDIO_COPY, &arg);
        if (r == 0)
            break;
        /* Stopped early: ask again for the rest to learn why. */
        if (arg.copy <= 0)
            return r;
        done += (size_t)arg.copy;
    } while (done < bytes);
    return 0;
}

int sp_uffd_wake(int fd, uintptr_t start, size_t bytes) {
    int fault = sp_fault("uffd_wake");
    if (fault)
        return fault;
    struct uffdio_range arg = {start, bytes};
    return (int)sp_syscall(SYS_ioctl, fd, UFFDIO_WAKE, &arg);
}

int sp_uffd_protect(int fd, uintptr_t start, size_t bytes, bool protect) {
    int fault = sp_fault("uffd_protect");
    if (fault)
        return fault;
    struct uffdio_writeprotect arg = {.range = {start, bytes},
                                      .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return (int)sp_syscall(SYS_ioctl, fd, UFFDIO_WRITEPROTECT, &arg);
}

int sp_uffd_read(int fd, int *ret_child) {
    int fault = sp_fault("uffd_read");
    if (fault)
        return fault;
    struct uffd_msg msg;
    long r;
    do
        r = sp_syscall(SYS_read, fd, &msg, sizeof(msg));
    while (r == -EINTR);
    if (r == -EAGAIN)
        return SP_UFFD_NOTHING;
    if (r < 0)
        return (int)r;
    if (r != (long)sizeof(msg))
        return -EIO;
    if (msg.event != UFFD_EVENT_FORK)
        return SP_UFFD_OTHER;
    *ret_child = (int)msg.arg.fork.ufd;
    return SP_UFFD_FORKED;
}
