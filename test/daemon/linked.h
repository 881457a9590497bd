/* SPDX-License-Identifier: MIT */
/*
 * The fixture of most tests of the daemon: one of them, and two clients of it, links without a worker that
 * say whatever the case wants. Included once by a test program.
 */
#ifndef SP_TEST_DAEMON_LINKED_H
#define SP_TEST_DAEMON_LINKED_H

#include "helper.h"

static struct daemon d;
static struct sp_link *a, *b;
static struct sp_welcome welcome;

/* `options`: of the daemon; NULL: none. */
static inline void linked_start(const char *const *options) {
    daemon_start(&d, options);
    a = link_open(d.socket, &welcome);
    b = link_open(d.socket, &welcome);
}

static inline void linked_stop(void) {
    link_close(a);
    link_close(b);
    daemon_stop(&d);
}

#endif
