/* SPDX-License-Identifier: MIT */
/*
 * `samepage wait` and `samepage unmerge`: both have the daemon tell its clients something, if only to look
 * again, because what they reported last is as old as that. Then both look at the status again and again
 * until every client that is meant has said that it is where it should be, or the time is over.
 *
 * A client that is no longer connected is not waited for: nobody works in it any more. What it still shares
 * stays as it is until it ends, which unmerge says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/output.h"
#include "cli/target.h"
#include "merge/engine.h"
#include "os/thread.h"

#define LOOK_NS    UINT64_C(50000000)
#define NAMED_MAX  5
#define UNMERGE_NS UINT64_C(60000000000)

static int wait_main(const struct sp_command *command, int argc, char **argv);
static int unmerge_main(const struct sp_command *command, int argc, char **argv);

enum { OPTION_TIMEOUT, OPTION_SOCKET, OPTION_USER, OPTION_SETTLED };

static const struct sp_option wait_options[] = {
    [OPTION_TIMEOUT] = {"timeout", 't', "SECONDS", "give up after that time (default: never)"},
    [OPTION_SOCKET] = SP_TARGET_OPTION_SOCKET,
    [OPTION_USER] = SP_TARGET_OPTION_USER,
    [OPTION_SETTLED] = {"settled", 's', NULL,
                        "until all memory was looked through and merged where possible"},
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

const struct sp_command sp_command_wait = {
    .name = "wait",
    .usage = "--settled [OPTION...]",
    .summary = "wait until everything that can be merged is merged",
    .options = wait_options,
    .notes = SP_TARGET_NOTES
    "Programs that have not joined yet are not waited for (see 'samepage help run').\n"
    "Exit status 1 when the time is over, and at once when merging is stopped (run=0 or 2,\n"
    "or a bound of 0 pages).\n",
    .main = wait_main,
};

static const struct sp_option unmerge_options[] = {
    [OPTION_TIMEOUT] = {"timeout", 't', "SECONDS", "give up waiting after that time (default: 60)"},
    [OPTION_SOCKET] = SP_TARGET_OPTION_SOCKET,
    [OPTION_USER] = SP_TARGET_OPTION_USER,
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

const struct sp_command sp_command_unmerge = {
    .name = "unmerge",
    .usage = "[OPTION...]",
    .summary = "make every page private again, and merge nothing more",
    .options = unmerge_options,
    .notes = SP_TARGET_NOTES
    "The same as 'samepage set run=2', and waits until it is done. Needs the memory that was saved.\n"
    "A stopped program follows when it continues. 'samepage set run=1' lets merging go on: with new\n"
    "memory, as what was shared once is not shared again. Exit status 1 when some programs have not\n"
    "followed in time, or cannot.\n",
    .main = unmerge_main,
};

/* ---- waiting ---- */

struct waiting {
    struct sp_target target;
    uint64_t deadline_ns; /* UINT64_MAX: never */
    /* Whether the client is where it should be. */
    bool (*there)(const struct sp_status_domain *d, const struct sp_status_client *c);
};

static bool is_settled(const struct sp_status_domain *d, const struct sp_status_client *c) {
    /* Where no worker works nothing will be merged. */
    bool works =
        c->state == SP_ENGINE_RUNNING || c->state == SP_ENGINE_STARTING || c->state == SP_ENGINE_NO_LINK;
    return !works || (c->settled && sp_status_obeys(c, d->settings_number));
}

static bool is_unmerged(const struct sp_status_domain *d, const struct sp_status_client *c) {
    return d->settings.v[SP_SETTING_run] != 2 || sp_status_obeys(c, d->settings_number);
}

/* How many are not there yet; with `name` the first of them are named. */
static size_t count_missing(const struct waiting *w, const struct sp_status *s, bool name) {
    size_t n = 0;
    for (size_t i = 0; i < s->n_domains; i++) {
        const struct sp_status_domain *d = &s->domains[i];
        for (size_t k = 0; k < d->n_clients && sp_target_means(&w->target, d); k++) {
            const struct sp_status_client *c = &d->clients[k];
            if (c->state == UINT32_MAX || w->there(d, c))
                continue;
            if (name && n < NAMED_MAX)
                sp_complain(w->target.command, "not yet: process %d (%s)", (int)c->pid, c->name);
            n++;
        }
    }
    return n;
}

static int give_up(const struct waiting *w, const struct sp_status *s) {
    size_t n = count_missing(w, s, true);
    sp_complain(w->target.command, "the time is over, and %zu process%s not there yet", n,
                n == 1 ? " is" : "es are");
    return SP_EXIT_FAILURE;
}

