/* SPDX-License-Identifier: MIT */
/* The shim's journal: everything noted is handed over, once and in order, whoever notes and empties it; and
 * what it hands over is always mapped. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include <cmocka.h>

#include "preload/journal.h"

#define PAGE     UINT64_C(4096)
#define THREADS  4u
#define ROUNDS   100000u
#define SEEN_MAX 2048u

static struct journal journal;
static struct note {
    uint64_t start, end;
    enum journal_kind kind;
} seen[SEEN_MAX];
static unsigned n_seen;

static void collect(uint64_t start, uint64_t end, enum journal_kind kind) {
    assert_true(n_seen < SEEN_MAX);
    seen[n_seen++] = (struct note){start, end, kind};
}

static void begin(void) {
    memset(&journal, 0, sizeof(journal));
    n_seen = 0;
}

static void test_in_order(void **state) {
    begin();
    for (unsigned round = 0; round < 3; round++) {
        n_seen = 0;
        for (unsigned i = 0; i < 100 + round; i++)
            assert_true(journal_note(&journal, i * PAGE, (2 * i + 1) * PAGE, (enum journal_kind)(i % 3)));
        journal_take(&journal, collect);
        assert_int_equal(n_seen, 100 + round);
        for (unsigned i = 0; i < n_seen; i++) {
            assert_int_equal(seen[i].start, i * PAGE);
            assert_int_equal(seen[i].end, (2 * i + 1) * PAGE);
            assert_int_equal(seen[i].kind, i % 3);
        }
        journal_open(&journal);
    }
}

static void test_full_and_sealed(void **state) {
    begin();
    for (unsigned i = 0; i < JOURNAL_SLOTS; i++)
        assert_true(journal_note(&journal, PAGE, 2 * PAGE, JOURNAL_MAPPED));
    assert_false(journal_note(&journal, PAGE, 2 * PAGE, JOURNAL_MAPPED));
    journal_take(&journal, collect);
    assert_int_equal(n_seen, JOURNAL_SLOTS);
    assert_false(journal_note(&journal, PAGE, 2 * PAGE, JOURNAL_MAPPED));
    assert_false(journal_shorten(&journal, PAGE, 2 * PAGE)); /* it has been handed over */
    journal_take(&journal, collect);                         /* sealed: nothing more */
    assert_int_equal(n_seen, JOURNAL_SLOTS);
    journal_open(&journal);
    assert_true(journal_note(&journal, PAGE, 2 * PAGE, JOURNAL_MAPPED));
    journal_take(&journal, collect);
    assert_int_equal(n_seen, JOURNAL_SLOTS + 1);
}

static void test_what_does_not_fit(void **state) {
    begin();
    assert_true(
        journal_note(&journal, 0, (UINT64_C(1) << 38) - 2 * PAGE, JOURNAL_MAPPED)); /* just below 256 GiB */
    assert_false(journal_note(&journal, 0, UINT64_C(1) << 38, JOURNAL_MAPPED));
    assert_true(journal_note(&journal, (UINT64_C(1) << 47) - PAGE, UINT64_C(1) << 47, JOURNAL_UNMAPPED));
    assert_false(journal_note(&journal, UINT64_C(1) << 47, (UINT64_C(1) << 47) + PAGE, JOURNAL_MAPPED));
    journal_take(&journal, collect);
    assert_int_equal(n_seen, 2);
    assert_int_equal(seen[0].end, (UINT64_C(1) << 38) - 2 * PAGE);
    assert_int_equal(seen[1].start, (UINT64_C(1) << 47) - PAGE);
    assert_int_equal(seen[1].end, UINT64_C(1) << 47);
}

