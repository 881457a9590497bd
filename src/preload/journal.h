/* SPDX-License-Identifier: MIT */
/*
 * What a program maps and unmaps before anything of it is registered, noted without a lock and without a
 * system call: most programs end before they are worth a worker, and pay only for this.
 *
 * An array that is filled in order. A note is one compare-and-swap of the first slot that is empty, so that
 * it is there whole or not at all (also for a child of fork, and for a signal handler in the middle of one),
 * and the order of the slots is the order of the notes. What is mapped is noted after the call, what is
 * unmapped before it: a thread that gets an address which another has given up notes it later, always.
 *
 * Emptying needs the engine's lock. It seals the first empty slot, beyond which nobody goes, reads what lies
 * below, and makes every slot empty again, of the next generation: a number that is part of an empty slot's
 * value, so that a thread that was asleep meanwhile cannot fill one by mistake. Whoever finds the journal
 * sealed or full takes the lock instead.
 */
#ifndef SP_PRELOAD_JOURNAL_H
#define SP_PRELOAD_JOURNAL_H

#include "core/types.h"

#define JOURNAL_SLOTS 512u

struct journal {
    uint64_t generation; /* of empty slots */
    uint64_t hint; /* generation << 32 | a slot below which none is empty, when that generation counts */
    uint64_t slots[JOURNAL_SLOTS];
};

/* Zero-initialised it is empty and open. May be called by anybody at any time. False: sealed or full, or the
 * range cannot be noted; the caller takes the lock and does what it says. */
bool journal_note(struct journal *j, uint64_t start, uint64_t end, bool mapped);

/* With the engine's lock held: hands over every note, in order, and seals the journal. To be opened again by
 * journal_open. */
void journal_take(struct journal *j, void (*visit)(uint64_t start, uint64_t end, bool mapped));
void journal_open(struct journal *j);

#endif
