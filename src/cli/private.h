/* SPDX-License-Identifier: MIT */
/* A daemon for one command and its descendants, started by `samepage run` where no other one runs. */
#ifndef SP_CLI_PRIVATE_H
#define SP_CLI_PRIVATE_H

#include "cli/places.h"

struct sp_private {
    char directory[SP_SOCKET_PATH_BYTES];
    char socket[SP_SOCKET_PATH_BYTES];
    char alive[SP_SOCKET_PATH_BYTES]; /* mapped by every process that may need the daemon */
    char error[256];                  /* what went wrong, for people */
};

/*
 * Starts samepaged and waits until it listens. It ends by itself when this process has ended and no other
 * one has `alive` mapped any more, and removes the directory. It is no child of this process (which may
 * become another program), holds none of its descriptors, and is of a session of its own.
 * `settings`: "KEY=VALUE,..." or NULL; `verbose`: its log goes to standard error, else nowhere.
 * 0, or a negative errno with p->error filled in; then nothing is left behind.
 */
SP_WARN_UNUSED int sp_private_start(struct sp_private *p, const char *settings, bool verbose);

#endif
