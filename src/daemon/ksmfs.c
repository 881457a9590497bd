/* SPDX-License-Identifier: MIT */
/*
 * See ksmfs.h. By libfuse's low-level interface: the high-level one has a loop of its own and looks files up
 * by their paths, while the low-level one leaves the loop to its caller and hands out one request at a time.
 * Here it is the daemon's loop; the descriptor does not block, every request is answered before the next is
 * read, and nothing is asked of anybody meanwhile, so that the daemon never waits for whoever uses the files.
 *
 * The tree is one directory of files that exist by the table (core/ksm_files.h): file number i is inode
 * FIRST_FILE + i. Nothing is cached by the kernel: a counter is read anew each time, and who reads matters.
 * Errors are those of sysfs, which has no operations to make or remove anything.
 */
#define FUSE_USE_VERSION 34
#include "daemon/ksmfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/ksm_files.h"
#include "daemon/log.h"
#include "daemon/policy.h"
#include "os/socket.h"

#define FIRST_FILE (FUSE_ROOT_ID + 1)
/* What sysfs says of each file, and takes of each write. */
#define FILE_BYTES 4096

struct ksmfs {
    struct source source;
    struct sessions *all;
    struct ksmfs *next; /* of the views */
    bool view, ended;
    uid_t uid; /* who made the view */
    struct fuse_session *fuse;
    struct fuse_buf buffer; /* libfuse's, used again for each request */
    struct timespec since;
};

/* ---- who asks, and what they see ---- */

static struct ksmfs *fs_of(fuse_req_t request) {
    return fuse_req_userdata(request);
}

static bool is_users_view(const struct ksmfs *fs) {
    return fs->view && fs->uid != 0;
}

static uid_t asker(fuse_req_t request) {
    const struct ksmfs *fs = fs_of(request);
    return is_users_view(fs) ? fs->uid : fuse_req_ctx(request)->uid;
}

static bool file_of(fuse_ino_t inode, struct sp_ksm_file *ret_file) {
    return inode >= FIRST_FILE && sp_ksm_file(inode - FIRST_FILE, ret_file);
}

static size_t text_of(const struct sessions *all, uid_t uid, const struct sp_ksm_file *f,
                      char ret_text[SP_KSM_TEXT_BYTES]) {
    const struct service *s = all->service;
    struct sp_settings settings = policy_settings_of_all(s);
    struct sp_counters sum = {{0}}, one;
    for (const struct domain *d = s->domains; d; d = d->next) {
        if (!control_sees(uid, d))
            continue;
        if (!control_controls(uid))
            settings = policy_settings(d);
        domain_counters(d, &one, NULL);
        for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
            sum.v[i] += one.v[i];
    }
    return sp_ksm_text(f, &settings, &sum, ret_text);
}

/* Everybody may write what is theirs: that, and not the mode, decides. */
static void attributes(fuse_req_t request, fuse_ino_t inode, struct stat *ret) {
    struct sp_ksm_file f;
    const struct ksmfs *fs = fs_of(request);
    *ret = (struct stat){.st_ino = inode, .st_uid = geteuid(), .st_gid = getegid()};
    /* Who has no number in the mount's user namespace would keep everybody there from writing. */
    if (is_users_view(fs)) {
        ret->st_uid = fuse_req_ctx(request)->uid;
        ret->st_gid = fuse_req_ctx(request)->gid;
    }
    ret->st_atim = ret->st_mtim = ret->st_ctim = fs->since;
    if (!file_of(inode, &f)) {
        ret->st_mode = S_IFDIR | 0755;
        ret->st_nlink = 2;
        return;
    }
    ret->st_mode = S_IFREG | (f.setting >= 0 ? 0666 : 0444);
    ret->st_nlink = 1;
    ret->st_size = FILE_BYTES;
}

/* ---- requests ---- */

static void on_init(void *fs, struct fuse_conn_info *connection) {
    /* Requests are small, and a pipe would be two descriptors more. */
    connection->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param e = {0};
    struct sp_ksm_file f;
    for (size_t i = 0; sp_ksm_file(i, &f); i++) {
        if (strcmp(f.name, name) != 0)
            continue;
        e.ino = FIRST_FILE + i;
        attributes(request, e.ino, &e.attr);
        fuse_reply_entry(request, &e);
        return;
    }
    fuse_reply_err(request, ENOENT);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *unused) {
    struct stat st;
    attributes(request, inode, &st);
    fuse_reply_attr(request, &st, 0);
}

