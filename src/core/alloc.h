/* SPDX-License-Identifier: MIT */
/*
 * Where core/ gets memory: passed in, so that a worker inside somebody's program never calls malloc (H2)
 * and tests can make every allocation fail in turn.
 */
#ifndef SP_CORE_ALLOC_H
#define SP_CORE_ALLOC_H

#include <stddef.h>

struct sp_alloc {
    /* Returns `bytes` of zeroed memory, 16-byte aligned, or NULL. */
    void *(*get)(void *ctx, size_t bytes);
    /* Takes back what get() gave; `bytes` is what was asked for. NULL is allowed. */
    void (*put)(void *ctx, void *memory, size_t bytes);
    void *ctx;
};

static inline void *sp_alloc_get(const struct sp_alloc *a, size_t bytes) {
    return a->get(a->ctx, bytes);
}

static inline void sp_alloc_put(const struct sp_alloc *a, void *memory, size_t bytes) {
    a->put(a->ctx, memory, bytes);
}

#endif
