/* SPDX-License-Identifier: MIT */
/*
 * Keyed fingerprints: XXH3 (64 bits) with a secret of the domain, so that nobody outside can prepare
 * collisions, and equal pages of two domains have unrelated fingerprints. A collision costs a wasted
 * comparison, never a wrong merge.
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

/* The fingerprint of SP_PAGE_SIZE bytes at `page`. Never returns v == 0. */
sp_fp sp_fingerprint(const struct sp_key *key, const void *page);

/* Whether all SP_PAGE_SIZE bytes at `page` (8-byte aligned) are zero. Leaves at the first that is not. Calls
 * nothing outside this file and may run between freeze and thaw (H2). */
bool sp_page_is_zero(const void *page);

/* Whether SP_PAGE_SIZE bytes at `a` and at `b` (both page aligned) are the same. As sp_page_is_zero it calls
 * nothing that is bound late, which memcmp may be (H2). */
bool sp_page_equal(const void *a, const void *b);

#endif
