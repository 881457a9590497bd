/* SPDX-License-Identifier: MIT */
/*
 * PAGEMAP_SCAN. The kernel's ranges carry categories that we never need (24 bytes); they go through a small
 * buffer on the stack into the caller's 16-byte ones.
 *
 * With PM_SCAN_WP_MATCHING the kernel arms exactly the pages it reports, so a range that has been reported
 * once must reach the caller: an error after the first buffer is kept back, and met again by the next call.
 *
 * PM_SCAN_CHECK_WPASYNC is left out, which would fail the whole scan at the first mapping that is not
 * registered; asking for PAGE_IS_WPALLOWED passes over such mappings instead and leaves them as they are.
 */
#include "os/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/syscall.h"

#define BUFFER_REGIONS 96 /* 2.3 KiB of stack */

struct query {
    uint64_t flags, inverted, mask, any_of, returned;
};

static const struct query queries[] = {
    /* A page that was only read is the kernel's shared page of zeros: there is nothing to gain in it. */
    [SP_PAGEMAP_WRITTEN] = {.flags = PM_SCAN_WP_MATCHING,
                            .inverted = PAGE_IS_PFNZERO,
                            .mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_PFNZERO},
    [SP_PAGEMAP_WRITTEN_SMALL] = {.flags = PM_SCAN_WP_MATCHING,
                                  .inverted = PAGE_IS_PFNZERO | PAGE_IS_HUGE,
                                  .mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_PRESENT |
                                          PAGE_IS_PFNZERO | PAGE_IS_HUGE},
    [SP_PAGEMAP_WRITTEN_HUGE] = {.inverted = PAGE_IS_PFNZERO,
                                 .mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_PRESENT |
                                         PAGE_IS_PFNZERO | PAGE_IS_HUGE},
    [SP_PAGEMAP_PEEK] = {.inverted = PAGE_IS_PFNZERO,
                         .mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_PFNZERO},
    [SP_PAGEMAP_PRESENT] = {.mask = PAGE_IS_PRESENT},
    [SP_PAGEMAP_BROKEN] = {.inverted = PAGE_IS_FILE,
                           .mask = PAGE_IS_FILE,
                           .any_of = PAGE_IS_PRESENT | PAGE_IS_SWAPPED},
    [SP_PAGEMAP_HUGE] = {.mask = PAGE_IS_PRESENT | PAGE_IS_HUGE},
    /* Mappings that do not match are passed over as a whole, without a look at their page tables. */
    [SP_PAGEMAP_WATCHED] = {.mask = PAGE_IS_WPALLOWED},
    [SP_PAGEMAP_UNWATCHED] = {.inverted = PAGE_IS_WPALLOWED, .mask = PAGE_IS_WPALLOWED},
};

/* SP_PAGEMAP_UNWATCHED, and of each what SP_PAGEMAP_BROKEN asks for. */
static const struct query unwatched_query = {
    .inverted = PAGE_IS_WPALLOWED,
    .mask = PAGE_IS_WPALLOWED,
    .returned = PAGE_IS_FILE | PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
};

static int open_path(const char *path, int *ret_fd) {
    int fault = sp_fault("pagemap_open");
    if (fault)
        return fault;
    long fd = sp_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return (int)fd;
    *ret_fd = (int)fd;
    return 0;
}

int sp_pagemap_open(int *ret_fd) {
    return open_path("/proc/self/pagemap", ret_fd);
}

int sp_pagemap_open_of(int pid, int *ret_fd) {
    char path[32];
    snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    return open_path(path, ret_fd);
}

/* Appends to `vec`, joining with the last range where they touch: the kernel's buffer ended there. */
static size_t append(struct sp_range *vec, size_t n, const struct page_region *regions, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (n && vec[n - 1].end == regions[i].start)
            vec[n - 1].end = regions[i].end;
        else
            vec[n++] = (struct sp_range){regions[i].start, regions[i].end};
    }
    return n;
}

/* One call: how many ranges it found, or a negative errno. */
static long scan_once(int fd, const struct query *q, uint64_t start, uint64_t end, struct page_region *vec,
                      size_t n, uint64_t *ret_next) {
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = q->flags,
        .start = start,
        .end = end,
        .vec = (uintptr_t)vec,
        .vec_len = n,
        .category_inverted = q->inverted,
        .category_mask = q->mask,
        .category_anyof_mask = q->any_of,
        .return_mask = q->returned,
    };
    long r = sp_syscall(SYS_ioctl, fd, PAGEMAP_SCAN, &arg);
    if (r >= 0)
        *ret_next = arg.walk_end;
    return r;
}

int sp_pagemap_scan(int fd, enum sp_pagemap_query query, uint64_t start, uint64_t end, struct sp_range *vec,
                    size_t n, size_t *ret_n, uint64_t *ret_next) {
    int fault = sp_fault("pagemap_scan");
    if (fault)
        return fault;
    if (!n)
        return -EINVAL;

    const struct query *q = &queries[query];
    struct page_region buffer[BUFFER_REGIONS];
    size_t filled = 0;
    uint64_t next = start;
    while (next < end && filled < n) {
        size_t room = n - filled < BUFFER_REGIONS ? n - filled : BUFFER_REGIONS;
        long r = scan_once(fd, q, next, end, buffer, room, &next);
        if (r < 0 && !filled)
            return (int)r;
        if (r < 0)
            break;
        filled = append(vec, filled, buffer, (size_t)r);
    }
    *ret_n = filled;
    *ret_next = next;
    return 0;
}

