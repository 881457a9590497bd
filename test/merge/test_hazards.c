/* SPDX-License-Identifier: MIT */
/*
 * Hazards of mechanism.md that concern the engine as a whole: forks (H3, H6), the worker's own memory and
 * descriptors (H2, H9), when it starts and when it declines (H10, H11, H21, H25), what it passes over (H12),
 * and what large and sparse memory costs (H14, H16, H17, H23).
 *
 * Scenes that change the process for good are played in a child of their own.
 */
#include "merge_test.h"

#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "merge/state.h"
#include "os/fault.h"
#include "os/proc.h"

#define N     (8 * MIB)
#define PAGES (N / PAGE)

/* A scene in a child: its number is the line that failed. */
static void play(int (*scene)(void *)) {
    assert_int_equal(in_child(scene, NULL), 0);
}

/* ---- fork ---- */

/* Until the parent writes, or has gone. */
static void child_wait(const int fds[2]) {
    char byte;
    sp_syscall(SYS_close, fds[1]);
    sp_syscall(SYS_read, fds[0], &byte, 1);
}

/* Waits, then looks at all of `p`, without the C library. */
static long raw_child(const uint8_t *p, size_t pages, const int fds[2]) {
    long pid = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid)
        return pid;
    child_wait(fds);
    sp_syscall(SYS_exit_group, wrong_pages(p, pages, 1) ? 1 : 0);
    return 0;
}

static long announced_child(struct sp_engine *e, const uint8_t *p, size_t pages, const int fds[2]) {
    sp_engine_fork_prepare(e);
    pid_t pid = fork();
    if (pid) {
        sp_engine_fork_parent(e);
        return pid;
    }
    sp_engine_fork_child(e);
    child_wait(fds);
    _exit(wrong_pages(p, pages, 1) ? 1 : 0);
}

/* H6: a child maps the store too. Whatever its parent does, what it sees stays, until it exits. */
static void family_holds(bool raw) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = rig_twins(&r, N, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    int p[2];
    must(pipe2(p, O_CLOEXEC), "pipe");
    long pid = raw ? raw_child(a, PAGES / 2, p) : announced_child(r.engine, a, PAGES / 2, p);
    assert_true(pid > 0);
    memset(a, 7, N); /* breaks everything: the last references of this process */
    assert_true(rig_until(&r, SP_COUNTER_pages_broken, PAGES, PAGES));
    assert_true(rig_until(&r, SP_COUNTER_pages_deferred, PAGES, PAGES));
    sp_sleep_ns(SECOND_NS / 2);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_punched), 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    int status;
    assert_int_equal(waitpid((pid_t)pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_punched, PAGES / 2, PAGES / 2));
    close(p[0]);
    close(p[1]);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
}

static void test_family_holds(void **state) {
    family_holds(false);
}

static void test_family_holds_raw(void **state) {
    family_holds(true);
}

/* H3: children by raw clone at random moments of the engine's work find all their memory. */
static void test_raw_clones_of_engine(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    unsigned wrong = 0, merged = 0;
    uint64_t random = 4711;
    for (unsigned round = 0; round < 40; round++) {
        uint8_t *a = rig_twins(&r, N, 1);
        long pids[4];
        for (unsigned i = 0; i < 4; i++) {
            sp_sleep_ns(random_next(&random) % 30000000);
            pids[i] = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
            if (pids[i] == 0)
                sp_syscall(SYS_exit_group,
                           wrong_pages(a, PAGES / 2, 1) || wrong_pages(a + N / 2, PAGES / 2, 1));
        }
        for (unsigned i = 0; i < 4; i++) {
            int status = 1;
            waitpid((pid_t)pids[i], &status, 0);
            if (status)
                fprintf(stderr, "# round %u child %u: %x\n", round, i, (unsigned)status);
            wrong += status != 0;
        }
        assert_int_equal(wrong_pages(a, PAGES / 2, 1) + wrong_pages(a + N / 2, PAGES / 2, 1), 0);
        merged += rig_range(&r, a, N, SP_COUNTER_pages_shared) > 0;
        rig_unmap(&r, a, N);
    }
    assert_int_equal(wrong, 0);
    assert_true(merged > 0);
    r.engine = sp_engine_free(r.engine);
}

