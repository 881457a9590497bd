/* SPDX-License-Identifier: MIT */
/*
 * What the worker knows about each page of a window: 10 bytes for each page, and only for windows in which
 * something was ever resident (H16); 2 where nothing is known but pages that lie in the store as they lie
 * here (sp_window_fold). Guarded by the engine's lock.
 *
 *     written ──settles──▶ (candidate) ──asked──▶ known ──twin──▶ shared + mapped ──write──▶ mapped
 *
 * sp_window_value is the fingerprint or probe of a known page and the store page of a shared one.
 */
#ifndef SP_MERGE_WINDOW_H
#define SP_MERGE_WINDOW_H

#include "core/alloc.h"
#include "core/heat.h"
#include "core/types.h"
#include "core/volatility.h"

struct sp_window {
    uint64_t number;        /* address / SP_WINDOW_SIZE */
    struct sp_window *next; /* in the list of windows with something to do */
    uint64_t *slot;         /* SP_WINDOW_PAGES values, or NULL: they follow from the first */
    uint64_t first;         /* without slot[]: the value of page 0 */
    sp_bits written;        /* written, found in the present look */
    sp_bits fresh;          /* written, found in an earlier look, not tried since */
    sp_bits known;          /* the index knows its fingerprint, and slot[] is there and has it */
    sp_bits reask;          /* known, and the index said that it is worth asking again */
    sp_bits mapped;         /* lies in a mapping of the store, broken or not */
    sp_bits shared;         /* maps the store page that is its value and holds a reference to it */
    sp_bits misled;         /* what its probe led to had another content: to be asked about as a whole */
    sp_bits zeroed;         /* was zeros, given back, not written since */
    sp_volatility volatility[SP_WINDOW_PAGES];
    struct sp_heat heat;
    uint64_t asked;     /* the probe under which the index knows the window as a whole (huge.c); 0: none */
    uint8_t huge_tries; /* how often in a row it was worth splitting */
    uint8_t huge_wait;  /* passes to wait for a better answer about the whole */
    bool huge_waited;   /* has had that time */
    bool noted;         /* slot[] has the probes of all its pages, not written since (whole.c) */
    bool twin;          /* and somebody else has such a window */
    bool over_budget;   /* some of it was too short for the mappings that were left */
    bool queued;        /* is in the list */
};

/*
 * Windows by number, in order: a radix tree of three levels with 512 pointers each, like the page tables that
 * it stands beside. 48 bits of address space; windows beyond have no place (and Linux gives no addresses
 * beyond without being asked to, Documentation/arch/x86/x86_64/5level-paging.rst).
 */
#define SP_WINDOWS_BITS   9
#define SP_WINDOWS_FANOUT (1u << SP_WINDOWS_BITS)
#define SP_WINDOWS_MAX    (UINT64_C(1) << (3 * SP_WINDOWS_BITS))

struct sp_windows {
    const struct sp_alloc *alloc;
    void **root; /* [FANOUT] of [FANOUT] of [FANOUT] of struct sp_window *; NULL where there is nothing */
    size_t n;
};

void sp_windows_init(struct sp_windows *t, const struct sp_alloc *alloc);
void sp_windows_deinit(struct sp_windows *t);
struct sp_window *sp_windows_find(const struct sp_windows *t, uint64_t number);
/* Finds or makes. NULL: no memory, or beyond SP_WINDOWS_MAX. */
struct sp_window *sp_windows_get(struct sp_windows *t, uint64_t number);
/* The first window at or after `number`; NULL when there is none. */
struct sp_window *sp_windows_next(const struct sp_windows *t, uint64_t number);
void sp_windows_drop(struct sp_windows *t, struct sp_window *w);
/* Makes slot[] usable. False: no memory. */
bool sp_window_slots(struct sp_windows *t, struct sp_window *w);
/* Does without slot[], if nothing is known and what is shared is one piece of the store. */
void sp_window_fold(struct sp_windows *t, struct sp_window *w);
/* Of a known or shared page. */
static inline uint64_t sp_window_value(const struct sp_window *w, unsigned slot) {
    return w->slot ? w->slot[slot] : w->first + slot;
}
/* Nothing is known about any page of it (so it may be dropped when not queued). */
bool sp_window_empty(const struct sp_window *w);

static inline void sp_bits_and(sp_bits *a, const sp_bits *b) {
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        a->w[i] &= b->w[i];
}
static inline void sp_bits_minus(sp_bits *a, const sp_bits *b) {
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        a->w[i] &= ~b->w[i];
}
static inline void sp_bits_or(sp_bits *a, const sp_bits *b) {
    for (size_t i = 0; i < SP_WINDOW_PAGES / 64; i++)
        a->w[i] |= b->w[i];
}
/* The first set bit at or after `slot`, SP_WINDOW_PAGES when there is none. */
unsigned sp_bits_next(const sp_bits *b, unsigned slot);
/* The first clear bit at or after `slot`, SP_WINDOW_PAGES when there is none. */
unsigned sp_bits_next_clear(const sp_bits *b, unsigned slot);

#define SP_BITS_EACH(b, i)                                                                                   \
    for (unsigned i = sp_bits_next((b), 0); i < SP_WINDOW_PAGES; i = sp_bits_next((b), i + 1))

/* Each window that overlaps the bytes [start, end), ascending. */
#define SP_WINDOWS_EACH(t, start, end, w)                                                                    \
    for (struct sp_window *w = sp_windows_next((t), (start) / SP_WINDOW_SIZE);                               \
         w && w->number * SP_WINDOW_SIZE < (end); w = sp_windows_next((t), w->number + 1))

/* The slots of window `w` that lie in [start, end): *ret_first up to, not including, *ret_last. */
static inline void sp_window_clip(const struct sp_window *w, uint64_t start, uint64_t end,
                                  unsigned *ret_first, unsigned *ret_last) {
    uint64_t base = w->number * SP_WINDOW_SIZE;
    *ret_first = start > base ? (unsigned)((start - base) >> SP_PAGE_SHIFT) : 0;
    *ret_last = end < base + SP_WINDOW_SIZE ? (unsigned)((end - base) >> SP_PAGE_SHIFT) : SP_WINDOW_PAGES;
}

#endif
