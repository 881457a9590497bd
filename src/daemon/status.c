/* SPDX-License-Identifier: MIT */
/* The answer to STATUS: root sees all domains, everybody else their own. */
#include <string.h>
#include <unistd.h>

#include "daemon/policy.h"
#include "daemon/session.h"
#include "os/thread.h"

/* The messages of the answer: as many as fit go as one packet. */
struct series {
    struct session *session;
    uint32_t sequence;
    size_t used;
    _Alignas(8) uint8_t packet[SP_WIRE_TO_CLIENT_MAX];
};

/* The session may be at its end then, and its member gone. */
static void series_flush(struct series *series) {
    session_send(series->session, series->packet, series->used, -1);
    series->used = 0;
}

/* `h`: of a message that is filled in but for it. Flushes what does not fit before it. */
static void series_add(struct series *series, struct sp_wire_header *h, enum sp_wire_type type,
                       size_t bytes) {
    sp_wire_header_init(h, type, bytes, series->sequence);
    if (bytes > sizeof series->packet - series->used)
        series_flush(series);
    memcpy(series->packet + series->used, h, bytes);
    series->used += bytes;
}

static bool visible(const struct session *s, const struct domain *d) {
    return control_sees(s->uid, d);
}

static void send_daemon(struct series *series) {
    const struct session *s = series->session;
    uint64_t n = 0;
    for (const struct domain *d = s->all->service->domains; d; d = d->next)
        n += visible(s, d);
    struct sp_wire_status_daemon m = {.pid = (uint64_t)getpid(),
                                      .cpu_ns = sp_process_cpu_ns(),
                                      .rss_bytes = host_resident_bytes(),
                                      .uptime_ns = sp_now_ns() - s->all->started_ns,
                                      .n_domains = n,
                                      .control = control_controls(s->uid)};
    struct sp_settings settings =
        m.control ? policy_settings_of_all(s->all->service) : s->all->service->settings;
    memcpy(m.settings, settings.v, sizeof m.settings);
    series_add(series, &m.header, SP_WIRE_STATUS_DAEMON, sizeof m);
}

static void send_domain(struct series *series, struct domain *d) {
    struct sp_histogram freezes;
    domain_note_saved(d);
    struct sp_wire_status_domain m = {.uid = d->uid,
                                      .n_clients = (uint32_t)(d->connected + d->waiting),
                                      .saved_peak_bytes = d->saved_peak_bytes,
                                      .store_bytes = store_memory(&d->store),
                                      .families_waiting = d->waiting,
                                      .settings_number = d->settings_number};
    struct sp_settings settings = policy_settings(d);
    memcpy(m.settings, settings.v, sizeof m.settings);
    domain_counters(d, &m.counters, &freezes);
    m.freezes = sp_histogram_durations(&freezes);
    m.saved_bytes = sp_counters_saved_bytes(&m.counters);
    series_add(series, &m.header, SP_WIRE_STATUS_DOMAIN, sizeof m);
}

/* The daemon's uptime at that time, 0 for never. */
static uint64_t uptime_at(const struct session *s, uint64_t ns) {
    return ns ? ns - s->all->started_ns : 0;
}

static struct sp_wire_client client_of(const struct session *s, const struct member *member) {
    struct sp_wire_client m = {.pid = (uint32_t)member->pid,
                               .state = member->state,
                               .settled = member->settled,
                               .settings_number = member->settings_obeyed,
                               .client = member->client,
                               .reported_ns = uptime_at(s, member->reported_ns),
                               .shared_pages =
                                   sp_domain_client_references(member->domain->index, member->client),
                               .counters = member->counters,
                               .freezes = member->durations};
    memcpy(m.name, member->name, sizeof m.name);
    return m;
}

/* As many as one message holds, from `m` on. Returns the next one. */
static const struct member *send_clients(struct series *series, const struct member *m) {
    _Alignas(8) uint8_t
        buffer[sizeof(struct sp_wire_status_clients) + SP_WIRE_CLIENTS_MAX * sizeof(struct sp_wire_client)];
    struct sp_wire_status_clients *clients = (struct sp_wire_status_clients *)buffer;
    clients->n = clients->reserved = 0;
    for (; m && clients->n < SP_WIRE_CLIENTS_MAX; m = m->next)
        clients->client[clients->n++] = client_of(series->session, m);
    series_add(series, &clients->header, SP_WIRE_STATUS_CLIENTS,
               sizeof *clients + clients->n * sizeof clients->client[0]);
    return m;
}

void session_send_status(struct session *s, uint32_t sequence) {
    struct series series = {.session = s, .sequence = sequence};
    send_daemon(&series);
    for (struct domain *d = s->all->service->domains; d; d = d->next) {
        if (!visible(s, d))
            continue;
        send_domain(&series, d);
        /* With this session its own member goes, which may be the next one. */
        for (const struct member *m = s->ended ? NULL : d->members; m && !s->ended;)
            m = send_clients(&series, m);
        if (s->ended)
            return;
    }
    struct sp_wire_empty end;
    series_add(&series, &end.header, SP_WIRE_STATUS_END, sizeof end);
    series_flush(&series);
}
