/* SPDX-License-Identifier: MIT */
/*
 * The page of `samepage estimate --html`: estimate_page.html with the JSON in it, nothing else to load. The
 * page is written beside the file that it shall be, and takes its name when it is on the disk: a full disk or
 * a crash leaves the old one. What is no ordinary file (a terminal, a pipe) is written to as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/estimate.h"
#include "cli/estimate_page.h"

#define MAPPINGS_MAX 300
#define PLACE        "@DATA@"

/* Where a page goes. */
struct target {
    bool replace;                 /* an ordinary file, or nothing yet: by another name first */
    char path[PATH_MAX];          /* without symbolic links */
    char temporary[PATH_MAX + 8]; /* "PATH.XXXXXX" */
    char directory[PATH_MAX];
};

static int find_target(const char *path, struct target *t) {
    struct stat st;
    bool there = !stat(path, &st);
    if (!there && errno != ENOENT)
        return -errno;
    if (there && S_ISDIR(st.st_mode))
        return -EISDIR;
    t->replace = !there || S_ISREG(st.st_mode);
    if (there && t->replace && !realpath(path, t->path))
        return -errno;
    if (!(there && t->replace) && snprintf(t->path, sizeof t->path, "%s", path) >= (int)sizeof t->path)
        return -ENAMETOOLONG;
    snprintf(t->temporary, sizeof t->temporary, "%s.XXXXXX", t->path);
    const char *slash = strrchr(t->path, '/');
    snprintf(t->directory, sizeof t->directory, "%.*s", slash ? (int)(slash - t->path) + 1 : 1,
             slash ? t->path : ".");
    return 0;
}

int sp_estimate_html_check(const char *path) {
    struct target t;
    int error = find_target(path, &t);
    if (error)
        return error;
    return access(t.replace ? t.directory : t.path, W_OK) ? -errno : 0;
}

/* The only letter of JSON that means something to HTML stands in texts only, where it can be written
 * otherwise. */
static void put_json(FILE *f, const char *json) {
    for (const char *p = json; *p; p++) {
        if (*p == '<')
            fputs("\\u003c", f);
        else
            fputc(*p, f);
    }
}

static int put_page(FILE *f, const struct sp_estimate_report *r) {
    json_t *root = sp_estimate_json(r, MAPPINGS_MAX);
    char *json = root ? json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(root);
    if (!json)
        return -ENOMEM;
    const char *place = strstr(sp_estimate_page, PLACE);
    fwrite(sp_estimate_page, 1, (size_t)(place - sp_estimate_page), f);
    put_json(f, json);
    fputs(place + strlen(PLACE), f);
    free(json);
    return 0;
}

/* Closes it; 0 when all of it has been written, and, with `sync`, is on the disk. */
static int finish(FILE *f, int error, bool sync) {
    if (!error && (fflush(f) || ferror(f)))
        error = errno ? -errno : -EIO;
    if (!error && sync && fsync(fileno(f)))
        error = -errno;
    if (fclose(f) && !error)
        error = -errno;
    return error;
}

/* The new name must reach the disk, too; where a directory cannot be synced it will by itself. */
static void sync_directory(const char *directory) {
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
}

static int open_temporary(struct target *t) {
    struct stat st;
    int fd = mkostemp(t->temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* As the old one, or as any new file. */
    mode_t mask = umask(0);
    umask(mask);
    (void)fchmod(fd, stat(t->path, &st) ? 0666 & ~mask : st.st_mode & 0777);
    return fd;
}

static int replace(const struct sp_estimate_report *r, struct target *t) {
    int fd = open_temporary(t);
    if (fd < 0)
        return fd;
    FILE *f = fdopen(fd, "w");
    int error = f ? finish(f, put_page(f, r), true) : -errno;
    if (!f)
        (void)close(fd);
    if (!error && rename(t->temporary, t->path))
        error = -errno;
    if (error)
        (void)unlink(t->temporary);
    else
        sync_directory(t->directory);
    return error;
}

int sp_estimate_html(const struct sp_estimate_report *r, const char *path) {
    struct target t;
    int error = find_target(path, &t);
    if (error)
        return error;
    if (t.replace)
        return replace(r, &t);
    FILE *f = fopen(t.path, "we");
    return f ? finish(f, put_page(f, r), false) : -errno;
}
