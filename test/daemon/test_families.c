/* SPDX-License-Identifier: MIT */
/*
 * References and families (H6, I8): what a client gives back, or leaves behind by dying, is freed when nobody
 * forked from it can map it any more, and not before.
 */
#include "helper.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../child.h"

#include "daemon/families.h"
#include "os/mapping.h"
#include "os/store.h"
#include "os/thread.h"

#define PAGES 64

static struct daemon d;

static int setup(void **state) {
    daemon_start(&d, NULL);
    return 0;
}

static int teardown(void **state) {
    daemon_stop(&d);
    return 0;
}

/* A process that tells and is told things through two pipes. */
struct process {
    pid_t pid;
    int say, hear;
};

static char hear(const struct process *p) {
    char c = '?';
    assert_int_equal(read(p->hear, &c, 1), 1);
    return c;
}

static void say(const struct process *p, char c) {
    assert_int_equal(write(p->say, &c, 1), 1);
}

static struct process process_start(void (*body)(const struct process *parent)) {
    int down[2], up[2];
    assert_int_equal(pipe(down), 0);
    assert_int_equal(pipe(up), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct process parent = {.say = up[1], .hear = down[0]};
        close(down[1]);
        close(up[0]);
        alarm(120);
        body(&parent);
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    return (struct process){.pid = pid, .say = down[1], .hear = up[0]};
}

static void process_kill(struct process *p) {
    kill(p->pid, SIGKILL);
    assert_int_equal(waitpid(p->pid, NULL, 0), p->pid);
    close(p->say);
    close(p->hear);
}

/* A client that shares PAGES pages with another link of its own and then waits. */
static void body_sharer(const struct process *parent) {
    struct sp_welcome w;
    sp_store_page store[PAGES];
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    share_pages(a, b, &w, pages_new(PAGES, 0), PAGES, store);
    say(parent, 's');
    hear(parent);
}

static void test_client_killed(void **state) {
    struct process p = process_start(body_sharer);
    assert_int_equal(hear(&p), 's');
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
    process_kill(&p);
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    counter_wait(&d, SP_COUNTER_pages_punched, PAGES);
    clients_wait(&d, 0, 0);
}

/* A sharer, with a child of its own that does nothing but live. */
static pid_t forked_child(struct sp_link *a, struct sp_link *b) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        alarm(120);
        a->ops->forked(a);
        b->ops->forked(b);
        for (int fd = 3; fd < 64; fd++)
            close(fd); /* as the child of a program whose worker has its own descriptors */
        for (;;)
            pause();
    }
    return child;
}

static void tell_pid(const struct process *parent, pid_t child) {
    assert_int_equal(write(parent->say, &child, sizeof child), sizeof child);
}

static pid_t hear_pid(const struct process *p) {
    pid_t child = 0;
    assert_int_equal(read(p->hear, &child, sizeof child), sizeof child);
    return child;
}

static void body_forker(const struct process *parent) {
    struct sp_welcome w;
    sp_store_page store[PAGES];
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    share_pages(a, b, &w, pages_new(PAGES, 0), PAGES, store);
    tell_pid(parent, forked_child(a, b));
    hear(parent);
}

static void test_child_outlives_parent(void **state) {
    struct process p = process_start(body_forker);
    pid_t child = hear_pid(&p);
    process_kill(&p);
    clients_wait(&d, 0, 2);
    /* The child may map the pages: they stay, for as long as the daemon looks. */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
        sp_sleep_ns(5000000);
    }
    kill(child, SIGKILL);
    clients_wait(&d, 0, 0);
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    counter_wait(&d, SP_COUNTER_pages_punched, PAGES);
}

/* Gives everything back while a child lives; then forks another one, and gives nothing more back. */
static void body_releaser(const struct process *parent) {
    struct sp_welcome w;
    sp_store_page store[PAGES], later[PAGES];
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    share_pages(a, b, &w, pages_new(PAGES, 0), PAGES, store);
    tell_pid(parent, forked_child(a, b));
    struct sp_store_run run = {store[0], PAGES};
    assert_int_equal(a->ops->release(a, &run, 1), 0);
    assert_int_equal(b->ops->release(b, &run, 1), 0);
    tell_pid(parent, forked_child(a, b));
    hear(parent);
    /* What is shared and given back after the first child has gone waits for the second one only. */
    share_pages(a, b, &w, pages_new(PAGES, 1000), PAGES, later);
    run.first = later[0];
    assert_int_equal(a->ops->release(a, &run, 1), 0);
    assert_int_equal(b->ops->release(b, &run, 1), 0);
    say(parent, 'r');
    hear(parent);
}

