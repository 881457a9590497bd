/* SPDX-License-Identifier: MIT */
#include "merge/window.h"

#include <string.h>

void sp_windows_init(struct sp_windows *t, const struct sp_alloc *alloc) {
    *t = (struct sp_windows){.alloc = alloc};
}

#define NODE_BYTES (SP_WINDOWS_FANOUT * sizeof(void *))

static unsigned node_index(uint64_t number, unsigned level) {
    return (unsigned)(number >> (level * SP_WINDOWS_BITS)) & (SP_WINDOWS_FANOUT - 1);
}

static void slots_free(struct sp_windows *t, struct sp_window *w) {
    if (w->slot)
        sp_alloc_put(t->alloc, w->slot, SP_WINDOW_PAGES * sizeof(*w->slot));
    w->slot = NULL;
}

static void window_free(struct sp_windows *t, struct sp_window *w) {
    slots_free(t, w);
    sp_alloc_put(t->alloc, w, sizeof(*w));
}

static void node_free(struct sp_windows *t, void **node, unsigned level) {
    if (!node)
        return;
    for (unsigned i = 0; i < SP_WINDOWS_FANOUT; i++) {
        if (level)
            node_free(t, node[i], level - 1);
        else if (node[i])
            window_free(t, node[i]);
    }
    sp_alloc_put(t->alloc, node, NODE_BYTES);
}

void sp_windows_deinit(struct sp_windows *t) {
    node_free(t, t->root, 2);
    t->root = NULL;
    t->n = 0;
}

struct sp_window *sp_windows_find(const struct sp_windows *t, uint64_t number) {
    if (number >= SP_WINDOWS_MAX || !t->root)
        return NULL;
    void **middle = t->root[node_index(number, 2)];
    void **leaf = middle ? middle[node_index(number, 1)] : NULL;
    return leaf ? leaf[node_index(number, 0)] : NULL;
}

/* The node behind `*place`, made when it is missing. */
static void **node_get(struct sp_windows *t, void **place) {
    if (!*place)
        *place = sp_alloc_get(t->alloc, NODE_BYTES);
    return *place;
}

struct sp_window *sp_windows_get(struct sp_windows *t, uint64_t number) {
    if (number >= SP_WINDOWS_MAX)
        return NULL;
    if (!t->root)
        t->root = sp_alloc_get(t->alloc, NODE_BYTES);
    if (!t->root)
        return NULL;
    void **middle = node_get(t, &t->root[node_index(number, 2)]);
    void **leaf = middle ? node_get(t, &middle[node_index(number, 1)]) : NULL;
    if (!leaf)
        return NULL;
    void **place = &leaf[node_index(number, 0)];
    if (*place)
        return *place;
    struct sp_window *w = sp_alloc_get(t->alloc, sizeof(*w));
    if (!w)
        return NULL;
    w->number = number;
    *place = w;
    t->n++;
    return w;
}

static struct sp_window *node_next(void **node, unsigned level, uint64_t number) {
    uint64_t below = (UINT64_C(1) << (level * SP_WINDOWS_BITS)) - 1;
    for (unsigned i = node_index(number, level); i < SP_WINDOWS_FANOUT; i++) {
        if (node[i]) {
            struct sp_window *w = level ? node_next(node[i], level - 1, number) : node[i];
            if (w)
                return w;
        }
        number = (number | below) + 1; /* everything in the next child counts */
    }
    return NULL;
}

struct sp_window *sp_windows_next(const struct sp_windows *t, uint64_t number) {
    return t->root && number < SP_WINDOWS_MAX ? node_next(t->root, 2, number) : NULL;
}

void sp_windows_drop(struct sp_windows *t, struct sp_window *w) {
    void **middle = t->root[node_index(w->number, 2)];
    void **leaf = middle[node_index(w->number, 1)];
    leaf[node_index(w->number, 0)] = NULL;
    t->n--;
    window_free(t, w);
}

bool sp_window_slots(struct sp_windows *t, struct sp_window *w) {
    if (w->slot)
        return true;
    w->slot = sp_alloc_get(t->alloc, SP_WINDOW_PAGES * sizeof(*w->slot));
    for (unsigned slot = 0; w->slot && slot < SP_WINDOW_PAGES; slot++)
        w->slot[slot] = w->first + slot;
    return w->slot != NULL;
}

void sp_window_fold(struct sp_windows *t, struct sp_window *w) {
    if (!w->slot || w->noted || sp_bits_any(&w->known))
        return;
    unsigned some = sp_bits_next(&w->shared, 0);
    uint64_t first = some < SP_WINDOW_PAGES ? w->slot[some] - some : 0;
    SP_BITS_EACH(&w->shared, slot) {
        if (w->slot[slot] != first + slot)
            return;
    }
    w->first = first;
    slots_free(t, w);
}

bool sp_window_empty(const struct sp_window *w) {
    return !w->queued && !sp_bits_any(&w->written) && !sp_bits_any(&w->fresh) && !sp_bits_any(&w->known) &&
           !sp_bits_any(&w->mapped) && !sp_bits_any(&w->zeroed) && !w->asked;
}

unsigned sp_bits_next(const sp_bits *b, unsigned slot) {
    if (slot >= SP_WINDOW_PAGES)
        return SP_WINDOW_PAGES;
    unsigned word = slot / 64;
    uint64_t v = b->w[word] >> (slot % 64);
    if (v)
        return slot + (unsigned)__builtin_ctzll(v);
    while (++word < SP_WINDOW_PAGES / 64)
        if (b->w[word])
            return word * 64 + (unsigned)__builtin_ctzll(b->w[word]);
    return SP_WINDOW_PAGES;
}

unsigned sp_bits_next_clear(const sp_bits *b, unsigned slot) {
    while (slot < SP_WINDOW_PAGES && sp_bits_get(b, slot))
        slot++;
    return slot;
}