/* After fork parent and child both go on: the child gets a worker of its own, later, when it is kicked. */
static int child_works_too(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    r.settings.v[SP_SETTING_worker_start_kbytes] = 0;
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    sp_engine_fork_prepare(r.engine);
    pid_t pid = fork();
    if (pid == 0) {
        watchdog(60);
        sp_engine_fork_child(r.engine);
        CHILD_CHECK(threads_now() == 1);
        CHILD_CHECK(sp_engine_state(r.engine) == SP_ENGINE_IDLE);
        CHILD_CHECK(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1) == 0);
        uint8_t *c = memory_new(2 * N);
        fill(c, PAGES, 5);
        memcpy(c + N, c, N);
        sp_engine_kick(r.engine);
        CHILD_CHECK(threads_now() == 1); /* most children exec at once */
        sp_sleep_ns(SECOND_NS / 4);
        sp_engine_kick(r.engine);
        rig_add(&r, c, 2 * N);
        CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 4 * PAGES));
        CHILD_CHECK(wrong_pages(c, PAGES, 5) + wrong_pages(c + N, PAGES, 5) == 0);
        CHILD_CHECK(page_of_store(c) && page_of_store(c + N));
        memset(a, 3, N);
        CHILD_CHECK(wrong_pages(b, PAGES, 1) == 0);
        r.engine = sp_engine_free(r.engine);
        CHILD_CHECK(wrong_pages(c, PAGES, 5) + wrong_pages(c + N, PAGES, 5) == 0);
        _exit(0);
    }
    sp_engine_fork_parent(r.engine);
    int status;
    CHILD_CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    CHILD_CHECK(WEXITSTATUS(status) == 0);
    CHILD_CHECK(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1) == 0);
    /* The child gone, what it shared with us becomes ours again and is merged again. */
    fill(a, PAGES, 6);
    CHILD_CHECK(sp_engine_wait_settled(r.engine, 20 * SECOND_NS) == 0);
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_child_works_too(void **state) {
    play(child_works_too);
}

/* ---- the worker's own ---- */

/* H2: with every mapping of the process registered, the worker's memory is not among them. */
static int everything_registered(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = rig_twins(&r, N, 1);
    CHILD_CHECK(rig_settle(&r) == 0); /* the worker and all that it has is there now */
    uint64_t eligible = 0;
    sp_engine_lock(r.engine);
    int error = sp_engine_add_locked(r.engine, 0, UINT64_C(1) << 47, true, &eligible);
    const uintptr_t own[] = {(uintptr_t)r.engine,
                             (uintptr_t)r.engine->worker,
                             (uintptr_t)r.engine->worker->scratch,
                             (uintptr_t)r.engine->worker->store_copy,
                             (uintptr_t)r.engine->thread.stack + PAGE,
                             (uintptr_t)r.link};
    uintptr_t inside = 0;
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        inside |= (uintptr_t)sp_regions_overlap(&r.engine->regions, own[i], own[i] + 1) << i;
    sp_engine_unlock(r.engine);
    CHILD_CHECK(error == 0 && eligible >= N);
    if (inside)
        fprintf(stderr, "own memory registered: %zx\n", (size_t)inside);
    CHILD_CHECK(!inside);
    uint64_t before = rig_counter(&r, SP_COUNTER_full_scans);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_full_scans, before + 20, UINT64_MAX)); /* it still works */
    CHILD_CHECK(wrong_pages(a, PAGES / 2, 1) == 0);
    sp_engine_stop(r.engine, SP_ENGINE_STOPPED);
    return 0;
}

static void test_everything_registered(void **state) {
    play(everything_registered);
}

