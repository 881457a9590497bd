/* SPDX-License-Identifier: MIT */
/*
 * Registered ranges of the process, ascending and disjoint, each with one protection and one set of
 * attributes. A sorted array: there are few, and they are looked up far more often than changed. Guarded by
 * the engine's lock.
 */
#ifndef SP_MERGE_REGION_H
#define SP_MERGE_REGION_H

#include "core/alloc.h"
#include "core/types.h"

struct sp_region {
    uint64_t start, end; /* bytes, page aligned */
    int prot;            /* PROT_*: only readable and writable memory is read and merged (H22) */
    unsigned attributes; /* SP_ATTR_* (H7) */
    bool armed;          /* registered with the worker's userfaultfd */
};

struct sp_regions {
    const struct sp_alloc *alloc;
    struct sp_region *items;
    size_t n, room;
    uint64_t bytes; /* sum of the lengths */
};

void sp_regions_init(struct sp_regions *r, const struct sp_alloc *alloc);
void sp_regions_deinit(struct sp_regions *r);
/* Adds a region where none is yet; joined with equal neighbours. -ENOMEM. The range must not overlap another:
 * remove it first. */
SP_WARN_UNUSED int sp_regions_add(struct sp_regions *r, const struct sp_region *region);
/* Takes a range out, cutting regions at its ends. -ENOMEM when a cut needs memory that is not there: then the
 * region that would be cut in two loses its upper part altogether. */
SP_WARN_UNUSED int sp_regions_remove(struct sp_regions *r, uint64_t start, uint64_t end);
/* Cuts so that no region crosses `address`. -ENOMEM. */
SP_WARN_UNUSED int sp_regions_cut(struct sp_regions *r, uint64_t address);
/* Joins equal neighbours in and around the range: what was cut to be changed, and is the same again. */
void sp_regions_join(struct sp_regions *r, uint64_t start, uint64_t end);
/* Index of the first region that ends after `address`; r->n when there is none. */
size_t sp_regions_find(const struct sp_regions *r, uint64_t address);
bool sp_regions_overlap(const struct sp_regions *r, uint64_t start, uint64_t end);
/* Bits of the pages of a window that lie in regions with both PROT_READ and PROT_WRITE. */
void sp_regions_window(const struct sp_regions *r, uint64_t window, sp_bits *ret_bits);
/* Bits of the pages of a window that lie in armed regions. */
void sp_regions_armed(const struct sp_regions *r, uint64_t window, sp_bits *ret_bits);
/* Regions that overlap the range are to be armed anew, whole: what is registered already stays so. */
void sp_regions_unarm(struct sp_regions *r, uint64_t start, uint64_t end);

#endif
