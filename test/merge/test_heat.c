/* SPDX-License-Identifier: MIT */
/*
 * Memory that a thread writes all the time, beside a worker: what of it is merged, and what the thread pays.
 * On a machine that is busy the thread may be kept from writing, and the worker be right to merge: then it is
 * tried again.
 */
#include <sys/resource.h>

#include "merge_test.h"

#define N       (4 * SP_WINDOW_SIZE)
#define PAGES   (N / PAGE)
#define TRIES   6
#define LOOK_MS 100

struct writer {
    uint8_t *p;
    uint64_t round_ns; /* in which each page is written once, */
    uint64_t every;    /* or each so-many-th */
    bool stop;
    uint64_t faults; /* that it took */
    pthread_t thread;
};

static uint64_t faults_of_thread(void) {
    struct rusage usage;
    must(getrusage(RUSAGE_THREAD, &usage), "getrusage");
    return (uint64_t)usage.ru_minflt;
}

/* Writes what is there. */
static void *writer_run(void *arg) {
    struct writer *w = arg;
    uint64_t faults = faults_of_thread(), begin = sp_now_ns();
    for (uint64_t n = 0; !__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE); n++) {
        volatile uint64_t *word = (volatile uint64_t *)(w->p + n * 7 * w->every % PAGES * PAGE);
        *word = *word;
        __atomic_store_n(&w->faults, faults_of_thread() - faults, __ATOMIC_RELEASE);
        uint64_t due = begin + n * (w->round_ns * w->every / PAGES), now = sp_now_ns();
        if (due > now + SECOND_NS / 1000)
            sp_sleep_ns(due - now);
    }
    return NULL;
}

static void writer_start(struct writer *w, uint8_t *p, uint64_t round_ns, uint64_t every) {
    *w = (struct writer){.p = p, .round_ns = round_ns, .every = every};
    must(-pthread_create(&w->thread, NULL, writer_run, w), "thread");
}

static void writer_stop(struct writer *w) {
    __atomic_store_n(&w->stop, true, __ATOMIC_RELEASE);
    must(-pthread_join(w->thread, NULL), "join");
}

static void rig_begin_slow(struct engine_rig *r) {
    rig_settings(r);
    r->settings.v[SP_SETTING_sleep_millisecs] = LOOK_MS;
    r->settings.v[SP_SETTING_sleep_max_millisecs] = LOOK_MS;
    rig_begin(r, NULL);
}

/* Each page is written every fourth look. Returns how many were merged; they all are when it is over. */
static uint64_t merged_while_written(void) {
    struct engine_rig r;
    struct writer w;
    rig_begin_slow(&r);
    uint8_t *p = memory_new(N);
    fill_twins(p, PAGES, 1);
    writer_start(&w, p, 4 * LOOK_MS * (SECOND_NS / 1000), 1);
    rig_add(&r, p, N);
    sp_sleep_ns(3 * SECOND_NS);
    uint64_t merged = rig_counter(&r, SP_COUNTER_pages_merged);
    writer_stop(&w);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, merged ? 1 : PAGES / 2, PAGES));
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_is(p + i * PAGE, 1, i % (PAGES / 2)));
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
    return merged;
}

static void test_often_written_is_not_merged(void **state) {
    uint64_t merged = UINT64_MAX;
    for (unsigned i = 0; i < TRIES && merged > PAGES / 8; i++)
        merged = merged_while_written();
    assert_in_range(merged, 0, PAGES / 8);
}

/* Each page is written many times between two looks. Returns the faults that took in the best part of a
 * second. */
static uint64_t faults_of_writing(void) {
    struct engine_rig r;
    struct writer w;
    rig_begin_slow(&r);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    writer_start(&w, p, 1, 1);
    rig_add(&r, p, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_volatile, 1, UINT64_MAX));
    sp_sleep_ns(4 * LOOK_MS * (SECOND_NS / 1000));
    uint64_t faults = __atomic_load_n(&w.faults, __ATOMIC_ACQUIRE);
    writer_stop(&w);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
    return faults;
}

/* One for each page when all was armed for the first time, and none after that was found to be no use. */
static void test_hot_is_not_watched(void **state) {
    uint64_t faults = UINT64_MAX;
    for (unsigned i = 0; i < TRIES && faults > PAGES * 5 / 4; i++)
        faults = faults_of_writing();
    assert_in_range(faults, PAGES / 4, PAGES * 5 / 4);
}

/* Of each eight pages one is written all the time, in two ranges that come one after the other, so that they
 * rest at different times. The other seven are twins of the other range's, and find them. */
static void test_cold_finds_its_twin(void **state) {
    struct engine_rig r;
    struct writer w[2];
    uint8_t *p[2];
    sp_settings_init(&r.settings);
    rig_begin(&r, NULL);
    for (unsigned k = 0; k < 2; k++) {
        p[k] = memory_new(N);
        fill(p[k], PAGES, 1);
        for (size_t i = 0; i < PAGES; i += 8)
            page_fill(p[k] + i * PAGE, 2 + k, i);
        writer_start(&w[k], p[k], 7 * (SECOND_NS / 1000), 8);
        rig_add(&r, p[k], N);
        sp_sleep_ns(SECOND_NS * 6 / 10);
    }
    uint64_t begin = sp_now_ns();
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES / 8 * 7 * 2 * 9 / 10, UINT64_MAX));
    assert_true(sp_now_ns() - begin < 15 * SECOND_NS);
    assert_true(rig_counter(&r, SP_COUNTER_pages_scanned) < 6 * PAGES);
    for (unsigned k = 0; k < 2; k++) {
        writer_stop(&w[k]);
        for (size_t i = 0; i < PAGES; i++)
            assert_true(page_is(p[k] + i * PAGE, i % 8 ? 1 : 2 + k, i));
    }
    r.engine = sp_engine_free(r.engine);
    memory_free(p[0], N);
    memory_free(p[1], N);
}

int main(void) {
    require_uffd();
    watchdog(150);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_often_written_is_not_merged),
        cmocka_unit_test(test_hot_is_not_watched),
        cmocka_unit_test(test_cold_finds_its_twin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
