/* SPDX-License-Identifier: MIT */
/*
 * A set of address ranges: sorted, disjoint, never adjacent, in an array of fixed size that its owner
 * provides (the shim must not allocate, and a bound keeps what a program can make us hold finite).
 *
 * Changed only under the engine's lock; asked "does it overlap?" by anybody at any time. The answer to a
 * reader without the lock is exact for a range whose membership does not change meanwhile: a sequence number,
 * odd while somebody writes, makes it read again. Zero-initialised memory with no array is an empty set, so
 * that calls made before the constructor has run find nothing.
 */
#ifndef SP_PRELOAD_RANGES_H
#define SP_PRELOAD_RANGES_H

#include "core/types.h"
#include "os/pagemap.h"

struct ranges {
    uint32_t sequence; /* odd: being changed; pairs with the fences in ranges_overlap */
    uint32_t n;
    uint32_t room;
    bool keep; /* when a cut needs room that is not there: true leaves too much in, false too little */
    struct sp_range *items; /* `room` of them, the owner's */
};

/* May be called without the lock, also in a signal handler. */
bool ranges_overlap(const struct ranges *r, uint64_t start, uint64_t end);

/* The rest needs the lock. */

/* False: no room; nothing was changed. */
bool ranges_add(struct ranges *r, uint64_t start, uint64_t end);
void ranges_cut(struct ranges *r, uint64_t start, uint64_t end);
/* The first part of the set within [start, end), clipped to it. False: none. Walk with start = ret->end; the
 * set may be changed on the way. */
bool ranges_first(const struct ranges *r, uint64_t start, uint64_t end, struct sp_range *ret);
bool ranges_cover(const struct ranges *r, uint64_t start, uint64_t end);

#endif
