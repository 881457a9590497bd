/* SPDX-License-Identifier: MIT */
/* See looks.h. */
#include "daemon/looks.h"

#include "daemon/service.h"

/* Moments at which families are looked at are multiples of this, so that those of one such span are looked at
 * together. Half of the least pause between two looks. */
#define GRID_NS UINT64_C(10000000)

static int by_time(const struct member *a, const struct member *b) {
    if (a->looks_ns != b->looks_ns)
        return a->looks_ns < b->looks_ns ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Debian's libbsd leaves this out, because headers of the kernel use the name; its sys/tree.h needs it. */
#ifndef __unused
#define __unused __attribute__((unused))
#endif
RB_GENERATE_STATIC(looks, member, looks_link, by_time)

void looks_remove(struct looks *l, struct member *m) {
    if (m->looks_in)
        RB_REMOVE(looks, l, m);
    m->looks_in = false;
}

void looks_set(struct looks *l, struct member *m) {
    uint64_t due_ns = m->family.look_ns;
    if (due_ns < UINT64_MAX - GRID_NS)
        due_ns += GRID_NS - 1 - (due_ns + GRID_NS - 1) % GRID_NS;
    if (m->looks_in && m->looks_ns == due_ns)
        return;
    looks_remove(l, m);
    m->looks_ns = due_ns;
    if (m->family.look_ns == UINT64_MAX)
        return;
    RB_INSERT(looks, l, m);
    m->looks_in = true;
}

struct member *looks_due(struct looks *l, uint64_t now_ns) {
    struct member *first = RB_MIN(looks, l);
    return first && first->looks_ns <= now_ns ? first : NULL;
}

uint64_t looks_next_ns(struct looks *l) {
    const struct member *first = RB_MIN(looks, l);
    return first ? first->looks_ns : UINT64_MAX;
}
