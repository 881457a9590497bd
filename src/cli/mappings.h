/* SPDX-License-Identifier: MIT */
/* `samepage status --mappings`: which mappings of a process are merged, and why not the others. */
#ifndef SP_CLI_MAPPINGS_H
#define SP_CLI_MAPPINGS_H

#include "core/types.h"

/* Whether the text is the number of a process that there could be. */
bool sp_pid_parse(const char *text, int *ret_pid);
/* Prints them; returns the exit status of the command. */
int sp_mappings_main(const char *pid, bool json);

#endif
