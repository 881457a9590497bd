/* SPDX-License-Identifier: MIT */
/*
 * See fingerprint.h. XXH_INLINE_ALL puts the hash into this file: the compiler then knows the length, and
 * nothing is called through the dynamic linker. The hash itself is compiled once more with AVX2 where
 * processors may have it (fingerprint_avx2.c): the same value, a fifth faster from memory.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/fingerprint.h"

#include <string.h>

#include "core/fingerprint_avx2.h"

_Static_assert(SP_KEY_BYTES == XXH3_SECRET_DEFAULT_SIZE, "the length of secret that the library recommends");

/* A page is the program's, of whatever type: words that may alias anything. */
typedef uint64_t __attribute__((may_alias)) word;

void sp_key_init(struct sp_key *key, const uint8_t random[32]) {
    /* Fails only for a secret that is too short. */
    (void)XXH3_generateSecret(key->secret, sizeof key->secret, random, 32);
}

static uint64_t page_hash(const struct sp_key *key, const void *page) {
#ifdef SP_FINGERPRINT_AVX2
    if (__builtin_cpu_supports("avx2"))
        return sp_page_hash_avx2(key, page);
#endif
    return XXH3_64bits_withSecret(page, SP_PAGE_SIZE, key->secret, sizeof key->secret);
}

#define LINE_BYTES 64
#define LINES      (SP_PAGE_SIZE / LINE_BYTES)
#define SAMPLES    4
/* Less than a line each: XXH3 has a shorter way for up to 240 bytes. */
#define SAMPLE_BYTES 56

/* Where the samples of a probe are: the page's first bytes, its last, and the beginnings of two lines in
 * between that nobody outside knows. These are a pair that the processor fetches as one, which takes a sixth
 * off the time for a page that is not in the cache. */
static void sample_places(const struct sp_key *key, size_t ret_offset[SAMPLES]) {
    ret_offset[0] = 0;
    ret_offset[1] = (1 + key->secret[0] % (LINES / 2 - 2)) * 2 * LINE_BYTES;
    ret_offset[2] = ret_offset[1] + LINE_BYTES;
    ret_offset[3] = SP_PAGE_SIZE - SAMPLE_BYTES;
}

void sp_probe_prefetch(const struct sp_key *key, const void *page) {
    size_t offset[SAMPLES];
    sample_places(key, offset);
    for (size_t i = 0; i < SAMPLES; i++)
        __builtin_prefetch((const char *)page + offset[i]);
}

sp_fp sp_probe(const struct sp_key *key, const void *page) {
    size_t offset[SAMPLES];
    char sample[SAMPLES * SAMPLE_BYTES];
    sample_places(key, offset);
    for (size_t i = 0; i < SAMPLES; i++)
        memcpy(sample + i * SAMPLE_BYTES, (const char *)page + offset[i], SAMPLE_BYTES);
    uint64_t v =
        XXH3_64bits_withSecret(sample, sizeof sample, key->secret, sizeof key->secret) & ~UINT64_C(1);
    return (sp_fp){v ? v : 2};
}

sp_fp sp_fingerprint(const struct sp_key *key, const void *page) {
    const uint64_t trace = ((UINT64_C(1) << SP_TRACE_BITS) - 1) << 1;
    return (sp_fp){(page_hash(key, page) & ~trace) | (sp_probe(key, page).v & trace) | 1};
}

sp_fp sp_window_probe(const uint64_t *probes) {
    uint64_t v = XXH3_64bits(probes, SP_WINDOW_PAGES * sizeof *probes) & ~UINT64_C(1);
    return (sp_fp){v ? v : 2};
}

bool sp_page_is_zero(const void *page) {
    const word *w = page;
    const word *end = w + SP_PAGE_SIZE / sizeof *w;
    for (; w < end; w += 8)
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
            return false;
    return true;
}

bool sp_page_equal(const void *a, const void *b) {
#ifdef SP_FINGERPRINT_AVX2
    if (__builtin_cpu_supports("avx2"))
        return sp_page_equal_avx2(a, b);
#endif
    const word *x = a, *y = b;
    for (size_t i = 0; i < SP_PAGE_SIZE / sizeof *x; i += 32) {
        uint64_t d = 0;
        for (size_t k = 0; k < 32; k++)
            d |= x[i + k] ^ y[i + k];
        if (d)
            return false;
    }
    return true;
}
