/* SPDX-License-Identifier: MIT */
/* fork: while merging goes on (H3), and what a child can do with what it inherits. */
#include "client_test.h"

#include <pthread.h>

#define N ((size_t)2048)

static int check_memory(void *arg) {
    const struct pair *p = arg;
    CHILD_CHECK(pages_are(p->a, p->n, 1));
    CHILD_CHECK(pages_are(p->b, p->n, 1));
    return 0;
}

/* Each round forks at another moment; rounds go on until enough of them met the worker in its work. */
static void children_of_any_moment_have_all_content(void **state) {
    unsigned seed = 1, met = 0;
    for (unsigned round = 0; round < 30 || met < 8; round++) {
        struct pair p;
        pair_new(&p, N, "sleep_millisecs=1,sleep_max_millisecs=1");
        usleep((useconds_t)rand_r(&seed) % 12000);
        assert_int_equal(in_child(check_memory, &p), 0);
        uint64_t merged = domain_counters(p.domain).pages_merged;
        met += merged > 0 && merged < 2 * N;
        assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
        pair_free(&p);
    }
}

static int use_in_child(void *arg) {
    struct pair *p = arg;
    CHILD_CHECK(samepage_domain_state(p->domain, NULL) == SAMEPAGE_STATE_IDLE);
    struct samepage_domain_counters c = {.size = sizeof(c)};
    struct samepage_region_counters r = {.size = sizeof(r)};
    CHILD_CHECK(!samepage_domain_stats(p->domain, &c) && c.pages_merged == 0 && c.pages_shared == 0);
    CHILD_CHECK(c.registered_bytes == 2 * N * PAGE);
    CHILD_CHECK(pages_are(p->a, N, 1) && pages_are(p->b, N, 1));
    CHILD_CHECK(usage_of(p->a, N * PAGE).private_bytes == 0);

    /* Memory of its own, in the inherited domain, merged with memory of its own. */
    char *x = pages_new(2 * N);
    samepage_region *rx;
    pages_fill(x, N, 5);
    pages_fill(x + N * PAGE, N, 5);
    CHILD_CHECK(!samepage_register(p->domain, x, 2 * N * PAGE, 0, &rx));
    CHILD_CHECK(!samepage_wait_settled(p->domain, LONG_MS));
    CHILD_CHECK(!samepage_region_stats(rx, &r) && r.ksm_merging_pages == 2 * N);
    CHILD_CHECK(pages_are(x, N, 5) && pages_are(x + N * PAGE, N, 5));

    /* The inherited handles. */
    CHILD_CHECK(!samepage_unmerge(p->domain, p->a, N * PAGE, 0));
    CHILD_CHECK(usage_of(p->a, N * PAGE).private_bytes == N * PAGE);
    CHILD_CHECK(pages_are(p->a, N, 1));
    CHILD_CHECK(!samepage_unregister(p->ra, SAMEPAGE_QUIESCENT));
    CHILD_CHECK(usage_of(p->a, N * PAGE).store_mappings == 0);
    CHILD_CHECK(!samepage_discard(p->domain, p->b, N * PAGE));
    CHILD_CHECK(pages_are_zero(p->b, N));
    pages_fill(p->b, N, 6);
    pages_fill(p->a, N, 6);
    CHILD_CHECK(!samepage_register(p->domain, p->a, N * PAGE, 0, &p->ra));
    CHILD_CHECK(!samepage_merge(p->domain, p->a, N * PAGE, 0, NULL));
    CHILD_CHECK(!samepage_merge(p->domain, p->b, N * PAGE, 0, NULL));
    CHILD_CHECK(!samepage_region_stats(p->rb, &r) && r.ksm_merging_pages == N);
    CHILD_CHECK(pages_are(p->a, N, 6) && pages_are(p->b, N, 6));
    CHILD_CHECK(in_child(check_memory, &(struct pair){.a = x, .b = x, .n = 0}) == 0);
    CHILD_CHECK(!samepage_domain_close(p->domain, 0));
    CHILD_CHECK(pages_are(x, N, 5) && pages_are(p->b, N, 6));
    return 0;
}

static void a_child_can_use_what_it_inherits(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(in_child(use_in_child, &p), 0);
    /* Nothing of it concerns the parent. */
    assert_int_equal(region_counters(p.ra).ksm_merging_pages, N);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pair_free(&p);
}

static int outlive(void *arg) {
    struct pair *p = arg;
    usleep(300000);
    struct samepage_domain_counters c = {.size = sizeof(c)};
    do { /* any call will do once the child is old enough */
        CHILD_CHECK(!samepage_domain_stats(p->domain, &c));
        usleep(2000);
    } while (samepage_domain_state(p->domain, NULL) != SAMEPAGE_STATE_RUNNING);
    CHILD_CHECK(!samepage_domain_close(p->domain, 0));
    CHILD_CHECK(pages_are(p->a, N, 1) && pages_are(p->b, N, 1));
    return 0;
}

