/* SPDX-License-Identifier: MIT */
/*
 * The unstable set: fingerprints or probes of pages that are not shared yet. Of the pages with one
 * fingerprint at most one is pending: its owner was asked to send it; the others wait. The number that wait
 * is bounded, so that everything about one fingerprint is done in constant time.
 *
 * Entries of clients that have gone stay where they are; they are dropped when somebody meets them. So a
 * fingerprint's group, once read, holds only the living. Internal to core/.
 */
#ifndef SP_CORE_UNSTABLE_H
#define SP_CORE_UNSTABLE_H

#include "core/clients.h"
#include "core/domain.h"
#include "core/sieve.h"
#include "core/table.h"

#define SP_PAGE_BITS         44
#define SP_GROUP_WAITING_MAX 64
#define SP_GROUP_MAX         (SP_GROUP_WAITING_MAX + 1)

/* A page of a client, in one word: bit 63 pending, 19 bits client, 44 bits page. */
typedef struct {
    uint64_t v;
} sp_waiter;

struct sp_unstable {
    struct sp_table table;
    const struct sp_clients *clients;
    struct sp_sieve *sieve; /* counts the whole fingerprints */
};

/* The living entries of a fingerprint, oldest first. */
struct sp_group {
    size_t n;
    bool dropped; /* entries of clients that have gone were dropped just now */
    sp_waiter entry[SP_GROUP_MAX];
};

static inline sp_waiter sp_waiter_of(sp_client client, sp_page page, bool pending) {
    return (sp_waiter){(uint64_t)pending << 63 | (uint64_t)client << SP_PAGE_BITS | page.v};
}

static inline bool sp_waiter_pending(sp_waiter w) {
    return w.v >> 63;
}

static inline sp_client sp_waiter_client(sp_waiter w) {
    return (sp_client)(w.v >> SP_PAGE_BITS) & (SP_CLIENTS_MAX - 1);
}

static inline sp_page sp_waiter_page(sp_waiter w) {
    return (sp_page){w.v & ((UINT64_C(1) << SP_PAGE_BITS) - 1)};
}

void sp_unstable_init(struct sp_unstable *u, const struct sp_alloc *alloc, const struct sp_clients *clients,
                      struct sp_sieve *sieve);
void sp_unstable_deinit(struct sp_unstable *u);

/* Reads the group of a fingerprint and drops those who have gone. */
void sp_unstable_group(struct sp_unstable *u, sp_fp fp, struct sp_group *ret_group);

/* The index of the page's own entry in the group, or of the pending one; -1: none. */
int sp_group_find(const struct sp_group *g, sp_client client, sp_page page);
int sp_group_pending(const struct sp_group *g);

/* -ENOMEM. The group must have room. */
SP_WARN_UNUSED int sp_unstable_add(struct sp_unstable *u, sp_fp fp, sp_waiter w);
void sp_unstable_remove(struct sp_unstable *u, sp_fp fp, sp_waiter w);
/* Makes an entry pending or no longer so. */
void sp_unstable_mark(struct sp_unstable *u, sp_fp fp, sp_waiter w, bool pending);

#endif
