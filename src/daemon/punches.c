/* SPDX-License-Identifier: MIT */
/* See punches.h. */
#include "daemon/punches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GATHER_NS UINT64_C(20000000)
/* Sorted at a time: so many take a fraction of a millisecond. */
#define SORTED_MAX 4096

void punches_deinit(struct punches *p) {
    free(p->gathered);
    free(p->sorted);
    *p = (struct punches){0};
}

static int make_room(struct punches *p) {
    if (!p->sorted && !(p->sorted = calloc(SORTED_MAX, sizeof *p->sorted)))
        return -ENOMEM;
    if (p->n_gathered < p->room)
        return 0;
    size_t room = p->room ? 2 * p->room : 64;
    struct punch *gathered = reallocarray(p->gathered, room, sizeof *gathered);
    if (!gathered)
        return -ENOMEM;
    p->gathered = gathered;
    p->room = room;
    return 0;
}

int punches_add(struct punches *p, void *owner, sp_store_page first, uint64_t n, uint64_t now_ns) {
    struct punch *last = p->n_gathered ? &p->gathered[p->n_gathered - 1] : NULL;
    if (last && last->owner == owner && last->first + last->n == first.v) {
        last->n += n;
        return 0;
    }
    int r = make_room(p);
    if (r)
        return r;
    if (!p->n_gathered)
        p->due_ns = now_ns + GATHER_NS;
    p->gathered[p->n_gathered++] = (struct punch){owner, first.v, n};
    return 0;
}

static int by_place(const void *a, const void *b) {
    const struct punch *x = a, *y = b;
    if (x->owner != y->owner)
        return (uintptr_t)x->owner < (uintptr_t)y->owner ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Neighbours become one. */
static void join(struct punches *p) {
    size_t kept = 0;
    for (size_t i = 1; i < p->n_sorted; i++) {
        struct punch *last = &p->sorted[kept], next = p->sorted[i];
        if (last->owner == next.owner && last->first + last->n == next.first)
            last->n += next.n;
        else
            p->sorted[++kept] = next;
    }
    p->n_sorted = kept + 1;
}

static void sort(struct punches *p) {
    size_t n = p->n_gathered < SORTED_MAX ? p->n_gathered : SORTED_MAX;
    p->n_gathered -= n;
    memcpy(p->sorted, p->gathered + p->n_gathered, n * sizeof *p->sorted);
    qsort(p->sorted, n, sizeof *p->sorted, by_place);
    p->n_sorted = n;
    p->at = 0;
    join(p);
}

bool punches_take(struct punches *p, uint64_t now_ns, struct punch *ret) {
    if (p->at == p->n_sorted && p->n_gathered && now_ns >= p->due_ns)
        sort(p);
    if (p->at == p->n_sorted)
        return false;
    *ret = p->sorted[p->at++];
    return true;
}

uint64_t punches_next_ns(const struct punches *p) {
    return p->at < p->n_sorted ? 0 : p->n_gathered ? p->due_ns : UINT64_MAX;
}
