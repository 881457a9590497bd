/* SPDX-License-Identifier: MIT */
/* See places.h. */
#include "cli/places.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire/control.h"

#define SYSTEM_SOCKET  "/run/samepage/socket"
#define ROOT_DIRECTORY "/run/samepage-run"
#define PRIVATE_PREFIX "samepage-"
#define SERVES_MS      500

/* --- Our files -------------------------------------------------------------------------------------- */

static int own_directory(char ret_path[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", ret_path, PATH_MAX - 1);
    if (n <= 0)
        return -ENOENT;
    ret_path[n] = 0;
    *strrchr(ret_path, '/') = 0;
    return 0;
}

/* The first of `candidates` that exists; those that begin with '/' are full paths, others are relative to
 * this program's directory. */
static int first_file(const char *const *candidates, size_t n, int mode, char ret_path[PATH_MAX]) {
    char own[PATH_MAX], path[2 * PATH_MAX];
    int r = own_directory(own);
    for (size_t i = 0; i < n; i++) {
        bool full = candidates[i][0] == '/';
        if (!full && r)
            continue;
        snprintf(path, sizeof path, "%s%s%s", full ? "" : own, full ? "" : "/", candidates[i]);
        if (!access(path, mode) && realpath(path, ret_path))
            return 0;
    }
    return -ENOENT;
}

int sp_place_preload(char ret_path[PATH_MAX]) {
    static const char *const candidates[] = {
        "src/preload/" SP_PRELOAD_NAME,
        SP_PRELOAD_NAME,
        SP_LIBDIR_FROM_BINDIR "/samepage/" SP_PRELOAD_NAME,
        "../lib/samepage/" SP_PRELOAD_NAME,
        SP_LIBDIR "/samepage/" SP_PRELOAD_NAME,
    };
    return first_file(candidates, sizeof candidates / sizeof *candidates, R_OK, ret_path);
}

int sp_place_daemon(char ret_path[PATH_MAX]) {
    static const char *const candidates[] = {"samepaged", "../sbin/samepaged", SP_BINDIR "/samepaged"};
    return first_file(candidates, sizeof candidates / sizeof *candidates, X_OK, ret_path);
}

int sp_place_bench(char ret_path[PATH_MAX]) {
    static const char *const candidates[] = {
        "bench/run.py",
        SP_LIBEXECDIR_FROM_BINDIR "/samepage/bench/run.py",
        SP_LIBEXECDIR "/samepage/bench/run.py",
    };
    return first_file(candidates, sizeof candidates / sizeof *candidates, R_OK, ret_path);
}

/* --- Sockets ---------------------------------------------------------------------------------------- */

/* Our own or root's: su(1) and sudo(8) may leave the variable as it was for another user, who could put
 * anything there. */
static const char *runtime_directory(void) {
    const char *directory = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    bool good = directory && directory[0] == '/' && !stat(directory, &st) &&
                (st.st_uid == 0 || st.st_uid == geteuid());
    return good ? directory : NULL;
}

/* Too long a path cannot be a socket's: passed over. */
static int add(struct sp_sockets *s, const char *path, bool private) {
    if (strlen(path) >= SP_SOCKET_PATH_BYTES)
        return 0;
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->place[i].path, path))
            return 0;
    struct sp_socket_place *place = reallocarray(s->place, s->n + 1, sizeof *place);
    if (!place)
        return -ENOMEM;
    s->place = place;
    strcpy(place[s->n].path, path);
    place[s->n++].private = private;
    return 0;
}

void sp_sockets_deinit(struct sp_sockets *s) {
    free(s->place);
    *s = (struct sp_sockets){0};
}

int sp_sockets_system(struct sp_sockets *ret_sockets) {
    struct sp_sockets s = {0};
    int r = 0;
    if (runtime_directory()) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/samepage/socket", runtime_directory());
        r = add(&s, path, false);
    }
    if (!r)
        r = add(&s, SYSTEM_SOCKET, false);
    if (r)
        sp_sockets_deinit(&s);
    else
        *ret_sockets = s;
    return r;
}

static bool is_own_socket(const char *path) {
    struct stat st;
    return !lstat(path, &st) && S_ISSOCK(st.st_mode) && st.st_uid == geteuid();
}

