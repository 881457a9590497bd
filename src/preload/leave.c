/* SPDX-License-Identifier: MIT */
/*
 * Programs that are built with a sanitizer whose runtime is a shared library (gcc's default): it insists on
 * being the first library, and its malloc must be the program's. Neither is so with us, or an allocator, in
 * LD_PRELOAD; without the check its reports would silently be missing. So such a program is executed anew
 * without us, before any of it has run. What it starts later is without us, too.
 *
 * The list of libraries is read from the dynamic linker's own: all functions that could be asked are among
 * those that such a runtime replaces, and it has not started yet.
 */
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>

#include "preload/shim.h"

#define VARIABLE "LD_PRELOAD="

static const char *const runtimes[] = {"libasan.so", "libtsan.so", "liblsan.so", "libhwasan.so",
                                       "libclang_rt.asan"};

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool is_runtime(const char *path) {
    const char *name = base_name(path);
    for (size_t i = 0; i < sizeof(runtimes) / sizeof(*runtimes); i++)
        if (!strncmp(name, runtimes[i], strlen(runtimes[i])))
            return true;
    return false;
}

static bool has_runtime(void) {
    for (const struct link_map *l = _r_debug.r_map; l; l = l->l_next)
        if (l->l_name && is_runtime(l->l_name))
            return true;
    return false;
}

/* Takes out of the list, in place, what `samepage run` has put there: ours, and the allocator at its end.
 * False: ours is not there. */
static bool list_restore(char *list) {
    char *ours = strstr(list, "libsamepage-preload.so");
    if (!ours)
        return false;
    char *end = ours + strcspn(ours, ": ");
    while (ours > list && !strchr(": ", ours[-1]))
        ours--;
    memmove(ours, *end ? end + 1 : end, strlen(*end ? end + 1 : end) + 1);
    char *last = list + strlen(list);
    while (last > list && !strchr(": ", last[-1]))
        last--;
    const char *name = base_name(last);
    if (!strncmp(name, "libmimalloc.so", 14) || !strncmp(name, "libjemalloc.so", 14))
        last[last > list ? -1 : 0] = '\0';
    return true;
}

/* By the name that it was executed by, where that still leads to it: it is the process's name, too. */
static const char *own_path(void) {
    const char *name = (const char *)getauxval(AT_EXECFN);
    struct stat by_name, own;
    bool same = name && sp_syscall(SYS_newfstatat, AT_FDCWD, name, &by_name, 0) == 0 &&
                sp_syscall(SYS_newfstatat, AT_FDCWD, "/proc/self/exe", &own, 0) == 0 &&
                by_name.st_dev == own.st_dev && by_name.st_ino == own.st_ino;
    return same ? name : "/proc/self/exe";
}

/* The entry of LD_PRELOAD; NULL: there is none. */
static char **preload_entry(char **environment) {
    while (*environment && strncmp(*environment, VARIABLE, strlen(VARIABLE)))
        environment++;
    return *environment ? environment : NULL;
}

/* Executes the program anew, with `entry` in place of the one that is there, or with none where nothing is
 * left in it. Where that fails the environment is as it was, for the program to run on with. */
static void execute(char **argv, char **environment, char **at, char *entry) {
    char *was = *at;
    size_t behind = 1; /* entries after this one, the NULL at the end included */
    while (at[behind])
        behind++;
    bool empty = !entry[strlen(VARIABLE)];
    if (empty)
        memmove(at, at + 1, behind * sizeof(*at));
    else
        *at = entry;
    sp_syscall(SYS_execve, own_path(), argv, environment);
    if (empty)
        memmove(at + 1, at, behind * sizeof(*at));
    *at = was;
}

void leave_if_sanitized(char **argv, char **environment) {
    char **at = preload_entry(environment);
    char entry[4096];
    /* Without AT_BASE: started by the dynamic linker as a command, which has taken its own arguments away:
     * nothing to go by. */
    if (!at || !has_runtime() || !getauxval(AT_BASE) || strlen(*at) >= sizeof(entry))
        return;
    memcpy(entry, *at, strlen(*at) + 1);
    if (list_restore(entry + strlen(VARIABLE)))
        execute(argv, environment, at, entry);
}