static void a_childs_worker_starts_by_itself(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(in_child(outlive, &p), 0);
    pair_free(&p);
}

/* The parent unmerges, writes, closes: the store pages that the child still maps stay what they are (H6). */
static void a_child_keeps_its_content_when_the_parent_lets_go(void **state) {
    struct pair p;
    int go[2];
    char byte;
    pair_new(&p, N, "sleep_millisecs=5,sleep_max_millisecs=5");
    pair_settle(&p);
    assert_int_equal(pipe(go), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(go[1]);
        if (read(go[0], &byte, 1) != 0)
            _exit(99);
        _exit(check_memory(&p));
    }
    close(go[0]);
    pages_fill(p.a, N, 2);
    pages_fill(p.b, N, 3);
    WAIT_FOR(region_counters(p.ra).ksm_merging_pages + region_counters(p.rb).ksm_merging_pages == 0);
    usleep(300000); /* time to punch what must not be punched */
    assert_int_equal(samepage_domain_close(p.domain, 0), 0);
    close(go[1]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(pages_are(p.a, N, 2) && pages_are(p.b, N, 3));
    pages_free(p.a, N);
    pages_free(p.b, N);
}

/* ---- signals, several domains, several threads ---- */

static int mask_is(void *arg) {
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    for (int s = 1; s < 32; s++)
        CHILD_CHECK(sigismember(&now, s) == sigismember(arg, s));
    return 0;
}

static void fork_keeps_the_signal_mask(void **state) {
    struct pair p, q;
    sigset_t mask, before;
    pair_new(&p, 64, NULL);
    pair_new(&q, 64, NULL);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_BLOCK, &mask, &before);
    sigprocmask(SIG_SETMASK, NULL, &mask);
    assert_int_equal(in_child(mask_is, &mask), 0);
    assert_int_equal(mask_is(&mask), 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    pair_free(&p);
    pair_free(&q);
}

static bool stop;

/* Opens, uses and closes domains, registers and unregisters, all the time. */
static void *restless(void *failed) {
    char *x = pages_new(64);
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE) && !*(bool *)failed) {
        samepage_domain *d;
        samepage_region *r;
        pages_fill(x, 32, 1);
        pages_fill(x + 32 * PAGE, 32, 1);
        if (samepage_domain_open(NULL, &d) || samepage_register(d, x, 64 * PAGE, 0, &r) ||
            samepage_merge(d, x, 64 * PAGE, 0, NULL) || samepage_unregister(r, SAMEPAGE_QUIESCENT) ||
            samepage_register(d, x, 64 * PAGE, 0, &r) || samepage_domain_close(d, SAMEPAGE_QUIESCENT))
            *(bool *)failed = true;
        if (!pages_are(x, 32, 1) || !pages_are(x + 32 * PAGE, 32, 1))
            *(bool *)failed = true;
    }
    pages_free(x, 64);
    return NULL;
}

static int open_in_child(void *arg) {
    const struct pair *p = arg;
    samepage_domain *d;
    samepage_region *r;
    char *x = pages_new(64);
    CHILD_CHECK(!check_memory(arg));
    pages_fill(x, 64, 8);
    CHILD_CHECK(!samepage_domain_open(NULL, &d));
    CHILD_CHECK(!samepage_register(d, x, 64 * PAGE, 0, &r));
    CHILD_CHECK(samepage_register(d, p->a, PAGE, 0, &r) == -EINVAL);
    CHILD_CHECK(!samepage_merge(d, x, 64 * PAGE, 0, NULL));
    CHILD_CHECK(!samepage_domain_close(d, 0));
    CHILD_CHECK(pages_are(x, 64, 8));
    return 0;
}

static void fork_among_busy_threads(void **state) {
    struct pair p;
    pthread_t threads[2];
    static bool failed[2]; /* outlives a failed assertion */
    pair_new(&p, 256, NULL);
    stop = false;
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, restless, &failed[i]), 0);
    for (unsigned k = 0; k < 60; k++)
        assert_int_equal(in_child(open_in_child, &p), 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(failed[i]);
    }
    pair_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children_of_any_moment_have_all_content),
        cmocka_unit_test(a_child_can_use_what_it_inherits),
        cmocka_unit_test(a_childs_worker_starts_by_itself),
        cmocka_unit_test(a_child_keeps_its_content_when_the_parent_lets_go),
        cmocka_unit_test(fork_keeps_the_signal_mask),
        cmocka_unit_test(fork_among_busy_threads),
    };
    require_userfaultfd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
