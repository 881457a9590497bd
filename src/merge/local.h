/* SPDX-License-Identifier: MIT */
/* The link to a domain that lives in this process: core's index and a store of our own, no daemon. */
#ifndef SP_MERGE_LOCAL_H
#define SP_MERGE_LOCAL_H

#include "merge/link.h"

/* -ENOMEM. */
SP_WARN_UNUSED int sp_local_link_new(const struct sp_settings *settings, struct sp_link **ret_link);
/* The DOMAIN counters of the in-process domain. */
void sp_local_link_counters(struct sp_link *l, struct sp_counters *into);

#endif
