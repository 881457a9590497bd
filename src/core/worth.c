/* SPDX-License-Identifier: MIT */
/* See worth.h. */
#include "core/worth.h"

#define GAIN_NS      15000 /* what a page gained may cost */
#define OVERDRAFT_NS UINT64_C(50000000)
/* One in so many of a processor's time; and after so many passes that did not gain so many pages. */
#define PART             20
#define PART_FRUITLESS   200
#define FRUITLESS_PASSES 32
#define FRUITLESS_GAIN   16

static uint64_t part_of(const struct sp_worth *x) {
    return x->fruitless < FRUITLESS_PASSES ? PART : PART_FRUITLESS;
}

void sp_worth_pass(struct sp_worth *x, uint64_t elapsed_ns, uint64_t cost_ns, int64_t gain, bool much_to_do,
                   uint64_t longest_ns) {
    if (gain >= FRUITLESS_GAIN)
        x->fruitless = 0;
    else if (much_to_do && x->fruitless < FRUITLESS_PASSES)
        x->fruitless++;
    int64_t earned = (int64_t)(elapsed_ns / part_of(x)) + gain * GAIN_NS;
    int64_t over = (int64_t)(x->overdrawn_ns + cost_ns) - earned;
    int64_t most = (int64_t)(OVERDRAFT_NS + longest_ns / part_of(x));
    x->overdrawn_ns = over < 0 ? 0 : (uint64_t)(over < most ? over : most);
}

uint64_t sp_worth_pause_ns(const struct sp_worth *x) {
    return x->overdrawn_ns > OVERDRAFT_NS ? (x->overdrawn_ns - OVERDRAFT_NS) * part_of(x) : 0;
}
