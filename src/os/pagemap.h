/* SPDX-License-Identifier: MIT */
/*
 * Which pages were written, are present, are private again: PAGEMAP_SCAN on /proc/PID/pagemap
 * (Documentation/admin-guide/mm/pagemap.rst). Walks page tables, never address ranges (H16).
 */
#ifndef SP_OS_PAGEMAP_H
#define SP_OS_PAGEMAP_H

#include "core/types.h"

struct sp_range {
    uint64_t start, end; /* bytes, page aligned */
};

/* Opens the calling *thread group's* pagemap (/proc/self/pagemap), close-on-exec. */
SP_WARN_UNUSED int sp_pagemap_open(int *ret_fd);

/* That of another process (proc_pid_pagemap(5)). -EACCES: another user's; -ENOENT, -ESRCH: it has ended. */
SP_WARN_UNUSED int sp_pagemap_open_of(int pid, int *ret_fd);

enum sp_pagemap_query {
    SP_PAGEMAP_WRITTEN, /* written since armed and present, in ranges registered WP_ASYNC; arms them again */
    SP_PAGEMAP_WRITTEN_SMALL, /* the same, but huge pages are left as they are */
    SP_PAGEMAP_WRITTEN_HUGE,  /* those that were left; arms nothing */
    SP_PAGEMAP_PEEK,          /* the same without arming again */
    SP_PAGEMAP_PRESENT,       /* present pages, whatever they are */
    SP_PAGEMAP_BROKEN, /* (present or swapped) and not file-backed: in a store mapping, a page that a write
                          made private again */
    SP_PAGEMAP_HUGE,   /* present and mapped by a huge page-table entry */
    /* Of mappings, whether anything is present in them or not; what is not mapped is in neither. */
    SP_PAGEMAP_WATCHED,   /* registered WP_ASYNC with a userfaultfd */
    SP_PAGEMAP_UNWATCHED, /* all others; costs next to nothing where there is none */
};

/*
 * Fills `vec` (room for `n`) with ranges of matching pages within [start, end), ascending. *ret_n: how many;
 * *ret_next: where to go on (== end: done). Mappings in the range for which the question makes no sense are
 * passed over. Blocks for the mmap lock of the process only.
 */
SP_WARN_UNUSED int sp_pagemap_scan(int fd, enum sp_pagemap_query query, uint64_t start, uint64_t end,
                                   struct sp_range *vec, size_t n, size_t *ret_n, uint64_t *ret_next);

/* The same for pages [first, last) of a window (address / SP_WINDOW_SIZE), as bits; one call for each 96
 * ranges. Allocates nothing: may be called between freeze and thaw (I5). */
SP_WARN_UNUSED int sp_pagemap_window(int fd, enum sp_pagemap_query query, uint64_t window, unsigned first,
                                     unsigned last, sp_bits *ret_bits);

/* The pages of a window that are SP_PAGEMAP_UNWATCHED, and those of them that are SP_PAGEMAP_BROKEN, in one
 * walk over the page tables. */
SP_WARN_UNUSED int sp_pagemap_unwatched_window(int fd, uint64_t window, sp_bits *ret_unwatched,
                                               sp_bits *ret_broken);

/* Whether there is a page at the address: present, swapped out, or just being migrated by the kernel. Where
 * the kernel is short of memory this goes on until there is an answer; may be called between freeze and thaw
 * (I5). */
bool sp_pagemap_there(int fd, uintptr_t address);

/* The pages of a window (address / SP_WINDOW_SIZE) that are present and used by this process only (bit 56 of
 * their pagemap entries): not shared by fork. One read. */
SP_WARN_UNUSED int sp_pagemap_exclusive_window(int fd, uint64_t window, sp_bits *ret_bits);

/* Of pages [first, last) of a window those that are present, of no file, and used by one process only: whose
 * memory merging could free. One read. -ESRCH: that memory is gone, because the process has ended or become
 * another program. */
SP_WARN_UNUSED int sp_pagemap_private_window(int fd, uint64_t window, unsigned first, unsigned last,
                                             sp_bits *ret_bits);

/* 1 when this process is the only user of the page (bit 56 of its pagemap entry), 0 when not or not present.
 */
SP_WARN_UNUSED int sp_pagemap_exclusive(int fd, sp_page page);

#endif
