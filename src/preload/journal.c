/* SPDX-License-Identifier: MIT */
/*
 * A slot holds (see the header):
 *
 *     generation << 1                                       empty
 *     first page << 29 | pages << 2 | mapped << 1 | 1       a note
 *     SEALED                                                the end, for now
 *
 * 35 bits of page number are the 47 of a program's address; longer ranges than 2^27 pages (512 GiB) do not
 * fit and go by the lock.
 *
 * Pairs: the release of a slot's compare-and-swap with the acquire loads in journal_take; the release store
 * of `generation` in journal_open with the acquire load in journal_note.
 */
#include "preload/journal.h"

#define SEALED     UINT64_MAX
#define PAGES_BITS 27
#define PAGE_BITS  35

static uint64_t empty(uint64_t generation) {
    return generation << 1;
}

static bool is_empty(uint64_t v) {
    return !(v & 1);
}

static bool encode(uint64_t start, uint64_t end, bool mapped, uint64_t *ret) {
    uint64_t page = start >> SP_PAGE_SHIFT, pages = (end - start) >> SP_PAGE_SHIFT;
    /* The last number of pages is left out: no note looks like SEALED. */
    if (page >> PAGE_BITS || pages + 1 >= UINT64_C(1) << PAGES_BITS)
        return false;
    *ret = page << 29 | pages << 2 | (uint64_t)mapped << 1 | 1;
    return true;
}

/* Puts `value` into the first empty slot. Returns the slot, or JOURNAL_SLOTS: sealed or full. */
static uint32_t put(struct journal *j, uint64_t value) {
    uint64_t g = __atomic_load_n(&j->generation, __ATOMIC_ACQUIRE);
    uint64_t hint = __atomic_load_n(&j->hint, __ATOMIC_RELAXED);
    uint32_t i = hint >> 32 == (uint32_t)g ? (uint32_t)hint : 0;
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

bool journal_note(struct journal *j, uint64_t start, uint64_t end, bool mapped) {
    uint64_t value;
    return encode(start, end, mapped, &value) && put(j, value) < JOURNAL_SLOTS;
}

void journal_take(struct journal *j, void (*visit)(uint64_t start, uint64_t end, bool mapped)) {
    if (__atomic_load_n(&j->slots[0], __ATOMIC_ACQUIRE) != SEALED)
        put(j, SEALED);
    for (uint32_t i = 0; i < JOURNAL_SLOTS; i++) {
        uint64_t v = __atomic_load_n(&j->slots[i], __ATOMIC_ACQUIRE);
        if (v == SEALED)
            break;
        uint64_t start = v >> 29 << SP_PAGE_SHIFT;
        visit(start, start + ((v >> 2 & ((UINT64_C(1) << PAGES_BITS) - 1)) << SP_PAGE_SHIFT), v >> 1 & 1);
    }
    /* From now on nobody puts anything into this generation, full or not. */
    __atomic_store_n(&j->slots[0], SEALED, __ATOMIC_RELEASE);
}

/* The first slot last: until then whoever comes finds it sealed, or slots of another generation than its own.
 */
void journal_open(struct journal *j) {
    uint64_t g = j->generation + 1;
    for (uint32_t i = 1; i < JOURNAL_SLOTS; i++)
        __atomic_store_n(&j->slots[i], empty(g), __ATOMIC_RELAXED);
    __atomic_store_n(&j->generation, g, __ATOMIC_RELEASE);
    __atomic_store_n(&j->slots[0], empty(g), __ATOMIC_RELEASE);
}
