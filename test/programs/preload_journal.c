/* SPDX-License-Identifier: MIT */
/* The shim's journal: everything noted is handed over, once and in order, whoever notes and empties it. */
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
    bool mapped;
} seen[SEEN_MAX];
static unsigned n_seen;

static void collect(uint64_t start, uint64_t end, bool mapped) {
    assert_true(n_seen < SEEN_MAX);
    seen[n_seen++] = (struct note){start, end, mapped};
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
            assert_true(journal_note(&journal, i * PAGE, (2 * i + 1) * PAGE, i % 3));
        journal_take(&journal, collect);
        assert_int_equal(n_seen, 100 + round);
        for (unsigned i = 0; i < n_seen; i++) {
            assert_int_equal(seen[i].start, i * PAGE);
            assert_int_equal(seen[i].end, (2 * i + 1) * PAGE);
            assert_int_equal(seen[i].mapped, i % 3 != 0);
        }
        journal_open(&journal);
    }
}

static void test_full_and_sealed(void **state) {
    begin();
    for (unsigned i = 0; i < JOURNAL_SLOTS; i++)
        assert_true(journal_note(&journal, PAGE, 2 * PAGE, true));
    assert_false(journal_note(&journal, PAGE, 2 * PAGE, true));
    journal_take(&journal, collect);
    assert_int_equal(n_seen, JOURNAL_SLOTS);
    assert_false(journal_note(&journal, PAGE, 2 * PAGE, true));
    journal_take(&journal, collect); /* sealed: nothing more */
    assert_int_equal(n_seen, JOURNAL_SLOTS);
    journal_open(&journal);
    assert_true(journal_note(&journal, PAGE, 2 * PAGE, true));
    journal_take(&journal, collect);
    assert_int_equal(n_seen, JOURNAL_SLOTS + 1);
}

static void test_what_does_not_fit(void **state) {
    begin();
    assert_true(journal_note(&journal, 0, (UINT64_C(1) << 39) - 2 * PAGE, true)); /* just below 512 GiB */
    assert_false(journal_note(&journal, 0, UINT64_C(1) << 39, true));
    assert_true(journal_note(&journal, (UINT64_C(1) << 47) - PAGE, UINT64_C(1) << 47, false));
    assert_false(journal_note(&journal, UINT64_C(1) << 47, (UINT64_C(1) << 47) + PAGE, true));
    journal_take(&journal, collect);
    assert_int_equal(n_seen, 2);
    assert_int_equal(seen[0].end, (UINT64_C(1) << 39) - 2 * PAGE);
    assert_int_equal(seen[1].start, (UINT64_C(1) << 47) - PAGE);
    assert_int_equal(seen[1].end, UINT64_C(1) << 47);
}

/*
 * Each thread numbers its notes; whoever finds the journal full or sealed empties it under a lock and hands
 * in his own as the shim does. For every thread the numbers must come out complete and ascending.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t next_number[THREADS];

static void check(uint64_t start, uint64_t end, bool mapped) {
    uint64_t thread = (end - start) / PAGE - 1, number = start / PAGE;
    assert_true(thread < THREADS);
    assert_int_equal(number, next_number[thread]);
    next_number[thread]++;
}

static void *note_many(void *arg) {
    uint64_t pages = (uintptr_t)arg + 1;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        if (journal_note(&journal, i * PAGE, (i + pages) * PAGE, true))
            continue;
        pthread_mutex_lock(&lock);
        journal_take(&journal, check);
        check(i * PAGE, (i + pages) * PAGE, true);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_full_and_sealed),
        cmocka_unit_test(test_what_does_not_fit),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("preload/journal", tests, NULL, NULL);
}
