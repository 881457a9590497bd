/* SPDX-License-Identifier: MIT */
/*
 * setuid(2) and its kind. The C library makes all of its threads change their identity together; our worker
 * is none of them (os/thread.h) and is told here, after the call, so that it does not keep rights that the
 * program has given up. The calls' effects are asked of the kernel, not deduced from the arguments.
 *
 * Not in a child of vfork: it is somebody else in the memory of its parent.
 */
#include <dlfcn.h>
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

/* Defines names_NAME in front of the C library's function. */
#define IDENTITY(name, parameters, arguments)                                                                \
    static int(*real_##name) parameters;                                                                     \
    int names_##name parameters SHIM_NAME(#name);                                                            \
    int names_##name parameters {                                                                            \
        if (!real_##name) {                                                                                  \
            errno = ENOSYS;                                                                                  \
            return -1;                                                                                       \
        }                                                                                                    \
        int r = real_##name arguments;                                                                       \
        if (r == 0)                                                                                          \
            follow();                                                                                        \
        return r;                                                                                            \
    }                                                                                                        \
    static void find_##name(void) {                                                                          \
        real_##name = (int(*) parameters)dlsym(RTLD_NEXT, #name);                                            \
    }

IDENTITY(setuid, (uid_t uid), (uid))
IDENTITY(seteuid, (uid_t uid), (uid))
IDENTITY(setreuid, (uid_t real_uid, uid_t uid), (real_uid, uid))
IDENTITY(setresuid, (uid_t real_uid, uid_t uid, uid_t saved_uid), (real_uid, uid, saved_uid))
IDENTITY(setgid, (gid_t gid), (gid))
IDENTITY(setegid, (gid_t gid), (gid))
IDENTITY(setregid, (gid_t real_gid, gid_t gid), (real_gid, gid))
IDENTITY(setresgid, (gid_t real_gid, gid_t gid, gid_t saved_gid), (real_gid, gid, saved_gid))
IDENTITY(setgroups, (size_t n, const gid_t *groups), (n, groups))
IDENTITY(initgroups, (const char *user, gid_t group), (user, group))

/* As in counted.c. */
void identity_init(void) {
    find_setuid();
    find_seteuid();
    find_setreuid();
    find_setresuid();
    find_setgid();
    find_setegid();
    find_setregid();
    find_setresgid();
    find_setgroups();
    find_initgroups();
}
