/* SPDX-License-Identifier: MIT */
/*
 * RTLD_DEEPBIND: a library that is opened with it finds the C library's malloc and free before those of an
 * allocator that stands in LD_PRELOAD, and what one part of the program allocates is freed by another's rules
 * (PHP opens its extensions so, and dies). With --all there is such an allocator, which the program has not
 * asked for: so the flag is taken out (loader.S). What is lost is that such a library prefers its own symbols
 * to the program's.
 */
#include <dlfcn.h>
#include <stdbool.h>

#include "preload/shim.h"

void *(*loader_dlopen)(const char *file, int mode);
bool loader_same_heap;

/* Where a symbol's library is mapped. Symbols that are always there: a failing dlsym would call malloc. */
static const void *library_of(const char *symbol) {
    Dl_info info;
    return dladdr(dlsym(RTLD_DEFAULT, symbol), &info) ? info.dli_fbase : NULL;
}

void loader_init(bool all) {
    loader_dlopen = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    loader_same_heap = all && library_of("malloc") != library_of("gnu_get_libc_version");
}