static int add_private(struct sp_sockets *s, const char *directory) {
    char pattern[PATH_MAX];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/" PRIVATE_PREFIX "*/socket", directory);
    int r = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (r)
        return r == GLOB_NOSPACE ? -ENOMEM : 0;
    for (size_t i = 0; i < found.gl_pathc && !r; i++)
        if (is_own_socket(found.gl_pathv[i]))
            r = add(s, found.gl_pathv[i], true);
    globfree(&found);
    return r;
}

int sp_sockets_all(struct sp_sockets *ret_sockets) {
    struct sp_sockets s;
    int r = sp_sockets_system(&s);
    if (r)
        return r;
    if (runtime_directory())
        r = add_private(&s, runtime_directory());
    if (!r)
        r = add_private(&s, ROOT_DIRECTORY);
    if (!r)
        r = add_private(&s, "/tmp");
    if (!r)
        r = add_private(&s, "/dev/shm");
    if (r)
        sp_sockets_deinit(&s);
    else
        *ret_sockets = s;
    return r;
}

int sp_socket_serves(const char *path) {
    struct sp_status *status;
    int r = sp_control_status(path, SERVES_MS, &status);
    if (!r)
        sp_status_free(status);
    return r == -ETIMEDOUT ? 0 : r;
}

const char *sp_socket_why(int error) {
    switch (error) {
    case -ENOENT:
        return "there is no such socket; start 'samepaged --socket PATH', or leave the socket out";
    case -ECONNREFUSED:
    case -ENOTSOCK:
        return "no daemon listens there; start 'samepaged --socket PATH', or leave the socket out";
    case -EACCES:
        return "permission denied: it is another user's daemon, or serves others only";
    case -EPROTO:
    case -EPROTOTYPE:
        return "what listens there is not a samepaged of this version";
    case -ETIMEDOUT:
        return "no answer in time; see whether that daemon hangs or is another program";
    case -ENAMETOOLONG:
        return "the path is too long for a socket (107 bytes at most)";
    default:
        return strerror(-error);
    }
}

/* --- Directories of private daemons ------------------------------------------------------------------ */

static int directory_in(const char *base, char ret_path[SP_SOCKET_PATH_BYTES]) {
    char path[SP_SOCKET_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/" PRIVATE_PREFIX "XXXXXX", base);
    if (n < 0 || (size_t)n + sizeof "/socket" > sizeof path)
        return -ENAMETOOLONG;
    if (!mkdtemp(path))
        return -errno;
    strcpy(ret_path, path);
    return 0;
}

/* Whether the kernel tells, by a lease, that somebody maps a file there (fcntl(2)): overlayfs, which
 * containers have for a root, takes a mapped file for unused, others know no leases. */
static bool tells_of_mappings(const char *directory) {
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), again = -1;
    if (fd < 0)
        return false;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    void *mapping = mmap(NULL, SP_PAGE_SIZE, PROT_NONE, MAP_SHARED, fd, 0);
    if (mapping != MAP_FAILED)
        again = open(path, O_RDONLY | O_CLOEXEC);
    close(fd);
    bool tells = again >= 0 && fcntl(again, F_SETLEASE, F_WRLCK) < 0 && errno == EAGAIN;
    if (again >= 0)
        close(again);
    if (mapping != MAP_FAILED)
        munmap(mapping, SP_PAGE_SIZE);
    return tells;
}

int sp_private_directory(char ret_path[SP_SOCKET_PATH_BYTES]) {
    const char *bases[4];
    size_t n = 0;
    int r = -ENOENT;
    if (runtime_directory())
        bases[n++] = runtime_directory();
    if (!geteuid() && (!mkdir(ROOT_DIRECTORY, 0711) || errno == EEXIST))
        bases[n++] = ROOT_DIRECTORY;
    bases[n++] = "/tmp";
    bases[n++] = "/dev/shm";
    for (size_t i = 0; i < n; i++)
        if (tells_of_mappings(bases[i]) && !directory_in(bases[i], ret_path))
            return 0;
    for (size_t i = 0; i < n; i++) {
        r = directory_in(bases[i], ret_path);
        if (!r)
            return 0;
    }
    return r;
}
