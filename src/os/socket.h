/* SPDX-License-Identifier: MIT */
/*
 * Unix sockets of type SEQPACKET: a message is sent and received whole, with up to SP_SOCKET_FDS descriptors.
 * Direct system calls, no malloc, no stdio: used by a worker inside somebody's program. SIGPIPE is never
 * raised (MSG_NOSIGNAL). All descriptors are close-on-exec.
 */
#ifndef SP_OS_SOCKET_H
#define SP_OS_SOCKET_H

#include <sys/types.h>
#include <sys/uio.h>

#include "core/types.h"

#define SP_SOCKET_FDS 4
/* Longest message: fits the default socket buffer (wmem_default 212,992) with room to spare. */
#define SP_SOCKET_MESSAGE_MAX ((size_t)136 * 1024)

/* Listens at `path` (mode 0666 when `everybody`, else 0600; at most 107 bytes: -ENAMETOOLONG). A stale socket
 * file nobody listens on is replaced; -EADDRINUSE when somebody does. Of several that begin at the same time
 * one succeeds. */
SP_WARN_UNUSED int sp_socket_listen(const char *path, bool everybody, int *ret_fd);
/* The same for bytes instead of messages, and our own user only. */
SP_WARN_UNUSED int sp_socket_listen_stream(const char *path, int *ret_fd);
/* -EAGAIN when nobody waits. The new socket is non-blocking. */
SP_WARN_UNUSED int sp_socket_accept(int fd, int *ret_fd);
/* Connects, without waiting; the new socket blocks. -ENOENT, -ECONNREFUSED, -EACCES, -ENAMETOOLONG,
 * -EPROTOTYPE (not a SEQPACKET socket), -EAGAIN: somebody listens but does not accept, and the queue is full.
 */
SP_WARN_UNUSED int sp_socket_connect(const char *path, int *ret_fd);
/* The peer's credentials at connect time. */
SP_WARN_UNUSED int sp_socket_peer(int fd, pid_t *ret_pid, uid_t *ret_uid, gid_t *ret_gid);
/* Whether a daemon that we are connected to may be believed: what it hands out is mapped as our memory, and
 * it may change it later. 0: it was started by root or by our own user; -EACCES: by somebody else. */
SP_WARN_UNUSED int sp_socket_trusted(int fd);
/* Sends one message. -EAGAIN (non-blocking and full, or MSG_DONTWAIT asked by `wait` == false),
 * -EPIPE/-ECONNRESET: peer gone; -EFAULT: a buffer is not readable. */
SP_WARN_UNUSED int sp_socket_send(int fd, const struct iovec *parts, size_t n, const int *fds, size_t n_fds,
                                  bool wait);
/*
 * Receives one message into `buffer`. Returns its length, 0 when the peer has gone. `ret_fds` has room for
 * SP_SOCKET_FDS; *ret_n_fds is how many came (theirs to close). -EMSGSIZE: truncated (any descriptors are
 * closed); -EAGAIN: nothing there (wait == false or timeout over); timeout in ms, -1: for ever.
 */
SP_WARN_UNUSED ssize_t sp_socket_receive(int fd, void *buffer, size_t bytes, int *ret_fds, size_t *ret_n_fds,
                                         int timeout_ms);

/*
 * Closes a connection. Descriptors in messages that were not received are closed as those of a message that
 * is not good; close(2) would close them in the calling thread.
 */
void sp_socket_end(int fd);

/* How descriptors that come with a message that is not good are closed; NULL: by sp_close. They may be
 * anything, and close(2) of some waits for whoever sent them. */
extern void (*sp_socket_close_hook)(const int *fds, size_t n);

/* Waits until one of `n` descriptors is readable or hung up, or an event; returns a bit mask of the ready
 * ones, 0 after `timeout_ns` (UINT64_MAX: for ever). ppoll(2). -EINTR is retried. */
SP_WARN_UNUSED int sp_wait_readable(const int *fds, size_t n, uint64_t timeout_ns);

/* Closes a descriptor. Never to be repeated: also after an error the number is free (close(2)). */
int sp_close(int fd);

#endif
