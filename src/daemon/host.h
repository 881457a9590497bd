/* SPDX-License-Identifier: MIT */
/*
 * What a daemon, and nobody else here, asks of the kernel: waiting for many descriptors, signals as a
 * descriptor, the end of its owner, who still holds a file. errno becomes a negative return value here.
 */
#ifndef SP_DAEMON_HOST_H
#define SP_DAEMON_HOST_H

#include <sys/types.h>

#include "core/types.h"

/* A descriptor that the loop waits for; `ready` is called with EPOLL* bits. */
struct source {
    int fd;
    void (*ready)(struct source *s, uint32_t events);
};

SP_WARN_UNUSED int host_poll_new(int *ret_fd);
SP_WARN_UNUSED int host_poll_add(int poll_fd, struct source *s, uint32_t events);
SP_WARN_UNUSED int host_poll_change(int poll_fd, struct source *s, uint32_t events);
void host_poll_remove(int poll_fd, struct source *s);
/* Waits until something is ready or `timeout_ns` (UINT64_MAX: none) is over and calls `ready` for each. A
 * source must stay allocated until this has returned. */
SP_WARN_UNUSED int host_poll_run(int poll_fd, uint64_t timeout_ns);

/* Raises the limit on open descriptors as far as it goes; returns it. */
uint64_t host_raise_descriptors(void);
/* Raises the limit on the size of files as far as it goes: segments are files. */
void host_raise_file_size(void);
/* SIGTERM and SIGINT readable from a descriptor; ignored: SIGHUP, SIGPIPE, SIGXFSZ (beyond a limit a write
 * fails), SIGIO (somebody opens what host_file_unused looks at). */
SP_WARN_UNUSED int host_signals(int *ret_fd);
/* pidfd_open(2): readable once the process has ended. -ESRCH: no such process. */
SP_WARN_UNUSED int host_process(pid_t pid, int *ret_fd);
/* Whether the process that connected this socket, `pid`, is in our user namespace, so that its user numbers
 * are ours. What cannot be found out is no: it has ended, cannot be looked at, is in a PID namespace that we
 * do not see, or the kernel is older than 6.5 (SO_PEERPIDFD). */
bool host_peer_has_our_users(int fd, pid_t pid);
/* /dev/userfaultfd, open for reading and writing. */
SP_WARN_UNUSED int host_uffd_device(int *ret_fd);
/* A descriptor that has EPOLLPRI each time that some task has waited for memory for so long within so long
 * (Documentation/accounting/psi.rst). -EOPNOTSUPP: nothing is written to a file that is not the kernel's. */
SP_WARN_UNUSED int host_pressure_trigger(const char *path, unsigned stall_us, unsigned window_us,
                                         int *ret_fd);
/* Whether the descriptor, which may be anything, is a userfaultfd. Never blocks, whatever it is. */
bool host_is_userfaultfd(int fd);
/* A descriptor of our own for the connection of FUSE that one of /dev/fuse, which may be anything, is for.
 * -EINVAL: it is none of /dev/fuse, nothing is mounted with it, or the kernel refuses. */
SP_WARN_UNUSED int host_fuse_clone(int fd, int *ret_fd);
/* What is not there is not waited for (O_NONBLOCK). */
SP_WARN_UNUSED int host_no_blocking(int fd);
/* A second descriptor of the same file, close-on-exec. */
SP_WARN_UNUSED int host_duplicate(int fd, int *ret_fd);
/*
 * Closes descriptors that came from a client and may be anything, without waiting: close(2) of a file on a
 * FUSE file system waits for whoever serves it, that of a socket for its peer (SO_LINGER).
 */
void host_close_foreign(const int *fds, size_t n);
/* 1: nobody holds the file open or maps it; 0: somebody does; a negative errno (-ENOENT: it is gone). */
SP_WARN_UNUSED int host_file_unused(const char *path);
/* Memory resident in this process, bytes; 0 when unknown. */
uint64_t host_resident_bytes(void);
/* The text of a file, terminated; the caller frees it. -EFBIG: it has more bytes than that; -EBADMSG: it is
 * no text (a byte of it is 0); -ENOMEM; the errors of open(2) and read(2). */
SP_WARN_UNUSED int host_read_file(const char *path, size_t bytes_max, char **ret_text);
/* Makes the directory of `path` when it is missing. */
SP_WARN_UNUSED int host_make_directory(const char *path, mode_t mode);

/* A file as it is now, so that it is removed later only if it is still the same. */
struct host_file {
    dev_t device;
    ino_t inode;
};
SP_WARN_UNUSED int host_file_identify(const char *path, struct host_file *ret_file);
void host_file_remove(const char *path, const struct host_file *file);

#endif
