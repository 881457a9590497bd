/* SPDX-License-Identifier: MIT */
/*
 * Moments and limits that the other tests meet by chance only, made to happen: a child in the middle of a
 * batch that puts nothing back, the limit of mappings between the two mappings of one run, a registration
 * that the kernel refuses to make again, a program that forbids itself descriptors, regions that a program
 * protects page by page.
 */
#include "batch_rig.h"

#include <sys/resource.h>

#include "merge/state.h"
#include "os/fault.h"

#define RUN_PAGES 8

struct rig {
    uint8_t *window;
    struct sp_segment segment;
    void *view;
    struct sp_batch_run run;
    struct sp_batch batch;
};

/* A window of content 1 whose pages from `slot` on are in the store too. */
static void rig_open(struct rig *r, uint8_t *window, unsigned slot) {
    batch_open(&r->batch, true, &r->segment, &r->view);
    r->window = window;
    fill(r->window, SP_WINDOW_PAGES, 1);
    batch_arm(&r->batch, r->window, SP_WINDOW_SIZE);
    must(sp_segment_write_many(&r->segment, 0, r->window + slot * PAGE, RUN_PAGES), "store");
    r->run = (struct sp_batch_run){
        .slot = slot, .pages = RUN_PAGES, .expected = r->view, .fd = r->segment.fd_shared};
    r->batch.base = (uintptr_t)r->window;
    r->batch.runs = &r->run;
    r->batch.n = 1;
}

static void rig_close(struct rig *r) {
    memory_free(r->window, SP_WINDOW_SIZE);
    batch_close(&r->batch, &r->segment, r->view);
}

/* ---- a child between freeze and remap (H3) ---- */

static struct {
    struct rig rig;
    struct sp_event go;
    int tid;         /* of the thread that makes the child */
    bool twice;      /* the child makes one too, while it is being repaired */
    unsigned unread; /* how often its event cannot be read */
    int status;
} fork_in_batch;

static void *fork_thread(void *unused) {
    const struct rig *r = &fork_in_batch.rig;
    __atomic_store_n(&fork_in_batch.tid, (int)sp_syscall(SYS_gettid), __ATOMIC_RELEASE);
    sp_event_wait(&fork_in_batch.go, 0, UINT64_MAX);
    long pid = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        int status = 0;
        long grandchild = fork_in_batch.twice ? sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : -1;
        if (grandchild > 0)
            sp_syscall(SYS_wait4, grandchild, &status, 0, NULL);
        sp_syscall(SYS_exit_group, status || wrong_pages(r->window, SP_WINDOW_PAGES, 1) != 0);
    }
    if (waitpid((pid_t)pid, &fork_in_batch.status, 0) != pid)
        fork_in_batch.status = -1;
    return unused;
}

/* Waits until the thread sleeps in the kernel's clone(2): until its event is there. */
static void await_clone(void) {
    char path[64], text[64] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", fork_in_batch.tid);
    while (strtol(text, NULL, 10) != SYS_clone) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = read(fd, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = '\0';
        close(fd);
    }
}

static int hook(const char *call) {
    if (strcmp(call, "map_store") == 0 && !fork_in_batch.go.word) {
        sp_event_post(&fork_in_batch.go);
        await_clone();
    }
    /* Time for the child to get into its own. */
    if (fork_in_batch.twice && strcmp(call, "uffd_copy") == 0)
        sp_sleep_ns(5000000);
    if (fork_in_batch.unread && fork_in_batch.go.word && strcmp(call, "uffd_read") == 0) {
        fork_in_batch.unread--;
        return -EMFILE;
    }
    return 0;
}

static void clone_before_remap_run(bool twice, unsigned unread) {
    struct rig *r = &fork_in_batch.rig;
    pthread_t thread;
    memset(&fork_in_batch, 0, sizeof(fork_in_batch));
    fork_in_batch.twice = twice;
    fork_in_batch.unread = unread;
    rig_open(r, memory_new(SP_WINDOW_SIZE), 16);
    pthread_create(&thread, NULL, fork_thread, NULL);
    while (!__atomic_load_n(&fork_in_batch.tid, __ATOMIC_ACQUIRE))
        sp_sleep_ns(1000000);
    sp_fault_hook = hook;
    sp_batch_run(&r->batch);
    sp_fault_hook = NULL;
    for (unsigned i = 16; i < 16 + RUN_PAGES; i++)
        assert_int_equal(r->batch.outcome[i], SP_OUTCOME_MERGED);
    assert_int_equal(r->batch.forks, 1);
    sp_batch_forks(r->batch.uffd); /* where the batch has forgotten it, the test shall fail, not hang */
    pthread_join(thread, NULL);
    assert_int_equal(fork_in_batch.status, 0);
    rig_close(r);
}

