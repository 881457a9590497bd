/* SPDX-License-Identifier: MIT */
/*
 * What the commands that ask or set one daemon have in common: which daemon is meant, and which of its
 * domains. To set the wrong one would be worse than to ask back, so that where several daemons answer none is
 * chosen. Where the user controls the daemon, all of its domains are meant unless one is named; else one's
 * own.
 */
#ifndef SP_CLI_TARGET_H
#define SP_CLI_TARGET_H

#include <sys/types.h>

#include "cli/cli.h"
#include "cli/places.h"
#include "wire/control.h"

/* So long is waited for a daemon's answer. */
#define SP_ANSWER_MS 3000

struct sp_target {
    const struct sp_command *command;
    char path[SP_SOCKET_PATH_BYTES];
    const char *user; /* as given; NULL: none */
    uid_t uid;        /* of `user` */
};

/* The options that lead to it; their place in the command's table is the command's own matter. */
#define SP_TARGET_OPTION_SOCKET                                                                              \
    { "socket", 'S', "PATH", "the daemon that listens there" }
#define SP_TARGET_OPTION_USER                                                                                \
    { "user", 'u', "USER", "the domain of that user, by name or number" }
#define SP_TARGET_NOTES                                                                                      \
    "Without --socket: the daemon of SAMEPAGE_SOCKET, else the one that runs. Without --user: who\n"         \
    "controls the daemon (root, and the user it runs as) means all domains, anybody else their own.\n"

/* Finds the daemon, and says what is wrong. `socket` and `user` may be NULL. 0 or an exit status. */
SP_WARN_UNUSED int sp_target_find(struct sp_target *t, const struct sp_command *command, const char *socket,
                                  const char *user);
/* Its status, or an exit status after saying what is wrong. */
SP_WARN_UNUSED int sp_target_status(const struct sp_target *t, struct sp_status **ret_status);

/* Whether the domain is meant. */
bool sp_target_means(const struct sp_target *t, const struct sp_status_domain *d);
/* Whether the daemon knows a domain that is meant by name; says so if not. */
bool sp_target_known(const struct sp_target *t, const struct sp_status *s);
/* The settings that are meant. */
const struct sp_settings *sp_target_settings(const struct sp_target *t, const struct sp_status *s);
/* Sums over the domains that are meant. */
void sp_target_counters(const struct sp_target *t, const struct sp_status *s,
                        struct sp_counters *ret_counters);

/* Changes settings there, and says what is wrong. 0 or an exit status. */
SP_WARN_UNUSED int sp_target_set(const struct sp_target *t, const struct sp_settings_change *change);

#endif