/* H9: the program closes every descriptor there is, and opens others. */
static int closes_descriptors(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = rig_twins(&r, N, 1);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    for (int fd = 3; fd < 200; fd++)
        close(fd);
    for (int i = 0; i < 100; i++)
        CHILD_CHECK(open("/dev/zero", O_RDONLY) >= 0);
    uint8_t *b = memory_new(N);
    fill(b, PAGES, 2);
    memcpy(b + N / 2, b, N / 2);
    rig_add(&r, b, N);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    CHILD_CHECK(wrong_pages(a, PAGES / 2, 1) + wrong_pages(b, PAGES / 2, 2) == 0);
    r.engine = sp_engine_free(r.engine);
    for (int fd = 3; fd < 103; fd++)
        CHILD_CHECK(fcntl(fd, F_GETFD) >= 0); /* and it closed none of ours */
    return 0;
}

static void test_closes_descriptors(void **state) {
    play(closes_descriptors);
}

/* ---- when it starts, and when it declines ---- */

/* H10 */
static int no_thread_for_little(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint64_t least = r.settings.v[SP_SETTING_worker_start_kbytes] * 1024;
    uint8_t *a = memory_new(2 * least);
    fill(a, 2 * least / PAGE, 1);
    sp_engine_lock(r.engine);
    int error = sp_engine_add_locked(r.engine, (uintptr_t)a, (uintptr_t)a + least - PAGE, false, NULL);
    sp_engine_unlock(r.engine);
    CHILD_CHECK(error == 0 && threads_now() == 1 && sp_engine_state(r.engine) == SP_ENGINE_IDLE);
    CHILD_CHECK(unshare(CLONE_THREAD) == 0); /* what an extra thread would forbid, CLONE_NEWUSER like this */
    sp_engine_lock(r.engine);
    error = sp_engine_add_locked(r.engine, (uintptr_t)a, (uintptr_t)a + least, false, NULL);
    sp_engine_unlock(r.engine);
    CHILD_CHECK(error == 0 && threads_now() == 2);
    CHILD_CHECK(unshare(CLONE_THREAD) < 0 && errno == EINVAL);
    r.engine = sp_engine_free(r.engine);
    CHILD_CHECK(threads_now() == 1);
    return 0;
}

static void test_no_thread_for_little(void **state) {
    play(no_thread_for_little);
}

static int declines(struct engine_rig *r, enum sp_engine_state why) {
    uint8_t *a = rig_twins(r, N, 1);
    CHILD_CHECK(sp_engine_wait_settled(r->engine, 10 * SECOND_NS) < 0);
    CHILD_CHECK(sp_engine_state(r->engine) == why);
    CHILD_CHECK(rig_counter(r, SP_COUNTER_pages_merged) == 0 && !page_of_store(a));
    struct sp_merge_result result;
    CHILD_CHECK(sp_engine_merge(r->engine, (uintptr_t)a, (uintptr_t)a + N, false, &result) < 0);
    CHILD_CHECK(wrong_pages(a, PAGES / 2, 1) == 0);
    CHILD_CHECK(sp_engine_state_text(why)[0] != '\0');
    r->engine = sp_engine_free(r->engine);
    return 0;
}

/* H11 */
static int under_a_filter(void *arg) {
    struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog filter = {1, all};
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
    struct engine_rig r;
    rig_init(&r, NULL);
    return declines(&r, SP_ENGINE_SECCOMP);
}

static void test_declines_under_filter(void **state) {
    play(under_a_filter);
}

/* H21 */
static int locks_everything(void *arg) {
    CHILD_CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
    struct engine_rig r;
    rig_init(&r, NULL);
    return declines(&r, SP_ENGINE_LOCKED_MEMORY);
}

static int locks_future(void *arg) {
    CHILD_CHECK(mlockall(MCL_FUTURE) == 0);
    struct engine_rig r;
    rig_init(&r, NULL);
    return declines(&r, SP_ENGINE_LOCKED_MEMORY);
}

static void test_declines_locked(void **state) {
    play(locks_everything);
    play(locks_future);
}

/* H25: a kernel whose UFFDIO_MOVE cannot be trusted, or of which that cannot be known. */
static int kernel_unknown(const char *call) {
    return strcmp(call, "proc_kernel") ? 0 : -EIO;
}

