/* SPDX-License-Identifier: MIT */
/*
 * Many threads at once: writers, each with its own record of what its memory must hold, and managers who
 * register, merge, unmerge and unregister the same memory under them, in two domains.
 */
#include "client_test.h"

#include <pthread.h>

#define SLICES 3
#define N      ((size_t)700)
#define ROUNDS 250

/* A slice of memory: one writer, one manager. */
struct slice {
    char *memory;
    samepage_domain *domains[2];
    samepage_domain *_Atomic discard_in; /* where the manager has it registered, or had it last */
    pthread_mutex_t moving; /* held by the manager while it changes the domain, and by discards */
    uint8_t record[N];      /* 0: zeros, else the seed of the content; the writer's */
    unsigned number;
    const char *failed; /* what went wrong first */
};

static bool stop;

#define SLICE_CHECK(s, condition)                                                                            \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            (s)->failed = #condition;                                                                        \
            return NULL;                                                                                     \
        }                                                                                                    \
    } while (0)

/* Few contents, so that there are twins everywhere. */
static void content(void *page, unsigned seed, size_t i) {
    page_fill(page, seed, i % 16);
}

static bool page_holds(const struct slice *s, size_t i) {
    const char *page = s->memory + i * PAGE;
    return s->record[i] ? page_is(page, s->record[i], i % 16) : pages_are_zero(page, 1);
}

static void *writer(void *arg) {
    struct slice *s = arg;
    unsigned random = s->number * 77 + 1;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        size_t i = (size_t)rand_r(&random) % N, n = (size_t)rand_r(&random) % 8 + 1;
        if (i + n > N)
            n = N - i;
        unsigned what = (unsigned)rand_r(&random) % 100;
        for (size_t k = i; k < i + n; k++)
            SLICE_CHECK(s, page_holds(s, k));
        if (what < 60) {
            unsigned seed = what % 3 + 1;
            for (size_t k = i; k < i + n; k++) {
                content(s->memory + k * PAGE, seed, k);
                s->record[k] = (uint8_t)seed;
            }
        } else if (what < 70) { /* one word: the rest must survive */
            uint64_t *word = (uint64_t *)(void *)(s->memory + i * PAGE) + 100, old = *word;
            *word = ~old;
            SLICE_CHECK(s, *word == ~old);
            *word = old;
        } else if (what < 72) {
            pthread_mutex_lock(&s->moving);
            int error = samepage_discard(s->discard_in, s->memory + i * PAGE, n * PAGE);
            pthread_mutex_unlock(&s->moving);
            SLICE_CHECK(s, error == 0);
            memset(s->record + i, 0, n);
        } else if (what < 74) {
            usleep(3000); /* lets it settle */
        }
    }
    for (size_t i = 0; i < N; i++)
        SLICE_CHECK(s, page_holds(s, i));
    return NULL;
}

static void *manager(void *arg) {
    struct slice *s = arg;
    unsigned random = s->number * 1001 + 5;
    for (unsigned round = 0; round < ROUNDS && !s->failed; round++) {
        samepage_domain *d = s->domains[rand_r(&random) % 2];
        samepage_region *r;
        struct samepage_region_counters rc = {.size = sizeof(rc)};
        struct samepage_domain_counters dc = {.size = sizeof(dc)};
        pthread_mutex_lock(&s->moving); /* a discard in one domain is refused while another has the memory */
        s->discard_in = d;
        int error = samepage_register(d, s->memory, N * PAGE, 0, &r);
        pthread_mutex_unlock(&s->moving);
        SLICE_CHECK(s, error == 0);
        for (unsigned k = (unsigned)rand_r(&random) % 6; k; k--) {
            size_t i = (size_t)rand_r(&random) % N, n = (size_t)rand_r(&random) % (N - i) + 1;
            char *p = s->memory + i * PAGE;
            switch (rand_r(&random) % 5) {
            case 0:
                SLICE_CHECK(s, samepage_merge(d, p, n * PAGE, 0, NULL) == 0);
                break;
            case 1:
                SLICE_CHECK(s, samepage_unmerge(d, p, n * PAGE, 0) == 0);
                break;
            case 2:
                SLICE_CHECK(s, samepage_region_stats(r, &rc) == 0);
                SLICE_CHECK(s, rc.eligible_bytes == N * PAGE);
                break;
            case 3:
                SLICE_CHECK(s, samepage_domain_stats(d, &dc) == 0);
                break;
            default:
                usleep(2000);
            }
        }
        SLICE_CHECK(s, samepage_unregister(r, 0) == 0);
    }
    return NULL;
}

