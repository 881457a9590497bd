/* SPDX-License-Identifier: MIT */
/*
 * The stable set: fingerprints of store pages, and for each store page its fingerprint, probe and reference
 * count. A store page is in it from being published until its last reference goes.
 *
 * A page of the set is *open*, found by whoever asks, or *closed*: it has been shared as often as
 * max_page_sharing allows, and is offered to nobody any more. It keeps its references, and goes with the last
 * of them; meanwhile another store page with the same content may be published, and is the open one. KSM
 * hangs such duplicates into a chain below one node of its tree (stable_node_chains, stable_node_dups), which
 * has to be searched for one with room, and pruned. Here nothing leads to a closed page, so that there are no
 * chains, and both counters are 0. The price: a page that was full once gets no new sharers when others have
 * left.
 *
 * By its probe only one of several store pages with the same probe is found, the oldest, and after it has
 * gone none of them. The others are *hidden*: the sieve tells that there are such.
 *
 * A chunk of which every page is in the set and open is also found as a whole, by the probe of a window that
 * holds the same. Internal to core/.
 */
#ifndef SP_CORE_STABLE_H
#define SP_CORE_STABLE_H

#include "core/blocks.h"
#include "core/sieve.h"

struct sp_stable {
    struct sp_table table;   /* fingerprint -> store page; at most one for each fingerprint */
    struct sp_table probes;  /* probe -> store page; at most one for each probe */
    struct sp_table windows; /* probe of a window -> first store page of its chunk; at most one for each */
    struct sp_blocks blocks;
    struct sp_sieve *sieve; /* counts the fingerprints of hidden pages */
    uint64_t pages;
    uint64_t closed; /* of these */
    uint64_t references;
};

void sp_stable_init(struct sp_stable *s, const struct sp_alloc *alloc, struct sp_sieve *sieve);
void sp_stable_deinit(struct sp_stable *s);

bool sp_stable_find(const struct sp_stable *s, sp_fp fp, sp_store_page *ret_store);
/* A store page with this probe; its content may be another than that of the page with the same probe. */
bool sp_stable_probe(const struct sp_stable *s, sp_fp probe, sp_store_page *ret_store);
/* Whether the store page is in the set, open, and has this probe. */
bool sp_stable_has_probe(struct sp_stable *s, sp_store_page store, sp_fp probe);
uint64_t sp_stable_references(const struct sp_stable *s, sp_store_page store);

/* With one reference. -ENOMEM. Neither the fingerprint nor the store page may be in the set. Without a
 * fingerprint (0) it is in the set, but not found in it. */
SP_WARN_UNUSED int sp_stable_add(struct sp_stable *s, sp_fp fp, sp_fp probe, sp_store_page store);
/* One more reference to a page of the set. -EOVERFLOW. */
SP_WARN_UNUSED int sp_stable_take(struct sp_stable *s, sp_store_page store);
/* The page becomes a closed one, if it is not. */
void sp_stable_close(struct sp_stable *s, sp_store_page store);
/* `n` fewer; the page has that many. True: they were the last, the page is no longer in the set. */
bool sp_stable_give(struct sp_stable *s, sp_store_page store, uint32_t n);

/* A page of the chunk of `store` has been added. If all of it is in the set now, and no other chunk with the
 * same contents is found, it is found as a whole, by the probe that is returned; else 0. */
sp_fp sp_stable_window_made(struct sp_stable *s, sp_store_page store);
/* A chunk with this probe. All of its pages are in the set and open. */
bool sp_stable_window(const struct sp_stable *s, sp_fp probe, sp_store_page *ret_first);

#endif
