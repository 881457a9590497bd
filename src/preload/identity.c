/* SPDX-License-Identifier: MIT */
/*
 * setuid(2) and its kind. The C library makes all of its threads change their identity together; our worker
 * is none of them (os/thread.h) and is told here, after the call, so that it does not keep rights that the
 * program has given up. The calls' effects are asked of the kernel, not deduced from the arguments.
 *
 * Not in a child of vfork: it is somebody else in the memory of its parent.
 */
#include <errno.h>
#include <grp.h>
#include <unistd.h>

#include "preload/names.h"
#include "preload/shim.h"

static void follow(void) {
    int saved = errno;
    if (shim.engine && shim_is_owner())
        sp_engine_identity(shim.engine);
    errno = saved;
}

/* Name, parameters, arguments. */
#define IDENTITY(X)                                                                                          \
    X(setuid, (uid_t uid), (uid))                                                                            \
    X(seteuid, (uid_t uid), (uid))                                                                           \
    X(setreuid, (uid_t real_uid, uid_t uid), (real_uid, uid))                                                \
    X(setresuid, (uid_t real_uid, uid_t uid, uid_t saved_uid), (real_uid, uid, saved_uid))                   \
    X(setgid, (gid_t gid), (gid))                                                                            \
    X(setegid, (gid_t gid), (gid))                                                                           \
    X(setregid, (gid_t real_gid, gid_t gid), (real_gid, gid))                                                \
    X(setresgid, (gid_t real_gid, gid_t gid, gid_t saved_gid), (real_gid, gid, saved_gid))                   \
    X(setgroups, (size_t n, const gid_t *groups), (n, groups))                                               \
    X(initgroups, (const char *user, gid_t group), (user, group))

#define DEFINE(name, parameters, arguments)                                                                  \
    SHIM_NEXT(int, name, -1, parameters, arguments)                                                          \
    int names_##name parameters SHIM_NAME(#name);                                                            \
    int names_##name parameters {                                                                            \
        int r = next_##name arguments;                                                                       \
        if (r == 0)                                                                                          \
            follow();                                                                                        \
        return r;                                                                                            \
    }
IDENTITY(DEFINE)

#define FIND(name, parameters, arguments) SHIM_FIND(name, NULL);
void identity_init(void) {
    IDENTITY(FIND)
}
