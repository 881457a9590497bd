/* SPDX-License-Identifier: MIT */
/*
 * Looked for where Debian puts libraries, by the name that stays when a package is updated.
 *
 * GLib before 2.76 cuts small blocks from slices of its own, 496 bytes at multiples of 512, for each of which
 * mimalloc takes 1024. GLib's own variable makes it leave them to malloc, as later releases do in any case.
 */
#include "cli/heap.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct sp_heap heaps[] = {
    {"mimalloc", "libmimalloc.so.2", "libmimalloc2.0", "G_SLICE", "always-malloc"},
    {"jemalloc", "libjemalloc.so.2", "libjemalloc2", NULL, NULL},
    {"none", NULL, NULL, NULL, NULL},
};

static const char *const directories[] = {"/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64",
                                          "/usr/lib"};

const struct sp_heap *sp_heap_find(const char *name) {
    for (size_t i = 0; i < sizeof(heaps) / sizeof(*heaps); i++)
        if (!strcmp(heaps[i].name, name))
            return &heaps[i];
    return NULL;
}

int sp_heap_path(const struct sp_heap *heap, char ret_path[PATH_MAX]) {
    for (size_t i = 0; i < sizeof(directories) / sizeof(*directories); i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/%s", directories[i], heap->file);
        if (access(path, R_OK))
            continue;
        memcpy(ret_path, path, strlen(path) + 1);
        return 0;
    }
    return -ENOENT;
}