static void test_release_with_child(void **state) {
    struct process p = process_start(body_releaser);
    pid_t first = hear_pid(&p), second = hear_pid(&p);
    counter_wait(&d, SP_COUNTER_pages_deferred, 2 * PAGES);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
        sp_sleep_ns(5000000);
    }
    kill(first, SIGKILL);
    /* The second child was forked after the pages had been given back: it does not hold them. */
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    counter_wait(&d, SP_COUNTER_pages_deferred, 0);
    counter_wait(&d, SP_COUNTER_pages_punched, PAGES);
    say(&p, 'g');
    assert_int_equal(hear(&p), 'r');
    counter_wait(&d, SP_COUNTER_pages_deferred, 2 * PAGES);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
        sp_sleep_ns(5000000);
    }
    kill(second, SIGKILL);
    counter_wait(&d, SP_COUNTER_pages_punched, 2 * PAGES);
    process_kill(&p);
    clients_wait(&d, 0, 0);
}

/* Leaving does not mean that the pages are unmapped: they stay until the process ends. */
static void body_leaver(const struct process *parent) {
    struct sp_welcome w;
    sp_store_page store[PAGES];
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    share_pages(a, b, &w, pages_new(PAGES, 0), PAGES, store);
    link_close(b);
    a->ops->close(a);
    assert_int_equal(a->ops->open(a, &w), 0);
    say(parent, 'l');
    hear(parent);
}

static void test_leaving_keeps(void **state) {
    struct process p = process_start(body_leaver);
    assert_int_equal(hear(&p), 'l');
    clients_wait(&d, 1, 2);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
        sp_sleep_ns(5000000);
    }
    process_kill(&p);
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    clients_wait(&d, 0, 0);
}

static struct sp_store_run shared_run(struct sp_link *a, struct sp_link *b, const struct sp_welcome *w,
                                      uint64_t number) {
    sp_store_page store;
    uint8_t *page = pages_new(1, number);
    share_pages(a, b, w, page, 1, &store);
    pages_free(page, 1);
    return (struct sp_store_run){store, 1};
}

/* In a process of its own, for the lower limit. */
static int body_busy_releases(void *unused) {
    struct rlimit few = {.rlim_cur = 256, .rlim_max = 256};
    struct sp_welcome w;
    struct sp_link *a, *b, *others[24];
    if (setrlimit(RLIMIT_NOFILE, &few))
        return 1;
    daemon_start(&d, NULL);
    a = link_open(d.socket, &w);
    b = link_open(d.socket, &w);
    for (size_t i = 0; i < 2400; i++) {
        struct sp_store_run run = shared_run(a, b, &w, i);
        if (a->ops->release(a, &run, 1) || b->ops->release(b, &run, 1))
            return 2;
        if (i % 100 == 99)
            others[i / 100] = link_open(d.socket, &w);
    }
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    for (size_t i = 0; i < 24; i++)
        link_close(others[i]);
    link_close(a);
    link_close(b);
    daemon_stop(&d);
    return 0;
}

/* Epochs that end faster than the daemon looks for them take no descriptor that somebody needs to join. */
static void test_busy_releases(void **state) {
    assert_int_equal(in_child(body_busy_releases, NULL), 0);
}

/* Many processes die at random moments of their work: in the end nothing is held. */
static void body_worker(const struct process *parent) {
    struct sp_welcome w;
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    const void *contents[PAGES];
    struct sp_link *l = link_open(d.socket, &w);
    uint8_t *pages = pages_new(PAGES, 0);
    queries_of(&w, pages, PAGES, 512, queries);
    for (;;) {
        size_t n = 0;
        struct sp_query send[PAGES];
        struct sp_store_run runs[PAGES];
        size_t n_runs = 0;
        if (l->ops->ask(l, queries, PAGES, answers))
            _exit(1);
        for (size_t i = 0; i < PAGES; i++) {
            if (answers[i].kind == SP_ANSWER_SHARE)
                runs[n_runs++] = (struct sp_store_run){answers[i].store, 1};
            if (answers[i].kind == SP_ANSWER_SEND) {
                contents[n] = pages + i * SP_PAGE_SIZE;
                send[n++] = queries[i];
            }
        }
        if (n && l->ops->publish(l, send, contents, n, answers))
            _exit(1);
        for (size_t i = 0; i < n; i++)
            if (answers[i].kind == SP_ANSWER_SHARE)
                runs[n_runs++] = (struct sp_store_run){answers[i].store, 1};
        if (n_runs && l->ops->release(l, runs, n_runs))
            _exit(1);
    }
}