/*
 * Each thread numbers its notes; whoever finds the journal full or sealed empties it under a lock and hands
 * in his own as the shim does. For every thread the numbers must come out complete and ascending.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t next_number[THREADS];

static void check(uint64_t start, uint64_t end, enum journal_kind kind) {
    uint64_t thread = (end - start) / PAGE - 1, number = start / PAGE;
    assert_true(thread < THREADS);
    assert_int_equal(number, next_number[thread]);
    next_number[thread]++;
}

static void *note_many(void *arg) {
    uint64_t pages = (uintptr_t)arg + 1;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        if (journal_note(&journal, i * PAGE, (i + pages) * PAGE, JOURNAL_MAPPED))
            continue;
        pthread_mutex_lock(&lock);
        journal_take(&journal, check);
        check(i * PAGE, (i + pages) * PAGE, JOURNAL_MAPPED);
        journal_open(&journal);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void test_threads(void **state) {
    pthread_t threads[THREADS];
    begin();
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, note_many, (void *)i), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    journal_take(&journal, check);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(next_number[i], ROUNDS);
}

static void take_all(void) {
    n_seen = 0;
    journal_take(&journal, collect);
    journal_open(&journal);
}

static void test_shortened(void **state) {
    begin();
    assert_false(journal_shorten(&journal, PAGE, 2 * PAGE)); /* there is no note */
    assert_true(journal_note(&journal, 10 * PAGE, 20 * PAGE, JOURNAL_MAPPED_RW));
    assert_false(journal_shorten(&journal, 9 * PAGE, 11 * PAGE));
    assert_false(journal_shorten(&journal, 12 * PAGE, 13 * PAGE)); /* two would be left */
    assert_false(journal_shorten(&journal, 20 * PAGE, 21 * PAGE));
    assert_true(journal_shorten(&journal, 15 * PAGE, 20 * PAGE));
    assert_true(journal_shorten(&journal, 10 * PAGE, 11 * PAGE));
    take_all();
    assert_int_equal(n_seen, 1);
    assert_int_equal(seen[0].start, 11 * PAGE);
    assert_int_equal(seen[0].end, 15 * PAGE);
    assert_int_equal(seen[0].kind, JOURNAL_MAPPED_RW);
    assert_false(journal_shorten(&journal, 11 * PAGE, 15 * PAGE)); /* it has been handed over */

    assert_true(journal_note(&journal, 10 * PAGE, 20 * PAGE, JOURNAL_MAPPED));
    assert_true(journal_note(&journal, 30 * PAGE, 40 * PAGE, JOURNAL_MAPPED));
    assert_false(journal_shorten(&journal, 10 * PAGE, 20 * PAGE)); /* not the last */
    assert_true(journal_note(&journal, 10 * PAGE, 20 * PAGE, JOURNAL_UNMAPPED));
    assert_false(journal_shorten(&journal, 10 * PAGE, 20 * PAGE)); /* no mapping */
    /* Who was asleep when these were noted, and takes the first note for the last. */
    journal.hint = journal.generation << 32 | 1;
    assert_false(journal_shorten(&journal, 10 * PAGE, 20 * PAGE));
    take_all();
    assert_int_equal(n_seen, 3);
}

static void test_any(void **state) {
    begin();
    assert_false(journal_any(&journal));
    assert_true(journal_note(&journal, PAGE, 2 * PAGE, JOURNAL_MAPPED));
    assert_true(journal_any(&journal));
    assert_true(journal_shorten(&journal, PAGE, 2 * PAGE));
    assert_false(journal_any(&journal));
    assert_true(journal_note(&journal, PAGE, 2 * PAGE, JOURNAL_UNMAPPED));
    assert_true(journal_any(&journal));
    journal_take(&journal, collect);
    assert_true(journal_any(&journal)); /* who sealed it may still be at it */
    journal_open(&journal);
    assert_false(journal_any(&journal));
}

