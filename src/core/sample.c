/* SPDX-License-Identifier: MIT */
/* See sample.h. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/sample.h"

#include <string.h>

void sp_sample_init(struct sp_sample *s, const struct sp_key *key, uint32_t one_in) {
    /* Which lines: any, by bytes of the key that the probe of a page does not use. */
    *s = (struct sp_sample){
        .key = key,
        .one_in = one_in,
        .limit = UINT64_MAX / one_in,
        .offset_bytes = key->secret[2] % (SP_PAGE_SIZE / SP_LINES_BYTES) * SP_LINES_BYTES,
    };
}

bool sp_lines_plain(const void *lines) {
    uint64_t word[SP_LINES_BYTES / sizeof(uint64_t)], other = 0;
    memcpy(word, lines, sizeof word);
    for (size_t i = 1; i < sizeof word / sizeof *word; i++)
        other |= word[i] ^ word[0];
    return !other;
}

uint64_t sp_sample_unit(const struct sp_sample *s, const void *lines) {
    return XXH3_64bits_withSecret(lines, SP_LINES_BYTES, s->key->secret, sizeof s->key->secret);
}

/* A bijection without a likeness (the finalizer of splitmix64): the fingerprint itself goes into the content,
 * too. */
uint64_t sp_sample_unit_whole(sp_fp whole) {
    uint64_t x = whole.v;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t sp_sample_content(const struct sp_sample *s, uint64_t unit, sp_fp whole) {
    if (s->one_in == 1)
        return whole.v;
    /* The high bits of a unit are those that have decided. */
    uint64_t content = unit << 32 | whole.v >> 32;
    return content ? content : 1;
}