/* Cutting a file to no bytes is how a shell begins to write to it, and changes nothing, as in sysfs. */
static void on_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int what,
                       struct fuse_file_info *file) {
    if (what & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        fuse_reply_err(request, EPERM);
    else
        on_getattr(request, inode, file);
}

static void on_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                       struct fuse_file_info *unused) {
    char *buffer = malloc(size);
    struct sp_ksm_file f;
    size_t used = 0;
    if (!buffer) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    /* Entries 0 and 1 are the directory and its parent. */
    for (size_t i = (size_t)offset; i < 2 || sp_ksm_file(i - 2, &f); i++) {
        fuse_ino_t number = i < 2 ? FUSE_ROOT_ID : FIRST_FILE + i - 2;
        struct stat st = {.st_ino = number, .st_mode = i < 2 ? S_IFDIR : S_IFREG};
        size_t n = fuse_add_direntry(request, buffer + used, size - used,
                                     i == 0   ? "."
                                     : i == 1 ? ".."
                                              : f.name,
                                     &st, (off_t)i + 1);
        if (n > size - used)
            break;
        used += n;
    }
    fuse_reply_buf(request, buffer, used);
    free(buffer);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    struct sp_ksm_file f;
    if (!file_of(inode, &f))
        fuse_reply_err(request, EISDIR);
    else if ((file->flags & O_ACCMODE) != O_RDONLY && f.setting < 0)
        fuse_reply_err(request, EACCES);
    else {
        file->direct_io = 1; /* its size says nothing */
        fuse_reply_open(request, file);
    }
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                    struct fuse_file_info *unused) {
    struct sp_ksm_file f;
    char text[SP_KSM_TEXT_BYTES];
    if (!file_of(inode, &f)) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    size_t length = text_of(fs_of(request)->all, asker(request), &f, text), from = (size_t)offset;
    if (from > length)
        from = length;
    if (size > length - from)
        size = length - from;
    fuse_reply_buf(request, text + from, size);
}

static int file_write(fuse_req_t request, const struct sp_ksm_file *f, const char *text, size_t bytes) {
    struct sessions *all = fs_of(request)->all;
    struct sp_settings_change change = {0};
    uint64_t value;
    int r = f->setting < 0 ? -EACCES : sp_ksm_parse(f, text, bytes, &value);
    if (r)
        return r;
    change.given[f->setting] = true;
    change.values.v[f->setting] = value;
    r = control_change(all, asker(request), fuse_req_ctx(request)->pid, NULL, &change);
    /* While it is the advisor's; merge_across_nodes has the kernel's EBUSY. */
    return r == -EBUSY && f->setting == SP_SETTING_pages_to_scan ? -EINVAL : r;
}

/* Wherever it is written, it is the value. */
static void on_write(fuse_req_t request, fuse_ino_t inode, const char *text, size_t bytes, off_t offset,
                     struct fuse_file_info *unused) {
    struct sp_ksm_file f;
    size_t taken = bytes < FILE_BYTES ? bytes : FILE_BYTES;
    int r = file_of(inode, &f) ? file_write(request, &f, text, taken) : -EISDIR;
    if (r)
        fuse_reply_err(request, -r);
    else
        fuse_reply_write(request, taken);
}

static void on_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *unused) {
    fuse_reply_err(request, EACCES);
}

static void on_make(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode) {
    fuse_reply_err(request, EPERM);
}

static void on_make_node(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device) {
    fuse_reply_err(request, S_ISREG(mode) ? EACCES : EPERM);
}

static void on_remove(fuse_req_t request, fuse_ino_t parent, const char *name) {
    fuse_reply_err(request, EPERM);
}

static void on_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags) {
    fuse_reply_err(request, EPERM);
}

static void on_symlink(fuse_req_t request, const char *link, fuse_ino_t parent, const char *name) {
    fuse_reply_err(request, EPERM);
}

static void on_link(fuse_req_t request, fuse_ino_t inode, fuse_ino_t new_parent, const char *name) {
    fuse_reply_err(request, EPERM);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .readdir = on_readdir,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .create = on_create,
    .mkdir = on_make,
    .mknod = on_make_node,
    .unlink = on_remove,
    .rmdir = on_remove,
    .rename = on_rename,
    .symlink = on_symlink,
    .link = on_link,
};

/* ---- the loop ---- */

/* Requests that are answered before others have their turn. */
#define TURN_REQUESTS 16

static void ksmfs_ready(struct source *source, uint32_t events) {
    struct ksmfs *fs = (struct ksmfs *)source;
    for (int i = 0; i < TURN_REQUESTS; i++) {
        int r = fuse_session_receive_buf(fs->fuse, &fs->buffer);
        if (r == -EINTR)
            continue;
        if (r == -EAGAIN)
            return;
        if (r <= 0 || fuse_session_exited(fs->fuse)) {
            if (!fs->view)
                log_line("the files of KSM are served no more: somebody has unmounted them");
            fs->ended = true;
            host_poll_remove(fs->all->poll_fd, &fs->source);
            return;
        }
        fuse_session_process_buf(fs->fuse, &fs->buffer);
    }
}

