/* SPDX-License-Identifier: MIT */
/*
 * The caller's side of STATUS: one request and a series of replies, put together into one structure. The
 * series is DAEMON, then each DOMAIN followed by its CLIENTS, then END; anything else is a broken peer
 * (-EPROTO).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/control.h"
#include "wire/exchange.h"

/* A series as it comes in. */
struct collector {
    struct sp_status *status;
    uint64_t clients_left; /* of the domain that came last */
    uint64_t domains_left;
    size_t domains_room, clients_room; /* in the arrays, the latter of the domain that came last */
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

/*
 * The array with room for `more`; NULL: no memory. It doubles: no count from outside decides how much memory
 * is taken, and arrays of thousands are not moved for each that comes.
 */
static void *room_for(void *array, size_t n, size_t more, size_t *room, size_t each) {
    if (array && n + more <= *room)
        return array;
    size_t now = 2 * n > n + more ? 2 * n : n + more;
    void *grown = reallocarray(array, now, each);
    if (grown)
        *room = now;
    return grown;
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
    struct sp_status_domain *domains =
        room_for(s->domains, s->n_domains, 1, &c->domains_room, sizeof *domains);
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

static struct sp_status_client client_of(const struct sp_wire_client *m) {
    struct sp_status_client client = {.pid = (pid_t)m->pid,
                                      .state = m->state,
                                      .settled = m->settled,
                                      .settings_number = m->settings_number,
                                      .client = m->client,
                                      .reported_ns = m->reported_ns,
                                      .shared_pages = m->shared_pages,
                                      .counters = m->counters,
                                      .freezes = m->freezes};
    memcpy(client.name, m->name, sizeof client.name);
    return client;
}

static int take_clients(struct collector *c, const struct sp_wire_status_clients *m) {
    if (!c->begun || m->n > c->clients_left)
        return -EPROTO;
    struct sp_status_domain *d = &c->status->domains[c->status->n_domains - 1];
    struct sp_status_client *clients =
        room_for(d->clients, d->n_clients, m->n, &c->clients_room, sizeof *clients);
    if (!clients)
        return -ENOMEM;
    d->clients = clients;
    for (size_t i = 0; i < m->n; i++)
        clients[d->n_clients++] = client_of(&m->client[i]);
    c->clients_left -= m->n;
    return 0;
}

static int take(struct collector *c, const void *message) {
    const struct sp_wire_header *h = message;
    switch (h->type) {
    case SP_WIRE_STATUS_DAEMON:
        return take_daemon(c, message);
    case SP_WIRE_STATUS_DOMAIN:
        return take_domain(c, message);
    case SP_WIRE_STATUS_CLIENTS:
        return take_clients(c, message);
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
    int r = sp_exchange(socket_path, &request, sizeof request, -1, timeout_ms, take_status, &c);
    if (r)
        sp_status_free(c.status);
    else
        *ret_status = c.status;
    return r;
}
