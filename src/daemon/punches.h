/* SPDX-License-Identifier: MIT */
/*
 * Store pages whose memory is to be given back. The kernel looks, for each range that is punched, at every
 * mapping of the segment that covers it: where a thousand clients map the page's neighbours that takes half a
 * millisecond, and a tenth of it for each page of a range of 32 (bench/sharers). So they are gathered for a
 * moment, what lies side by side becomes one range, and the daemon serves its clients between two of them.
 * As no place is used twice (I3), it never matters how late a page is punched.
 */
#ifndef SP_DAEMON_PUNCHES_H
#define SP_DAEMON_PUNCHES_H

#include "core/types.h"

struct punch {
    void *owner; /* of the store that it is about */
    uint64_t first, n;
};

struct punches {
    struct punch *gathered; /* in no order */
    size_t n_gathered, room;
    struct punch *sorted; /* to be done now: from `at` on */
    size_t n_sorted, at;
    uint64_t due_ns; /* when gathering ends; of no meaning where nothing is gathered */
};

void punches_deinit(struct punches *p);

/* -ENOMEM: it was not taken in. */
SP_WARN_UNUSED int punches_add(struct punches *p, void *owner, sp_store_page first, uint64_t n,
                               uint64_t now_ns);
/* The next that is to be done. False: there is none now. */
bool punches_take(struct punches *p, uint64_t now_ns, struct punch *ret);
/* When there will be one; UINT64_MAX: nothing is gathered. */
uint64_t punches_next_ns(const struct punches *p);

#endif