static void test_clone_before_remap(void **state) {
    clone_before_remap_run(false, 0);
}

static void test_clone_of_clone(void **state) {
    clone_before_remap_run(true, 0);
}

/* The event is there, but reading it fails for longer than anybody would call a moment. */
static void test_clone_unread(void **state) {
    clone_before_remap_run(false, 1500);
}

/* ---- the limit of mappings in the middle of a run (H4, I6) ---- */

/* Reads a hole of each page: whoever sleeps there is killed by the watchdog. */
static int limit_within_run(void *arg) {
    unsigned slack = *(unsigned *)arg;
    struct rig r;
    uint8_t *window = memory_new(SP_WINDOW_SIZE);
    /* Two mappings that the kernel does not join: their first pages came while they differed. */
    uint8_t *half = window + SP_WINDOW_SIZE / 2;
    must(sp_advise((uintptr_t)half, SP_WINDOW_SIZE / 2, MADV_DONTDUMP), "dontdump");
    window[0] = half[0] = 1;
    must(sp_advise((uintptr_t)half, SP_WINDOW_SIZE / 2, MADV_DODUMP), "dodump");
    CHILD_CHECK(mappings_between(window, window + SP_WINDOW_SIZE) == 2);
    rig_open(&r, window, SP_WINDOW_PAGES / 2 - RUN_PAGES / 2);

    size_t room = 70000;
    uint8_t *filler = mmap(NULL, room * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHILD_CHECK(filler != MAP_FAILED);
    size_t used = 1;
    while (used < room && mprotect(filler + used * PAGE, PAGE, PROT_NONE) == 0)
        used += 2;
    CHILD_CHECK(used < room);
    /* Up to the very last one. */
    while (mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        ;
    for (unsigned i = 0; i < slack; i++)
        CHILD_CHECK(munmap(filler + (2 * i) * PAGE, PAGE) == 0);
    sp_batch_run(&r.batch);
    munmap(filler, room * PAGE);

    unsigned merged = 0;
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) {
        CHILD_CHECK(page_is(window + i * PAGE, 1, i));
        merged += r.batch.outcome[i] == SP_OUTCOME_MERGED;
    }
    CHILD_CHECK(merged == 0 || merged == RUN_PAGES);
    alarm(20);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        if (r.batch.outcome[i] != SP_OUTCOME_MERGED) {
            CHILD_CHECK(madvise(window + i * PAGE, PAGE, MADV_DONTNEED) == 0);
            CHILD_CHECK(page_is_zero(window + i * PAGE));
        }
    return 100 + (int)merged;
}

static void test_limit_within_run(void **state) {
    bool refused = false, merged = false;
    for (unsigned slack = 0; slack < 5; slack++) {
        int status = in_child(limit_within_run, &slack);
        if (status < 100)
            fail_msg("slack %u: %d", slack, status);
        refused |= status == 100;
        merged |= status == 100 + RUN_PAGES;
    }
    assert_true(refused);
    assert_true(merged);
}

/* ---- protection page by page ---- */

/* What is the same again is one region again: a collector that protects each page in turn would otherwise
 * leave as many regions as there are pages, and each of its calls would move all of them. */
static void test_regions_join_again(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(16 * MIB);
    uint64_t start = (uintptr_t)p, end = start + 16 * MIB;
    r.engine->settings.v[SP_SETTING_worker_start_kbytes] = UINT64_MAX / 1024;
    sp_engine_lock(r.engine);
    must(sp_engine_add_locked(r.engine, start, end, false, NULL), "add");
    for (uint64_t at = start; at < end; at += PAGE) {
        must(sp_engine_protection_locked(r.engine, at, at + PAGE, PROT_READ), "read-only");
        assert_in_range(r.engine->regions.n, 1, 2);
    }
    for (uint64_t at = start; at < end; at += 2 * PAGE)
        must(sp_engine_protection_locked(r.engine, at, at + PAGE, PROT_READ | PROT_WRITE), "writable");
    assert_int_equal(r.engine->regions.n, 16 * MIB / PAGE);
    assert_int_equal(r.engine->regions.bytes, 16 * MIB);
    must(sp_engine_protection_locked(r.engine, start, end, PROT_READ | PROT_WRITE), "writable");
    assert_int_equal(r.engine->regions.n, 1);
    for (uint64_t at = start; at < end; at += 2 * PAGE)
        sp_engine_attributes_locked(r.engine, at, at + PAGE, SP_ATTR_DONTFORK, 0);
    assert_int_equal(r.engine->regions.n, 16 * MIB / PAGE);
    sp_engine_attributes_locked(r.engine, start, end, 0, SP_ATTR_DONTFORK);
    assert_int_equal(r.engine->regions.n, 1);
    assert_int_equal(r.engine->regions.items[0].start, start);
    assert_int_equal(r.engine->regions.items[0].end, end);
    assert_int_equal(r.engine->regions.bytes, 16 * MIB);
    sp_engine_unlock(r.engine);
    sp_engine_free(r.engine);
    memory_free(p, 16 * MIB);
}

/* ---- a registration that the kernel refuses to make again ---- */

static bool refuse_next, refused;

/* The registration that follows the end of one: of what was frozen and is not merged. */
static int refuse_rearming(const char *call) {
    if (!strcmp(call, "uffd_unregister") && !refused)
        refuse_next = true;
    if (strcmp(call, "uffd_register") || !refuse_next)
        return 0;
    refuse_next = false;
    refused = true;
    return -ENOMEM;
}

/* What is written there is noticed all the same: it is armed anew. */
static void test_refused_rearming(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(4 * MIB);
    memset(p, 0, 64 * PAGE);
    refuse_next = refused = false;
    sp_fault_hook = refuse_rearming;
    rig_add(&r, p, 4 * MIB);
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, 64, 64));
    sp_fault_hook = NULL;
    assert_true(refused);
    fill(p, 32, 1);
    fill(p + 32 * PAGE, 32, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 64, 64));
    assert_int_equal(wrong_pages(p, 32, 1) + wrong_pages(p + 32 * PAGE, 32, 1), 0);
    assert_int_equal(sp_engine_state(r.engine), SP_ENGINE_RUNNING);
    sp_engine_free(r.engine);
    memory_free(p, 4 * MIB);
}

