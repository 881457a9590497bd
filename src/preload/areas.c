/* SPDX-License-Identifier: MIT */
/*
 * The regions of areas (ksm_2008.h): which range was registered through which area, in this process.
 *
 * An area's regions go when its last descriptor does. The kernel does not tell when that is, so descriptors
 * are counted where one may have been closed: those of this process, in /proc. A thread that duplicates a
 * descriptor and closes the old one while another counts may be missed by it; then memory is private that
 * need not be, and no more. Everything is guarded by the engine's lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>

#include "os/text.h"
#include "preload/device.h"
#include "preload/shim.h"

#define AREAS_MAX   64 /* bits of a mask */
#define REGIONS_MAX 1024

struct region {
    uint64_t area, start, end;
};

static uint64_t areas[AREAS_MAX];
static unsigned n_areas; /* read without the lock by areas_any */
static struct region regions[REGIONS_MAX];
static unsigned n_regions;

bool areas_any(void) {
    return __atomic_load_n(&n_areas, __ATOMIC_RELAXED) && !shim.stopped;
}

static bool area_know_locked(uint64_t area) {
    for (unsigned i = 0; i < n_areas; i++)
        if (areas[i] == area)
            return true;
    if (n_areas == AREAS_MAX)
        return false;
    areas[n_areas] = area;
    __atomic_store_n(&n_areas, n_areas + 1, __ATOMIC_RELAXED);
    return true;
}

static void area_forget_locked(uint64_t area) {
    for (unsigned i = 0; i < n_areas; i++)
        if (areas[i] == area) {
            areas[i] = areas[n_areas - 1];
            __atomic_store_n(&n_areas, n_areas - 1, __ATOMIC_RELAXED);
            return;
        }
}

static long register_locked(uint64_t area, uint64_t start, uint64_t end) {
    if (n_regions == REGIONS_MAX || !area_know_locked(area))
        return -ENOMEM;
    regions[n_regions++] = (struct region){area, start, end};
    shim_advise_locked(start, end);
    return 0;
}

long areas_register(uint64_t area, uint64_t start, uint64_t end) {
    bool taken = shim_lock();
    long r = register_locked(area, start, end);
    shim_unlock(taken);
    return r;
}

/* Of [*start, end) the first part that no region of another area covers. False: none. */
static bool first_uncovered(uint64_t area, uint64_t *start, uint64_t *ret_end, uint64_t end) {
    for (bool moved = true; moved && *start < end;) {
        moved = false;
        *ret_end = end;
        for (unsigned i = 0; i < n_regions; i++) {
            const struct region *r = &regions[i];
            if (r->area == area || r->end <= *start || r->start >= *ret_end)
                continue;
            if (r->start > *start) {
                *ret_end = r->start;
                continue;
            }
            *start = r->end;
            moved = true;
            break;
        }
    }
    return *start < end;
}

static long region_remove_locked(const struct region *r) {
    long error = 0;
    uint64_t end;
    for (uint64_t start = r->start; !error && first_uncovered(r->area, &start, &end, r->end); start = end)
        error = shim_unadvise_locked(start, end);
    return error;
}

/* What cannot be made private stays registered. */
static long remove_locked(uint64_t area) {
    unsigned kept = 0;
    long error = 0;
    for (unsigned i = 0; i < n_regions; i++) {
        if (regions[i].area == area && !error)
            error = region_remove_locked(&regions[i]);
        if (regions[i].area != area || error)
            regions[kept++] = regions[i];
    }
    n_regions = kept;
    if (!error)
        area_forget_locked(area);
    return error;
}

long areas_remove(uint64_t area) {
    bool taken = shim_lock();
    long r = remove_locked(area);
    shim_unlock(taken);
    return r;
}

/* ---- descriptors ---- */

struct directory_entry { /* getdents64(2) */
    uint64_t inode, offset;
    uint16_t bytes;
    uint8_t type;
    char name[];
};

/* A mask of the areas that a descriptor is left of; all, when that cannot be found out. */
static uint64_t areas_open(const uint64_t *known, unsigned n) {
    union {
        struct directory_entry first;
        char bytes[2048];
    } buffer;
    uint64_t open = 0;
    long got,
        fd = sp_syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return UINT64_MAX;
    while ((got = sp_syscall(SYS_getdents64, fd, &buffer, sizeof(buffer))) > 0)
        for (long at = 0; at < got;) {
            const struct directory_entry *e = (const void *)(buffer.bytes + at);
            uint64_t number;
            (void)sp_read_decimal(e->name, &number);
            uint64_t area = e->name[0] == '.' || number == (uint64_t)fd ? 0 : device_area((int)number);
            for (unsigned i = 0; area && i < n; i++)
                open |= (uint64_t)(known[i] == area) << i;
            at += e->bytes;
        }
    sp_syscall(SYS_close, fd);
    return got < 0 ? UINT64_MAX : open;
}

/* Not in a child of vfork, which closes descriptors of its own in the memory of its parent. */
void areas_sweep(void) {
    uint64_t known[AREAS_MAX];
    if (!areas_any() || !shim_is_owner())
        return;
    bool taken = shim_lock();
    unsigned n = n_areas;
    for (unsigned i = 0; i < n; i++)
        known[i] = areas[i];
    shim_unlock(taken);
    uint64_t open = areas_open(known, n);
    for (unsigned i = 0; i < n; i++)
        if (!(open >> i & 1))
            areas_remove(known[i]);
}