static int unsafe_kernel(void *arg) {
    sp_fault_hook = kernel_unknown;
    struct engine_rig r;
    rig_init(&r, NULL);
    return declines(&r, SP_ENGINE_UNSAFE_KERNEL);
}

/* It becomes so while it is merging: swap is switched on. Not more than one question a second, and one at the
 * start. */
static unsigned kernel_questions;

static int kernel_asked(const char *call) {
    if (strcmp(call, "proc_kernel"))
        return 0;
    __atomic_add_fetch(&kernel_questions, 1, __ATOMIC_RELAXED);
    return 0;
}

static int becomes_unsafe(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    uint64_t begin = sp_now_ns();
    kernel_questions = 0;
    sp_fault_hook = kernel_asked;
    for (unsigned round = 1; round <= 6; round++) {
        fill_twins(a, PAGES, round);
        rig_add(&r, a, N);
        CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, round * PAGES, round * PAGES));
        rig_unmap(&r, a, N);
        a = memory_new(N);
    }
    CHILD_CHECK(kernel_questions <= 3 + (sp_now_ns() - begin) / SECOND_NS);
    sp_fault_hook = kernel_unknown;
    sp_sleep_ns(SECOND_NS + SECOND_NS / 4);
    uint64_t before = rig_counter(&r, SP_COUNTER_pages_merged);
    fill_twins(b, PAGES, 9);
    rig_add(&r, b, N);
    for (unsigned i = 0; i < 3000 && sp_engine_state(r.engine) == SP_ENGINE_RUNNING; i++)
        sp_sleep_ns(SECOND_NS / 100);
    CHILD_CHECK(sp_engine_state(r.engine) == SP_ENGINE_UNSAFE_KERNEL);
    CHILD_CHECK(rig_counter(&r, SP_COUNTER_pages_merged) == before && !page_of_store(b));
    CHILD_CHECK(wrong_pages(b, PAGES / 2, 9) == 0);
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_stops_on_kernel_that_becomes_unsafe(void **state) {
    play(becomes_unsafe);
}

static void test_declines_unsafe_kernel(void **state) {
    play(unsafe_kernel);
    assert_true(sp_move_is_safe(6 << 16 | 16 << 8, true));
    assert_false(sp_move_is_safe(6 << 16 | 14 << 8, true));
    assert_true(sp_move_is_safe(6 << 16 | 14 << 8, false));
}

/* Without userfaultfd nothing is merged behind the program's back, but what it declares quiescent is. */
static int no_uffd_hook(const char *call) {
    return strcmp(call, "uffd_new") ? 0 : -EPERM;
}

static int without_userfaultfd(void *arg) {
    sp_fault_hook = no_uffd_hook;
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N);
    fill_twins(a, PAGES, 1);
    memset(a + 3 * PAGE, 0, PAGE);
    rig_add(&r, a, N);
    CHILD_CHECK(sp_engine_wait_settled(r.engine, 10 * SECOND_NS) == -EPERM);
    CHILD_CHECK(sp_engine_state(r.engine) == SP_ENGINE_NO_USERFAULTFD);
    struct sp_merge_result result;
    CHILD_CHECK(sp_engine_merge(r.engine, (uintptr_t)a, (uintptr_t)a + N, false, &result) == -EPERM);
    CHILD_CHECK(rig_counter(&r, SP_COUNTER_pages_merged) == 0);
    CHILD_CHECK(sp_engine_merge(r.engine, (uintptr_t)a, (uintptr_t)a + N, true, &result) == 0);
    CHILD_CHECK(result.merged_pages >= PAGES - 4);
    for (size_t i = 0; i < PAGES; i++)
        CHILD_CHECK(i == 3 ? page_is_zero(a + i * PAGE) : page_is(a + i * PAGE, 1, i % (PAGES / 2)));
    CHILD_CHECK(page_of_store(a) && page_of_store(a + N / 2));
    /* Written, and merged at once again: no stale knowledge. */
    uint8_t *b = memory_new(N);
    fill(b, PAGES, 2);
    rig_add(&r, b, N);
    CHILD_CHECK(sp_engine_merge(r.engine, (uintptr_t)b, (uintptr_t)b + N, true, &result) == 0);
    fill(b, PAGES, 3);
    CHILD_CHECK(sp_engine_merge(r.engine, (uintptr_t)b, (uintptr_t)b + N, true, &result) == 0);
    CHILD_CHECK(wrong_pages(b, PAGES, 3) == 0);
    r.engine = sp_engine_free(r.engine);
    CHILD_CHECK(wrong_pages(b, PAGES, 3) == 0);
    return 0;
}