/* ---- a program that forbids itself descriptors ---- */

/* A fork waits in the kernel until the worker has read its event, which takes a descriptor. */
static int clone_without_descriptors(void *unused) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(4 * MIB);
    fill(p, 4 * MIB / PAGE, 1);
    rig_add(&r, p, 4 * MIB);
    CHILD_CHECK(rig_settle(&r) == 0);
    const struct rlimit none = {0, 0};
    CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    watchdog(20);
    long pid = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        sp_syscall(SYS_exit_group, wrong_pages(p, 4 * MIB / PAGE, 1) != 0);
    int status = -1;
    CHILD_CHECK(waitpid((pid_t)pid, &status, 0) == pid && status == 0);
    CHILD_CHECK(sp_engine_state(r.engine) == SP_ENGINE_STOPPED);
    CHILD_CHECK(wrong_pages(p, 4 * MIB / PAGE, 1) == 0);
    sp_engine_free(r.engine);
    return unused ? 99 : 100;
}

static void test_clone_without_descriptors(void **state) {
    assert_int_equal(in_child(clone_without_descriptors, NULL), 100);
}

int main(void) {
    require_uffd();
    watchdog(100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clone_before_remap),
        cmocka_unit_test(test_clone_of_clone),
        cmocka_unit_test(test_clone_unread),
        cmocka_unit_test(test_limit_within_run),
        cmocka_unit_test(test_regions_join_again),
        cmocka_unit_test(test_refused_rearming),
        cmocka_unit_test(test_clone_without_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
