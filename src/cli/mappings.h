/* SPDX-License-Identifier: MIT */
/* `samepage status --mappings`: which mappings of a process are merged, and why not the others. */
#ifndef SP_CLI_MAPPINGS_H
#define SP_CLI_MAPPINGS_H

#include "os/proc.h"

/* Whether the text is the number of a process that there could be. */
bool sp_pid_parse(const char *text, int *ret_pid);
/* Prints them; returns the exit status of the command. */
int sp_mappings_main(const char *pid, bool json);

/* How many pages of the mapping lie in the store, as the kernel's "KSM:" line counts those of its own: all of
 * a mapping of it but what was written since. What was not touched since it was merged is not resident. */
static inline uint64_t sp_mapping_shared_pages(const struct sp_mapping *m) {
    return m->attributes & SP_ATTR_STORE
               ? (m->end - m->start - m->anonymous_bytes - m->swap_bytes) / SP_PAGE_SIZE
               : 0;
}

#endif