/*
 * Nothing may be hidden by the files: they need an empty directory. (Root may mount anything on anything.)
 * One that was killed leaves a mount there that nobody serves, which goes first.
 */
static int check_directory(const char *directory) {
    struct stat st;
    if (stat(directory, &st) != 0 && errno == ENOTCONN)
        (void)umount2(directory, MNT_DETACH);
    DIR *d = opendir(directory);
    if (!d)
        return -errno;
    size_t entries = 0;
    while (readdir(d))
        entries++;
    closedir(d);
    return entries > 2 ? -ENOTEMPTY : 0; /* itself and its parent */
}

/* Others than the daemon's user may use the files where they may use the daemon, and where the system lets a
 * mount be for others. */
static int session_make(struct ksmfs *fs) {
    char name[] = "samepaged", option[] = "-o", all[] = "fsname=samepage,subtype=ksm,allow_other",
         own[] = "fsname=samepage,subtype=ksm";
    char *argv[] = {name, option, geteuid() == 0 ? all : own, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    fs->fuse = fuse_session_new(&args, &operations, sizeof operations, fs);
    fuse_opt_free_args(&args);
    return fs->fuse ? 0 : -EINVAL;
}

/* Joins the loop, mounted at `where`: a directory, or "/dev/fd/N" for a descriptor that is taken over. */
static int session_mount(struct ksmfs *fs, const char *where) {
    errno = 0;
    if (fuse_session_mount(fs->fuse, where))
        return errno ? -errno : -EIO;
    fs->source.fd = fuse_session_fd(fs->fuse);
    int r = host_no_blocking(fs->source.fd);
    return r ? r : host_poll_add(fs->all->poll_fd, &fs->source, EPOLLIN);
}

static int ksmfs_make(struct sessions *all, uid_t uid, struct ksmfs **ret_fs) {
    struct ksmfs *fs = calloc(1, sizeof *fs);
    if (!fs)
        return -ENOMEM;
    *fs = (struct ksmfs){.source = {.fd = -1, .ready = ksmfs_ready}, .all = all, .uid = uid};
    clock_gettime(CLOCK_REALTIME, &fs->since);
    int r = session_make(fs);
    if (r)
        ksmfs_free(fs);
    else
        *ret_fs = fs;
    return r;
}

int ksmfs_new(struct sessions *all, const char *directory, struct ksmfs **ret_fs) {
    struct ksmfs *fs;
    int r = check_directory(directory);
    if (!r)
        r = ksmfs_make(all, geteuid(), &fs);
    if (r)
        return r;
    r = session_mount(fs, directory);
    if (r)
        ksmfs_free(fs);
    else
        *ret_fs = fs;
    return r;
}

void ksmfs_free(struct ksmfs *fs) {
    if (!fs)
        return;
    if (fs->fuse) {
        fuse_session_unmount(fs->fuse);
        fuse_session_destroy(fs->fuse);
    }
    free(fs->buffer.mem);
    free(fs);
}

/* ---- views ---- */

/* Each is a descriptor. Who controls the daemon has some that the others together cannot take. */
#define VIEWS_MAX         128
#define VIEWS_SPARE       16
#define VIEWS_OF_USER_MAX 32

static bool views_full(const struct sessions *all, uid_t uid) {
    size_t n = 0, of_user = 0;
    for (const struct ksmfs *fs = all->views; fs; fs = fs->next, n++)
        of_user += fs->uid == uid;
    return n >= VIEWS_MAX + (control_controls(uid) ? VIEWS_SPARE : 0) ||
           (uid != 0 && of_user >= VIEWS_OF_USER_MAX);
}

int ksmfs_view_new(struct sessions *all, int fd, uid_t uid) {
    struct ksmfs *fs;
    char where[32];
    int own, r = views_full(all, uid) ? -EUSERS : host_fuse_clone(fd, &own);
    if (!r) {
        r = ksmfs_make(all, uid, &fs);
        if (r)
            (void)sp_close(own);
    }
    if (r)
        return r;
    fs->view = true;
    snprintf(where, sizeof where, "/dev/fd/%d", own);
    r = session_mount(fs, where);
    if (r) {
        ksmfs_free(fs);
        return r;
    }
    fs->next = all->views;
    all->views = fs;
    return 0;
}

static void views_free(struct sessions *all, bool ended_only) {
    for (struct ksmfs **at = &all->views, *fs; (fs = *at);) {
        if (ended_only && !fs->ended) {
            at = &fs->next;
            continue;
        }
        *at = fs->next;
        ksmfs_free(fs);
    }
}

void ksmfs_views_collect(struct sessions *all) {
    views_free(all, true);
}

void ksmfs_views_deinit(struct sessions *all) {
    views_free(all, false);
}
