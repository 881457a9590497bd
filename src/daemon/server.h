/* SPDX-License-Identifier: MIT */
/*
 * The daemon as a whole: the listening socket, who may come in, the loop, and its end. One thread does all
 * the work.
 */
#ifndef SP_DAEMON_SERVER_H
#define SP_DAEMON_SERVER_H

#include "daemon/options.h"

/* Runs until told to end, or until nobody needs it (private mode). Returns the exit status. */
int server_run(const struct options *o);

#endif
