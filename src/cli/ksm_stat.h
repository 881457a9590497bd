/* SPDX-License-Identifier: MIT */
/* `samepage status --ksm-stat`: of one process, what /proc/PID/ksm_stat says of the kernel's KSM. */
#ifndef SP_CLI_KSM_STAT_H
#define SP_CLI_KSM_STAT_H

#include "core/types.h"

/* Prints it, in the kernel's format or as JSON; returns the exit status of the command. `socket`: of the
 * daemon to ask; NULL: all that there are. */
SP_WARN_UNUSED int sp_ksm_stat_main(const char *pid, const char *socket, bool json);

#endif
