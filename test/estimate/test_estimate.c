/* SPDX-License-Identifier: MIT */
/*
 * Reading children whose memory is known, and failing: every call that looks at a process fails in turn, or
 * finds that the process has gone, or has become another program. Nothing of such a process may be left in
 * the sums.
 */
#include "../os/os_test.h"

#include <math.h>
#include <sys/prctl.h>

#include "estimate/estimate.h"
#include "estimate/targets.h"
#include "os/fault.h"

#define COMMON 700
#define ZEROS  200
#define SLACK  80 /* pages that a child has besides */

static void become_sleep(int number) {
    execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    _exit(1);
}

static char *mine; /* of a child */

static void drop_common(int number) {
    must(sp_unmap(mine, COMMON * PAGE), "unmap");
}

/* Pages of its own: `COMMON` that all have, zeros, and a large mapping with little in it. SIGUSR1 makes it
 * another program, SIGUSR2 takes the common pages away. */
static void child_main(int ready) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGUSR1, become_sleep);
    signal(SIGUSR2, drop_common);
    char *p = mine = pages_new(COMMON + ZEROS), *sparse = pages_new(100000);
    pages_fill(p, COMMON, 7);
    for (size_t i = 0; i < ZEROS; i++)
        *(volatile char *)(p + (COMMON + i) * PAGE) = 0;
    for (size_t i = 0; i < 10; i++)
        page_fill(sparse + i * 9000 * PAGE, 7, i); /* copies of the first ten */
    if (write(ready, "x", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static pid_t child_new(void) {
    int ready[2];
    char c;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid)
        child_main(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void child_end(pid_t pid) {
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Of the second child nearly everything is a copy. */
static void expect_two(const struct sp_estimate *e) {
    assert_int_equal(e->n_processes, 2);
    assert_true(fabs(e->all.saved - (COMMON + 2 * ZEROS + 2 * 10)) < SLACK);
    assert_true(fabs(e->zero - 2 * ZEROS) < SLACK);
    assert_true(fabs(e->within - 2 * 10) < SLACK && fabs(e->across - COMMON) < SLACK);
    assert_true(fabs(e->pairs.common[0][1] - COMMON) < SLACK);
    assert_true(fabs(e->all.saved - e->zero - e->within - e->across) < 1e-6);
    double kinds = 0;
    for (size_t k = 0; k < SP_KIND_COUNT; k++)
        kinds += e->kind[k].saved;
    assert_true(fabs(e->all.saved - kinds) < 1e-6);
}

static void reads_children(void **state) {
    pid_t a = child_new(), b = child_new();
    struct sp_estimate *e;
    assert_int_equal(sp_estimate_new(1, &e), 0);
    assert_int_equal(sp_estimate_read(e, a, NULL), 0);
    assert_int_equal(sp_estimate_read(e, b, NULL), 0);
    assert_int_equal(sp_estimate_read(e, b, NULL), -EEXIST);
    assert_int_equal(sp_estimate_finish(e), 0);
    expect_two(e);
    sp_estimate_free(e);
    child_end(a);
    child_end(b);
}

/* --- Failures ------------------------------------------------------------------------------------------ */

static const char *failing;
static int failing_with, countdown;
static void (*instead)(void); /* happens at the call, which then goes on */

static int hook(const char *call) {
    if (strcmp(call, failing) != 0 || --countdown)
        return 0;
    if (instead)
        instead();
    return failing_with;
}

static void fail_at(const char *call, int error, int which) {
    failing = call;
    failing_with = error;
    countdown = which;
    sp_fault_hook = hook;
}

/* After `a` has been read, `b` is tried and fails; then it goes on as if nothing had been. */
static void failure_leaves_nothing(uint32_t one_in, const char *call, int error, int which) {
    pid_t a = child_new(), b = child_new();
    struct sp_estimate *e;
    assert_int_equal(sp_estimate_new(one_in, &e), 0);
    assert_int_equal(sp_estimate_read(e, a, NULL), 0);
    size_t mappings = e->n_mappings, pages = e->n_pages;
    fail_at(call, error, which);
    int r = sp_estimate_read(e, b, NULL);
    sp_fault_hook = NULL;
    if (r != error)
        print_message("# %s, call %d: %d instead of %d\n", call, which, r, error);
    assert_int_equal(r, error);
    assert_true(e->n_processes == 1 && e->n_mappings == mappings && e->n_pages == pages);
    assert_int_equal(sp_estimate_read(e, b, NULL), 0);
    assert_int_equal(sp_estimate_finish(e), 0);
    if (one_in == 1)
        expect_two(e);
    sp_estimate_free(e);
    child_end(a);
    child_end(b);
}

static void every_call_may_fail(void **state) {
    static const struct {
        const char *call;
        int times;
    } calls[] = {{"process_read", 1},    {"remote_mappings", 1}, {"pagemap_open", 1},
                 {"pagemap_private", 3}, {"pagemap_scan", 2},    {"remote_read", 4}};
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
        for (int which = 1; which <= calls[i].times; which++) {
            failure_leaves_nothing(1, calls[i].call, -EACCES, which);
            failure_leaves_nothing(4, calls[i].call, -ESRCH, which);
        }
}

static void kernels_without_scan_are_read_too(void **state) {
    pid_t a = child_new(), b = child_new();
    struct sp_estimate *e;
    assert_int_equal(sp_estimate_new(1, &e), 0);
    fail_at("pagemap_scan", -ENOTTY, 1);
    assert_int_equal(sp_estimate_read(e, a, NULL), 0);
    assert_true(countdown <= 0); /* it was asked */
    fail_at("pagemap_scan", -ENOTTY, 1);
    assert_int_equal(sp_estimate_read(e, b, NULL), 0);
    sp_fault_hook = NULL;
    assert_int_equal(sp_estimate_finish(e), 0);
    expect_two(e);
    sp_estimate_free(e);
    child_end(a);
    child_end(b);
}

static pid_t victim;

static void kill_victim(void) {
    child_end(victim);
}

static void change_victim(void) {
    char name[16] = "";
    kill(victim, SIGUSR1);
    while (strcmp(name, "sleep") != 0)
        sp_proc_name(victim, name);
}

/* At each reading, the last one included. False: there are not so many. */
static bool goes_at(void (*way)(void), int which) {
    pid_t a = child_new();
    struct sp_estimate *e;
    victim = child_new();
    assert_int_equal(sp_estimate_new(1, &e), 0);
    assert_int_equal(sp_estimate_read(e, a, NULL), 0);
    size_t pages = e->n_pages;
    instead = way;
    fail_at("remote_read", 0, which);
    int r = sp_estimate_read(e, victim, NULL);
    sp_fault_hook = NULL;
    instead = NULL;
    bool gone = countdown <= 0;
    assert_int_equal(r, gone ? -ESRCH : 0);
    assert_true(!gone || (e->n_processes == 1 && e->n_pages == pages));
    sp_estimate_free(e);
    child_end(a);
    if (!gone || way != kill_victim)
        child_end(victim);
    return gone;
}

static void who_goes_meanwhile_is_left_out(void **state) {
    void (*const ways[])(void) = {kill_victim, change_victim};
    for (size_t way = 0; way < 2; way++) {
        int which = 1;
        while (goes_at(ways[way], which))
            which++;
        assert_true(which > 10);
    }
}

static void drop_pages(void) {
    char state = 'R';
    kill(victim, SIGUSR2);
    for (struct sp_process p; state != 'S' && !sp_process_read(victim, &p);) {
        usleep(20000);
        state = p.state;
    }
}

/* What is unmapped after it was found is counted as gone, and the rest is told. */
static void pages_that_go_meanwhile_are_passed_over(void **state) {
    uint64_t most = 0;
    bool asked = true;
    for (int which = 1; asked; which++) {
        struct sp_estimate *e;
        victim = child_new();
        assert_int_equal(sp_estimate_new(which % 2 ? 1 : 2, &e), 0);
        instead = drop_pages;
        fail_at("remote_read", 0, which);
        assert_int_equal(sp_estimate_read(e, victim, NULL), 0);
        sp_fault_hook = NULL;
        instead = NULL;
        asked = countdown <= 0;
        assert_int_equal(sp_estimate_finish(e), 0);
        assert_true(e->all.unread <= COMMON && e->all.zero >= ZEROS);
        if (e->all.unread > most)
            most = e->all.unread;
        sp_estimate_free(e);
        child_end(victim);
    }
    assert_true(most > 100);
}

/* SIGSTOP is no obstacle, and changes nothing. */
static void a_stopped_process_is_read(void **state) {
    char *p = pages_new(600);
    must(sp_advise((uintptr_t)p, 600 * PAGE, MADV_DONTDUMP), "dontdump"); /* a mapping of its own */
    pages_fill(p, 600, 3);
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pages_fill(p, 600, 4);
        kill(getpid(), SIGSTOP);
        for (;;)
            pause();
    }
    int status;
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    struct sp_estimate *e;
    assert_int_equal(sp_estimate_new(1, &e), 0);
    assert_int_equal(sp_estimate_read(e, child, NULL), 0);
    assert_int_equal(sp_estimate_finish(e), 0);
    const struct sp_estimate_mapping *m = e->mapping;
    while (m < e->mapping + e->n_mappings && m->start != (uintptr_t)p)
        m++;
    assert_true(m < e->mapping + e->n_mappings);
    assert_true(m->figures.private == 600 && !m->figures.zero && !m->figures.unread &&
                m->figures.saved < 1e-6);
    sp_estimate_free(e);
    child_end(child);
    pages_free(p, 600);
}

static void samples_fit_into_memory(void **state) {
    uint64_t gib = UINT64_C(1) << 30, tib_pages = UINT64_C(1) << 28;
    assert_int_equal(sp_estimate_least_sample(0, 0), 1);
    assert_int_equal(sp_estimate_least_sample(tib_pages, 13 * gib), 1); /* 6 GiB */
    assert_int_equal(sp_estimate_least_sample(tib_pages, 11 * gib), 2);
    assert_int_equal(sp_estimate_least_sample(tib_pages, gib / 8), 96);
    assert_true(sp_estimate_least_sample(UINT64_MAX / 4096, 0) == UINT32_MAX);
}

static void descendants_are_found(void **state) {
    pid_t a = child_new(), b = child_new();
    struct sp_targets t;
    assert_int_equal(sp_targets_descendants(getpid(), &t), 0);
    assert_int_equal(t.n, 2);
    assert_true(t.process[0].pid == (a < b ? a : b) && t.process[1].pid == (a < b ? b : a));
    assert_int_equal(sp_targets_add(&t, a), 0);
    assert_int_equal(t.n, 2);
    assert_int_equal(sp_targets_add(&t, getppid()), 0);
    assert_int_equal(t.n, 3);
    child_end(a);
    assert_int_equal(sp_targets_add(&t, INT32_MAX), -ESRCH);
    sp_targets_deinit(&t);
    assert_int_equal(sp_targets_descendants(b, &t), 0);
    assert_int_equal(t.n, 0);
    sp_targets_deinit(&t);
    assert_int_equal(sp_targets_all(&t), 0);
    bool found = false;
    for (size_t i = 0; i < t.n; i++) {
        assert_true(t.process[i].pid != getpid() && !t.process[i].kernel_thread);
        found |= t.process[i].pid == b;
    }
    assert_true(found);
    sp_targets_deinit(&t);
    child_end(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_children),
        cmocka_unit_test(every_call_may_fail),
        cmocka_unit_test(kernels_without_scan_are_read_too),
        cmocka_unit_test(who_goes_meanwhile_is_left_out),
        cmocka_unit_test(pages_that_go_meanwhile_are_passed_over),
        cmocka_unit_test(a_stopped_process_is_read),
        cmocka_unit_test(samples_fit_into_memory),
        cmocka_unit_test(descendants_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
