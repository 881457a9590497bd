/* SPDX-License-Identifier: MIT */
/* `samepage run --ksm-files`: our files at /sys/kernel/mm/ksm, for this process and what it starts. */
#ifndef SP_CLI_VIEW_H
#define SP_CLI_VIEW_H

#include "core/types.h"

#define SP_VIEW_DIRECTORY "/sys/kernel/mm/ksm"

/*
 * Moves this process, which must have one thread, into a mount namespace of its own, where the daemon's files
 * are at SP_VIEW_DIRECTORY. Without the right to do so it moves into a user namespace, too, which has its
 * user and its group and nobody else. 0, or -1 with what is wrong, and what to do about it, in `error`: then
 * the process may be in the namespaces already, and should end.
 */
SP_WARN_UNUSED int sp_view_enter(const char *socket, char *error, size_t error_bytes);

#endif
