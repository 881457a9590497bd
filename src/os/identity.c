/* SPDX-License-Identifier: MIT */
/* Raw calls: each changes the calling thread alone. */
#include "os/identity.h"

#include <errno.h>
#include <string.h>

#include "os/fault.h"
#include "os/syscall.h"

int sp_identity_read(struct sp_identity *ret_identity) {
    struct sp_identity i;
    long r = sp_syscall(SYS_getresuid, &i.uid[0], &i.uid[1], &i.uid[2]);
    if (r >= 0)
        r = sp_syscall(SYS_getresgid, &i.gid[0], &i.gid[1], &i.gid[2]);
    if (r >= 0)
        r = sp_syscall(SYS_getgroups, SP_IDENTITY_GROUPS, i.groups);
    if (r < 0)
        return (int)r;
    i.n_groups = (int)r;
    *ret_identity = i;
    return 0;
}

/* The user last: whoever is no longer root may not change the rest. */
int sp_identity_assume(const struct sp_identity *identity) {
    int fault = sp_fault("identity_assume");
    if (fault)
        return fault;
    struct sp_identity now;
    long r = sp_identity_read(&now);
    if (r < 0)
        return (int)r;
    if (now.n_groups != identity->n_groups ||
        memcmp(now.groups, identity->groups, (size_t)now.n_groups * sizeof(gid_t)))
        r = sp_syscall(SYS_setgroups, identity->n_groups, identity->groups);
    if (r >= 0 && memcmp(now.gid, identity->gid, sizeof(now.gid)))
        r = sp_syscall(SYS_setresgid, identity->gid[0], identity->gid[1], identity->gid[2]);
    if (r >= 0 && memcmp(now.uid, identity->uid, sizeof(now.uid)))
        r = sp_syscall(SYS_setresuid, identity->uid[0], identity->uid[1], identity->uid[2]);
    return r < 0 ? (int)r : 0;
}
