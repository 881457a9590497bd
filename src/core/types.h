/* SPDX-License-Identifier: MIT */
/*
 * Words shared by every layer: pages, windows, fingerprints, places in the store.
 *
 * Numbers that must not be mixed up are distinct struct types. A page is always 4 KiB here; huge
 * pages are runs of pages. Nothing in core/ makes a system call, reads a clock, logs or starts a thread.
 */
#ifndef SP_CORE_TYPES_H
#define SP_CORE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_PAGE_SHIFT 12
#define SP_PAGE_SIZE  ((size_t)1 << SP_PAGE_SHIFT)
/* A window is 2 MiB of a region, aligned: the unit of work, and of layout in the store. */
#define SP_WINDOW_PAGES ((size_t)512)
#define SP_WINDOW_SIZE  (SP_WINDOW_PAGES * SP_PAGE_SIZE)
/* A segment of the store is one memfd: 1 GiB, 262,144 pages, 512 window-sized chunks (H17). */
#define SP_SEGMENT_PAGES ((uint64_t)1 << 18)

#define SP_WARN_UNUSED __attribute__((warn_unused_result))

/* A keyed 64-bit hash of a page's content, or of a sample of it (core/fingerprint.h). It proposes; the byte
 * comparison decides. */
typedef struct {
    uint64_t v;
} sp_fp;

/* A page of a client: its virtual address >> SP_PAGE_SHIFT (44 bits). */
typedef struct {
    uint64_t v;
} sp_page;

/* A page of a domain's store: never reused (I3). Segment = v / SP_SEGMENT_PAGES. */
typedef struct {
    uint64_t v;
} sp_store_page;

/* "No store page", and the pseudo store page that stands for a page of zeros (becomes a hole). */
#define SP_STORE_NONE ((sp_store_page){UINT64_MAX})
#define SP_STORE_ZERO ((sp_store_page){UINT64_MAX - 1})

/* Consecutive pages of the store. */
struct sp_store_run {
    sp_store_page first;
    uint64_t pages;
};

static inline uint64_t sp_page_window(sp_page page) {
    return page.v / SP_WINDOW_PAGES;
}

static inline unsigned sp_page_slot(sp_page page) {
    return (unsigned)(page.v % SP_WINDOW_PAGES);
}

/* One bit for each page of a window. */
typedef struct {
    uint64_t w[SP_WINDOW_PAGES / 64];
} sp_bits;

static inline bool sp_bits_get(const sp_bits *b, unsigned slot) {
    return b->w[slot / 64] >> (slot % 64) & 1;
}

static inline void sp_bits_set(sp_bits *b, unsigned slot) {
    b->w[slot / 64] |= UINT64_C(1) << (slot % 64);
}

static inline void sp_bits_clear(sp_bits *b, unsigned slot) {
    b->w[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
}

/* Sets the bits of pages first ... last - 1. */
static inline void sp_bits_range(sp_bits *b, unsigned first, unsigned last) {
    while (first < last) {
        unsigned end = first / 64 * 64 + 64, n = (end < last ? end : last) - first;
        b->w[first / 64] |= (n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX) << (first % 64);
        first += n;
    }
}

static inline unsigned sp_bits_count(const sp_bits *b) {
    unsigned n = 0;
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        n += (unsigned)__builtin_popcountll(b->w[i]);
    return n;
}

static inline bool sp_bits_any(const sp_bits *b) {
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        if (b->w[i])
            return true;
    return false;
}

static inline bool sp_bits_all(const sp_bits *b) {
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        if (~b->w[i])
            return false;
    return true;
}

#endif
