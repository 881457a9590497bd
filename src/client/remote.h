/* SPDX-License-Identifier: MIT */
/* The link to a domain that lives in a daemon. */
#ifndef SP_CLIENT_REMOTE_H
#define SP_CLIENT_REMOTE_H

#include "merge/link.h"
#include "os/vouch.h"

/* Makes a link to the daemon at `socket_path` (copied); connects only when opened, in the opener's descriptor
 * table. Allocates from mappings of its own, never malloc. -ENOMEM, -ENAMETOOLONG. */
SP_WARN_UNUSED int sp_remote_link_new(const char *socket_path, struct sp_link **ret_link);

/* Where its daemon listens. */
const char *sp_remote_link_path(const struct sp_link *link);

/* Before it is opened: who vouches for the daemon where its user is nobody's. */
void sp_remote_link_vouch(struct sp_link *link, const struct sp_vouch *vouch);

#endif
