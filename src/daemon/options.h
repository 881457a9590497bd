/* SPDX-License-Identifier: MIT */
/* The command line of samepaged. */
#ifndef SP_DAEMON_OPTIONS_H
#define SP_DAEMON_OPTIONS_H

#include <sys/types.h>

#include "core/settings.h"

struct options {
    char socket[108];
    bool socket_default;
    struct sp_settings settings;
    bool only_uid_set;
    uid_t only_uid;
    pid_t owner_pid;           /* 0: none, the daemon runs until it is told to end */
    const char *config;        /* --config; NULL: not given */
    const char *ksm_files;     /* directory at which they are served; NULL: nowhere */
    const char *metrics;       /* where they are served; NULL: nowhere */
    const char *pressure_file; /* NULL: the machine's */
    const char *alive;         /* file that every process mapped which may still need us; NULL: none */
    int ready_fd;              /* -1: none */
};

enum options_result { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_BAD };

/* Reads the arguments. OPTIONS_DONE: help or version were printed; OPTIONS_BAD: the error and a hint were. */
enum options_result options_parse(struct options *o, int argc, char **argv);

#endif
