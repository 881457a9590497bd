/* SPDX-License-Identifier: MIT */
/* See fingerprint.c. This file alone is compiled with -mavx2. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/fingerprint_avx2.h"

uint64_t sp_page_hash_avx2(const struct sp_key *key, const void *page) {
    return XXH3_64bits_withSecret(page, SP_PAGE_SIZE, key->secret, sizeof key->secret);
}

/* Four words at a time; a page is the program's, of whatever type. */
typedef uint64_t __attribute__((vector_size(32), may_alias)) vector;

bool sp_page_equal_avx2(const void *a, const void *b) {
    const vector *x = a, *y = b;
    for (size_t i = 0; i < SP_PAGE_SIZE / sizeof *x; i += 8) {
        vector d = (x[i] ^ y[i]) | (x[i + 1] ^ y[i + 1]) | (x[i + 2] ^ y[i + 2]) | (x[i + 3] ^ y[i + 3]) |
                   (x[i + 4] ^ y[i + 4]) | (x[i + 5] ^ y[i + 5]) | (x[i + 6] ^ y[i + 6]) |
                   (x[i + 7] ^ y[i + 7]);
        if (d[0] | d[1] | d[2] | d[3])
            return false;
    }
    return true;
}
