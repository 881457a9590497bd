/* SPDX-License-Identifier: MIT */
/*
 * Where things are: our other files, in the build tree or installed, and the sockets of daemons.
 *
 * Files are looked for beside the running program first, so that a build tree and a copied installation use
 * their own; the directory that was configured comes last.
 */
#ifndef SP_CLI_PLACES_H
#define SP_CLI_PLACES_H

#include <limits.h>

#include "core/types.h"

/* As struct sockaddr_un has it, with the end. */
#define SP_SOCKET_PATH_BYTES 108

/* Full path of the library that programs are run with, of the daemon, or of the benchmark. 0, or -ENOENT. */
SP_WARN_UNUSED int sp_place_preload(char ret_path[PATH_MAX]);
SP_WARN_UNUSED int sp_place_daemon(char ret_path[PATH_MAX]);
SP_WARN_UNUSED int sp_place_bench(char ret_path[PATH_MAX]);

/* Paths of sockets to try, best first. */
struct sp_sockets {
    struct sp_socket_place {
        char path[SP_SOCKET_PATH_BYTES];
        bool private; /* of a daemon that `samepage run` started for one command */
    } * place;
    size_t n;
};

/* $XDG_RUNTIME_DIR/samepage/socket and /run/samepage/socket: where a daemon for everybody listens. */
SP_WARN_UNUSED int sp_sockets_system(struct sp_sockets *ret_sockets);
/* Those and the private ones of this user. */
SP_WARN_UNUSED int sp_sockets_all(struct sp_sockets *ret_sockets);
void sp_sockets_deinit(struct sp_sockets *s);

/* Asks whether the daemon there serves this user: 0, or why not, a negative errno (-EACCES: others only). One
 * that is slow to answer is taken to. */
SP_WARN_UNUSED int sp_socket_serves(const char *path);

/* Why a daemon cannot be reached, and what to do: for a negative errno of sp_socket_connect or
 * sp_control_status. */
const char *sp_socket_why(int error);

/* A new empty directory for a private daemon, for this user alone (0700), whose path is short enough for a
 * socket in it. Tried: $XDG_RUNTIME_DIR, for root /run/samepage-run, /tmp, /dev/shm; first where a mapped
 * file can be told from one that nobody uses. A negative errno of the last try.
 */
SP_WARN_UNUSED int sp_private_directory(char ret_path[SP_SOCKET_PATH_BYTES]);

#endif
