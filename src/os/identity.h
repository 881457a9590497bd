/* SPDX-License-Identifier: MIT */
/*
 * Who a thread is to the kernel. Credentials are a thread's own; the C library makes its threads change them
 * together (nptl(7)), and a thread that it does not know of must do as they did.
 */
#ifndef SP_OS_IDENTITY_H
#define SP_OS_IDENTITY_H

#include <sys/types.h>

#include "core/types.h"

#define SP_IDENTITY_GROUPS 256

struct sp_identity {
    uid_t uid[3]; /* real, effective, saved */
    gid_t gid[3];
    int n_groups;
    gid_t groups[SP_IDENTITY_GROUPS];
};

/* Of the calling thread. -EINVAL: it is in more groups than fit. */
SP_WARN_UNUSED int sp_identity_read(struct sp_identity *ret_identity);
/* Makes the calling thread that; a negative errno when it may not. */
SP_WARN_UNUSED int sp_identity_assume(const struct sp_identity *identity);

#endif
