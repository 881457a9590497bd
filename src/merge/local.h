/* SPDX-License-Identifier: MIT */
/* The link to a domain that lives in this process: core's index and a store of our own, no daemon. */
#ifndef SP_MERGE_LOCAL_H
#define SP_MERGE_LOCAL_H

#include "merge/index.h"
#include "merge/link.h"

/* -ENOMEM. */
SP_WARN_UNUSED int sp_local_link_new(const struct sp_settings *settings, enum sp_index_kind kind,
                                     struct sp_link **ret_link);
/* The DOMAIN counters of the in-process domain. */
void sp_local_link_counters(struct sp_link *l, struct sp_counters *into);

/* A userfaultfd with all that the worker needs, and fork events where we have the right to them: for links
 * that need no help. Errors of sp_uffd_new and sp_uffd_enable. */
SP_WARN_UNUSED int sp_uffd_for_worker(int dev_fd, int *ret_fd, bool *ret_fork_events);

#endif
