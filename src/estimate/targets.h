/* SPDX-License-Identifier: MIT */
/* Which processes are meant: all of the machine, or all descendants of one. */
#ifndef SP_ESTIMATE_TARGETS_H
#define SP_ESTIMATE_TARGETS_H

#include "os/remote.h"

struct sp_targets {
    struct sp_process *process; /* ascending by pid */
    size_t n;
};

/* All that have memory, without this one; or its descendants. -ENOMEM, or why /proc cannot be read. */
SP_WARN_UNUSED int sp_targets_all(struct sp_targets *ret_targets);
SP_WARN_UNUSED int sp_targets_descendants(int ancestor, struct sp_targets *ret_targets);
/* Adds one that was named. -ESRCH: there is none; 0 also when it is there already. */
SP_WARN_UNUSED int sp_targets_add(struct sp_targets *t, int pid);
void sp_targets_deinit(struct sp_targets *t);

#endif
