/* SPDX-License-Identifier: MIT */
/*
 * Programs that count their threads (H10): chromium's zygote asks for the number of links of /proc/self/task
 * and ends itself unless it is alone; the Rust crate num_threads lists that directory. The program comes
 * first: where the worker is the only thread besides, it is gone before the answer is given (single.c), and
 * stays away, since nothing tells when the program is done with being alone. What is merged stays merged, and
 * children have a worker of their own again.
 *
 * No path is looked at. The call is made, and what it found is judged, so that each way of writing the path
 * is covered, and bad pointers stay the kernel's to refuse. Whatever is no directory with four links costs
 * two comparisons. The names with an x are those of programs built before version 2.33 of the C library.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "preload/names.h"
#include "preload/shim.h"

/* Itself, its parent, and one for each thread. */
#define LINKS_OF_TWO 4

static bool is_own_tasks(const struct stat *seen) {
    struct stat own;
    return sp_syscall(SYS_newfstatat, AT_FDCWD, "/proc/self/task", &own, 0) == 0 &&
           own.st_dev == seen->st_dev && own.st_ino == seen->st_ino;
}

/* Whether the worker was counted, and is gone now. */
static bool was_counted(const struct stat *seen) {
    return S_ISDIR(seen->st_mode) && seen->st_nlink == LINKS_OF_TWO && shim.engine && is_own_tasks(seen) &&
           single_make_room();
}

/* struct stat64 is the same. */
#define PATH const char *path, struct stat *seen
#define AT   int fd, const char *path, struct stat *seen, int flags
/* Name, version, parameters, arguments. */
#define COUNTED(X)                                                                                           \
    X(stat, NULL, (PATH), (path, seen))                                                                      \
    X(stat64, NULL, (PATH), (path, seen))                                                                    \
    X(fstatat, NULL, (AT), (fd, path, seen, flags))                                                          \
    X(fstatat64, NULL, (AT), (fd, path, seen, flags))                                                        \
    X(__xstat, "GLIBC_2.2.5", (int kind, PATH), (kind, path, seen))                                          \
    X(__xstat64, "GLIBC_2.2.5", (int kind, PATH), (kind, path, seen))                                        \
    X(__fxstatat, "GLIBC_2.4", (int kind, AT), (kind, fd, path, seen, flags))                                \
    X(__fxstatat64, "GLIBC_2.4", (int kind, AT), (kind, fd, path, seen, flags))

#define DEFINE(name, version, parameters, arguments)                                                         \
    SHIM_NEXT(int, name, -1, parameters, arguments)                                                          \
    int names_##name parameters SHIM_NAME(#name);                                                            \
    int names_##name parameters {                                                                            \
        int r = next_##name arguments;                                                                       \
        return r == 0 && was_counted(seen) ? next_##name arguments : r;                                      \
    }
COUNTED(DEFINE)

SHIM_NEXT(DIR *, opendir, NULL, (const char *path), (path))

/* Who lists the directory begins to do so after this. */
DIR *names_opendir(const char *path) SHIM_NAME("opendir");
DIR *names_opendir(const char *path) {
    struct stat seen;
    DIR *d = next_opendir(path);
    if (d && single_is_near() && sp_syscall(SYS_fstat, dirfd(d), &seen) == 0)
        (void)was_counted(&seen);
    return d;
}

#define FIND(name, version, parameters, arguments) SHIM_FIND(name, version);
void counted_init(void) {
    COUNTED(FIND)
    SHIM_FIND(opendir, NULL);
}
