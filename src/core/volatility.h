/* SPDX-License-Identifier: MIT */
/*
 * Volatility: a page that keeps changing, or that could not be merged, is left alone for longer and longer
 * (KSM's smart scan). One byte for each page: how often trying failed lately (exponent) and how many looks
 * are still to be skipped.
 */
#ifndef SP_CORE_VOLATILITY_H
#define SP_CORE_VOLATILITY_H

#include "core/types.h"

typedef struct {
    uint8_t v; /* 0: never failed */
} sp_volatility;

/* A try failed (changed under us, broken by a write, pinned): skip twice as many looks as last time (1, 2, 4
 * ... 128). */
void sp_volatility_failed(sp_volatility *v);

/* These are for pages that have failed; most never did, which the functions below decide without a call. */
bool sp_volatility_count_down(sp_volatility *v);
void sp_volatility_halve(sp_volatility *v);
bool sp_volatility_left(sp_volatility v);

/* A look at the page found it unwritten. True: try it now. False: skip it this time (counts down). */
static inline bool sp_volatility_ready(sp_volatility *v) {
    return v->v == 0 || sp_volatility_count_down(v);
}

/* A try succeeded, or the page stayed as it was for long: halves what the next failure will cost. */
static inline void sp_volatility_calmed(sp_volatility *v) {
    if (v->v)
        sp_volatility_halve(v);
}

/* Whether the page is being skipped at present. */
static inline bool sp_volatility_skipping(sp_volatility v) {
    return v.v && sp_volatility_left(v);
}

#endif
