/* SPDX-License-Identifier: MIT */
/*
 * `samepage status`: asks one daemon, or all that this user can see, and shows what they say. Everything
 * comes from the table of counters, so a new counter appears here, and in --json, by itself.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/ksm_stat.h"
#include "cli/mappings.h"
#include "cli/output.h"
#include "cli/places.h"
#include "cli/status.h"
#include "cli/target.h"
#include "wire/control.h"

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
        sp_status_json(&r->out, place, s);
    } else {
        if (r->answered)
            printf("\n");
        sp_status_text(place, s);
    }
    r->answered++;
}

/* `expected`: the user named it, so that its absence is an error. */
static void ask(struct report *r, const struct sp_socket_place *place, bool expected) {
    struct sp_status *s;
    int error = sp_control_status(place->path, SP_ANSWER_MS, &s);
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
