/* SPDX-License-Identifier: MIT */
/*
 * Our threads: own stack, own descriptor table (H9), signals blocked but for the C library's own, a name; and
 * a forked child that forgets one.
 */
#include "os_test.h"

#include "os/identity.h"
#include "os/lock.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"
#include "os/wake.h"

struct seen {
    struct sp_event ready, go;
    int status, stdin_flags, file, after_close;
    uintptr_t local;
    uint64_t mask;
    char name[16];
    int segment;
    char page[SP_PAGE_SIZE];
};

/* By raw calls, as all of the worker's are: ThreadSanitizer believes that a process has one descriptor table
 * only. */
static void look(void *arg, int status) {
    struct seen *s = arg;
    int local;
    s->status = status;
    s->local = (uintptr_t)&local;
    s->stdin_flags = (int)sp_syscall(SYS_fcntl, 0, F_GETFD);
    sp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &s->mask, 8);
    sp_syscall(SYS_prctl, 16 /* PR_GET_NAME */, s->name);
    s->file = (int)sp_syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/comm", O_RDONLY);
    sp_event_post(&s->ready);
    sp_event_wait(&s->go, 0, UINT64_MAX);
    char byte;
    s->after_close = (int)sp_syscall(SYS_read, s->file, &byte, 1);
    sp_close(s->file);
    /* A segment reopens itself through /proc, where this thread's table is not the process's. */
    struct sp_segment segment;
    s->segment = sp_segment_init(&segment);
    if (s->segment == 0) {
        s->segment = sp_segment_write(&segment, 3, s->page);
        void *m;
        if (s->segment == 0)
            s->segment = sp_map_file(segment.fd_shared, 3 * PAGE, PAGE, false, &m);
        if (s->segment == 0 && memcmp(m, s->page, PAGE) != 0)
            s->segment = -EILSEQ;
        if (s->segment == 0)
            s->segment = sp_unmap(m, PAGE);
        sp_segment_deinit(&segment);
    }
}

static struct seen seen;

static bool count_stack(void *ctx, const struct sp_mapping *m) {
    int *kinds = ctx;
    if (m->prot == PROT_NONE)
        kinds[0]++;
    else if (m->eligible == SP_NAMED)
        kinds[1]++;
    else
        kinds[2]++;
    return true;
}

static void the_thread_stands_apart(void **state) {
    struct sp_thread t;
    memset(&seen, 0, sizeof(seen));
    page_fill(seen.page, 4, 4);
    assert_int_equal(sp_thread_start(&t, "sp-a-name-longer-than-15", true, look, &seen), 0);
    sp_event_wait(&seen.ready, 0, UINT64_MAX);
    assert_int_equal(seen.status, 0);
    assert_int_equal(seen.stdin_flags, -EBADF);
    assert_int_equal(seen.file, 0); /* the first of its own table */
    assert_true(fcntl(0, F_GETFD) >= 0);
    assert_string_equal(seen.name, "sp-a-name-longe");
    assert_true(seen.local > (uintptr_t)t.stack && seen.local < (uintptr_t)t.stack + t.stack_bytes);
    /* Everything but what cannot be blocked and what the C library needs (32: cancel, 33: set*id). */
    assert_int_equal(~seen.mask, UINT64_C(1) << 8 | UINT64_C(1) << 18 | UINT64_C(3) << 31);
    assert_int_equal(setresuid(-1, -1, -1), 0); /* waits for every thread's answer */

    int kinds[3] = {0};
    assert_int_equal(
        sp_proc_mappings((uintptr_t)t.stack, (uintptr_t)t.stack + t.stack_bytes, count_stack, kinds), 0);
    assert_int_equal(kinds[0], 1); /* guard */
    assert_int_equal(kinds[1] + kinds[2], 1);

    /* H9: the program closes what it does not know. */
    int status;
    pid_t pid = fork(); /* not in the test itself: it needs its descriptors */
    if (pid == 0)
        _exit(0);
    waitpid(pid, &status, 0);
    int mine = open("/dev/null", O_RDONLY);
    closefrom(mine);
    sp_event_post(&seen.go);
    sp_thread_join(&t);
    assert_int_equal(seen.after_close, 1);
    assert_int_equal(seen.segment, 0);
    assert_null(t.stack);
}

static void look_and_end(void *arg, int status) {
    *(int *)arg = fcntl(0, F_GETFD) >= 0;
}

static void descriptors_are_shared_unless_asked(void **state) {
    struct sp_thread t;
    int shares = 0;
    assert_int_equal(sp_thread_start(&t, "x", false, look_and_end, &shares), 0);
    sp_thread_join(&t);
    assert_int_equal(shares, 1);
}

/* A thread that the C library does not know of: the same, with every signal blocked, and identities by hand.
 */
static void a_bare_thread_stands_apart(void **state) {
    if (SANITIZED)
        NOT_HERE("sanitizers must know every thread");
    struct sp_thread t;
    memset(&seen, 0, sizeof(seen));
    page_fill(seen.page, 4, 4);
    assert_int_equal(sp_thread_start_bare(&t, "bare", true, look, &seen), 0);
    sp_event_wait(&seen.ready, 0, UINT64_MAX);
    assert_int_equal(seen.status, 0);
    assert_int_equal(seen.stdin_flags, -EBADF);
    assert_string_equal(seen.name, "bare");
    assert_true(seen.local > (uintptr_t)t.stack && seen.local < (uintptr_t)t.stack + t.stack_bytes);
    assert_int_equal(~seen.mask, UINT64_C(1) << 8 | UINT64_C(1) << 18);
    assert_int_equal(setresuid(-1, -1, -1), 0); /* waits for nobody */
    sp_event_post(&seen.go);
    sp_thread_join(&t);
    assert_int_equal(seen.segment, 0);
    assert_null(t.stack);
}

