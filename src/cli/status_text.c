/* SPDX-License-Identifier: MIT */
/* What `samepage status` says of a daemon to people. */
#include "cli/status.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "cli/output.h"
#include "cli/put.h"
#include "merge/engine.h"

#define NAMES_MAX 64 /* users */

static const char *text_value(const struct sp_counter_info *info, uint64_t value) {
    if (!strcmp(info->unit, "bytes"))
        return sp_text_bytes(value);
    if (!strcmp(info->unit, "ns"))
        return sp_text_seconds(value);
    return sp_text_number(value);
}

static void print_row(const char *name, const char *value, const char *meaning) {
    sp_put_text("  ");
    sp_put_padded(name, -18);
    sp_put_char(' ');
    sp_put_padded(value, 14);
    sp_put_text("  ");
    sp_put_text(meaning);
    sp_put_char('\n');
}

static void print_freezes(const struct sp_durations *d) {
    printf("  freeze time        p50 %s, p99 %s, max %s (%s freezes)\n", sp_text_duration(d->p50_ns),
           sp_text_duration(d->p99_ns), sp_text_duration(d->max_ns), sp_text_number(d->count));
}

const char *sp_status_state_text(uint32_t state) {
    if (state == UINT32_MAX)
        return "ended; its children still hold its pages";
    /* A state of a client that is newer than we are has no text. */
    return sp_engine_state_text((enum sp_engine_state)state);
}

/* Of the table of clients. */
static void print_columns(const char *const column[7]) {
    static const int widths[] = {8, -15, 10, 10, 11, 8};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        sp_put_text(i ? " " : "  ");
        sp_put_padded(column[i], widths[i]);
    }
    sp_put_text("  ");
    sp_put_text(column[6]);
    sp_put_char('\n');
}

static void print_clients(const struct sp_status_domain *d) {
    if (!d->n_clients)
        return;
    static const char *const titles[] = {"PID",         "NAME", "REGISTERED", "RESIDENT",
                                         "EVER MERGED", "CPU",  "STATE"};
    sp_put_char('\n');
    print_columns(titles);
    for (size_t i = 0; i < d->n_clients; i++) {
        const struct sp_status_client *c = &d->clients[i];
        const uint64_t *v = c->counters.v;
        char pid[12];
        snprintf(pid, sizeof pid, "%d", (int)c->pid);
        print_columns((const char *[]){pid, c->name, sp_text_bytes(v[SP_COUNTER_registered_bytes]),
                                       sp_text_bytes(v[SP_COUNTER_resident_pages] * SP_PAGE_SIZE),
                                       sp_text_bytes(v[SP_COUNTER_pages_merged] * SP_PAGE_SIZE),
                                       sp_text_seconds(v[SP_COUNTER_cpu_ns]),
                                       sp_status_state_text(c->state)});
    }
}

/* Those that somebody has changed. */
static void print_settings(const struct sp_settings *s) {
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        if (s->v[i] != sp_setting_info[i].value_default)
            print_row(sp_setting_info[i].name,
                      sp_setting_names(i) ? sp_setting_text(i, s->v[i]).text : sp_text_number(s->v[i]),
                      sp_setting_info[i].meaning);
}

/* Asking for a name can take longer than all the rest: where there are very many, numbers have to do. */
static void print_title(uid_t uid, bool names) {
    char title[128];
    const struct passwd *user = names ? getpwuid(uid) : NULL;
    if (names)
        snprintf(title, sizeof title, "domain of %s (uid %u)", user ? user->pw_name : "a user without a name",
                 (unsigned)uid);
    else
        snprintf(title, sizeof title, "domain of uid %u", (unsigned)uid);
    sp_print_coloured(SP_BOLD, 0, title);
}

static void print_domain(const struct sp_status_domain *d, bool names) {
    printf("\n");
    print_title(d->uid, names);
    printf(": %s saved now, %s at peak\n", sp_text_bytes(d->saved_bytes), sp_text_bytes(d->saved_peak_bytes));
    print_freezes(&d->freezes);
    print_row("store", sp_text_bytes(d->store_bytes), "memory that holds the shared pages");
    print_row("general_profit", sp_text_bytes(sp_counters_general_profit(&d->counters)),
              "saved bytes less our own memory");
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        print_row(sp_counter_info[i].name, text_value(&sp_counter_info[i], d->counters.v[i]),
                  sp_counter_info[i].meaning);
    if (d->families_waiting)
        print_row("families_waiting", sp_text_number(d->families_waiting),
                  "ended clients whose children still hold shared pages");
    print_settings(&d->settings);
    print_clients(d);
    sp_put_end();
}

void sp_status_text(const struct sp_socket_place *place, const struct sp_status *s) {
    sp_print_coloured(SP_BOLD, 0, place->private ? "private samepaged" : "samepaged");
    printf(" at %s: process %d, up %s, %s CPU, %s resident\n", place->path, (int)s->daemon_pid,
           sp_text_duration(s->uptime_ns), sp_text_seconds(s->daemon_cpu_ns),
           sp_text_bytes(s->daemon_rss_bytes));
    if (!s->n_domains)
        printf("\nno domain yet: no program has connected\n");
    for (size_t i = 0; i < s->n_domains; i++)
        print_domain(&s->domains[i], s->n_domains <= NAMES_MAX);
}
