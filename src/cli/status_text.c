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

static void print_row(const char *name, const char *value, const char *meaning) {
    sp_put_text("  ");
    sp_put_padded(name, -18);
    sp_put_char(' ');
    sp_put_padded(value, 14);
    sp_put_text("  ");
    sp_put_text(meaning);
    sp_put_char('\n');
}

/* The row of a counter, but for its value: a thousand domains have each of them. */
struct counter_row {
    const char *(*text)(uint64_t value);
    char before[64], after[256];
    size_t before_bytes, after_bytes;
};

static struct counter_row counter_row(const struct sp_counter_info *info) {
    struct counter_row r = {.text = !strcmp(info->unit, "bytes") ? sp_text_bytes
                                    : !strcmp(info->unit, "ns")  ? sp_text_seconds
                                                                 : sp_text_number};
    r.before_bytes = (size_t)snprintf(r.before, sizeof r.before, "  %-18s ", info->name);
    r.after_bytes = (size_t)snprintf(r.after, sizeof r.after, "  %s\n", info->meaning);
    return r;
}

static void print_counters(const struct sp_counters *c) {
    static struct counter_row rows[SP_COUNTER_COUNT];
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++) {
        struct counter_row *r = &rows[i];
        if (!r->text)
            *r = counter_row(&sp_counter_info[i]);
        sp_put(r->before, r->before_bytes);
        sp_put_padded(r->text(c->v[i]), 14);
        sp_put(r->after, r->after_bytes);
    }
}

static void put_words(const char *const *words, size_t n) {
    for (size_t i = 0; i < n; i++)
        sp_put_text(words[i]);
}

static void print_freezes(const struct sp_durations *d) {
    put_words((const char *[]){"  freeze time        p50 ", sp_text_duration(d->p50_ns), ", p99 ",
                               sp_text_duration(d->p99_ns), ", max ", sp_text_duration(d->max_ns), " (",
                               sp_text_number(d->count), " freezes)\n"},
              9);
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
    put_words((const char *[]){sp_colour_begin(SP_BOLD), title, sp_colour_end()}, 3);
}

static void print_domain(const struct sp_status_domain *d, bool names) {
    sp_put_char('\n');
    print_title(d->uid, names);
    put_words((const char *[]){": ", sp_text_bytes(d->saved_bytes), " saved now, ",
                               sp_text_bytes(d->saved_peak_bytes), " at peak\n"},
              5);
    print_freezes(&d->freezes);
    print_row("store", sp_text_bytes(d->store_bytes), "memory that holds the shared pages");
    print_row("general_profit", sp_text_bytes(sp_counters_general_profit(&d->counters)),
              "saved bytes less our own memory");
    print_counters(&d->counters);
    if (d->families_waiting)
        print_row("families_waiting", sp_text_number(d->families_waiting),
                  "ended clients whose children still hold shared pages");
    print_settings(&d->settings);
    print_clients(d);
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
    sp_put_end();
}
