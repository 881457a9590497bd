/* SPDX-License-Identifier: MIT */
/* See exchange.h. */
#include "wire/exchange.h"

#include <errno.h>

#include "os/socket.h"
#include "os/thread.h"

#define NS_PER_MS UINT64_C(1000000)

/* One packet. Returns its size. */
static ssize_t receive(int fd, uint8_t buffer[SP_WIRE_TO_CLIENT_MAX], size_t *ret_n_fds,
                       uint64_t deadline_ns) {
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
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
        return n == -EMSGSIZE ? -EPROTO : n;
    for (size_t i = 0; n > 0 && i < n_fds; i++)
        (void)sp_close(fds[i]);
    if (n == 0)
        return -ECONNREFUSED;
    *ret_n_fds = n_fds;
    return n;
}

/* Takes the messages of a packet, each of which must be valid; 1 if the last one ended the exchange. */
static int take_packet(const uint8_t *packet, size_t bytes, size_t n_fds,
                       int (*take_reply)(void *ctx, const void *message), void *ctx) {
    int r = 0;
    for (size_t at = 0; at < bytes; n_fds = 0) {
        const void *message = packet + at;
        const char *reason;
        size_t length = sp_wire_first_bytes(message, bytes - at);
        if (r || sp_wire_check(message, length, n_fds, SP_WIRE_TO_CLIENT, &reason))
            return -EPROTO;
        r = take_reply(ctx, message);
        if (r < 0)
            return r;
        at += length;
    }
    return r;
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
        size_t n_fds;
        ssize_t n = receive(fd, buffer, &n_fds, deadline_ns);
        r = n < 0 ? (int)n : take_packet(buffer, (size_t)n, n_fds, take_reply, ctx);
    }
    (void)sp_close(fd);
    if (r == 1)
        return 0;
    if (r == -EPROTONOSUPPORT)
        return -EPROTO;
    /* The peer ended the session in the middle: it is no longer there. */
    return r == -ECONNRESET || r == -EPIPE ? -ECONNREFUSED : r;
}
