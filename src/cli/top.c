/* SPDX-License-Identifier: MIT */
/*
 * `samepage top`: who shares how much, and what it costs, as it changes; on a screen, or with --once as text
 * or JSON. Where there is no terminal, or one that cannot be drawn on, nothing else is done instead, because
 * who asked for a screen would not expect what comes: --once is pointed to.
 */
#include <stdio.h>
#include <string.h>

#include "cli/output.h"
#include "cli/top.h"
#include "os/thread.h"

#define DELAY_MIN_S 0.1
#define DELAY_MAX_S 3600
#define DELAY_NS    UINT64_C(1000000000)

enum { OPTION_ONCE, OPTION_JSON, OPTION_DELAY, OPTION_SORT, OPTION_SOCKET, OPTION_USER };

static const struct sp_option options[] = {
    [OPTION_ONCE] = {"once", '1', NULL, "print the figures once, as text, and end"},
    [OPTION_JSON] = {"json", 'j', NULL, "with --once: as JSON"},
    [OPTION_DELAY] = {"delay", 'd', "SECONDS", "time between two looks (default: 1)"},
    [OPTION_SORT] = {"sort", 's', "COLUMN", "begin with that order (default: saved)"},
    [OPTION_SOCKET] = SP_TARGET_OPTION_SOCKET,
    [OPTION_USER] = SP_TARGET_OPTION_USER,
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

static int top_main(const struct sp_command *command, int argc, char **argv);

/* Its lines end as those of the macro do. */
#define X(id, name, title, domain_title, key, width, meaning) "  " key "  " name ": " meaning "\n"
const struct sp_command sp_command_top = {
    .name = "top",
    .usage = "[OPTION...]",
    .summary = "watch who shares how much, and what it costs",
    .options = options,
    .notes = SP_TARGET_NOTES
    "\nKeys, and what --sort takes (the same key again turns the order round):\n" SP_TOP_COLUMNS(
        X) "  <, >  sort by the column beside\n"
           "  arrows, PgUp, PgDn, Home, End  scroll\n"
           "  space  look at once\n"
           "  q  end\n"
           "\n"
           "Rates are between the last two reports of a program: '-' until there are two (twice a second "
           "while\n"
           "it works, seldom when it is idle). --once looks twice, the delay apart.\n",
    .main = top_main,
};
#undef X

static int take_sort(const char *word, enum sp_top_column *ret_column) {
    const char *names[SP_TOP_N_COLUMNS];
    for (int i = 0; i < SP_TOP_N_COLUMNS; i++) {
        names[i] = sp_top_columns[i].name;
        if (!strcmp(word, names[i])) {
            *ret_column = i;
            return 0;
        }
    }
    const char *meant = sp_suggest(word, names, SP_TOP_N_COLUMNS);
    if (meant)
        return sp_usage_error(&sp_command_top, "option '--sort': no column '%s'; did you mean '%s'?", word,
                              meant);
    return sp_usage_error(&sp_command_top, "option '--sort': no column '%s'", word);
}

/* Asks, and takes the answer in. 0 or an exit status. */
static int look(struct sp_top *t, const struct sp_target *target) {
    struct sp_status *s;
    int status = sp_target_status(target, &s);
    if (status)
        return status;
    if (!sp_target_known(target, s))
        status = SP_EXIT_FAILURE;
    else if (sp_top_update(t, target, s)) {
        sp_complain(&sp_command_top, "out of memory");
        status = SP_EXIT_FAILURE;
    }
    sp_status_free(s);
    return status;
}

static int print_json(const struct sp_top *t, const char *socket) {
    json_t *root = sp_top_json(t, socket);
    int failed = !root || json_dumpf(root, stdout, JSON_INDENT(2));
    json_decref(root);
    printf("\n");
    return sp_output_finish(failed ? SP_EXIT_FAILURE : SP_EXIT_OK);
}

static int once(struct sp_top *t, const struct sp_top_choice *c, bool json) {
    sp_sleep_ns(c->delay_ns);
    int status = look(t, &c->target);
    if (status)
        return status;
    sp_top_sort(t, c->sort, false);
    if (json)
        return print_json(t, c->target.path);
    sp_top_print(t, c->target.path);
    return sp_output_finish(SP_EXIT_OK);
}

struct wish {
    struct sp_top_choice choice;
    bool once, json;
    const char *socket, *user;
};

static int take_option(struct wish *w, int option, const char *value) {
    switch (option) {
    case OPTION_ONCE:
        w->once = true;
        return 0;
    case OPTION_JSON:
        w->json = true;
        return 0;
    case OPTION_DELAY:
        return sp_args_seconds(&sp_command_top, "delay", value, DELAY_MIN_S, DELAY_MAX_S,
                               &w->choice.delay_ns);
    case OPTION_SORT:
        return take_sort(value, &w->choice.sort);
    default:
        *(option == OPTION_SOCKET ? &w->socket : &w->user) = value;
        return 0;
    }
}

static int show(struct wish *w) {
    struct sp_top t = {0};
    int status = w->once ? 0 : sp_top_terminal_check(&sp_command_top);
    if (!status)
        status = sp_target_find(&w->choice.target, &sp_command_top, w->socket, w->user);
    if (!status)
        status = look(&t, &w->choice.target);
    if (!status)
        status = w->once ? once(&t, &w->choice, w->json) : sp_top_screen(&t, &w->choice);
    sp_top_deinit(&t);
    return status;
}

static int top_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    struct wish w = {.choice = {.delay_ns = DELAY_NS, .sort = SP_TOP_SAVED}};
    const char *value;
    int status = 0;
    for (int option; !status && (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        if (option == SP_ARGS_DONE)
            return args.status;
        status = take_option(&w, option, value);
    }
    if (!status && args.next < argc)
        status = sp_usage_error(command, "unexpected argument '%s'", argv[args.next]);
    if (!status && w.json && !w.once)
        status = sp_usage_error(command, "--json prints, so it goes with --once only");
    return status ? status : show(&w);
}
