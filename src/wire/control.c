/* SPDX-License-Identifier: MIT */
/*
 * The caller's side of STATUS: one request, a series of replies, put together into one structure. The series
 * is DAEMON, then each DOMAIN followed by its CLIENTs, then END; anything else is a broken peer (-EPROTO).
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
                                                        .families_waiting = m->families_waiting};
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
    *client = (struct sp_status_client){
        .pid = (pid_t)m->pid, .state = m->state, .counters = m->counters, .freezes = m->freezes};
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

static int receive_one(int fd, struct collector *c, uint64_t deadline_ns) {
    _Alignas(16) uint8_t buffer[SP_WIRE_TO_CLIENT_MAX];
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
    const char *reason;
    uint64_t now = sp_now_ns();
    if (now >= deadline_ns)
        return -ETIMEDOUT;
    int timeout_ms = (int)((deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS);
    ssize_t n = sp_socket_receive(fd, buffer, sizeof buffer, fds, &n_fds, timeout_ms);
    /* A peer that closed without reading our request is reported before what it had sent: its reason. */
    if (n == 0)
        n = sp_socket_receive(fd, buffer, sizeof buffer, fds, &n_fds, 0);
    if (n == -EAGAIN)
        return -ETIMEDOUT;
    if (n < 0)
        return n == -EMSGSIZE ? -EPROTO : (int)n;
    for (size_t i = 0; n > 0 && i < n_fds; i++)
        (void)sp_close(fds[i]);
    if (n == 0)
        return -ECONNREFUSED;
    if (sp_wire_check(buffer, (size_t)n, n_fds, SP_WIRE_TO_CLIENT, &reason))
        return -EPROTO;
    return take(c, buffer);
}

static int ask(int fd, struct collector *c, int timeout_ms) {
    uint64_t deadline_ns = sp_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    struct sp_wire_empty request;
    sp_wire_header_init(&request.header, SP_WIRE_STATUS, sizeof request, 1);
    struct iovec part = {.iov_base = &request, .iov_len = sizeof request};
    int r = sp_socket_send(fd, &part, 1, NULL, 0, false);
    /* A daemon that refused us has said why before it closed: that is read below. */
    if (r && r != -EPIPE && r != -ECONNRESET)
        return r;
    for (r = 0; !r && !c->done;)
        r = receive_one(fd, c, deadline_ns);
    /* The peer ended the session in the middle: it is no longer there. */
    return r == -ECONNRESET || r == -EPIPE ? -ECONNREFUSED : r;
}

int sp_control_status(const char *socket_path, int timeout_ms, struct sp_status **ret_status) {
    int fd, r = sp_socket_connect(socket_path, &fd);
    if (r)
        return r;
    struct collector c = {.status = calloc(1, sizeof *c.status)};
    r = c.status ? ask(fd, &c, timeout_ms) : -ENOMEM;
    (void)sp_close(fd);
    if (r) {
        sp_status_free(c.status);
        return r == -EPROTONOSUPPORT ? -EPROTO : r;
    }
    *ret_status = c.status;
    return 0;
}