static void test_without_userfaultfd(void **state) {
    play(without_userfaultfd);
}

/* ---- what is passed over (H11, H12) ---- */

struct reason {
    enum sp_eligible why;
};

static bool note_reason(void *ctx, const struct sp_mapping *m) {
    ((struct reason *)ctx)->why = m->eligible;
    return true;
}

static enum sp_eligible reason_of(const void *p) {
    struct reason r = {SP_ELIGIBLE};
    must(sp_proc_mappings((uintptr_t)p, (uintptr_t)p + PAGE, note_reason, &r), "mappings");
    return r.why;
}

static void *anonymous(int prot, int flags) {
    void *p = mmap(NULL, N, prot, MAP_ANONYMOUS | flags, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int not_eligible(void *arg) {
    struct {
        const char *name;
        uint8_t *p;
        enum sp_eligible why;
    } kinds[16];
    size_t n = 0;
    int local = 0;
    kinds[n].name = "stack", kinds[n].p = (uint8_t *)((uintptr_t)&local & ~(PAGE - 1)),
    kinds[n++].why = SP_SPECIAL;
    kinds[n].name = "executable", kinds[n].p = anonymous(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE),
    kinds[n++].why = SP_EXECUTABLE;
    kinds[n].name = "shared", kinds[n].p = anonymous(PROT_READ | PROT_WRITE, MAP_SHARED),
    kinds[n++].why = SP_SHARED;
    int file = memfd_create("file", MFD_CLOEXEC);
    CHILD_CHECK(ftruncate(file, N) == 0);
    kinds[n].name = "file", kinds[n].p = mmap(NULL, N, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0),
    kinds[n++].why = SP_FILE;
    uint8_t *p = anonymous(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    CHILD_CHECK(mlock(p, MIB) == 0);
    kinds[n].name = "locked", kinds[n].p = p, kinds[n++].why = SP_LOCKED;
    p = anonymous(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, N, "mine") == 0)
        kinds[n].name = "named", kinds[n].p = p, kinds[n++].why = SP_NAMED;
    p = anonymous(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    unsigned long node = 1;
    if (sp_syscall(SYS_mbind, p, N, MPOL_BIND, &node, 64, 0) == 0)
        kinds[n].name = "policy", kinds[n].p = p, kinds[n++].why = SP_POLICY;
    p = anonymous(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    CHILD_CHECK(madvise(p, N, MADV_WIPEONFORK) == 0);
    kinds[n].name = "wiped on fork", kinds[n].p = p, kinds[n++].why = SP_WIPEONFORK;
    int key = pkey_alloc(0, 0);
    p = anonymous(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    if (key >= 0 && pkey_mprotect(p, N, PROT_READ | PROT_WRITE, key) == 0)
        kinds[n].name = "pkey", kinds[n].p = p, kinds[n++].why = SP_PKEY;
    p = anonymous(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_HUGETLB);
    if (p)
        kinds[n].name = "hugetlb", kinds[n].p = p, kinds[n++].why = SP_HUGETLB;
    int secret = (int)sp_syscall(SYS_memfd_secret, 0);
    if (secret >= 0 && ftruncate(secret, MIB) == 0) {
        p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, secret, 0);
        if (p != MAP_FAILED)
            kinds[n].name = "secret", kinds[n].p = p, kinds[n++].why = SP_SHARED;
    }

    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *good = memory_new(N);
    fill(good, PAGES / 2, 1);
    memcpy(good + N / 2, good, N / 2);
    for (size_t i = 0; i < n; i++) {
        enum sp_eligible why = reason_of(kinds[i].p);
        if (why != kinds[i].why) {
            fprintf(stderr, "%s: %s\n", kinds[i].name, sp_eligible_text(why));
            return 77;
        }
        size_t bytes = i == 0 ? PAGE : MIB;
        if (i)
            fill(kinds[i].p, MIB / PAGE, 1);
        CHILD_CHECK(rig_add(&r, kinds[i].p, bytes) == 0);
    }
    /* Locked memory, and secret memory counts as such, keeps the worker from starting at all (H21). */
    for (size_t i = 0; i < n; i++)
        if (kinds[i].why == SP_LOCKED)
            CHILD_CHECK(munlock(kinds[i].p, MIB) == 0);
        else if (!strcmp(kinds[i].name, "secret"))
            CHILD_CHECK(munmap(kinds[i].p, MIB) == 0 && n-- == i + 1);
    CHILD_CHECK(rig_add(&r, good, N) == N);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    for (size_t i = 1; i < n; i++)
        CHILD_CHECK(wrong_pages(kinds[i].p, MIB / PAGE, 1) == 0);
    CHILD_CHECK(rig_counter(&r, SP_COUNTER_registered_bytes) == N);
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_not_eligible(void **state) {
    int status = in_child(not_eligible, NULL);
    assert_int_equal(status, 0);
}

/* H11: the program's own userfaultfd, made before or after its memory was registered with us. */
static int own_userfaultfd(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    int own;
    must(sp_uffd_new(-1, &own), "userfaultfd");
    must(sp_uffd_enable(own, 0), "enable");
    size_t part = N / 4;
    must(sp_uffd_register(own, (uintptr_t)a + part, part, SP_UFFD_MODE_MISSING), "register");
    CHILD_CHECK(reason_of(a + part) == SP_USERFAULTFD);
    CHILD_CHECK(rig_add(&r, a, N) == N - part);
    CHILD_CHECK(rig_add(&r, b, N) == N);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * (PAGES - part / PAGE), 2 * (PAGES - part / PAGE)));
    CHILD_CHECK(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1) == 0);
    CHILD_CHECK(!page_of_store(a + part) && page_of_store(a) && page_of_store(a + 3 * part));
    /* Between the reading of the mappings and the arming: what is watched is given up, no more. */
    uint8_t *c = memory_new(N);
    fill(c, PAGES, 1);
    sp_engine_lock(r.engine);
    int error = sp_engine_add_locked(r.engine, (uintptr_t)c, (uintptr_t)c + N, true, NULL);
    if (!error)
        error = sp_uffd_register(own, (uintptr_t)c, part, SP_UFFD_MODE_MISSING);
    sp_engine_unlock(r.engine);
    CHILD_CHECK(error == 0);
    sp_sleep_ns(SECOND_NS / 2);
    CHILD_CHECK(wrong_pages(c, PAGES, 1) == 0 && !page_of_store(c));
    CHILD_CHECK(sp_engine_state(r.engine) == SP_ENGINE_RUNNING);
    CHILD_CHECK(rig_range(&r, c, N, SP_COUNTER_registered_bytes) == N - part);
    CHILD_CHECK(page_of_store(c + part));
    CHILD_CHECK(sp_uffd_unregister(own, (uintptr_t)c, part) == 0);
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_own_userfaultfd(void **state) {
    play(own_userfaultfd);
}

/* ---- large and sparse ---- */

/* H14: the worker reads the store to compare, but does not keep it in the process's resident set, in which is
 * what the program has mapped, whether it has read it since or not. */
static int store_counted_once(void *arg) {
    struct engine_rig r;
    rig_init(&r, NULL);
    size_t big = 64 * MIB;
    uint8_t *a = memory_new(big), *b = memory_new(big);
    fill(a, big / PAGE, 1);
    fill(b, big / PAGE, 1);
    rig_add(&r, a, big);
    rig_add(&r, b, big);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * big / PAGE, 2 * big / PAGE));
    CHILD_CHECK(rig_settle(&r) == 0);
    CHILD_CHECK(proc_number("/proc/self/status", "RssShmem:") * 1024 <= 2 * big);
    CHILD_CHECK(wrong_pages(a, big / PAGE, 1) + wrong_pages(b, big / PAGE, 1) == 0);
    CHILD_CHECK(proc_number("/proc/self/status", "RssShmem:") * 1024 == 2 * big);
    CHILD_CHECK(rig_counter(&r, SP_COUNTER_own_bytes) < 8 * MIB);
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_store_counted_once(void **state) {
    play(store_counted_once);
}

/* H16: a few pages in 32 TiB. What is counted is system calls and memory, not time. */
static uint64_t scans, registers;

static int count_scans(const char *call) {
    if (!strcmp(call, "pagemap_scan"))
        __atomic_fetch_add(&scans, 1, __ATOMIC_RELAXED);
    if (!strcmp(call, "uffd_register"))
        __atomic_fetch_add(&registers, 1, __ATOMIC_RELAXED);
    return 0;
}

static int sparse(void *arg) {
    size_t bytes = (size_t)32 << 40;
    uint8_t *p =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return 77;
    CHILD_CHECK(madvise(p, bytes, MADV_NOHUGEPAGE) == 0);
    struct engine_rig r;
    rig_init(&r, NULL);
    for (size_t i = 0; i < 32; i++)
        page_fill(p + (i << 40) + i % 16 * MIB, 1, i % 4);
    sp_fault_hook = count_scans;
    uint64_t tables = proc_number("/proc/self/status", "VmPTE:");
    rig_add(&r, p, bytes);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 32, 32));
    uint64_t passes = rig_counter(&r, SP_COUNTER_full_scans);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_full_scans, passes + 5, UINT64_MAX));
    passes = rig_counter(&r, SP_COUNTER_full_scans);
    fprintf(stderr, "# %llu scans in %llu passes\n", (unsigned long long)scans, (unsigned long long)passes);
    CHILD_CHECK(scans < (passes + 1) * 400);
    CHILD_CHECK(rig_counter(&r, SP_COUNTER_own_bytes) < 16 * MIB);
    CHILD_CHECK(proc_number("/proc/self/status", "VmPTE:") <
                tables + 2048); /* KiB: holes get no page tables */
    for (size_t i = 0; i < 32; i++)
        CHILD_CHECK(page_is(p + (i << 40) + i % 16 * MIB, 1, i % 4));
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_sparse(void **state) {
    int status = in_child(sparse, NULL);
    if (status == 77)
        skip();
    assert_int_equal(status, 0);
}

