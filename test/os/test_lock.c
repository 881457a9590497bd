/* SPDX-License-Identifier: MIT */
/*
 * The lock of H1 and events: mutual exclusion of threads and of signal handlers, time limits, and what a
 * forked child finds.
 */
#include "os_test.h"

#include <sys/time.h>

#include "os/lock.h"
#include "os/thread.h"

#define THREADS 4
#define ROUNDS  20000

static struct sp_lock lock = SP_LOCK_INIT;
static volatile unsigned long shared; /* guarded by lock */

static void raise_shared(void) {
    sp_lock_acquire(&lock);
    unsigned long seen = shared;
    for (volatile int i = 0; i < 20; i++) {
    }
    shared = seen + 1;
    sp_lock_release(&lock);
}

static void *raiser(void *arg) {
    for (int i = 0; i < ROUNDS; i++)
        raise_shared();
    return NULL;
}

static void threads_exclude_each_other(void **state) {
    pthread_t threads[THREADS];
    shared = 0;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, raiser, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(shared, THREADS * ROUNDS);
    assert_int_equal(lock.word, 0);
    assert_int_equal(lock.owner, 0);
}

static volatile unsigned long handled;

static void handler(int signal) {
    raise_shared();
    __atomic_fetch_add(&handled, 1, __ATOMIC_RELAXED);
}

/* Handlers that want the lock come at any moment, to threads that are in it, at it, or behind it. */
static void signal_handlers_may_use_it(void **state) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    pthread_t threads[2];
    shared = handled = 0;
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, raiser, NULL), 0);
    for (int i = 0; i < 4000; i++) {
        pthread_kill(threads[i % 2], SIGUSR1);
        raise(SIGUSR1); /* handled here before raise returns */
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    sigaction(SIGUSR1, &old, NULL);
    assert_true(shared >= 2 * ROUNDS + 4000);
    assert_int_equal(lock.word, 0);
}

static uint64_t mask_now(void) {
    uint64_t mask = 0;
    sp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, 8);
    return mask;
}

#define ALL_BLOCKED (UINT64_MAX & ~(UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1)))

static void signals_wait_while_it_is_held(void **state) {
    struct sigaction action = {.sa_handler = handler}, old;
    uint64_t before = mask_now();
    handled = 0;
    sigaction(SIGUSR1, &action, &old);
    sp_lock_acquire(&lock);
    assert_int_equal(mask_now(), ALL_BLOCKED);
    assert_true(sp_lock_mine(&lock));
    kill(getpid(), SIGUSR1);
    assert_int_equal(handled, 0);
    sp_lock_release(&lock);
    usleep(1); /* where ThreadSanitizer delivers what it kept back */
    assert_int_equal(handled, 1);
    assert_int_equal(mask_now(), before);
    assert_false(sp_lock_mine(&lock));
    sigaction(SIGUSR1, &old, NULL);
}

static void *try_it(void *arg) {
    bool *results = arg;
    uint64_t before = mask_now();
    results[0] = sp_lock_try(&lock);
    results[1] = sp_lock_timed(&lock, 1000000);
    results[2] = sp_lock_mine(&lock);
    results[3] = mask_now() == before;
    return NULL;
}

static void trying_and_waiting_give_up(void **state) {
    bool results[4];
    pthread_t thread;
    sp_lock_acquire(&lock);
    assert_int_equal(pthread_create(&thread, NULL, try_it, results), 0);
    pthread_join(thread, NULL);
    assert_false(results[0] || results[1] || results[2]);
    sp_lock_release(&lock);
    assert_true(sp_lock_try(&lock));
    sp_lock_release(&lock);
    assert_true(sp_lock_timed(&lock, 0));
    sp_lock_release(&lock);
    assert_true(sp_lock_timed(&lock, UINT64_MAX));
    sp_lock_release(&lock);
}

static void *hold_briefly(void *arg) {
    struct sp_event *held = arg;
    sp_lock_acquire(&lock);
    sp_event_post(held);
    sp_sleep_ns(5000000);
    sp_lock_release(&lock);
    return NULL;
}

static void a_waiter_is_woken(void **state) {
    for (int i = 0; i < 3; i++) {
        struct sp_event held = {0};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, hold_briefly, &held), 0);
        assert_int_equal(sp_event_wait(&held, 0, UINT64_MAX), 1);
        if (i % 2)
            assert_true(sp_lock_timed(&lock, UINT64_C(60000000000)));
        else
            sp_lock_acquire(&lock);
        sp_lock_release(&lock);
        pthread_join(thread, NULL);
    }
}

static int reset_by_holder(void *arg) {
    const uint64_t *before = arg;
    sp_lock_reset(&lock);
    CHILD_CHECK(mask_now() == *before);
    CHILD_CHECK(!sp_lock_mine(&lock));
    CHILD_CHECK(sp_lock_try(&lock));
    sp_lock_release(&lock);
    return 0;
}

static void the_holders_child_resets_it(void **state) {
    uint64_t before = mask_now();
    sp_lock_acquire(&lock);
    int r = in_child(reset_by_holder, &before);
    assert_true(sp_lock_mine(&lock));
    sp_lock_release(&lock);
    assert_int_equal(r, 0);
    assert_int_equal(mask_now(), before);
}

struct holder {
    struct sp_event held, end;
};

static void *hold(void *arg) {
    struct holder *h = arg;
    sigset_t some;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR2); /* a mask that the child must not get */
    pthread_sigmask(SIG_SETMASK, &some, NULL);
    sp_lock_acquire(&lock);
    sp_event_post(&h->held);
    sp_event_wait(&h->end, 0, UINT64_MAX);
    sp_lock_release(&lock);
    return NULL;
}

/* Forked by a thread that is not the holder, which only a raw clone can do. */
static void anothers_child_resets_it_and_keeps_its_mask(void **state) {
    struct holder h = {0};
    pthread_t thread;
    uint64_t before = mask_now();
    assert_int_equal(pthread_create(&thread, NULL, hold, &h), 0);
    sp_event_wait(&h.held, 0, UINT64_MAX);
    int r = in_child(reset_by_holder, &before);
    sp_event_post(&h.end);
    pthread_join(thread, NULL);
    assert_int_equal(r, 0);
}

static void *post_later(void *arg) {
    sp_event_post(arg);
    return NULL;
}

static void events_wake_and_time_out(void **state) {
    struct sp_event e = {0};
    pthread_t thread;
    assert_int_equal(sp_event_wait(&e, 0, 1000000), 0);
    assert_int_equal(sp_event_wait(&e, 0, 0), 0);
    assert_int_equal(pthread_create(&thread, NULL, post_later, &e), 0);
    assert_int_equal(sp_event_wait(&e, 0, UINT64_MAX), 1);
    pthread_join(thread, NULL);
    assert_int_equal(sp_event_wait(&e, 0, UINT64_MAX), 1); /* posted before: does not wait */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_exclude_each_other),
        cmocka_unit_test(signal_handlers_may_use_it),
        cmocka_unit_test(signals_wait_while_it_is_held),
        cmocka_unit_test(trying_and_waiting_give_up),
        cmocka_unit_test(a_waiter_is_woken),
        cmocka_unit_test(the_holders_child_resets_it),
        cmocka_unit_test(anothers_child_resets_it_and_keeps_its_mask),
        cmocka_unit_test(events_wake_and_time_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
