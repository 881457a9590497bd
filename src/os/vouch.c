/* SPDX-License-Identifier: MIT */
/* See vouch.h. Runs in the worker, too: raw calls, no malloc. */
#include "os/vouch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "os/socket.h"
#include "os/syscall.h"

/* Whoever has no number in the user namespace; the kernel's default. A machine with another one (the sysctl
 * kernel.overflowuid) only loses. */
#define OVERFLOW_UID 65534

static int directory_stat(const char *path, struct stat *ret) {
    char directory[128];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (!n || n >= sizeof directory)
        return -EACCES;
    memcpy(directory, path, n);
    directory[n] = '\0';
    return (int)sp_syscall(SYS_newfstatat, AT_FDCWD, directory, ret, 0);
}

int sp_vouch_make(int fd, const char *path, struct sp_vouch *ret_vouch) {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    struct stat st;
    int r = sp_socket_peer(fd, &pid, &uid, &gid);
    if (!r)
        r = directory_stat(path, &st);
    if (r)
        return r;
    if (uid != 0 || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return -EACCES;
    *ret_vouch = (struct sp_vouch){st.st_dev, st.st_ino};
    return 0;
}

void sp_vouch_text(const struct sp_vouch *v, char ret_text[SP_VOUCH_TEXT_BYTES]) {
    snprintf(ret_text, SP_VOUCH_TEXT_BYTES, "%llu:%llu", (unsigned long long)v->device,
             (unsigned long long)v->inode);
}

/* The C library's would need a locale, and this runs before it has one. */
static const char *digits(const char *text, uint64_t *ret) {
    uint64_t v = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++)
        v = v * 10 + (uint64_t)(*at - '0');
    *ret = v;
    return at > text ? at : NULL;
}

struct sp_vouch sp_vouch_parse(const char *text) {
    struct sp_vouch v;
    const char *at = text ? digits(text, &v.device) : NULL;
    if (!at || *at != ':')
        return (struct sp_vouch){0};
    at = digits(at + 1, &v.inode);
    return !at || *at ? (struct sp_vouch){0} : v;
}

int sp_vouch_trusted(int fd, const char *path, const struct sp_vouch *v) {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    struct stat st;
    int r = sp_socket_trusted(fd);
    if (r != -EACCES || !v->inode)
        return r;
    if (sp_socket_peer(fd, &pid, &uid, &gid) || uid != OVERFLOW_UID || directory_stat(path, &st))
        return r;
    return st.st_dev == v->device && st.st_ino == v->inode ? 0 : r;
}
