/* SPDX-License-Identifier: MIT */
/* What `samepage status --json` says of a daemon. */
#include "cli/status.h"

/* Those of a domain are all of them; a client has none of the index's. */
static void out_counters(struct sp_json_out *o, const struct sp_counters *c, bool domain) {
    sp_json_out_begin(o, "counters", '{');
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        if (domain || sp_counter_info[i].owner == SP_COUNTER_CLIENT)
            sp_json_out_number(o, sp_counter_info[i].name, c->v[i]);
    sp_json_out_end(o, '}');
}

static void out_freezes(struct sp_json_out *o, const struct sp_durations *d) {
    sp_json_out_begin(o, "freeze", '{');
    sp_json_out_number(o, "count", d->count);
    sp_json_out_number(o, "p50_ns", d->p50_ns);
    sp_json_out_number(o, "p99_ns", d->p99_ns);
    sp_json_out_number(o, "max_ns", d->max_ns);
    sp_json_out_end(o, '}');
}

static void out_settings(struct sp_json_out *o, const struct sp_settings *s) {
    sp_json_out_begin(o, "settings", '{');
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const char *name = sp_setting_info[i].name;
        if (sp_setting_names(i))
            sp_json_out_text(o, name, sp_setting_text(i, s->v[i]).text);
        else
            sp_json_out_number(o, name, s->v[i]);
    }
    sp_json_out_end(o, '}');
}

static void out_client(struct sp_json_out *o, const struct sp_status_client *c) {
    sp_json_out_begin(o, NULL, '{');
    sp_json_out_number(o, "pid", (uint64_t)c->pid);
    sp_json_out_text(o, "name", c->name);
    sp_json_out_text(o, "state", sp_status_state_text(c->state));
    sp_json_out_bool(o, "settled", c->settled);
    out_counters(o, &c->counters, false);
    out_freezes(o, &c->freezes);
    sp_json_out_end(o, '}');
}

static void out_domain(struct sp_json_out *o, const struct sp_status_domain *d) {
    sp_json_out_begin(o, NULL, '{');
    sp_json_out_number(o, "uid", d->uid);
    sp_json_out_number(o, "saved_bytes", d->saved_bytes);
    sp_json_out_number(o, "saved_peak_bytes", d->saved_peak_bytes);
    sp_json_out_number(o, "store_bytes", d->store_bytes);
    sp_json_out_number(o, "families_waiting", d->families_waiting);
    sp_json_out_number(o, "general_profit", sp_counters_general_profit(&d->counters));
    out_counters(o, &d->counters, true);
    out_freezes(o, &d->freezes);
    out_settings(o, &d->settings);
    sp_json_out_begin(o, "clients", '[');
    for (size_t i = 0; i < d->n_clients; i++)
        out_client(o, &d->clients[i]);
    sp_json_out_end(o, ']');
    sp_json_out_end(o, '}');
}

void sp_status_json(struct sp_json_out *o, const struct sp_socket_place *place, const struct sp_status *s) {
    sp_json_out_begin(o, NULL, '{');
    sp_json_out_text(o, "socket", place->path);
    sp_json_out_bool(o, "private", place->private);
    sp_json_out_number(o, "pid", (uint64_t)s->daemon_pid);
    sp_json_out_number(o, "cpu_ns", s->daemon_cpu_ns);
    sp_json_out_number(o, "rss_bytes", s->daemon_rss_bytes);
    sp_json_out_number(o, "uptime_ns", s->uptime_ns);
    sp_json_out_begin(o, "domains", '[');
    for (size_t i = 0; i < s->n_domains; i++)
        out_domain(o, &s->domains[i]);
    sp_json_out_end(o, ']');
    sp_json_out_end(o, '}');
}
