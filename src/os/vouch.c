/* SPDX-License-Identifier: MIT */
/* See vouch.h. Runs in the worker, too: raw calls, no malloc. */
#include "os/vouch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "os/proc.h"
#include "os/socket.h"
#include "os/syscall.h"
#include "os/text.h"

/* Whoever has no number in the user namespace; the kernel's default. A machine with another one (the sysctl
 * kernel.overflowuid) only loses. */
#define OVERFLOW_UID 65534

/* Of the path's last part; without a directory of its own (NAME, /NAME) nobody vouches. */
static int directory_open(const char *path, int *ret_fd) {
    char directory[128];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (!n || n >= sizeof directory)
        return -EACCES;
    memcpy(directory, path, n);
    directory[n] = '\0';
    int fd = (int)sp_syscall(SYS_openat, AT_FDCWD, directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    *ret_fd = fd;
    return 0;
}

static int directory_stat(int fd, struct stat *ret) {
    return (int)sp_syscall(SYS_newfstatat, fd, "", ret, AT_EMPTY_PATH);
}

/* In that directory, wherever the path leads by now. */
static int connect_in(int directory, const char *path, int *ret_fd) {
    char address[128];
    const char *name = strrchr(path, '/');
    size_t n = sp_proc_fd_path(directory, address), bytes = strlen(name) + 1;
    if (n + bytes > sizeof address)
        return -ENAMETOOLONG;
    memcpy(address + n, name, bytes);
    return sp_socket_connect(address, ret_fd);
}

static uid_t peer_of(int fd) {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    return sp_socket_peer(fd, &pid, &uid, &gid) ? (uid_t)-1 : uid;
}

static bool is_roots_alone(const struct stat *st) {
    return st->st_uid == 0 && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

/* Root's entries in a sticky directory of root's are safe there (/tmp). */
static bool keeps_roots(const struct stat *st) {
    return st->st_uid == 0 && (!(st->st_mode & (S_IWGRP | S_IWOTH)) || (st->st_mode & S_ISVTX));
}

#define DEPTH_MAX 64

/* Goes up from there to the root, whatever names the path had. */
static bool is_kept(int directory, struct stat st) {
    struct stat above;
    int at = directory;
    bool kept = is_roots_alone(&st), top = false;
    for (int i = 0; kept && !top && i < DEPTH_MAX; i++) {
        int up = (int)sp_syscall(SYS_openat, at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (at != directory)
            (void)sp_close(at);
        at = up;
        kept = at >= 0 && !directory_stat(at, &above) && keeps_roots(&above);
        top = kept && above.st_dev == st.st_dev && above.st_ino == st.st_ino;
        st = above;
    }
    if (at >= 0 && at != directory)
        (void)sp_close(at);
    return kept && top;
}

int sp_vouch_make(const char *path, struct sp_vouch *ret_vouch) {
    struct stat st;
    int fd, directory, r = directory_open(path, &directory);
    if (r)
        return r;
    r = directory_stat(directory, &st);
    if (!r && !is_kept(directory, st))
        r = -EACCES;
    if (!r)
        r = connect_in(directory, path, &fd);
    (void)sp_close(directory);
    if (r)
        return r;
    r = peer_of(fd) == 0 ? 0 : -EACCES;
    (void)sp_close(fd);
    if (!r)
        *ret_vouch = (struct sp_vouch){st.st_dev, st.st_ino};
    return r;
}

void sp_vouch_text(const struct sp_vouch *v, char ret_text[SP_VOUCH_TEXT_BYTES]) {
    snprintf(ret_text, SP_VOUCH_TEXT_BYTES, "%llu:%llu", (unsigned long long)v->device,
             (unsigned long long)v->inode);
}

static const char *digits(const char *text, uint64_t *ret) {
    const char *end = sp_read_decimal(text, ret);
    return end > text ? end : NULL;
}

struct sp_vouch sp_vouch_parse(const char *text) {
    struct sp_vouch v;
    const char *at = text ? digits(text, &v.device) : NULL;
    if (!at || *at != ':')
        return (struct sp_vouch){0};
    at = digits(at + 1, &v.inode);
    return !at || *at ? (struct sp_vouch){0} : v;
}

static int connect_vouched(const char *path, const struct sp_vouch *v, int *ret_fd) {
    struct stat st;
    int fd, directory, r = v->inode ? directory_open(path, &directory) : -EACCES;
    if (r)
        return r;
    r = directory_stat(directory, &st);
    if (!r && (st.st_dev != v->device || st.st_ino != v->inode || (st.st_mode & (S_IWGRP | S_IWOTH))))
        r = -EACCES;
    if (!r)
        r = connect_in(directory, path, &fd);
    (void)sp_close(directory);
    if (r)
        return r;
    if (peer_of(fd) != OVERFLOW_UID) {
        (void)sp_close(fd);
        return -EACCES;
    }
    *ret_fd = fd;
    return 0;
}

int sp_vouch_connect(const char *path, const struct sp_vouch *v, int *ret_fd) {
    int fd;
    if (!connect_vouched(path, v, ret_fd))
        return 0;
    int r = sp_socket_connect(path, &fd);
    if (r)
        return r;
    r = sp_socket_trusted(fd);
    if (r)
        (void)sp_close(fd);
    else
        *ret_fd = fd;
    return r;
}