static void mark(sp_bits *bits, uint64_t base, const struct page_region *region) {
    sp_bits_range(bits, (unsigned)((region->start - base) >> SP_PAGE_SHIFT),
                  (unsigned)((region->end - base) >> SP_PAGE_SHIFT));
}

int sp_pagemap_window(int fd, enum sp_pagemap_query query, uint64_t window, unsigned first, unsigned last,
                      sp_bits *ret_bits) {
    int fault = sp_fault("pagemap_window");
    if (fault)
        return fault;
    struct page_region buffer[BUFFER_REGIONS];
    sp_bits bits = {0};
    uint64_t base = window * SP_WINDOW_SIZE, next = base + first * SP_PAGE_SIZE;
    uint64_t end = base + last * SP_PAGE_SIZE;
    while (next < end) {
        long r = scan_once(fd, &queries[query], next, end, buffer, BUFFER_REGIONS, &next);
        if (r < 0)
            return (int)r;
        for (long i = 0; i < r; i++)
            mark(&bits, base, &buffer[i]);
    }
    *ret_bits = bits;
    return 0;
}

int sp_pagemap_unwatched_window(int fd, uint64_t window, sp_bits *ret_unwatched, sp_bits *ret_broken) {
    int fault = sp_fault("pagemap_unwatched");
    if (fault)
        return fault;
    struct page_region buffer[BUFFER_REGIONS];
    sp_bits unwatched = {0}, broken = {0};
    uint64_t base = window * SP_WINDOW_SIZE, next = base, end = base + SP_WINDOW_SIZE;
    while (next < end) {
        long r = scan_once(fd, &unwatched_query, next, end, buffer, BUFFER_REGIONS, &next);
        if (r < 0)
            return (int)r;
        for (long i = 0; i < r; i++) {
            mark(&unwatched, base, &buffer[i]);
            if (buffer[i].categories && !(buffer[i].categories & PAGE_IS_FILE))
                mark(&broken, base, &buffer[i]);
        }
    }
    *ret_unwatched = unwatched;
    *ret_broken = broken;
    return 0;
}

#define ENTRY_EXCLUSIVE (UINT64_C(1) << 56)
#define ENTRY_FILE      (UINT64_C(1) << 61)
#define ENTRY_SWAPPED   (UINT64_C(1) << 62)
#define ENTRY_PRESENT   (UINT64_C(1) << 63)

static bool entry_exclusive(uint64_t entry) {
    return (entry & (ENTRY_EXCLUSIVE | ENTRY_PRESENT)) == (ENTRY_EXCLUSIVE | ENTRY_PRESENT);
}

/* Beyond what the kernel has entries for: as a page that is not there. *ret_entry is untouched on failure. */
static int entry_read(int fd, sp_page page, uint64_t *ret_entry) {
    uint64_t entry = 0;
    long r = sp_syscall(SYS_pread64, fd, &entry, sizeof(entry), page.v * sizeof(entry));
    if (r < 0)
        return (int)r;
    *ret_entry = entry;
    return 0;
}

bool sp_pagemap_there(int fd, uintptr_t address) {
    uint64_t entry = 0;
    int error;
    do
        error = entry_read(fd, (sp_page){address / SP_PAGE_SIZE}, &entry);
    while (error == -ENOMEM || error == -EINTR); /* no memory for the kernel's buffer */
    return entry & (ENTRY_PRESENT | ENTRY_SWAPPED);
}

int sp_pagemap_exclusive_window(int fd, uint64_t window, sp_bits *ret_bits) {
    int fault = sp_fault("pagemap_exclusive");
    if (fault)
        return fault;
    uint64_t entries[SP_WINDOW_PAGES];
    long r = sp_syscall(SYS_pread64, fd, entries, sizeof(entries), window * sizeof(entries));
    if (r < 0)
        return (int)r;
    *ret_bits = (sp_bits){0};
    for (unsigned slot = 0; slot < (size_t)r / sizeof(*entries); slot++)
        if (entry_exclusive(entries[slot]))
            sp_bits_set(ret_bits, slot);
    return 0;
}

int sp_pagemap_private_window(int fd, uint64_t window, unsigned first, unsigned last, sp_bits *ret_bits) {
    int fault = sp_fault("pagemap_private");
    if (fault)
        return fault;
    uint64_t entries[SP_WINDOW_PAGES];
    long r = sp_syscall(SYS_pread64, fd, entries, (last - first) * sizeof(*entries),
                        (window * SP_WINDOW_PAGES + first) * sizeof(*entries));
    if (r <= 0)
        return r ? (int)r : -ESRCH;
    *ret_bits = (sp_bits){0};
    for (unsigned i = 0; i < (size_t)r / sizeof(*entries); i++)
        if (entry_exclusive(entries[i]) && !(entries[i] & ENTRY_FILE))
            sp_bits_set(ret_bits, first + i);
    return 0;
}

int sp_pagemap_exclusive(int fd, sp_page page) {
    int fault = sp_fault("pagemap_exclusive");
    if (fault)
        return fault;
    uint64_t entry = 0;
    int error = entry_read(fd, page, &entry);
    return error ? error : entry_exclusive(entry);
}
