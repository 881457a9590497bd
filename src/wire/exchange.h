/* SPDX-License-Identifier: MIT */
/*
 * One request to a daemon over a connection of its own, and what comes back. Neither malloc nor stdio: the
 * shim asks in the program's threads.
 */
#ifndef SP_WIRE_EXCHANGE_H
#define SP_WIRE_EXCHANGE_H

#include "wire/message.h"

/* Sends a request, header filled in, with a descriptor (-1: none), and has the replies taken until they are
 * done: take_reply() returns 0, 1 when that was the last one, or a negative errno. Errors as of
 * sp_control_status. */
SP_WARN_UNUSED int sp_exchange(const char *socket_path, void *request, size_t bytes, int pass_fd,
                               int timeout_ms, int (*take_reply)(void *ctx, const void *message), void *ctx);

#endif
