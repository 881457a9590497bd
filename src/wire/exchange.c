/* SPDX-License-Identifier: MIT */
/* See exchange.h. */
#include "wire/exchange.h"

#include <errno.h>

#include "os/socket.h"
#include "os/thread.h"

#define NS_PER_MS UINT64_C(1000000)

/* One valid message. */
static int receive(int fd, uint8_t buffer[SP_WIRE_TO_CLIENT_MAX], uint64_t deadline_ns) {
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
    const char *reason;
    uint64_t now = sp_now_ns();
    if (now >= deadline_ns)
        return -ETIMEDOUT;
    int timeout_ms = (int)((deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS);
    ssize_t n = sp_socket_receive(fd, buffer, SP_WIRE_TO_CLIENT_MAX, fds, &n_fds, timeout_ms);
    /* A peer that closed without reading our request is reported before what it had sent: its reason. */
    if (n == 0)
        n = sp_socket_receive(fd, buffer, SP_WIRE_TO_CLIENT_MAX, fds, &n_fds, 0);
    if (n == -EAGAIN)
        return -ETIMEDOUT;
    if (n < 0)
        return n == -EMSGSIZE ? -EPROTO : (int)n;
    for (size_t i = 0; n > 0 && i < n_fds; i++)
        (void)sp_close(fds[i]);
    if (n == 0)
        return -ECONNREFUSED;
    return sp_wire_check(buffer, (size_t)n, n_fds, SP_WIRE_TO_CLIENT, &reason) ? -EPROTO : 0;
}

int sp_exchange(const char *socket_path, void *request, size_t bytes, int pass_fd, int timeout_ms,
                int (*take_reply)(void *ctx, const void *message), void *ctx) {
    _Alignas(16) uint8_t buffer[SP_WIRE_TO_CLIENT_MAX];
    int fd, r = sp_socket_connect(socket_path, &fd);
    if (r)
        return r;
    uint64_t deadline_ns = sp_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    struct iovec part = {.iov_base = request, .iov_len = bytes};
    r = sp_socket_send(fd, &part, 1, &pass_fd, pass_fd >= 0, false);
    /* A daemon that refused us has said why before it closed: that is read below. */
    if (r == -EPIPE || r == -ECONNRESET)
        r = 0;
    while (r == 0) {
        r = receive(fd, buffer, deadline_ns);
        if (r == 0)
            r = take_reply(ctx, buffer);
    }
    (void)sp_close(fd);
    if (r == 1)
        return 0;
    if (r == -EPROTONOSUPPORT)
        return -EPROTO;
    /* The peer ended the session in the middle: it is no longer there. */
    return r == -ECONNRESET || r == -EPIPE ? -ECONNREFUSED : r;
}
