/* SPDX-License-Identifier: MIT */
/*
 * Root's daemon, seen from a user namespace without root.
 *
 * A daemon is believed when it runs as root or as our own user (sp_socket_trusted). In a user namespace that
 * maps its maker alone, as `samepage run --ksm-files` makes one, root looks like everybody else: the overflow
 * user. So before it enters, `samepage run` looks whether only root can make a socket in the directory, and
 * puts that directory's device and inode into the environment: whoever listens in it then is root, later too,
 * after the daemon has been started anew. The path alone would not say that, a directory of that name may be
 * another's, and may become so between two looks at it: the directory is opened once, judged by that
 * descriptor, and connected to through it. The directories above it must be root's alone as well, for who
 * could remove it could make one of their own that gets its inode number. (In a sticky one, as /tmp, only
 * root can.) All this needs /proc; without it nobody vouches.
 */
#ifndef SP_OS_VOUCH_H
#define SP_OS_VOUCH_H

#include "core/types.h"

#define SP_VOUCH_TEXT_BYTES 48

struct sp_vouch {
    uint64_t device, inode; /* of a directory that only root can change; inode 0: nobody vouches */
};

/* For the daemon that listens at `path`. -EACCES: it is not root's, or others could take its place; or as
 * sp_socket_connect. */
SP_WARN_UNUSED int sp_vouch_make(const char *path, struct sp_vouch *ret_vouch);
/* "DEVICE:INODE". */
void sp_vouch_text(const struct sp_vouch *v, char ret_text[SP_VOUCH_TEXT_BYTES]);
/* What is not such a text, or NULL, vouches for nobody. */
struct sp_vouch sp_vouch_parse(const char *text);
/* As sp_socket_connect, to a daemon that may be believed (sp_socket_trusted), where root may have no number.
 * -EACCES: to no other. */
SP_WARN_UNUSED int sp_vouch_connect(const char *path, const struct sp_vouch *v, int *ret_fd);

#endif
