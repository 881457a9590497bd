/* SPDX-License-Identifier: MIT */
/*
 * Rows made from what a daemon says, without asking anybody anything: see top.h.
 *
 * Rates are between two reports of a client, by the daemon's clock, and not between two questions of ours:
 * a client reports when it likes, so that a second of ours may hold none of its reports or two. Until a
 * newer report is there the last rate stands; a client that has not reported for long sleeps, or is stopped,
 * and does nothing.
 *
 * What merging saves is saved by all who share a page together. A client's part is in proportion to what it
 * shares, so that the parts add up to the domain's figure, but for those of clients that are gone.
 */
#include <errno.h>
#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/status.h"
#include "cli/top.h"

#define ASLEEP_NS UINT64_C(3000000000)

const struct sp_top_column_info sp_top_columns[SP_TOP_N_COLUMNS] = {
#define X(id, name, title, domain_title, key, width, meaning)                                                \
    [SP_TOP_##id] = {name, title, domain_title, key, width, meaning},
    SP_TOP_COLUMNS(X)
#undef X
};

/* ---- which is which ---- */

/* By what a row is the same as one of the last time. */
static int compare_identity(const void *a, const void *b) {
    const struct sp_top_row *x = a, *y = b;
    if (x->uid != y->uid)
        return x->uid < y->uid ? -1 : 1;
    if (x->client != y->client)
        return x->client < y->client ? -1 : 1;
    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

/* `rows` are sorted by identity. */
static const struct sp_top_row *find_before(const struct sp_top_rows *rows, const struct sp_top_row *row) {
    return rows->n ? bsearch(row, rows->row, rows->n, sizeof *row, compare_identity) : NULL;
}

static void set_user(struct sp_top_row *row, const struct sp_top_rows *before) {
    for (size_t i = 0; i < before->n; i++)
        if (before->row[i].uid == row->uid) {
            memcpy(row->name, before->row[i].name, sizeof row->name);
            return;
        }
    const struct passwd *user = getpwuid(row->uid);
    if (user)
        snprintf(row->name, sizeof row->name, "%s", user->pw_name);
    else
        snprintf(row->name, sizeof row->name, "%u", (unsigned)row->uid);
}

/* ---- rates ---- */

static double per_second(uint64_t from, uint64_t to, uint64_t ns) {
    return ns ? (double)(to - from) * 1e9 / (double)ns : NAN;
}

static void set_rates(struct sp_top_row *row, const struct sp_top_row *before, uint64_t uptime_ns) {
    row->broken_per_s = row->cpu_percent = NAN;
    bool follows = before && row->reported_ns >= before->reported_ns && row->broken >= before->broken &&
                   row->cpu_ns >= before->cpu_ns;
    if (!row->reported_ns)
        return;
    if (uptime_ns - row->reported_ns > ASLEEP_NS) {
        row->broken_per_s = row->cpu_percent = 0;
    } else if (follows && before->reported_ns && row->reported_ns > before->reported_ns) {
        uint64_t ns = row->reported_ns - before->reported_ns;
        row->broken_per_s = per_second(before->broken, row->broken, ns);
        row->cpu_percent = per_second(before->cpu_ns, row->cpu_ns, ns) / 1e9 * 100;
    } else if (follows && row->reported_ns == before->reported_ns) {
        row->broken_per_s = before->broken_per_s;
        row->cpu_percent = before->cpu_percent;
    }
}

/* Sums of what is known. */
static void add_rate(double *sum, double rate) {
    if (!isnan(rate))
        *sum = isnan(*sum) ? rate : *sum + rate;
}

/* ---- rows ---- */

static uint64_t saved_part(const struct sp_status_domain *d, const struct sp_status_client *c) {
    const uint64_t *v = d->counters.v;
    uint64_t sites = v[SP_COUNTER_pages_shared] + v[SP_COUNTER_pages_sharing];
    double part = sites ? (double)v[SP_COUNTER_pages_sharing] / (double)sites : 0;
    return ((uint64_t)((double)c->shared_pages * part) + c->counters.v[SP_COUNTER_ksm_zero_pages]) *
           SP_PAGE_SIZE;
}

static void set_client(struct sp_top_row *row, const struct sp_status_domain *d,
                       const struct sp_status_client *c) {
    const uint64_t *v = c->counters.v;
    *row = (struct sp_top_row){.uid = d->uid,
                               .client = c->client,
                               .pid = (uint64_t)c->pid,
                               .state = sp_status_state_text(c->state),
                               .resident_bytes = v[SP_COUNTER_resident_pages] * SP_PAGE_SIZE,
                               .shared_bytes = c->shared_pages * SP_PAGE_SIZE,
                               .saved_bytes = saved_part(d, c),
                               .p99_ns = c->freezes.p99_ns,
                               .max_ns = c->freezes.max_ns,
                               .broken = v[SP_COUNTER_pages_broken],
                               .cpu_ns = v[SP_COUNTER_cpu_ns],
                               .reported_ns = c->reported_ns};
    snprintf(row->name, sizeof row->name, "%s", c->name);
}

static void set_domain(struct sp_top_row *row, const struct sp_status_domain *d) {
    const uint64_t *v = d->counters.v;
    *row = (struct sp_top_row){.is_domain = true,
                               .uid = d->uid,
                               .pid = d->n_clients - d->families_waiting,
                               .resident_bytes = v[SP_COUNTER_resident_pages] * SP_PAGE_SIZE,
                               .shared_bytes =
                                   (v[SP_COUNTER_pages_shared] + v[SP_COUNTER_pages_sharing]) * SP_PAGE_SIZE,
                               .saved_bytes = d->saved_bytes,
                               .p99_ns = d->freezes.p99_ns,
                               .max_ns = d->freezes.max_ns,
                               .broken_per_s = d->n_clients ? NAN : 0,
                               .cpu_percent = d->n_clients ? NAN : 0};
}

/* Appends the rows of a domain, for which there is room. */
static void add_domain(struct sp_top *now, const struct sp_top *before, const struct sp_status *s,
                       const struct sp_status_domain *d) {
    struct sp_top_row *domain = &now->domains.row[now->domains.n++];
    set_domain(domain, d);
    set_user(domain, &before->domains);
    for (size_t i = 0; i < d->n_clients; i++) {
        struct sp_top_row *row = &now->clients.row[now->clients.n++];
        set_client(row, d, &d->clients[i]);
        memcpy(row->user, domain->name, sizeof row->user);
        set_rates(row, find_before(&before->clients, row), s->uptime_ns);
        add_rate(&domain->broken_per_s, row->broken_per_s);
        add_rate(&domain->cpu_percent, row->cpu_percent);
    }
    now->saved_bytes += d->saved_bytes;
}

static int make_room(struct sp_top *t, const struct sp_status *s) {
    size_t clients = 0;
    for (size_t i = 0; i < s->n_domains; i++)
        clients += s->domains[i].n_clients;
    t->domains.row = calloc(s->n_domains + 1, sizeof *t->domains.row);
    t->clients.row = calloc(clients + 1, sizeof *t->clients.row);
    if (t->domains.row && t->clients.row)
        return 0;
    sp_top_deinit(t);
    return -ENOMEM;
}

int sp_top_update(struct sp_top *t, const struct sp_target *target, const struct sp_status *s) {
    struct sp_top now = {.daemon_pid = s->daemon_pid,
                         .uptime_ns = s->uptime_ns,
                         .rss_bytes = s->daemon_rss_bytes,
                         .cpu_ns = s->daemon_cpu_ns,
                         .cpu_percent = NAN};
    int r = make_room(&now, s);
    if (r)
        return r;
    /* Another daemon knows nothing of what was before. */
    if (t->daemon_pid != s->daemon_pid || t->uptime_ns > s->uptime_ns)
        sp_top_deinit(t);
    else
        now.cpu_percent = per_second(t->cpu_ns, now.cpu_ns, now.uptime_ns - t->uptime_ns) / 1e9 * 100;
    if (t->clients.n)
        qsort(t->clients.row, t->clients.n, sizeof *t->clients.row, compare_identity);
    for (size_t i = 0; i < s->n_domains; i++)
        if (sp_target_means(target, &s->domains[i]))
            add_domain(&now, t, s, &s->domains[i]);
    sp_top_deinit(t);
    *t = now;
    return 0;
}

void sp_top_deinit(struct sp_top *t) {
    free(t->domains.row);
    free(t->clients.row);
    *t = (struct sp_top){0};
}

/* ---- order ---- */

static double figure(const struct sp_top_row *row, enum sp_top_column column) {
    switch (column) {
    case SP_TOP_PID:
        return (double)row->pid;
    case SP_TOP_RESIDENT:
        return (double)row->resident_bytes;
    case SP_TOP_SHARED:
        return (double)row->shared_bytes;
    case SP_TOP_SAVED:
        return (double)row->saved_bytes;
    case SP_TOP_BROKEN:
        return isnan(row->broken_per_s) ? -1 : row->broken_per_s;
    case SP_TOP_P99:
        return (double)row->p99_ns;
    case SP_TOP_MAX:
        return (double)row->max_ns;
    case SP_TOP_CPU:
        return isnan(row->cpu_percent) ? -1 : row->cpu_percent;
    default:
        return 0;
    }
}

struct order {
    enum sp_top_column by;
    bool reversed;
};

static int compare(const void *a, const void *b, void *ctx) {
    const struct sp_top_row *x = a, *y = b;
    const struct order *o = ctx;
    double fx = figure(x, o->by), fy = figure(y, o->by);
    int ascending = o->by == SP_TOP_NAME ? strcmp(x->name, y->name) : (fx > fy) - (fx < fy);
    bool smallest_first = o->by == SP_TOP_NAME || o->by == SP_TOP_PID;
    if (ascending)
        return smallest_first == o->reversed ? -ascending : ascending;
    return compare_identity(a, b);
}

void sp_top_sort(struct sp_top *t, enum sp_top_column by, bool reversed) {
    struct order o = {by, reversed};
    if (t->domains.n)
        qsort_r(t->domains.row, t->domains.n, sizeof *t->domains.row, compare, &o);
    if (t->clients.n)
        qsort_r(t->clients.row, t->clients.n, sizeof *t->clients.row, compare, &o);
}
