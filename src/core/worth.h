/* SPDX-License-Identifier: MIT */
/*
 * What looking is worth: how long a worker pauses because its passes cost more than they gained. A page that
 * is shared may cost so much CPU time, and beyond that passes may take a part of a processor: a program that
 * makes and drops memory all the time must not be followed by a worker that is as busy. Some is allowed
 * ahead, as new memory must be read before anything is gained.
 *
 * Passes that had much to do and gained hardly anything, many in a row, make the part a smaller one, until
 * one gains more: who writes all the time to memory that no other has, or that was merged and is private
 * since, is not followed for ever even at a twentieth of a processor.
 */
#ifndef SP_CORE_WORTH_H
#define SP_CORE_WORTH_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed: at the beginning. */
struct sp_worth {
    uint64_t overdrawn_ns; /* what passes have cost beyond their worth, and what they may in that time */
    unsigned fruitless;    /* passes in a row that had much to do and gained hardly anything */
};

/* A pass has ended, `elapsed_ns` after the one before: its CPU time, the pages gained since that one (shared
 * or dropped, less those that were written again), and whether it had much to do. No more is remembered than
 * a pause of `longest_ns` makes up for. */
void sp_worth_pass(struct sp_worth *x, uint64_t elapsed_ns, uint64_t cost_ns, int64_t gain, bool much_to_do,
                   uint64_t longest_ns);

/* The pause that is needed after it; 0: none. */
uint64_t sp_worth_pause_ns(const struct sp_worth *x);

#endif
