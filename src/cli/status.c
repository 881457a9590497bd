/* SPDX-License-Identifier: MIT */
/*
 * `samepage status`: asks one daemon, or all that this user can see, and shows what they say. Everything
 * comes from the table of counters, so a new counter appears here, and in --json, by itself.
 */
#include <errno.h>
#include <jansson.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json_out.h"
#include "cli/ksm_stat.h"
#include "cli/mappings.h"
#include "cli/output.h"
#include "cli/places.h"
#include "cli/status.h"
#include "merge/engine.h"
#include "wire/control.h"

#define ANSWER_MS 3000

enum { OPTION_JSON, OPTION_SOCKET, OPTION_MAPPINGS, OPTION_KSM_STAT };

static const struct sp_option options[] = {
    [OPTION_JSON] = {"json", 'j', NULL, "print everything as JSON"},
    [OPTION_SOCKET] = {"socket", 'S', "PATH", "ask the daemon that listens there"},
    [OPTION_MAPPINGS] = {"mappings", 'm', "PID",
                         "show the mappings of a process instead: which are merged or\n"
                         "                         registered to be, and why not the others"},
    [OPTION_KSM_STAT] = {"ksm-stat", 0, "PID",
                         "show of a process what /proc/PID/ksm_stat says of the kernel's\n"
                         "                         KSM, in its format"},
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

static int status_main(const struct sp_command *command, int argc, char **argv);

const struct sp_command sp_command_status = {
    .name = "status",
    .usage = "[OPTION...]",
    .summary = "show what is shared now",
    .options = options,
    .notes = "Without --socket: the daemon of SAMEPAGE_SOCKET, else every daemon of the machine and of this\n"
             "user, those that 'samepage run' started included. Exit status 1 when there is none.\n",
    .main = status_main,
};

/* --- Text --------------------------------------------------------------------------------------------- */

static const char *text_value(const struct sp_counter_info *info, uint64_t value) {
    if (!strcmp(info->unit, "bytes"))
        return sp_text_bytes(value);
    if (!strcmp(info->unit, "ns"))
        return sp_text_seconds(value);
    return sp_text_number(value);
}

static void print_row(const char *name, const char *value, const char *meaning) {
    printf("  %-18s %14s  %s\n", name, value, meaning);
}

static void print_freezes(const struct sp_histogram *h) {
    printf("  freeze time        p50 %s, p99 %s, max %s (%s freezes)\n",
           sp_text_duration(sp_histogram_percentile(h, 50)), sp_text_duration(sp_histogram_percentile(h, 99)),
           sp_text_duration(h->max_ns), sp_text_number(sp_histogram_total(h)));
}

const char *sp_status_state_text(uint32_t state) {
    if (state == UINT32_MAX)
        return "ended; its children still hold its pages";
    /* A state of a client that is newer than we are has no text. */
    return sp_engine_state_text((enum sp_engine_state)state);
}

static void print_clients(const struct sp_status_domain *d) {
    if (!d->n_clients)
        return;
    printf("\n  %8s %-15s %10s %10s %11s %8s  %s\n", "PID", "NAME", "REGISTERED", "RESIDENT", "EVER MERGED",
           "CPU", "STATE");
    for (size_t i = 0; i < d->n_clients; i++) {
        const struct sp_status_client *c = &d->clients[i];
        const uint64_t *v = c->counters.v;
        printf("  %8d %-15.15s %10s %10s %11s %8s  %s\n", (int)c->pid, c->name,
               sp_text_bytes(v[SP_COUNTER_registered_bytes]),
               sp_text_bytes(v[SP_COUNTER_resident_pages] * SP_PAGE_SIZE),
               sp_text_bytes(v[SP_COUNTER_pages_merged] * SP_PAGE_SIZE),
               sp_text_seconds(v[SP_COUNTER_cpu_ns]), sp_status_state_text(c->state));
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

static void print_domain(const struct sp_status_domain *d) {
    const struct passwd *user = getpwuid(d->uid);
    char title[128];
    snprintf(title, sizeof title, "domain of %s (uid %u)", user ? user->pw_name : "a user without a name",
             (unsigned)d->uid);
    printf("\n");
    sp_print_coloured(SP_BOLD, 0, title);
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
}

static void print_status(const struct sp_socket_place *place, const struct sp_status *s) {
    sp_print_coloured(SP_BOLD, 0, place->private ? "private samepaged" : "samepaged");
    printf(" at %s: process %d, up %s, %s CPU, %s resident\n", place->path, (int)s->daemon_pid,
           sp_text_duration(s->uptime_ns), sp_text_seconds(s->daemon_cpu_ns),
           sp_text_bytes(s->daemon_rss_bytes));
    if (!s->n_domains)
        printf("\nno domain yet: no program has connected\n");
    for (size_t i = 0; i < s->n_domains; i++)
        print_domain(&s->domains[i]);
}

/* --- JSON --------------------------------------------------------------------------------------------- */

/* Those of a domain are all of them; a client has none of the index's. */
static void out_counters(struct sp_json_out *o, const struct sp_counters *c, bool domain) {
    sp_json_out_begin(o, "counters", '{');
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        if (domain || sp_counter_info[i].owner == SP_COUNTER_CLIENT)
            sp_json_out_number(o, sp_counter_info[i].name, c->v[i]);
    sp_json_out_end(o, '}');
}

static void out_freezes(struct sp_json_out *o, const struct sp_histogram *h) {
    sp_json_out_begin(o, "freeze", '{');
    sp_json_out_number(o, "count", sp_histogram_total(h));
    sp_json_out_number(o, "p50_ns", sp_histogram_percentile(h, 50));
    sp_json_out_number(o, "p99_ns", sp_histogram_percentile(h, 99));
    sp_json_out_number(o, "max_ns", h->max_ns);
    sp_json_out_end(o, '}');
}

static json_t *json_settings(const struct sp_settings *s) {
    json_t *o = json_object();
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        json_object_set_new(o, sp_setting_info[i].name, sp_json_setting(i, s->v[i]));
    return o;
}

static void out_client(struct sp_json_out *o, const struct sp_status_client *c) {
    sp_json_out_begin(o, NULL, '{');
    sp_json_out_number(o, "pid", (uint64_t)c->pid);
    sp_json_out_value(o, "name", sp_json_name(c->name));
    sp_json_out_value(o, "state", json_string(sp_status_state_text(c->state)));
    sp_json_out_value(o, "settled", json_boolean(c->settled));
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
    sp_json_out_value(o, "settings", json_settings(&d->settings));
    sp_json_out_begin(o, "clients", '[');
    for (size_t i = 0; i < d->n_clients; i++)
        out_client(o, &d->clients[i]);
    sp_json_out_end(o, ']');
    sp_json_out_end(o, '}');
}

static void out_status(struct sp_json_out *o, const struct sp_socket_place *place,
                       const struct sp_status *s) {
    sp_json_out_begin(o, NULL, '{');
    sp_json_out_value(o, "socket", sp_json_name(place->path));
    sp_json_out_value(o, "private", json_boolean(place->private));
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

/* --- Asking ------------------------------------------------------------------------------------------- */

struct report {
    bool json;
    struct sp_json_out out; /* for --json */
    size_t answered, failed;
};

static void show(struct report *r, const struct sp_socket_place *place, const struct sp_status *s) {
    if (r->json) {
        /* Nothing is printed before there is an answer. */
        if (!r->answered) {
            sp_json_out_begin(&r->out, NULL, '{');
            sp_json_out_begin(&r->out, "daemons", '[');
        }
        out_status(&r->out, place, s);
    } else {
        if (r->answered)
            printf("\n");
        print_status(place, s);
    }
    r->answered++;
}

/* `expected`: the user named it, so that its absence is an error. */
static void ask(struct report *r, const struct sp_socket_place *place, bool expected) {
    struct sp_status *s;
    int error = sp_control_status(place->path, ANSWER_MS, &s);
    if (!error) {
        show(r, place, s);
        sp_status_free(s);
        return;
    }
    /* A socket file that a killed daemon left behind is no news either. */
    if (!expected && (error == -ENOENT || error == -ECONNREFUSED))
        return;
    sp_complain(&sp_command_status, "%s: %s", place->path, sp_socket_why(error));
    r->failed++;
}

static void ask_named(struct report *r, const char *path) {
    struct sp_socket_place place = {.private = false};
    if (snprintf(place.path, sizeof place.path, "%s", path) >= (int)sizeof place.path) {
        sp_complain(&sp_command_status, "%s: %s", path, sp_socket_why(-ENAMETOOLONG));
        r->failed++;
        return;
    }
    ask(r, &place, true);
}

static int ask_all(struct report *r) {
    struct sp_sockets sockets;
    int error = sp_sockets_all(&sockets);
    if (error)
        return error;
    for (size_t i = 0; i < sockets.n; i++)
        ask(r, &sockets.place[i], false);
    sp_sockets_deinit(&sockets);
    if (!r->answered && !r->failed)
        sp_complain(&sp_command_status,
                    "no daemon is running; start samepaged, or run something with 'samepage run'");
    return 0;
}

static int finish(struct report *r) {
    if (r->json && r->answered) {
        sp_json_out_end(&r->out, ']');
        sp_json_out_end(&r->out, '}');
        sp_json_out_finish(&r->out);
    }
    return sp_output_finish(r->answered && !r->failed ? SP_EXIT_OK : SP_EXIT_FAILURE);
}

static int report(struct report *r, const char *named) {
    const char *inherited = getenv("SAMEPAGE_SOCKET");
    if (!named && inherited && *inherited)
        named = inherited;
    int error = 0;
    if (named)
        ask_named(r, named);
    else
        error = ask_all(r);
    if (!error)
        return finish(r);
    sp_complain(&sp_command_status, "%s", strerror(-error));
    return SP_EXIT_FAILURE;
}

static int status_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    struct report r = {.json = false};
    const char *value, *named = NULL, *mappings = NULL, *ksm_stat = NULL;
    for (int option; (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        if (option == SP_ARGS_DONE)
            return args.status;
        if (option == OPTION_JSON)
            r.json = true;
        else if (option == OPTION_MAPPINGS)
            mappings = value;
        else if (option == OPTION_KSM_STAT)
            ksm_stat = value;
        else
            named = value;
    }
    if (args.next < argc)
        return sp_usage_error(command, "unexpected argument '%s'", argv[args.next]);
    if (named && !*named)
        return sp_usage_error(command, "option '--socket' needs a path");
    if (mappings && ksm_stat)
        return sp_usage_error(command, "either '--mappings' or '--ksm-stat'");
    if (ksm_stat)
        return sp_ksm_stat_main(ksm_stat, named, r.json);
    if (mappings)
        return sp_mappings_main(mappings, r.json);
    return report(&r, named);
}
