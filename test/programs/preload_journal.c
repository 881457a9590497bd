/* SPDX-License-Identifier: MIT */
/* The shim's journal: everything noted is handed over, once and in order, whoever notes and empties it; and
 * what it hands over is always mapped. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
 * A kernel that gives out pages, and threads that map and unmap as the shim does. Whoever finds the journal
 * full, and one thread all the time, empties it into `tracked`: nothing that is tracked may be unmapped,
 * and in the end, when nothing is mapped, nothing may be tracked.
 */
#define PAGES 64u
static pthread_mutex_t kernel = PTHREAD_MUTEX_INITIALIZER;
static bool kernel_has[PAGES];
static uint32_t tracked[PAGES];
static uint32_t done;

static void page_track(uint64_t start, uint64_t end, enum journal_kind kind) {
    for (uint64_t i = start / PAGE; i < end / PAGE; i++)
        __atomic_store_n(&tracked[i], kind != JOURNAL_UNMAPPED, __ATOMIC_SEQ_CST);
}

static void empty_into_tracked(void) {
    pthread_mutex_lock(&lock);
    journal_take(&journal, page_track);
    pthread_mutex_lock(&kernel);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(kernel_has[i] || !tracked[i]);
    pthread_mutex_unlock(&kernel);
    journal_open(&journal);
    pthread_mutex_unlock(&lock);
}

/* Two adjacent pages. */
static uint64_t kernel_map(void) {
    for (;;) {
        pthread_mutex_lock(&kernel);
        for (unsigned i = 0; i < PAGES; i += 2)
            if (!kernel_has[i] && !kernel_has[i + 1]) {
                kernel_has[i] = kernel_has[i + 1] = true;
                pthread_mutex_unlock(&kernel);
                return i;
            }
        pthread_mutex_unlock(&kernel);
    }
}

static void kernel_unmap(uint64_t page) {
    pthread_mutex_lock(&kernel);
    kernel_has[page] = false;
    pthread_mutex_unlock(&kernel);
}

static void do_unmap(uint64_t page) {
    uint64_t start = page * PAGE, end = start + PAGE;
    bool known = __atomic_load_n(&tracked[page], __ATOMIC_SEQ_CST);
    while (!(!known && journal_shorten(&journal, start, end)) &&
           !journal_note(&journal, start, end, JOURNAL_UNMAPPED))
        empty_into_tracked();
    kernel_unmap(page);
}

static void *map_and_unmap(void *arg) {
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t page = kernel_map();
        while (!journal_note(&journal, page * PAGE, (page + 2) * PAGE, JOURNAL_MAPPED))
            empty_into_tracked();
        do_unmap(page + i % 2);
        do_unmap(page + !(i % 2));
    }
    return NULL;
}

static void *empty_always(void *arg) {
    while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST))
        empty_into_tracked();
    return NULL;
}

static void test_only_what_is_mapped(void **state) {
    pthread_t threads[THREADS], emptier;
    begin();
    assert_int_equal(pthread_create(&emptier, NULL, empty_always, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, map_and_unmap, NULL), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    __atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
    pthread_join(emptier, NULL);
    empty_into_tracked();
    for (unsigned i = 0; i < PAGES; i++)
        assert_false(kernel_has[i] || tracked[i]);
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
