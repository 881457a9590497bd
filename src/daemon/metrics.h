/* SPDX-License-Identifier: MIT */
/*
 * Metrics over HTTP (--metrics ADDRESS): the text of core/openmetrics.h at /metrics, for all domains. On a
 * Unix socket only the daemon's user can read it; on loopback everybody on the machine can.
 */
#ifndef SP_DAEMON_METRICS_H
#define SP_DAEMON_METRICS_H

#include "daemon/session.h"

struct metrics;

/* What is wrong with an address as text, or NULL: "unix:PATH", "127.0.0.1:PORT", "localhost:PORT",
 * "[::1]:PORT". */
const char *metrics_address_wrong(const char *address);

/* Listens there and joins the loop. -EADDRINUSE: somebody else does; other negative errnos. */
SP_WARN_UNUSED int metrics_new(struct sessions *all, const char *address, struct metrics **ret_metrics);
/* What is due. Returns when there will be more to do (UINT64_MAX: nothing). NULL is none. */
uint64_t metrics_work(struct metrics *m, uint64_t now_ns);
void metrics_free(struct metrics *m);

#endif