/* H17: more than a segment of the store: two windows for each of 700 pages that have a twin. Each window's
 * first publisher takes a chunk, so that 700 windows with one page each fill more than 1 GiB of offsets. */
static int many_segments(void *arg) {
    size_t windows = 700;
    uint8_t *a = mmap(NULL, 2 * windows * SP_WINDOW_SIZE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHILD_CHECK(a != MAP_FAILED && madvise(a, 2 * windows * SP_WINDOW_SIZE, MADV_NOHUGEPAGE) == 0);
    uint8_t *b = a + windows * SP_WINDOW_SIZE;
    struct engine_rig r;
    rig_init(&r, NULL);
    for (size_t i = 0; i < windows; i++) {
        page_fill(a + i * SP_WINDOW_SIZE + i % 512 * PAGE, 1, i);
        page_fill(b + i * SP_WINDOW_SIZE + i % 512 * PAGE, 1, i);
    }
    rig_add(&r, a, 2 * windows * SP_WINDOW_SIZE);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * windows, 2 * windows));
    ino_t inodes[2] = {0};
    size_t n = 0;
    for (size_t i = 0; i < windows; i++) {
        CHILD_CHECK(page_is(a + i * SP_WINDOW_SIZE + i % 512 * PAGE, 1, i));
        CHILD_CHECK(page_is(b + i * SP_WINDOW_SIZE + i % 512 * PAGE, 1, i));
    }
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long inode;
        if (!strstr(line, "memfd:samepage") || sscanf(line, "%*s %*s %*s %*s %lu", &inode) != 1 || n == 2)
            continue;
        if (n == 0 || inodes[0] != inode)
            inodes[n++] = inode;
    }
    fclose(f);
    (void)inodes;
    CHILD_CHECK(n == 2);
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_many_segments(void **state) {
    play(many_segments);
}

