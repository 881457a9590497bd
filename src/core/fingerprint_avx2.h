/* SPDX-License-Identifier: MIT */
/* The hash and the comparison of pages by AVX2 instructions; to be called only on processors that have them.
 * Defined when SP_FINGERPRINT_AVX2 is. */
#ifndef SP_CORE_FINGERPRINT_AVX2_H
#define SP_CORE_FINGERPRINT_AVX2_H

#include "core/fingerprint.h"

uint64_t sp_page_hash_avx2(const struct sp_key *key, const void *page);
bool sp_page_equal_avx2(const void *a, const void *b);

#endif
