/* SPDX-License-Identifier: MIT */
/*
 * The caller's side of SET and STATUS. The latter is one request and a series of replies, put together into
 * one structure. The series is DAEMON, then each DOMAIN followed by its CLIENTs, then END; anything else is a
 * broken peer (-EPROTO).
 */
#include "wire/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os/socket.h"
#include "os/thread.h"
#include "wire/message.h"

#define NS_PER_MS UINT64_C(1000000)

/* A series as it comes in. */
struct collector {
    struct sp_status *status;
    uint64_t clients_left; /* of the domain that came last */
    uint64_t domains_left;
    bool begun, done;
};

struct sp_status *sp_status_free(struct sp_status *s) {
    if (!s)
        return NULL;
    for (size_t i = 0; i < s->n_domains; i++)
        free(s->domains[i].clients);
    free(s->domains);
    free(s);
    return NULL;
}

static int take_daemon(struct collector *c, const struct sp_wire_status_daemon *m) {
    if (c->begun)
        return -EPROTO;
    c->begun = true;
    c->domains_left = m->n_domains;
    c->status->daemon_pid = (pid_t)m->pid;
    c->status->daemon_cpu_ns = m->cpu_ns;
    c->status->daemon_rss_bytes = m->rss_bytes;
    c->status->uptime_ns = m->uptime_ns;
    c->status->control = m->control;
    memcpy(c->status->settings.v, m->settings, sizeof m->settings);
    return 0;
}

static int take_domain(struct collector *c, const struct sp_wire_status_domain *m) {
    struct sp_status *s = c->status;
    if (!c->begun || c->clients_left || !c->domains_left)
        return -EPROTO;
    /* One by one, so that no count from outside decides how much memory is taken. */
    struct sp_status_domain *domains = reallocarray(s->domains, s->n_domains + 1, sizeof *domains);
    if (!domains)
        return -ENOMEM;
    s->domains = domains;
    domains[s->n_domains++] = (struct sp_status_domain){.uid = m->uid,
                                                        .counters = m->counters,
                                                        .freezes = m->freezes,
                                                        .saved_bytes = m->saved_bytes,
                                                        .saved_peak_bytes = m->saved_peak_bytes,
                                                        .store_bytes = m->store_bytes,
                                                        .families_waiting = m->families_waiting,
                                                        .settings_number = m->settings_number};
    memcpy(domains[s->n_domains - 1].settings.v, m->settings, sizeof m->settings);
    c->domains_left--;
    c->clients_left = m->n_clients;
    return 0;
}

static int take_client(struct collector *c, const struct sp_wire_status_client *m) {
    if (!c->begun || !c->clients_left)
        return -EPROTO;
    struct sp_status_domain *d = &c->status->domains[c->status->n_domains - 1];
    struct sp_status_client *clients = reallocarray(d->clients, d->n_clients + 1, sizeof *clients);
    if (!clients)
        return -ENOMEM;
    d->clients = clients;
    struct sp_status_client *client = &clients[d->n_clients++];
    *client = (struct sp_status_client){.pid = (pid_t)m->pid,
                                        .state = m->state,
                                        .settled = m->settled,
                                        .settings_number = m->settings_number,
                                        .client = m->client,
                                        .reported_ns = m->reported_ns,
                                        .shared_pages = m->shared_pages,
                                        .counters = m->counters,
                                        .freezes = m->freezes};
    memcpy(client->name, m->name, sizeof client->name);
    c->clients_left--;
    return 0;
}

static int take(struct collector *c, const void *message) {
    const struct sp_wire_header *h = message;
    switch (h->type) {
    case SP_WIRE_STATUS_DAEMON:
        return take_daemon(c, message);
    case SP_WIRE_STATUS_DOMAIN:
        return take_domain(c, message);
    case SP_WIRE_STATUS_CLIENT:
        return take_client(c, message);
    case SP_WIRE_STATUS_END:
        c->done = true;
        return c->begun && !c->clients_left && !c->domains_left ? 0 : -EPROTO;
    case SP_WIRE_REFUSED:
        /* A daemon of our version that refuses us names the reason; one of another version was caught before.
         */
        return ((const struct sp_wire_refused *)message)->error;
    default:
        return -EPROTO;
    }
}

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

/* Sends a request, header filled in, with a descriptor (-1: none), and has the replies taken until they are
 * done: take() returns 0, 1 when that was the last one, or a negative errno. */
static int exchange(const char *socket_path, void *request, size_t bytes, int pass_fd, int timeout_ms,
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

static int take_status(void *ctx, const void *message) {
    struct collector *c = ctx;
    int r = take(c, message);
    return r ? r : c->done;
}

int sp_control_status(const char *socket_path, int timeout_ms, struct sp_status **ret_status) {
    struct sp_wire_empty request;
    sp_wire_header_init(&request.header, SP_WIRE_STATUS, sizeof request, 1);
    struct collector c = {.status = calloc(1, sizeof *c.status)};
    if (!c.status)
        return -ENOMEM;
    int r = exchange(socket_path, &request, sizeof request, -1, timeout_ms, take_status, &c);
    if (r)
        sp_status_free(c.status);
    else
        *ret_status = c.status;
    return r;
}

/* A refusal of the message is not one of the whole session (-EACCES). */
static int take_result(void *ctx, const void *message) {
    const struct sp_wire_header *h = message;
    if (h->type == SP_WIRE_REFUSED)
        return ((const struct sp_wire_refused *)message)->error;
    if (h->type != SP_WIRE_RESULT || h->sequence != 1)
        return -EPROTO;
    *(int *)ctx = ((const struct sp_wire_result *)message)->result;
    return 1;
}

int sp_control_set(const char *socket_path, int timeout_ms, const uid_t *uid,
                   const struct sp_settings_change *change) {
    int result;
    struct sp_wire_set request = {.all = !uid, .uid = uid ? *uid : 0};
    sp_wire_header_init(&request.header, SP_WIRE_SET, sizeof request, 1);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        request.given |= (uint64_t)change->given[i] << i;
        request.settings[i] = change->given[i] ? change->values.v[i] : 0;
    }
    int r = exchange(socket_path, &request, sizeof request, -1, timeout_ms, take_result, &result);
    return r ? r : result == -EACCES ? -EPERM : result;
}

int sp_control_files(const char *socket_path, int timeout_ms, int fuse_fd) {
    int result;
    struct sp_wire_empty request;
    sp_wire_header_init(&request.header, SP_WIRE_FILES, sizeof request, 1);
    int r = exchange(socket_path, &request, sizeof request, fuse_fd, timeout_ms, take_result, &result);
    return r ? r : result;
}
