/* SPDX-License-Identifier: MIT */
/*
 * See view.h. The mount is this process's, and the daemon serves it: it is passed the descriptor of
 * /dev/fuse. So the daemon mounts nothing and needs no rights; no process has to live beside the command; and
 * the kernel ends the mount with the last process that can see it, and its requests, with ENOTCONN, with the
 * daemon.
 *
 * fusermount3, the usual way for who is not root, is not: it is set-uid, which does nothing in a user
 * namespace that has no root, and outside it would mount for everybody. Since Linux 4.18 FUSE may be mounted
 * in a user namespace by whoever made it. /dev/fuse must have been opened there (the kernel compares).
 */
#include "cli/view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/places.h"
#include "wire/control.h"

#define TIMEOUT_MS 3000 /* as every other question to a daemon */

struct view {
    const char *socket;
    char *error;
    size_t error_bytes;
};

static int fail(const struct view *v, int error, const char *what, const char *hint) {
    snprintf(v->error, v->error_bytes, "%s: %s%s%s", what, strerror(error), *hint ? "; " : "", hint);
    return -1;
}

/* --- namespaces -------------------------------------------------------------------------------------- */

static int map_write(const struct view *v, const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));
    int error = errno;
    if (fd >= 0)
        close(fd);
    return n < 0 ? fail(v, error, path, "") : 0;
}

/* Its maker may map itself alone, and the group only when the others cannot be changed any more
 * (user_namespaces(7)). */
static int map_self(const struct view *v, uid_t uid, gid_t gid) {
    char users[64], groups[64];
    snprintf(users, sizeof users, "%u %u 1", (unsigned)uid, (unsigned)uid);
    snprintf(groups, sizeof groups, "%u %u 1", (unsigned)gid, (unsigned)gid);
    if (map_write(v, "/proc/self/setgroups", "deny") || map_write(v, "/proc/self/uid_map", users))
        return -1;
    return map_write(v, "/proc/self/gid_map", groups);
}

static int enter_namespaces(const struct view *v) {
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (!unshare(CLONE_NEWNS))
        return 0;
    if (errno != EPERM)
        return fail(v, errno, "cannot make a mount namespace", "");
    if (!unshare(CLONE_NEWUSER | CLONE_NEWNS))
        return map_self(v, uid, gid);
    return fail(v, errno, "cannot make a user namespace",
                errno == ENOSPC
                    ? "user.max_user_namespaces or a limit of namespaces within it is reached (sysctl)"
                : errno == EPERM
                    ? "the system or the container forbids them to users (kernel.unprivileged_userns_clone, "
                      "seccomp, AppArmor, chroot); root needs none"
                    : "");
}

/* --- the mount --------------------------------------------------------------------------------------- */

static int mount_here(const struct view *v, int fuse_fd) {
    char options[128];
    /* Mounts of others still show here, none of ours there. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        return fail(v, errno, "cannot leave the others' mounts alone",
                    errno == EINVAL
                        ? "/ is no mount point, as in a chroot: make it one before (mount --bind DIR DIR)"
                        : "the container forbids mounting");
    /* Whoever may be here may use it: the namespace is the bound. */
    snprintf(options, sizeof options, "fd=%d,rootmode=40755,user_id=%u,group_id=%u,allow_other", fuse_fd,
             (unsigned)geteuid(), (unsigned)getegid());
    if (!mount("samepage", SP_VIEW_DIRECTORY, "fuse.ksm", MS_NOSUID | MS_NODEV | MS_NOEXEC, options))
        return 0;
    return fail(
        v, errno, "cannot mount at " SP_VIEW_DIRECTORY,
        errno == ENOENT
            ? "this kernel has no KSM, or /sys is not mounted, so that there is no place for its files"
        : errno == EPERM  ? "the container forbids mounting"
        : errno == ENODEV ? "this kernel has no FUSE (modprobe fuse)"
                          : "");
}

static const char *refusal(int error) {
    switch (error) {
    case -EUSERS:
        return "the daemon serves the files to too many commands already";
    case -EPERM:
        return "root's commands only where it can see that they are in its own user namespace";
    case -EINVAL:
        return "the kernel does not let the daemon serve this mount";
    case -EBADMSG:
        return "the daemon is of another version";
    default:
        return sp_socket_why(error);
    }
}

static int serve(const struct view *v, int fuse_fd) {
    int r = sp_control_files(v->socket, TIMEOUT_MS, fuse_fd);
    if (r)
        snprintf(v->error, v->error_bytes, "the daemon at %s does not serve the files: %s", v->socket,
                 refusal(r));
    return r ? -1 : 0;
}

/* Who stands in the directory that is covered now should stand in what covers it. */
static void stand_above(void) {
    char path[PATH_MAX];
    size_t n = strlen(SP_VIEW_DIRECTORY);
    if (getcwd(path, sizeof path) && !strncmp(path, SP_VIEW_DIRECTORY, n) && !path[n])
        (void)!chdir(path);
}

int sp_view_enter(const char *socket, char *error, size_t error_bytes) {
    struct view v = {socket, error, error_bytes};
    if (enter_namespaces(&v))
        return -1;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fail(&v, errno, "/dev/fuse",
                    errno == EACCES ? "users need the right to open it (chmod 666, as udev does)"
                                    : "modprobe fuse");
    int r = mount_here(&v, fd);
    if (!r)
        r = serve(&v, fd);
    /* From here on the daemon alone has it, so that the mount ends when the daemon does. */
    close(fd);
    if (!r)
        stand_above();
    return r;
}
