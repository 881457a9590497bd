/* SPDX-License-Identifier: MIT */
/* See target.h. */
#include "cli/target.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which daemon ---- */

static int take_path(struct sp_target *t, const char *path) {
    if (snprintf(t->path, sizeof t->path, "%s", path) < (int)sizeof t->path)
        return 0;
    sp_complain(t->command, "%s: %s", path, sp_socket_why(-ENAMETOOLONG));
    return SP_EXIT_FAILURE;
}

/* Sockets that nobody listens to, and those of others, are none. */
static bool answers(const char *path) {
    struct sp_status *s;
    int error = sp_control_status(path, SP_ANSWER_MS, &s);
    if (!error)
        sp_status_free(s);
    return !error || error == -ETIMEDOUT;
}

static int find_running(struct sp_target *t) {
    struct sp_sockets sockets;
    int error = sp_sockets_all(&sockets), status = 0;
    if (error) {
        sp_complain(t->command, "%s", strerror(-error));
        return SP_EXIT_FAILURE;
    }
    for (size_t i = 0; i < sockets.n && !status; i++) {
        if (!answers(sockets.place[i].path))
            continue;
        if (!*t->path)
            memcpy(t->path, sockets.place[i].path, sizeof t->path);
        else
            status =
                sp_usage_error(t->command, "several daemons run, at %s and %s: say which with --socket PATH",
                               t->path, sockets.place[i].path);
    }
    sp_sockets_deinit(&sockets);
    if (*t->path || status)
        return status;
    sp_complain(t->command, "no daemon is running; start samepaged, or run something with 'samepage run'");
    return SP_EXIT_FAILURE;
}

static int find_daemon(struct sp_target *t, const char *socket) {
    const char *inherited = getenv("SAMEPAGE_SOCKET");
    if (socket && !*socket)
        return sp_usage_error(t->command, "option '--socket' needs a path");
    if (socket || (inherited && *inherited))
        return take_path(t, socket ? socket : inherited);
    return find_running(t);
}

static int find_user(struct sp_target *t, const char *user) {
    char *end;
    if (!user)
        return 0;
    errno = 0;
    unsigned long number = strtoul(user, &end, 10);
    bool is_number = *user >= '0' && *user <= '9' && !*end && !errno && number < UINT32_MAX;
    const struct passwd *entry = is_number ? NULL : getpwnam(user);
    if (!is_number && !entry)
        return sp_usage_error(t->command, "option '--user': no user '%s'", user);
    t->user = user;
    t->uid = is_number ? (uid_t)number : entry->pw_uid;
    return 0;
}

int sp_target_find(struct sp_target *t, const struct sp_command *command, const char *socket,
                   const char *user) {
    *t = (struct sp_target){.command = command};
    int status = find_user(t, user);
    return status ? status : find_daemon(t, socket);
}

/* ---- which domain ---- */

int sp_target_status(const struct sp_target *t, struct sp_status **ret_status) {
    int error = sp_control_status(t->path, SP_ANSWER_MS, ret_status);
    if (!error)
        return 0;
    sp_complain(t->command, "%s: %s", t->path, sp_socket_why(error));
    return SP_EXIT_FAILURE;
}

/* Others than root and the owner see their own domain only. */
bool sp_target_means(const struct sp_target *t, const struct sp_status_domain *d) {
    return !t->user || d->uid == t->uid;
}

static const struct sp_status_domain *first_meant(const struct sp_target *t, const struct sp_status *s) {
    for (size_t i = 0; i < s->n_domains; i++)
        if (sp_target_means(t, &s->domains[i]))
            return &s->domains[i];
    return NULL;
}

bool sp_target_known(const struct sp_target *t, const struct sp_status *s) {
    if (!t->user || first_meant(t, s))
        return true;
    sp_complain(t->command,
                "there is no domain of user '%s' that you may see: none of their programs has joined",
                t->user);
    return false;
}

const struct sp_settings *sp_target_settings(const struct sp_target *t, const struct sp_status *s) {
    const struct sp_status_domain *d = !s->control || t->user ? first_meant(t, s) : NULL;
    return d ? &d->settings : &s->settings;
}

void sp_target_counters(const struct sp_target *t, const struct sp_status *s,
                        struct sp_counters *ret_counters) {
    memset(ret_counters, 0, sizeof *ret_counters);
    for (size_t i = 0; i < s->n_domains; i++)
        for (size_t k = 0; k < SP_COUNTER_COUNT && sp_target_means(t, &s->domains[i]); k++)
            ret_counters->v[k] += s->domains[i].counters.v[k];
}

/* ---- setting ---- */

/* The first of them that is not a user's own matter, NULL: there is none. */
static const struct sp_setting_info *not_the_users(const struct sp_settings_change *c, bool daemon_only) {
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const struct sp_setting_info *info = &sp_setting_info[i];
        if (c->given[i] && info->scope != SP_SETTING_OF_USER &&
            (!daemon_only || info->scope == SP_SETTING_OF_DAEMON))
            return info;
    }
    return NULL;
}

/* Of two that may be the reason, both. */
static void say_busy(const struct sp_target *t, const struct sp_settings_change *c) {
    if (c->given[SP_SETTING_pages_to_scan])
        sp_complain(t->command, "pages_to_scan is the advisor's to choose while advisor_mode is scan-time: "
                                "set advisor_min_pages_to_scan and advisor_max_pages_to_scan, or "
                                "advisor_mode=none");
    if (c->given[SP_SETTING_merge_across_nodes])
        sp_complain(t->command, "merge_across_nodes cannot be changed while pages are shared: set run=2 or "
                                "'samepage unmerge' first, and wait until pages_shared is 0");
}

static void say_why(const struct sp_target *t, const struct sp_settings_change *c, int error) {
    const struct sp_setting_info *info = not_the_users(c, false);
    if (error == -ESRCH)
        sp_complain(t->command, "there is no domain of user '%s': none of their programs has joined",
                    t->user);
    else if (error == -EPERM && info)
        sp_complain(t->command, "permission denied: only root, or the user that the daemon runs as, sets %s",
                    info->name);
    else if (error == -EPERM)
        sp_complain(t->command, "permission denied: the domain of user '%s' is not yours", t->user);
    else if (error == -EBUSY)
        say_busy(t, c);
    else
        sp_complain(t->command, "%s: %s", t->path, sp_socket_why(error));
}

int sp_target_set(const struct sp_target *t, const struct sp_settings_change *change) {
    const struct sp_setting_info *info = not_the_users(change, true);
    if (t->user && info)
        return sp_usage_error(t->command, "%s is for all domains together: leave out --user", info->name);
    int error = sp_control_set(t->path, SP_ANSWER_MS, t->user ? &t->uid : NULL, change);
    if (!error)
        return 0;
    say_why(t, change, error);
    return SP_EXIT_FAILURE;
}
