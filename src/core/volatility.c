/* SPDX-License-Identifier: MIT */
/*
 * See volatility.h. What matters is how many looks the next failure will cost (a power of two, 1 ... 128) and
 * how many are left of the last one; the latter never exceeds half of the former, except at the top, where
 * the cost does not double any more. That leaves 199 states, so both fit into one byte: the states of one
 * cost follow each other, ordered by looks left.
 */
#include "core/volatility.h"

#define LEVELS 8 /* the next failure costs 1 << level looks */

/* The number of the first state of each level, and of the end. */
static const uint8_t level_first[LEVELS + 1] = {0, 1, 3, 6, 11, 20, 37, 70, 199};

static unsigned level_of(sp_volatility v) {
    unsigned level = 0;
    while (level < LEVELS - 1 && v.v >= level_first[level + 1])
        level++;
    return level;
}

static unsigned left_max(unsigned level) {
    return level_first[level + 1] - level_first[level] - 1U;
}

static unsigned left_of(sp_volatility v) {
    unsigned level = level_of(v);
    unsigned left = (unsigned)v.v - level_first[level];
    return left < left_max(level) ? left : left_max(level);
}

static void set(sp_volatility *v, unsigned level, unsigned left) {
    if (left > left_max(level))
        left = left_max(level);
    v->v = (uint8_t)(level_first[level] + left);
}

void sp_volatility_failed(sp_volatility *v) {
    unsigned level = level_of(*v);
    set(v, level + 1 < LEVELS ? level + 1 : level, 1U << level);
}

bool sp_volatility_count_down(sp_volatility *v) {
    unsigned left = left_of(*v);
    if (left == 0)
        return true;
    set(v, level_of(*v), left - 1);
    return false;
}

void sp_volatility_halve(sp_volatility *v) {
    unsigned level = level_of(*v);
    if (level > 0)
        set(v, level - 1, left_of(*v));
}

bool sp_volatility_left(sp_volatility v) {
    return left_of(v) > 0;
}
