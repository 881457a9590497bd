/* SPDX-License-Identifier: MIT */
/*
 * Accesses to a frozen page sleep until it is thawed, from user code and inside system calls, and see or keep
 * what belongs there. That an access sleeps is known when its fault waits in the userfaultfd (it becomes
 * readable; nobody needs to read it).
 */
#include "os_test.h"

#include "os/socket.h"

#define N 4

static int uffd;
static char *source, *scratch;

static int setup(void **state) {
    uffd = uffd_new(0);
    source = pages_new(N);
    scratch = pages_new(N);
    pages_fill(source, N, 1);
    must(sp_uffd_register(uffd, AT(scratch, 0), N * PAGE, SP_UFFD_MODE_MISSING), "register scratch");
    return 0;
}

static int teardown(void **state) {
    close(uffd);
    pages_free(source, N);
    pages_free(scratch, N);
    return 0;
}

static void freeze(void) {
    size_t moved;
    assert_int_equal(sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(sp_uffd_move(uffd, -1, AT(scratch, 0), AT(source, 0), N * PAGE, &moved), 0);
}

static void put_back(void) {
    size_t moved;
    assert_int_equal(sp_uffd_move(uffd, -1, AT(source, 0), AT(scratch, 0), N * PAGE, &moved), 0);
}

static void thaw(void) {
    assert_int_equal(sp_uffd_unregister(uffd, AT(source, 0), N * PAGE), 0);
    assert_int_equal(sp_uffd_wake(uffd, AT(source, 0), N * PAGE), 0);
}

struct access {
    long (*body)(void);
    long result;
    bool done;
};

static void *access_main(void *arg) {
    struct access *a = arg;
    a->result = a->body();
    __atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* Freezes, accesses, sees the access sleep, thaws. */
static long access_frozen(long (*body)(void), void (*meanwhile)(void)) {
    struct access a = {.body = body};
    pthread_t thread;

    freeze();
    assert_int_equal(pthread_create(&thread, NULL, access_main, &a), 0);
    assert_int_equal(sp_wait_readable(&uffd, 1, UINT64_C(60000000000)), 1);
    assert_false(__atomic_load_n(&a.done, __ATOMIC_ACQUIRE));
    meanwhile();
    assert_false(__atomic_load_n(&a.done, __ATOMIC_ACQUIRE));
    thaw();
    pthread_join(thread, NULL);
    return a.result;
}

static long read_byte(void) {
    return page_is(source + PAGE, 1, 1);
}

static void a_read_sleeps(void **state) {
    assert_int_equal(access_frozen(read_byte, put_back), 1);
}

static long write_byte(void) {
    source[PAGE + 5] = 77;
    return 1;
}

static void a_write_sleeps_and_is_not_lost(void **state) {
    access_frozen(write_byte, put_back);
    assert_int_equal(source[PAGE + 5], 77);
    source[PAGE + 5] = 0;
    char want[PAGE];
    page_fill(want, 1, 1);
    want[5] = 0;
    assert_memory_equal(source + PAGE, want, PAGE);
}

static int file = -1;

/* A file of one page of content 5. */
static void file_open(int flags) {
    static const char *const dirs[] = {"/var/tmp", "/tmp", "/dev/shm", "."};
    static char page[SP_PAGE_SIZE] __attribute__((aligned(4096)));
    page_fill(page, 5, 0);
    for (size_t i = 0; i < 4 && file < 0; i++) {
        char path[64];
        snprintf(path, sizeof(path), "%s/samepage-test-XXXXXX", dirs[i]);
        int made = mkstemp(path);
        if (made < 0)
            continue;
        assert_int_equal(write(made, page, PAGE), PAGE);
        assert_int_equal(fsync(made), 0);
        close(made);
        file = open(path, O_RDONLY | flags);
        unlink(path);
    }
    assert_true(file >= 0);
}

static void file_close(void) {
    close(file);
    file = -1;
}

static long read_file(void) {
    return pread(file, source + PAGE, PAGE, 0);
}

static void check_read(int flags) {
    file_open(flags);
    assert_int_equal(access_frozen(read_file, put_back), PAGE);
    file_close();
    assert_true(page_is(source + PAGE, 5, 0));
    assert_true(page_is(source, 1, 0));
    assert_true(page_is(source + 2 * PAGE, 1, 2));
}

static void read_into_it_sleeps(void **state) {
    check_read(0);
}

static void direct_read_into_it_sleeps(void **state) {
    check_read(O_DIRECT);
}

static long write_pipe(void) {
    int p[2];
    char got[SP_PAGE_SIZE];
    if (pipe(p) < 0 || write(p[1], source + PAGE, PAGE) != (long)PAGE || read(p[0], got, PAGE) != (long)PAGE)
        return -1;
    close(p[0]);
    close(p[1]);
    return page_is(got, 1, 1);
}

static void write_from_it_sleeps(void **state) {
    assert_int_equal(access_frozen(write_pipe, put_back), 1);
}

static int store;

static void remap_to_store(void) {
    assert_int_equal(sp_map_store(AT(source, 0), N * PAGE, store, 0), 0);
}

/* The merge itself: what wakes up finds the store's mapping. */
static void the_sleeper_finds_the_remapped_page(void **state) {
    store = memfd_create("test", MFD_CLOEXEC);
    assert_true(store >= 0);
    assert_int_equal(pwrite(store, source, N * PAGE, 0), N * PAGE);
    freeze();
    struct access a = {.body = write_byte};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, access_main, &a), 0);
    assert_int_equal(sp_wait_readable(&uffd, 1, UINT64_C(60000000000)), 1);
    remap_to_store();
    /* The new mapping is not registered; the sleeper still has to be woken. */
    assert_int_equal(sp_uffd_wake(uffd, AT(source, 0), N * PAGE), 0);
    pthread_join(thread, NULL);
    assert_int_equal(source[PAGE + 5], 77);
    assert_true(page_is(source, 1, 0));
    char original[PAGE];
    assert_int_equal(pread(store, original, PAGE, PAGE), PAGE);
    assert_true(page_is(original, 1, 1));
    close(store);
}

/* What I7 and H19 are about: a closed userfaultfd wakes the sleepers, who then read zeros. */
static void closing_wakes_to_zeros(void **state) {
    struct access a = {.body = read_byte};
    pthread_t thread;
    freeze();
    assert_int_equal(pthread_create(&thread, NULL, access_main, &a), 0);
    assert_int_equal(sp_wait_readable(&uffd, 1, UINT64_C(60000000000)), 1);
    close(uffd);
    pthread_join(thread, NULL);
    assert_int_equal(a.result, 0);
    assert_true(page_is_zero(source + PAGE));
    uffd = uffd_new(0); /* for teardown */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_read_sleeps),          TEST(a_write_sleeps_and_is_not_lost),
        TEST(read_into_it_sleeps),    TEST(direct_read_into_it_sleeps),
        TEST(write_from_it_sleeps),   TEST(the_sleeper_finds_the_remapped_page),
        TEST(closing_wakes_to_zeros),
    };
    require_uffd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