static uint64_t store_bytes(void) {
    struct sp_status *s;
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    uint64_t bytes = s->domains[0].store_bytes;
    sp_status_free(s);
    return bytes;
}

static void test_many_killed(void **state) {
    unsigned seed = 3;
    struct process p[4];
    for (size_t i = 0; i < 4; i++)
        p[i] = process_start(body_worker);
    for (int round = 0; round < 60; round++) {
        sp_sleep_ns((uint64_t)(rand_r(&seed) % 10000) * 1000);
        process_kill(&p[round % 4]);
        p[round % 4] = process_start(body_worker);
    }
    for (size_t i = 0; i < 4; i++)
        process_kill(&p[i]);
    clients_wait(&d, 0, 0);
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_deferred), 0);
    assert_true(counter(&d, 0, SP_COUNTER_pages_published) > 0);
    for (uint64_t since = 0; store_bytes(); wait_step(&since))
        ;
}

/* The bookkeeping of tokens by itself. */
static void test_epochs(void **state) {
    struct family f;
    void *mapping[4];
    int fd[4], null = dup(0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(sp_token_new(&fd[i], &mapping[i]), 0);
    assert_int_equal(family_init(&f, null), -EINVAL);
    close(null);
    assert_int_equal(family_init(&f, fd[0]), 0);
    assert_int_equal(family_look(&f, UINT64_MAX - 1), 0);
    for (int i = 1; i < 4; i++)
        assert_int_equal(family_next(&f, fd[i], 0), 0);
    assert_int_equal(f.epoch, 4);
    /* An older one that lives holds back what is younger. */
    assert_int_equal(sp_token_drop(mapping[1]), 0);
    assert_int_equal(family_look(&f, f.look_ns), 0);
    assert_int_equal(sp_token_drop(mapping[0]), 0);
    assert_int_equal(family_look(&f, f.look_ns - 1), 0); /* not time yet */
    assert_int_equal(family_look(&f, f.look_ns), 2);
    assert_int_equal(sp_token_drop(mapping[2]), 0);
    assert_int_equal(family_look(&f, f.look_ns), 3);
    assert_true(f.look_ns == UINT64_MAX); /* only the current one is left: nothing to look for */
    family_gone(&f, 1000);
    assert_int_equal(family_look(&f, f.look_ns), 3);
    assert_int_equal(sp_token_drop(mapping[3]), 0);
    assert_int_equal(family_look(&f, f.look_ns), 4);
    assert_int_equal(f.n, 0);
    family_deinit(&f);
}

/* A client that gives back all the time is looked at all the same. */
static void test_epochs_busy(void **state) {
    struct family f;
    void *mapping = NULL, *next;
    int fd;
    assert_int_equal(sp_token_new(&fd, &mapping), 0);
    assert_int_equal(family_init(&f, fd), 0);
    for (uint64_t ms = 0; ms < 2000; ms += 5) {
        assert_int_equal(sp_token_new(&fd, &next), 0);
        assert_int_equal(family_next(&f, fd, ms * 1000000), 0);
        assert_int_equal(sp_token_drop(mapping), 0);
        mapping = next;
        family_look(&f, ms * 1000000);
        assert_true(f.n <= 6);
    }
    assert_int_equal(sp_token_drop(mapping), 0);
    family_deinit(&f);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_client_killed),      TEST(test_child_outlives_parent),
        TEST(test_release_with_child), TEST(test_leaving_keeps),
        TEST(test_many_killed),        cmocka_unit_test(test_busy_releases),
        cmocka_unit_test(test_epochs), cmocka_unit_test(test_epochs_busy),
    };
    return cmocka_run_group_tests_name("daemon/families", tests, NULL, NULL);
}