/* Whether waiting makes no sense; says why. */
static bool is_hopeless(const struct waiting *w, const struct sp_status *s) {
    const uint64_t *v = sp_target_settings(&w->target, s)->v;
    if (!sp_target_known(&w->target, s))
        return true;
    enum sp_setting by = v[SP_SETTING_run] != 1              ? SP_SETTING_run
                         : !v[SP_SETTING_pages_to_scan]      ? SP_SETTING_pages_to_scan
                         : !v[SP_SETTING_max_pages_to_merge] ? SP_SETTING_max_pages_to_merge
                                                             : SP_SETTING_COUNT;
    if (w->there != is_settled || by == SP_SETTING_COUNT)
        return false;
    sp_complain(w->target.command, "merging is stopped: %s=%u; 'samepage set' lets it go on",
                sp_setting_info[by].name, (unsigned)v[by]);
    return true;
}

/* Until all are there. 0, with the last status, or an exit status. */
static int wait_for(const struct waiting *w, struct sp_status **ret_status) {
    for (;;) {
        struct sp_status *s;
        int status = sp_target_status(&w->target, &s);
        if (status)
            return status;
        if (is_hopeless(w, s))
            status = SP_EXIT_FAILURE;
        else if (!count_missing(w, s, false)) {
            *ret_status = s;
            return 0;
        } else if (sp_now_ns() >= w->deadline_ns)
            status = give_up(w, s);
        sp_status_free(s);
        if (status)
            return status;
        sp_sleep_ns(LOOK_NS);
    }
}

/* ---- the commands ---- */

/* 0 or an exit status; *ret_done: all is said. */
static int begin(struct waiting *w, const struct sp_command *command, int argc, char **argv,
                 uint64_t timeout_ns, bool *ret_settled, bool *ret_done) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value, *socket = NULL, *user = NULL;
    int status = 0;
    for (int option; !status && (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        *ret_done = option == SP_ARGS_DONE;
        if (*ret_done)
            return args.status;
        if (option == OPTION_TIMEOUT)
            status = sp_args_seconds(command, "timeout", value, 0, 1000000000, &timeout_ns);
        else if (option == OPTION_SETTLED && command == &sp_command_wait)
            *ret_settled = true;
        else
            *(option == OPTION_SOCKET ? &socket : &user) = value;
    }
    if (!status && args.next < argc)
        status = sp_usage_error(command, "unexpected argument '%s'", argv[args.next]);
    if (!status && command == &sp_command_wait && !*ret_settled)
        status = sp_usage_error(command, "wait for what? '--settled' is needed");
    if (!status)
        status = sp_target_find(&w->target, command, socket, user);
    w->deadline_ns = timeout_ns == UINT64_MAX ? UINT64_MAX : sp_now_ns() + timeout_ns;
    return status;
}

static int wait_main(const struct sp_command *command, int argc, char **argv) {
    struct waiting w = {.there = is_settled};
    struct sp_status *s;
    struct sp_settings_change none = {0};
    bool settled = false, done = false;
    int status = begin(&w, command, argc, argv, UINT64_MAX, &settled, &done);
    if (!status && !done)
        status = sp_target_set(&w.target, &none);
    if (!status && !done)
        status = wait_for(&w, &s);
    if (status || done)
        return status;
    sp_status_free(s);
    return SP_EXIT_OK;
}

/* Those that have ended their part in it hold on to what they share. 0 or an exit status. */
static int say_rest(const struct waiting *w, const struct sp_status *s) {
    uint64_t families = 0, pages = 0;
    for (size_t i = 0; i < s->n_domains; i++) {
        if (!sp_target_means(&w->target, &s->domains[i]) || !s->domains[i].families_waiting)
            continue;
        families += s->domains[i].families_waiting;
        pages += s->domains[i].counters.v[SP_COUNTER_pages_shared];
    }
    if (!pages)
        return SP_EXIT_OK;
    sp_complain(
        w->target.command,
        "%s of shared pages stay until %s programs end: they, or children of theirs, take no more part",
        sp_text_bytes(pages * SP_PAGE_SIZE), sp_text_number(families));
    return SP_EXIT_FAILURE;
}

static int unmerge_main(const struct sp_command *command, int argc, char **argv) {
    struct waiting w = {.there = is_unmerged};
    struct sp_settings_change change = {.given[SP_SETTING_run] = true, .values.v[SP_SETTING_run] = 2};
    struct sp_status *s;
    bool unused, done = false;
    int status = begin(&w, command, argc, argv, UNMERGE_NS, &unused, &done);
    if (!status && !done)
        status = sp_target_set(&w.target, &change);
    if (!status && !done)
        status = wait_for(&w, &s);
    if (status || done)
        return status;
    status = say_rest(&w, s);
    sp_status_free(s);
    return status;
}