/* H4 and H23: scattered twins may use no more of the mappings than the budget allows, and what is over it is
 * counted and intact. What comes later in long runs has a part of the budget that they cannot use. */
static int budget(void *arg) {
    struct engine_rig r;
    sp_settings_init(&r.settings);
    r.settings.v[SP_SETTING_sleep_millisecs] = 5;
    r.settings.v[SP_SETTING_sleep_max_millisecs] = 20;
    r.settings.v[SP_SETTING_map_percent] = 2;
    must(sp_local_link_new(&r.settings, test_index(), &r.link), "link");
    must(sp_engine_new(r.link, &r.settings, &r.engine), "engine");
    size_t bytes = 32 * MIB, pages = bytes / PAGE;
    uint8_t *a = memory_new(bytes), *b = memory_new(bytes);
    fill(a, pages, 1);
    for (size_t i = 0; i < pages; i++)
        page_fill(b + i * PAGE, 1, i * 5 % pages);
    rig_add(&r, a, bytes);
    rig_add(&r, b, bytes);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_over_budget, 1, UINT64_MAX));
    for (unsigned i = 0; i < 50; i++) {
        sp_sleep_ns(20000000);
        CHILD_CHECK(mappings_all() <= 65530 / 100 * 2 + 8);
    }
    CHILD_CHECK(rig_counter(&r, SP_COUNTER_pages_merged) > 0);
    for (size_t i = 0; i < pages; i++)
        CHILD_CHECK(page_is(a + i * PAGE, 1, i) && page_is(b + i * PAGE, 1, i * 5 % pages));
    size_t later = 8 * MIB, later_pages = later / PAGE;
    uint8_t *c = memory_new(later), *d = memory_new(later);
    fill(c, later_pages, 2);
    fill(d, later_pages, 2);
    uint64_t sharing = rig_counter(&r, SP_COUNTER_pages_sharing);
    rig_add(&r, c, later);
    rig_add(&r, d, later);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_sharing, sharing + later_pages, UINT64_MAX));
    CHILD_CHECK(mappings_all() <= 65530 / 100 * 2 + 8);
    for (size_t i = 0; i < later_pages; i++)
        CHILD_CHECK(page_is(c + i * PAGE, 2, i) && page_is(d + i * PAGE, 2, i));
    r.engine = sp_engine_free(r.engine);
    return 0;
}

static void test_budget(void **state) {
    uint64_t most;
    must(sp_proc_max_map_count(&most), "max_map_count");
    if (most != 65530)
        skip();
    play(budget);
}

int main(void) {
    require_uffd();
    watchdog(250);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_family_holds),
        cmocka_unit_test(test_family_holds_raw),
        cmocka_unit_test(test_raw_clones_of_engine),
        cmocka_unit_test(test_child_works_too),
        cmocka_unit_test(test_everything_registered),
        cmocka_unit_test(test_closes_descriptors),
        cmocka_unit_test(test_no_thread_for_little),
        cmocka_unit_test(test_declines_under_filter),
        cmocka_unit_test(test_declines_locked),
        cmocka_unit_test(test_declines_unsafe_kernel),
        cmocka_unit_test(test_stops_on_kernel_that_becomes_unsafe),
        cmocka_unit_test(test_without_userfaultfd),
        cmocka_unit_test(test_not_eligible),
        cmocka_unit_test(test_own_userfaultfd),
        cmocka_unit_test(test_store_counted_once),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_many_segments),
        cmocka_unit_test(test_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