/* As often as one likes without an emptying; also in the last slot. */
static void test_used_again(void **state) {
    begin();
    for (unsigned last = 0; last < JOURNAL_SLOTS; last += JOURNAL_SLOTS - 1) {
        for (unsigned i = 0; i < last; i++)
            assert_true(journal_note(&journal, i * PAGE, (i + 1) * PAGE, JOURNAL_MAPPED));
        for (unsigned i = 0; i < 2 * JOURNAL_SLOTS; i++) {
            assert_true(journal_note(&journal, i * PAGE, (i + 2) * PAGE, JOURNAL_MAPPED));
            assert_true(journal_shorten(&journal, (i + 1) * PAGE, (i + 2) * PAGE));
            assert_true(journal_shorten(&journal, i * PAGE, (i + 1) * PAGE));
        }
        take_all();
        assert_int_equal(n_seen, last);
    }
}

/*
 * A kernel that gives out pages by two, a thread that maps and unmaps as the shim does, and a signal handler
 * that interrupts it there, anywhere, and does the same, or empties the journal into `tracked`: nothing that
 * is tracked may be unmapped, and in the end, when nothing is mapped, nothing may be tracked. Interrupted a
 * program is far more often in the middle of a note than where threads meet.
 */
#define PAIRS      8u
#define INTERRUPTS 10000u
static uint8_t kernel_has[PAIRS]; /* a bit for each page */
static bool tracked[2 * PAIRS];
static volatile bool locked; /* by whom the handler interrupts */
static volatile unsigned interrupts, wrong;

static void page_track(uint64_t start, uint64_t end, enum journal_kind kind) {
    for (uint64_t i = start / PAGE; i < end / PAGE; i++)
        tracked[i] = kind != JOURNAL_UNMAPPED;
}

static void empty_into_tracked(void) {
    locked = true;
    journal_take(&journal, page_track);
    for (unsigned i = 0; i < 2 * PAIRS; i++)
        wrong += tracked[i] && !(kernel_has[i / 2] >> i % 2 & 1);
    journal_open(&journal);
    locked = false;
}

static uint64_t kernel_map(void) {
    for (unsigned i = 0;; i = (i + 1) % PAIRS) {
        uint8_t none = 0;
        if (__atomic_compare_exchange_n(&kernel_has[i], &none, 3, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 2 * i;
    }
}

static void unmap(uint64_t page) {
    uint64_t start = page * PAGE, end = start + PAGE;
    while (!(!tracked[page] && journal_shorten(&journal, start, end)) &&
           !journal_note(&journal, start, end, JOURNAL_UNMAPPED))
        empty_into_tracked();
    __atomic_fetch_and(&kernel_has[page / 2], (uint8_t)(page % 2 ? 1 : 2), __ATOMIC_SEQ_CST);
}

static void map_and_unmap(unsigned first) {
    uint64_t page = kernel_map();
    while (!journal_note(&journal, page * PAGE, (page + 2) * PAGE, JOURNAL_MAPPED))
        empty_into_tracked();
    unmap(page + first);
    unmap(page + !first);
}

static void interrupt(int signal) {
    interrupts = interrupts + 1;
    if (locked)
        return;
    if (interrupts % 2)
        empty_into_tracked();
    for (unsigned i = 0; i < interrupts % 3; i++)
        map_and_unmap(i);
}

static void test_only_what_is_mapped(void **state) {
    const struct itimerval often = {{0, 50}, {0, 50}}, never = {0};
    begin();
    signal(SIGALRM, interrupt);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    while (interrupts < INTERRUPTS)
        map_and_unmap(interrupts % 2);
    assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
    empty_into_tracked();
    assert_int_equal(wrong, 0);
    for (unsigned i = 0; i < 2 * PAIRS; i++)
        assert_false(tracked[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),          cmocka_unit_test(test_full_and_sealed),
        cmocka_unit_test(test_what_does_not_fit), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_shortened),         cmocka_unit_test(test_any),
        cmocka_unit_test(test_used_again),        cmocka_unit_test(test_only_what_is_mapped),
    };
    return cmocka_run_group_tests_name("preload/journal", tests, NULL, NULL);
}
