/* SPDX-License-Identifier: MIT */
/* The program that `samepage run` is to run: where it is, and whether it can be merged. */
#ifndef SP_CLI_PROGRAM_H
#define SP_CLI_PROGRAM_H

#include <limits.h>
#include <sys/types.h>

#include "core/types.h"

/*
 * Finds `name` as a shell does: a name with a slash is a path, others are looked for in PATH. 0; -ENOENT: not
 * found; -EACCES: found, but not executable; -EISDIR; -ENOTDIR, -ELOOP, -ENAMETOOLONG: the path is wrong.
 */
SP_WARN_UNUSED int sp_program_find(const char *name, char ret_path[PATH_MAX]);

/* Why the dynamic linker will not load our library into a program. */
enum sp_program_kind {
    SP_PROGRAM_FINE,
    SP_PROGRAM_STATIC,  /* an ELF file without an interpreter */
    SP_PROGRAM_FOREIGN, /* an ELF file of another architecture or word size */
    SP_PROGRAM_SETUID,  /* set-user-id or set-group-id: the linker ignores LD_PRELOAD (ld.so(8)) */
};

/* Looks at a file; a script ("#!") counts as its interpreter. What cannot be read is taken to be fine: the
 * kernel will have the last word. */
enum sp_program_kind sp_program_kind(const char *path);
const char *sp_program_kind_text(enum sp_program_kind kind);

/* Becomes the program (execve(2)); a text file without "#!" is given to /bin/sh, as execvp(3) does. Returns
 * only on failure: a negative errno. */
SP_WARN_UNUSED int sp_program_exec(const char *path, char **argv);

/* Runs the program as a child, which calls `prepare` first. 0 once it is that program; a negative errno when
 * it could not become it: then there is no child. */
SP_WARN_UNUSED int sp_program_start(const char *path, char **argv, void (*prepare)(void *ctx), void *ctx,
                                    pid_t *ret_child);

#endif
