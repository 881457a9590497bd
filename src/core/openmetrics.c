/* SPDX-License-Identifier: MIT */
/*
 * See openmetrics.h. The format wants all samples of a metric together, totals to be called _total, and a
 * unit to end the name; times are in seconds. Names and meanings are the tables'.
 */
#include "core/openmetrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/types.h"

#define NS_PER_S UINT64_C(1000000000)

struct output {
    char *text;
    size_t bytes, length;
};

__attribute__((format(printf, 2, 3))) static void put(struct output *o, const char *format, ...) {
    va_list args;
    size_t used = o->length < o->bytes ? o->length : o->bytes;
    va_start(args, format);
    int n = vsnprintf(o->text + used, o->bytes - used, format, args);
    va_end(args);
    o->length += n > 0 ? (size_t)n : 0;
}

struct metric {
    const char *name, *type;
    const char *unit; /* "": none; ends the name */
    const char *help;
};

static void put_help(struct output *o, const char *text) {
    for (; *text; text++)
        put(o, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
}

static void put_head(struct output *o, const struct metric *m) {
    put(o, "# TYPE samepage_%s %s\n", m->name, m->type);
    if (*m->unit)
        put(o, "# UNIT samepage_%s %s\n", m->name, m->unit);
    put(o, "# HELP samepage_%s ", m->name);
    put_help(o, m->help);
    put(o, "\n");
}

static void put_number(struct output *o, bool seconds, uint64_t v) {
    if (seconds)
        put(o, "%" PRIu64 ".%09" PRIu64 "\n", v / NS_PER_S, v % NS_PER_S);
    else
        put(o, "%" PRIu64 "\n", v);
}

/* One sample of each domain. */
static void put_domains(struct output *o, const struct sp_metrics *all, const struct metric *m,
                        uint64_t (*value)(const struct sp_metrics_domain *d, int i), int i) {
    bool total = strcmp(m->type, "counter") == 0, seconds = strcmp(m->unit, "seconds") == 0;
    put_head(o, m);
    for (size_t k = 0; k < all->n_domains; k++) {
        put(o, "samepage_%s%s{uid=\"%" PRIu32 "\"} ", m->name, total ? "_total" : "", all->domain[k].uid);
        put_number(o, seconds, value(&all->domain[k], i));
    }
}

static uint64_t counter_value(const struct sp_metrics_domain *d, int i) {
    return d->counters.v[i];
}

static void put_counter(struct output *o, const struct sp_metrics *all, int i) {
    const struct sp_counter_info *info = &sp_counter_info[i];
    char name[64];
    bool ns = strcmp(info->unit, "ns") == 0, bytes = strcmp(info->unit, "bytes") == 0;
    int n = (int)strlen(info->name);
    snprintf(name, sizeof name, "%.*s%s", ns ? n - 3 : n, info->name, ns ? "_seconds" : ""); /* less "_ns" */
    struct metric m = {name, sp_counter_is_total(i) ? "counter" : "gauge",
                       ns      ? "seconds"
                       : bytes ? "bytes"
                               : "",
                       info->meaning};
    put_domains(o, all, &m, counter_value, i);
}

static uint64_t setting_value(const struct sp_metrics_domain *d, int i) {
    return d->settings.v[i];
}

static void put_setting(struct output *o, const struct sp_metrics *all, int i) {
    const struct sp_setting_info *info = &sp_setting_info[i];
    char name[64], help[256];
    snprintf(name, sizeof name, "setting_%s", info->name);
    snprintf(help, sizeof help, "%s (%s)", info->meaning, info->unit);
    put_domains(o, all, &(struct metric){name, "gauge", "", help}, setting_value, i);
}

enum { CLIENTS, FAMILIES, STORE, SAVED, PROFIT };

static uint64_t other_value(const struct sp_metrics_domain *d, int i) {
    switch (i) {
    case CLIENTS:
        return d->clients;
    case FAMILIES:
        return d->families_waiting;
    case STORE:
        return d->store_bytes;
    case SAVED:
        return sp_counters_saved_bytes(&d->counters);
    default:
        return sp_counters_general_profit(&d->counters);
    }
}

static const struct metric others[] = {
    [CLIENTS] = {"clients", "gauge", "", "processes that take part"},
    [FAMILIES] = {"families_waiting", "gauge", "",
                  "processes that have ended while children still map merged pages"},
    [STORE] = {"store_bytes", "gauge", "bytes", "memory of the store"},
    [SAVED] = {"saved_bytes", "gauge", "bytes", "what is saved now"},
    [PROFIT] = {"general_profit_bytes", "gauge", "bytes",
                "what is saved now, less what the bookkeeping takes"},
};

static void put_freezes(struct output *o, const struct sp_metrics *all) {
    static const char *const quantiles[] = {"0.5", "0.99", "1"};
    static const double percent[] = {50, 99, 100};
    put_head(
        o, &(struct metric){"freeze_seconds", "summary", "seconds", "how long pages were frozen at a time"});
    for (size_t k = 0; k < all->n_domains; k++) {
        const struct sp_metrics_domain *d = &all->domain[k];
        for (size_t q = 0; q < sizeof percent / sizeof percent[0]; q++) {
            put(o, "samepage_freeze_seconds{uid=\"%" PRIu32 "\",quantile=\"%s\"} ", d->uid, quantiles[q]);
            put_number(o, true, sp_histogram_percentile(&d->freezes, percent[q]));
        }
        put(o, "samepage_freeze_seconds_count{uid=\"%" PRIu32 "\"} %" PRIu64 "\n", d->uid,
            sp_histogram_total(&d->freezes));
    }
}

size_t sp_openmetrics(const struct sp_metrics *m, char *text, size_t bytes) {
    struct output o = {text, bytes, 0};
    if (bytes)
        *text = '\0';
    put_head(&o, &(struct metric){"daemon_cpu_seconds", "counter", "seconds", "CPU time of the daemon"});
    put(&o, "samepage_daemon_cpu_seconds_total ");
    put_number(&o, true, m->cpu_ns);
    put_head(&o, &(struct metric){"daemon_resident_bytes", "gauge", "bytes", "memory of the daemon"});
    put(&o, "samepage_daemon_resident_bytes ");
    put_number(&o, false, m->rss_bytes);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        put_domains(&o, m, &others[i], other_value, (int)i);
    for (int i = 0; i < SP_COUNTER_COUNT; i++)
        put_counter(&o, m, i);
    put_freezes(&o, m);
    for (int i = 0; i < SP_SETTING_COUNT; i++)
        put_setting(&o, m, i);
    put(&o, "# EOF\n");
    return o.length;
}
