/* SPDX-License-Identifier: MIT */
/* See fingerprint.c. This file alone is compiled with -mavx2. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/fingerprint_avx2.h"

uint64_t sp_page_hash_avx2(const struct sp_key *key, const void *page) {
    return XXH3_64bits_withSecret(page, SP_PAGE_SIZE, key->secret, sizeof key->secret);
}