/* Uses only memory that nobody else touches: everything quiescent. */
static void *loner(void *arg) {
    struct slice *s = arg;
    unsigned random = 99;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        samepage_domain *d = s->domains[rand_r(&random) % 2];
        samepage_region *r;
        struct samepage_merge_result m = {.size = sizeof(m)};
        for (size_t i = 0; i < N; i++)
            page_fill(s->memory + i * PAGE, 50, i % 20);
        SLICE_CHECK(s, samepage_register(d, s->memory, N * PAGE, 0, &r) == 0);
        SLICE_CHECK(s, samepage_merge(d, s->memory, N * PAGE, SAMEPAGE_QUIESCENT, &m) == 0);
        SLICE_CHECK(s, m.shared_pages == N);
        s->memory[5 * PAGE]++;
        SLICE_CHECK(s, samepage_unregister(r, SAMEPAGE_QUIESCENT) == 0);
        s->memory[5 * PAGE]--;
        for (size_t i = 0; i < N; i++)
            SLICE_CHECK(s, page_is(s->memory + i * PAGE, 50, i % 20));
    }
    return NULL;
}

static void everything_at_once(void **state) {
    static struct slice slices[SLICES + 1];
    samepage_domain *domains[2];
    for (size_t i = 0; i < 2; i++)
        domains[i] = domain_new("sleep_millisecs=1,sleep_max_millisecs=2");
    pthread_t writers[SLICES], managers[SLICES], alone;
    stop = false;
    for (unsigned i = 0; i <= SLICES; i++) {
        slices[i] = (struct slice){.memory = pages_new(N), .number = i};
        memcpy(slices[i].domains, domains, sizeof(domains));
        slices[i].discard_in = domains[0];
        pthread_mutex_init(&slices[i].moving, NULL);
    }
    for (unsigned i = 0; i < SLICES; i++) {
        assert_int_equal(pthread_create(&writers[i], NULL, writer, &slices[i]), 0);
        assert_int_equal(pthread_create(&managers[i], NULL, manager, &slices[i]), 0);
    }
    assert_int_equal(pthread_create(&alone, NULL, loner, &slices[SLICES]), 0);
    for (unsigned i = 0; i < SLICES; i++)
        pthread_join(managers[i], NULL);
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < SLICES; i++)
        pthread_join(writers[i], NULL);
    pthread_join(alone, NULL);
    for (unsigned i = 0; i <= SLICES; i++)
        if (slices[i].failed)
            fail_msg("slice %u: not so: %s", i, slices[i].failed);
    /* There was something to do. */
    assert_true(domain_counters(domains[0]).pages_merged > N);
    assert_true(domain_counters(domains[1]).pages_merged > N);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(samepage_domain_close(domains[i], 0), 0);
    for (unsigned i = 0; i <= SLICES; i++)
        pages_free(slices[i].memory, N);
}

/* ---- domains that come and go ---- */

static void *opener(void *arg) {
    struct slice *s = arg;
    for (unsigned round = 0; round < 60; round++) {
        samepage_domain *d;
        samepage_region *low, *high;
        for (size_t i = 0; i < 64; i++)
            page_fill(s->memory + i * PAGE, 3, i % 8);
        SLICE_CHECK(s, samepage_domain_open(NULL, &d) == 0);
        SLICE_CHECK(s, samepage_register(d, s->memory, 32 * PAGE, 0, &low) == 0);
        SLICE_CHECK(s, samepage_register(d, s->memory + 32 * PAGE, 32 * PAGE, 0, &high) == 0);
        if (round % 2)
            SLICE_CHECK(s, samepage_merge(d, s->memory, 64 * PAGE, 0, NULL) == 0);
        if (round % 3 == 0)
            SLICE_CHECK(s, samepage_unregister(low, 0) == 0);
        SLICE_CHECK(s, samepage_domain_close(d, round % 5 ? SAMEPAGE_QUIESCENT : 0) == 0);
        for (size_t i = 0; i < 64; i++)
            SLICE_CHECK(s, page_is(s->memory + i * PAGE, 3, i % 8));
        SLICE_CHECK(s, samepage_discard(NULL, s->memory, 64 * PAGE) == 0);
        SLICE_CHECK(s, pages_are_zero(s->memory, 64));
    }
    return NULL;
}

static void domains_come_and_go(void **state) {
    static struct slice slices[4];
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++) {
        slices[i] = (struct slice){.memory = pages_new(64), .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, opener, &slices[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 4; i++) {
        if (slices[i].failed)
            fail_msg("thread %u: not so: %s", i, slices[i].failed);
        pages_free(slices[i].memory, 64);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_at_once),
        cmocka_unit_test(domains_come_and_go),
    };
    require_userfaultfd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
