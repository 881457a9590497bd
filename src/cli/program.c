/* SPDX-License-Identifier: MIT */
/* See program.h. */
#include "cli/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPTS_MAX 5 /* as the kernel: a script's interpreter may be a script, and so on */

/* --- Finding ---------------------------------------------------------------------------------------- */

static int usable(const char *path) {
    struct stat st;
    if (stat(path, &st))
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    return access(path, X_OK) ? -errno : 0;
}

static int find_in_path(const char *name, const char *path, char ret_path[PATH_MAX]) {
    char candidate[PATH_MAX];
    int result = -ENOENT;
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, ":");
        /* An empty entry is the current directory. */
        int length = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)n, p, n ? "/" : "./", name);
        int r = length < (int)sizeof candidate ? usable(candidate) : -ENAMETOOLONG;
        if (!r) {
            strcpy(ret_path, candidate);
            return 0;
        }
        if (r == -EACCES)
            result = r;
        p += n;
        if (!*p)
            return result;
    }
}

int sp_program_find(const char *name, char ret_path[PATH_MAX]) {
    char standard[256] = "/bin:/usr/bin";
    if (!*name)
        return -ENOENT;
    if (strlen(name) >= PATH_MAX)
        return -ENAMETOOLONG;
    if (strchr(name, '/')) {
        strcpy(ret_path, name);
        return usable(name);
    }
    const char *path = getenv("PATH");
    if (!path)
        confstr(_CS_PATH, standard, sizeof standard);
    return find_in_path(name, path ? path : standard, ret_path);
}

/* --- Looking at it ----------------------------------------------------------------------------------- */

static bool has_interpreter(int fd, const Elf64_Ehdr *e) {
    for (unsigned i = 0; i < e->e_phnum; i++) {
        Elf64_Phdr p;
        off_t at = (off_t)(e->e_phoff + (uint64_t)i * e->e_phentsize);
        if (pread(fd, &p, sizeof p, at) != sizeof p)
            return true;
        if (p.p_type == PT_INTERP)
            return true;
    }
    return false;
}

/* The word size and machine that we were built for ourselves. */
static bool is_native(const Elf64_Ehdr *e) {
    Elf64_Ehdr own;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    bool read_own = fd >= 0 && pread(fd, &own, sizeof own, 0) == sizeof own;
    if (fd >= 0)
        close(fd);
    return !read_own || (own.e_ident[EI_CLASS] == e->e_ident[EI_CLASS] && own.e_machine == e->e_machine);
}

static enum sp_program_kind elf_kind(int fd, const Elf64_Ehdr *e) {
    struct stat st;
    if (!is_native(e))
        return SP_PROGRAM_FOREIGN;
    if (!has_interpreter(fd, e))
        return SP_PROGRAM_STATIC;
    bool changes = !fstat(fd, &st) && ((st.st_mode & S_ISUID && st.st_uid != getuid()) ||
                                       (st.st_mode & S_ISGID && st.st_gid != getgid()));
    return changes ? SP_PROGRAM_SETUID : SP_PROGRAM_FINE;
}

/* "#! /usr/bin/env python3": the first word. */
static bool script_interpreter(const char *line, char ret_path[PATH_MAX]) {
    if (strncmp(line, "#!", 2) != 0)
        return false;
    line += 2 + strspn(line + 2, " \t");
    size_t n = strcspn(line, " \t\n");
    if (!n || n >= PATH_MAX)
        return false;
    memcpy(ret_path, line, n);
    ret_path[n] = 0;
    return true;
}

static enum sp_program_kind kind_of(const char *path, int scripts_left) {
    char head[256] = "", interpreter[PATH_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return SP_PROGRAM_FINE;
    enum sp_program_kind kind = SP_PROGRAM_FINE;
    ssize_t n = pread(fd, head, sizeof head - 1, 0);
    Elf64_Ehdr e;
    if (n >= (ssize_t)sizeof e && !memcmp(head, ELFMAG, SELFMAG)) {
        memcpy(&e, head, sizeof e);
        kind = elf_kind(fd, &e);
    } else if (n > 2 && scripts_left && script_interpreter(head, interpreter)) {
        kind = kind_of(interpreter, scripts_left - 1);
    }
    close(fd);
    return kind;
}

enum sp_program_kind sp_program_kind(const char *path) {
    return kind_of(path, SCRIPTS_MAX);
}

const char *sp_program_kind_text(enum sp_program_kind kind) {
    switch (kind) {
    case SP_PROGRAM_STATIC:
        return "is statically linked";
    case SP_PROGRAM_FOREIGN:
        return "is built for another architecture";
    case SP_PROGRAM_SETUID:
        return "changes its user or group when it starts";
    case SP_PROGRAM_FINE:
        break;
    }
    return "";
}

/* --- Becoming it ------------------------------------------------------------------------------------- */

static int exec_by_shell(const char *path, char **argv) {
    size_t n = 0;
    while (argv[n])
        n++;
    char **shell_argv = reallocarray(NULL, n + 2, sizeof *shell_argv);
    if (!shell_argv)
        return -ENOMEM;
    char shell[] = "/bin/sh";
    char *file = strdup(path);
    shell_argv[0] = shell;
    shell_argv[1] = file;
    memcpy(&shell_argv[2], &argv[1], n * sizeof *argv); /* the NULL at the end included */
    int r = -ENOMEM;
    if (file) {
        execv(shell, shell_argv);
        r = -errno;
    }
    free(file);
    free(shell_argv);
    return r;
}

int sp_program_exec(const char *path, char **argv) {
    execv(path, argv);
    return errno == ENOEXEC ? exec_by_shell(path, argv) : -errno;
}

/* What went wrong comes through a pipe, which a successful exec closes. */
int sp_program_start(const char *path, char **argv, void (*prepare)(void *ctx), void *ctx, pid_t *ret_child) {
    int report[2], error = 0;
    if (pipe2(report, O_CLOEXEC))
        return -errno;
    pid_t child = fork();
    if (child < 0) {
        error = -errno;
        close(report[0]);
        close(report[1]);
        return error;
    }
    if (!child) {
        close(report[0]);
        prepare(ctx);
        error = sp_program_exec(path, argv);
        _exit(write(report[1], &error, sizeof error) == sizeof error ? 0 : 1);
    }
    close(report[1]);
    ssize_t n;
    while ((n = read(report[0], &error, sizeof error)) < 0 && errno == EINTR)
        ;
    close(report[0]);
    if (n == sizeof error) {
        waitpid(child, NULL, 0);
        return error;
    }
    *ret_child = child;
    return 0;
}
