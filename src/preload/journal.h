/* SPDX-License-Identifier: MIT */
/*
 * What a program maps and unmaps, noted without a lock and without a system call until somebody needs to
 * know. Most programs end before they are worth a worker, and pay only for this; and most of what is unmapped
 * is unmapped soon, and need never be known.
 *
 * An array that is filled in order. A note is one compare-and-swap, of the first slot that is empty or of the
 * last note, so that it is there whole or not at all (also for a child of fork, and for a signal handler in
 * the middle of one), and the order of the slots is the order of the notes. What is mapped is noted after the
 * call, what is unmapped before it: a thread that gets an address which another has given up notes it later,
 * always.
 *
 * Emptying needs the engine's lock. It seals the first empty slot, beyond which nobody goes, takes what lies
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

enum journal_kind { JOURNAL_UNMAPPED, JOURNAL_MAPPED, JOURNAL_MAPPED_RW /* readable and writable */ };

/* Zero-initialised it is empty and open. May be called by anybody at any time. False: sealed or full, or the
 * range cannot be noted; the caller takes the lock and does what it says. */
bool journal_note(struct journal *j, uint64_t start, uint64_t end, enum journal_kind kind);

/* Whether there may be notes; exact for those of the caller. */
bool journal_any(const struct journal *j);

/* What is to be unmapped, and is known by its note alone: forgets it there. False: the last note is not of a
 * mapping at an end of which the range lies; it is to be noted. */
bool journal_shorten(struct journal *j, uint64_t start, uint64_t end);

/* With the engine's lock held: hands over every note, in order, and seals the journal. To be opened again by
 * journal_open. */
void journal_take(struct journal *j, void (*visit)(uint64_t start, uint64_t end, enum journal_kind kind));
void journal_open(struct journal *j);

#endif