static int assume_nobody(void *arg) {
    struct sp_identity nobody = {
        .uid = {65534, 65533, 65532}, .gid = {65531, 65530, 65529}, .n_groups = 2, .groups = {1, 2}};
    struct sp_identity now;
    CHILD_CHECK(sp_identity_assume(&nobody) == 0);
    CHILD_CHECK(sp_identity_read(&now) == 0);
    CHILD_CHECK(!memcmp(now.uid, nobody.uid, sizeof(now.uid)) &&
                !memcmp(now.gid, nobody.gid, sizeof(now.gid)));
    CHILD_CHECK(now.n_groups == 2 && now.groups[0] == 1 && now.groups[1] == 2);
    nobody.uid[0] = 0;
    CHILD_CHECK(sp_identity_assume(&nobody) == -EPERM);
    return 0;
}

static void identities_are_assumed(void **state) {
    if (getuid())
        NOT_HERE("only root can become somebody else");
    assert_int_equal(in_child(assume_nobody, NULL), 0);
}

static void end_when_told(void *arg, int status) {
    sp_event_wait(arg, 0, UINT64_MAX);
}

static void *nothing(void *arg) {
    return arg;
}

static int forget_in_child(void *arg) {
    struct sp_thread *t = arg;
    uintptr_t stack = (uintptr_t)t->stack;
    sp_thread_forget(t);
    CHILD_CHECK(t->stack == NULL);
    CHILD_CHECK(sp_advise(stack, PAGE, MADV_NORMAL) == -ENOMEM);
    /* The C library's list of stacks is whole. */
    pthread_t thread;
    void *result;
    CHILD_CHECK(pthread_create(&thread, NULL, nothing, t) == 0);
    CHILD_CHECK(pthread_join(thread, &result) == 0 && result == t);
    int shares = 0;
    CHILD_CHECK(sp_thread_start(t, "again", false, look_and_end, &shares) == 0);
    sp_thread_join(t);
    CHILD_CHECK(shares == 1);
    return 0;
}

static void a_forked_child_forgets_it(void **state) {
    struct sp_event end = {0};
    struct sp_thread t;
    assert_int_equal(sp_thread_start(&t, "x", true, end_when_told, &end), 0);
    /* ThreadSanitizer does not support threads in the child of a program with threads. */
    int r = SANITIZED ? 0 : in_child(forget_in_child, &t);
    sp_event_post(&end);
    sp_thread_join(&t);
    assert_int_equal(r, 0);
}

struct sleeper {
    struct sp_event ready, woken, end;
    int fd, tid, opened, result;
};

static void sleep_until_woken(void *arg, int status) {
    struct sleeper *s = arg;
    s->opened = sp_wake_open(&s->fd, &s->tid);
    sp_event_post(&s->ready);
    for (int i = 0; i < 2 && s->opened == 0 && s->result == 0; i++) {
        s->result = sp_wait_readable(&s->fd, 1, UINT64_MAX) == 1 ? 0 : -EIO;
        sp_wake_clear(s->fd);
        if (sp_wait_readable(&s->fd, 1, 0) != 0)
            s->result = -EBUSY;
        sp_event_post(&s->woken);
    }
    sp_event_wait(&s->end, 0, UINT64_MAX);
}

static void any_disposition(int signal) {
    abort(); /* no handler ever runs for it */
}

/* Whatever the program does with that signal itself. */
static void a_thread_is_woken_by_its_blocked_signal(void **state) {
    struct sleeper s = {0};
    struct sp_thread t;
    struct sigaction action = {.sa_handler = any_disposition}, old;
    assert_int_equal(sp_thread_start(&t, "x", true, sleep_until_woken, &s), 0);
    sp_event_wait(&s.ready, 0, UINT64_MAX);
    assert_int_equal(s.opened, 0);
    sp_wake(s.tid); /* ignored by default, and still queued */
    assert_int_equal(sp_event_wait(&s.woken, 0, UINT64_MAX), 1);
    assert_int_equal(sigaction(SIGURG, &action, &old), 0);
    sp_wake(s.tid);
    assert_int_equal(sp_event_wait(&s.woken, 1, UINT64_MAX), 2);
    sigaction(SIGURG, &old, NULL);
    sp_event_post(&s.end);
    sp_thread_join(&t);
    assert_int_equal(s.result, 0);
    sp_wake(s.tid); /* has gone */
    sp_wake(0);
}

static void clocks_go_forward(void **state) {
    uint64_t now = sp_now_ns(), thread = sp_thread_cpu_ns(), process = sp_process_cpu_ns();
    for (volatile unsigned i = 0; i < 1000000; i++) {
    }
    sp_sleep_ns(1000);
    assert_true(sp_now_ns() >= now + 1000);
    assert_true(sp_thread_cpu_ns() > thread);
    assert_true(sp_process_cpu_ns() > process);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_thread_stands_apart),
        cmocka_unit_test(descriptors_are_shared_unless_asked),
        cmocka_unit_test(a_bare_thread_stands_apart),
        cmocka_unit_test(identities_are_assumed),
        cmocka_unit_test(a_forked_child_forgets_it),
        cmocka_unit_test(a_thread_is_woken_by_its_blocked_signal),
        cmocka_unit_test(clocks_go_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
