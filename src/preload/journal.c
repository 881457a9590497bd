/* SPDX-License-Identifier: MIT */
/*
 * A slot holds (see the header):
 *
 *     generation << 1                                       empty
 *     first page << 29 | pages << 3 | kind << 1 | 1         a note
 *     NOTHING                                               a note of which nothing is left
 *     SEALED                                                the end, for now
 *
 * 35 bits of page number are the 47 of a program's address; longer ranges than 2^26 pages (256 GiB) do not
 * fit and go by the lock.
 *
 * What is unmapped at an end of the last note's mapping shortens that note, and a note of which nothing is
 * left is used again: a program that maps and unmaps in a loop needs one slot, and nobody has to empty the
 * journal for it. That the note is the last is seen by the slot behind it, which is empty. Who comes in
 * between and puts a note there that matters (maps what is just being unmapped) races with the caller, and
 * neither could know what the kernel would make of it.
 *
 * Therefore journal_take takes each note out of its slot: who shortens a note that has been handed over must
 * find out.
 *
 * Pairs: the release of a slot's compare-and-swap with the acquire of the exchange in journal_take; the
 * release store of `generation` in journal_open with the acquire load in journal_note; those of the slots
 * with the acquire loads in journal_any: who sees a slot empty sees the sets into which its note went.
 */
#include "preload/journal.h"

#define SEALED     UINT64_MAX
#define NOTHING    UINT64_C(7)
#define PAGES_BITS 26
#define PAGE_BITS  35

static uint64_t empty(uint64_t generation) {
    return generation << 1;
}

static bool is_empty(uint64_t v) {
    return !(v & 1);
}

static bool encode(uint64_t start, uint64_t end, enum journal_kind kind, uint64_t *ret) {
    uint64_t page = start >> SP_PAGE_SHIFT, pages = (end - start) >> SP_PAGE_SHIFT;
    /* The last number of pages is left out: no note looks like SEALED. */
    if (page >> PAGE_BITS || pages + 1 >= UINT64_C(1) << PAGES_BITS)
        return false;
    *ret = page << 29 | pages << 3 | (uint64_t)kind << 1 | 1;
    return true;
}

static enum journal_kind decode(uint64_t v, uint64_t *ret_start, uint64_t *ret_end) {
    *ret_start = v >> 29 << SP_PAGE_SHIFT;
    *ret_end = *ret_start + ((v >> 3 & ((UINT64_C(1) << PAGES_BITS) - 1)) << SP_PAGE_SHIFT);
    return (enum journal_kind)(v >> 1 & 3);
}

/* What is left of the mapping in note `v` without [start, end). False: that cannot be said by one note. */
static bool shorten(uint64_t v, uint64_t start, uint64_t end, uint64_t *ret) {
    uint64_t first, last;
    enum journal_kind kind = decode(v, &first, &last);
    if (kind == JOURNAL_UNMAPPED || start < first || end > last || (start != first && end != last))
        return false;
    if (start == first)
        first = end;
    else
        last = start;
    *ret = NOTHING;
    return first == last || encode(first, last, kind, ret);
}

/* Slots below the hint have notes, or are sealed. */
static uint32_t hinted(const struct journal *j, uint64_t generation) {
    uint64_t hint = __atomic_load_n(&j->hint, __ATOMIC_RELAXED);
    return hint >> 32 == (uint32_t)generation ? (uint32_t)hint : 0;
}

/* Where the last note is, and which. NULL: there is none, or it is not known which is the last. */
static uint64_t *last_slot(struct journal *j, uint64_t *ret_note) {
    uint64_t g = __atomic_load_n(&j->generation, __ATOMIC_ACQUIRE);
    uint32_t i = hinted(j, g);
    if (i == 0)
        return NULL;
    *ret_note = __atomic_load_n(&j->slots[i - 1], __ATOMIC_ACQUIRE);
    if (*ret_note == SEALED || is_empty(*ret_note))
        return NULL;
    if (i < JOURNAL_SLOTS && __atomic_load_n(&j->slots[i], __ATOMIC_ACQUIRE) != empty(g))
        return NULL;
    return &j->slots[i - 1];
}

static bool replace(uint64_t *slot, uint64_t note, uint64_t by) {
    return __atomic_compare_exchange_n(slot, &note, by, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

bool journal_shorten(struct journal *j, uint64_t start, uint64_t end) {
    uint64_t note, rest, *slot = last_slot(j, &note);
    return slot && shorten(note, start, end, &rest) && replace(slot, note, rest);
}

/* Puts `value` into the first empty slot. Returns the slot, or JOURNAL_SLOTS: sealed or full. */
static uint32_t put(struct journal *j, uint64_t value) {
    uint64_t g = __atomic_load_n(&j->generation, __ATOMIC_ACQUIRE);
    uint32_t i = hinted(j, g);
    while (i < JOURNAL_SLOTS) {
        uint64_t seen = empty(g);
        if (__atomic_compare_exchange_n(&j->slots[i], &seen, value, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            if (value != SEALED) /* beyond which nobody shall look */
                __atomic_store_n(&j->hint, g << 32 | (i + 1), __ATOMIC_RELAXED);
            return i;
        }
        if (seen == SEALED || is_empty(seen))
            break; /* empty, of another generation: just being emptied */
        i++;
    }
    return JOURNAL_SLOTS;
}

bool journal_note(struct journal *j, uint64_t start, uint64_t end, enum journal_kind kind) {
    uint64_t value, last, *slot;
    if (!encode(start, end, kind, &value))
        return false;
    slot = last_slot(j, &last);
    if (slot && last == NOTHING && replace(slot, last, value))
        return true;
    return put(j, value) < JOURNAL_SLOTS;
}

bool journal_any(const struct journal *j) {
    uint64_t first = __atomic_load_n(&j->slots[0], __ATOMIC_ACQUIRE);
    return !is_empty(first) &&
           (first != NOTHING || !is_empty(__atomic_load_n(&j->slots[1], __ATOMIC_ACQUIRE)));
}

void journal_take(struct journal *j, void (*visit)(uint64_t start, uint64_t end, enum journal_kind kind)) {
    if (__atomic_load_n(&j->slots[0], __ATOMIC_ACQUIRE) != SEALED)
        put(j, SEALED);
    for (uint32_t i = 0; i < JOURNAL_SLOTS; i++) {
        uint64_t start, end, v = __atomic_exchange_n(&j->slots[i], SEALED, __ATOMIC_ACQ_REL);
        if (v == SEALED)
            break;
        if (v == NOTHING)
            continue;
        enum journal_kind kind = decode(v, &start, &end);
        visit(start, end, kind);
    }
}

/* The first slot last: until then whoever comes finds it sealed, or slots of another generation than its own.
 */
void journal_open(struct journal *j) {
    uint64_t g = j->generation + 1;
    for (uint32_t i = 1; i < JOURNAL_SLOTS; i++)
        __atomic_store_n(&j->slots[i], empty(g), __ATOMIC_RELEASE);
    __atomic_store_n(&j->generation, g, __ATOMIC_RELEASE);
    __atomic_store_n(&j->slots[0], empty(g), __ATOMIC_RELEASE);
}
