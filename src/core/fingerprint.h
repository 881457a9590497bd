/* SPDX-License-Identifier: MIT */
/*
 * Keyed fingerprints: XXH3 (64 bits) with a secret of the domain, so that nobody outside can prepare
 * collisions, and equal pages of two domains have unrelated fingerprints. A collision costs a wasted
 * comparison, never a wrong merge.
 *
 * There are two kinds, told apart by bit 0. The *probe* of a page (0) is made of four of its 64 cache lines:
 * the first, the last, and two whose places depend on the key. Most pages that are found nowhere else are
 * known as such by their probe, at a quarter of the cost of reading them. The *whole* fingerprint (1) is made
 * of all its bytes, and carries some bits of the probe, the *trace*: so the index can tell from a probe
 * whether it knows whole fingerprints that may belong to a page with such a probe (sieve.h).
 */
#ifndef SP_CORE_FINGERPRINT_H
#define SP_CORE_FINGERPRINT_H

#include "core/types.h"

/* XXH3_SECRET_DEFAULT_SIZE: what the library recommends. */
#define SP_KEY_BYTES 192

struct sp_key {
    uint8_t secret[SP_KEY_BYTES];
};

/* Derives a key from 32 random bytes (XXH3_generateSecret). */
void sp_key_init(struct sp_key *key, const uint8_t random[32]);

/* Bits of the probe that a whole fingerprint carries, above bit 0. */
#define SP_TRACE_BITS 18

static inline bool sp_fp_whole(sp_fp fp) {
    return fp.v & 1;
}

static inline uint32_t sp_fp_trace(sp_fp fp) {
    return (uint32_t)(fp.v >> 1) & ((UINT32_C(1) << SP_TRACE_BITS) - 1);
}

/* The whole fingerprint, and the probe, of SP_PAGE_SIZE bytes at `page`. Never return v == 0. */
sp_fp sp_fingerprint(const struct sp_key *key, const void *page);
sp_fp sp_probe(const struct sp_key *key, const void *page);
/* Loads what sp_probe will read into the cache; `page` need not be there. */
void sp_probe_prefetch(const struct sp_key *key, const void *page);

/* The probe of a whole window, made of those of its SP_WINDOW_PAGES pages, in their order. Never 0. */
sp_fp sp_window_probe(const uint64_t *probes);

/* Whether all SP_PAGE_SIZE bytes at `page` (8-byte aligned) are zero. Leaves at the first that is not. Calls
 * nothing outside this file and may run between freeze and thaw (H2). */
bool sp_page_is_zero(const void *page);

/* Whether SP_PAGE_SIZE bytes at `a` and at `b` (both page aligned) are the same. As sp_page_is_zero it calls
 * nothing that is bound late, which memcmp may be (H2). */
bool sp_page_equal(const void *a, const void *b);

#endif
