/* SPDX-License-Identifier: MIT */
/*
 * Whose malloc a command gets. The C library's own maps and unmaps memory by calls that nobody can stand in
 * front of, so that its heap is never merged (H1); an allocator library's calls go through the C library's
 * names, and our shim. docs/heap.md has the figures.
 */
#ifndef SP_CLI_HEAP_H
#define SP_CLI_HEAP_H

#include <limits.h>

#include "core/types.h"

/* What --heap may name, for the help. */
#define SP_HEAP_NAMES        "mimalloc, jemalloc or none"
#define SP_HEAP_DEFAULT_NAME "mimalloc"

struct sp_heap {
    const char *name;    /* as --heap has it */
    const char *file;    /* of the library; NULL: the C library's own heap */
    const char *package; /* Debian's */
    /* What goes with it into the environment, unless there is something already; NULL: nothing. */
    const char *variable, *value;
};

/* The one of that name; NULL: there is none. */
const struct sp_heap *sp_heap_find(const char *name);

/* The path of its library. -ENOENT: not installed. Only for one that has a file. */
SP_WARN_UNUSED int sp_heap_path(const struct sp_heap *heap, char ret_path[PATH_MAX]);

#endif
