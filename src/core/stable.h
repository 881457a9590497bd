/* SPDX-License-Identifier: MIT */
/*
 * The stable set: fingerprints of store pages, and for each store page its fingerprint, probe and reference
 * count. A store page is in it from being published until its last reference goes.
 *
 * By its probe only one of several store pages with the same probe is found, the oldest, and after it has
 * gone none of them. The others are *hidden*: the sieve tells that there are such. Internal to core/.
 */
#ifndef SP_CORE_STABLE_H
#define SP_CORE_STABLE_H

#include "core/blocks.h"
#include "core/sieve.h"

struct sp_stable {
    struct sp_table table;  /* fingerprint -> store page; at most one for each fingerprint */
    struct sp_table probes; /* probe -> store page; at most one for each probe */
    struct sp_blocks blocks;
    struct sp_sieve *sieve; /* counts the fingerprints of hidden pages */
    uint64_t pages;
    uint64_t references;
};

void sp_stable_init(struct sp_stable *s, const struct sp_alloc *alloc, struct sp_sieve *sieve);
void sp_stable_deinit(struct sp_stable *s);

bool sp_stable_find(const struct sp_stable *s, sp_fp fp, sp_store_page *ret_store);
/* A store page with this probe; its content may be another than that of the page with the same probe. */
bool sp_stable_probe(const struct sp_stable *s, sp_fp probe, sp_store_page *ret_store);
/* Whether the store page is in the set and has this probe. */
bool sp_stable_has_probe(struct sp_stable *s, sp_store_page store, sp_fp probe);
uint64_t sp_stable_references(const struct sp_stable *s, sp_store_page store);

/* With one reference. -ENOMEM. Neither the fingerprint nor the store page may be in the set. Without a
 * fingerprint (0) it is in the set, but not found in it. */
SP_WARN_UNUSED int sp_stable_add(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store);
/* One more reference to a page of the set. -EOVERFLOW. */
SP_WARN_UNUSED int sp_stable_take(struct sp_stable *s, sp_store_page store);
/* `n` fewer; the page has that many. True: they were the last, the page is no longer in the set. */
bool sp_stable_give(struct sp_stable *s, sp_store_page store, uint32_t n);

#endif
