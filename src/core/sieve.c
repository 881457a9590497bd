/* SPDX-License-Identifier: MIT */
/* See sieve.h. */
#include "core/sieve.h"

#include <errno.h>

#define TRACES ((size_t)1 << SP_TRACE_BITS)

void sp_sieve_init(struct sp_sieve *s, const struct sp_alloc *alloc) {
    *s = (struct sp_sieve){.alloc = alloc};
}

void sp_sieve_deinit(struct sp_sieve *s) {
    sp_alloc_put(s->alloc, s->count, TRACES);
    s->count = NULL;
}

int sp_sieve_add(struct sp_sieve *s, sp_fp fp) {
    if (!sp_fp_whole(fp))
        return 0;
    if (!s->count)
        s->count = sp_alloc_get(s->alloc, TRACES);
    if (!s->count)
        return -ENOMEM;
    uint8_t *count = &s->count[sp_fp_trace(fp)];
    *count += *count < UINT8_MAX;
    return 0;
}

void sp_sieve_remove(struct sp_sieve *s, sp_fp fp) {
    if (!sp_fp_whole(fp))
        return;
    uint8_t *count = &s->count[sp_fp_trace(fp)];
    *count -= *count < UINT8_MAX; /* at the end nobody knows how many they were */
}

bool sp_sieve_passes(const struct sp_sieve *s, sp_fp probe) {
    return s->count && s->count[sp_fp_trace(probe)];
}

void sp_sieve_prefetch(const struct sp_sieve *s, sp_fp fp) {
    if (s->count)
        __builtin_prefetch(&s->count[sp_fp_trace(fp)]);
}
