/* SPDX-License-Identifier: MIT */
/*
 * Segments and tokens, and what private mappings of a segment do: the content of broken pages survives
 * punching, a refused mapping keeps the old page, MADV_DONTNEED shows the store again, unmerging in place
 * loses no write.
 */
#include "os_test.h"

#include <sys/stat.h>

#include "os/proc.h"
#include "os/store.h"

#define N 256

static struct sp_segment store;
static char *content, *region;
static int pagemap;

static int setup(void **state) {
    must(sp_segment_init(&store), "segment");
    must(sp_pagemap_open(&pagemap), "pagemap");
    content = pages_new(N);
    region = pages_new(N);
    pages_fill(content, N, 1);
    return 0;
}

static int teardown(void **state) {
    sp_segment_deinit(&store);
    close(pagemap);
    pages_free(content, N);
    pages_free(region, N);
    return 0;
}

static void fill_and_map(void) {
    assert_int_equal(sp_segment_write_many(&store, 0, content, N), 0);
    assert_int_equal(sp_map_store(AT(region, 0), N * PAGE, store.fd_shared, 0), 0);
}

static void pages_are_written_and_read_back(void **state) {
    char got[PAGE];
    assert_int_equal(sp_segment_write(&store, 5, content), 0);
    assert_int_equal(sp_segment_write(&store, SP_SEGMENT_PAGES - 1, content + PAGE), 0);
    assert_int_equal(sp_segment_read(&store, 5, got), 0);
    assert_true(page_is(got, 1, 0));
    assert_int_equal(sp_segment_read(&store, SP_SEGMENT_PAGES - 1, got), 0);
    assert_true(page_is(got, 1, 1));
    assert_int_equal(sp_segment_read(&store, 6, got), 0);
    assert_true(page_is_zero(got));
    uint64_t bytes;
    assert_int_equal(sp_segment_memory(&store, &bytes), 0);
    assert_int_equal(bytes, 2 * PAGE);
}

static void outside_is_refused(void **state) {
    char page[PAGE];
    assert_int_equal(sp_segment_write(&store, SP_SEGMENT_PAGES, content), -EINVAL);
    assert_int_equal(sp_segment_write_many(&store, SP_SEGMENT_PAGES - 1, content, 2), -EINVAL);
    assert_int_equal(sp_segment_read(&store, SP_SEGMENT_PAGES, page), -EINVAL);
    assert_int_equal(sp_segment_punch(&store, SP_SEGMENT_PAGES - 1, 2), -EINVAL);
    assert_int_equal(sp_segment_punch(&store, UINT64_MAX, 2), -EINVAL);
    assert_int_equal(sp_segment_write(&store, 0, NULL), -EFAULT);
}

static void punched_pages_read_as_zeros(void **state) {
    char got[PAGE];
    uint64_t bytes;
    fill_and_map();
    assert_true(page_is(region + 7 * PAGE, 1, 7));
    assert_int_equal(sp_segment_punch(&store, 7, 2), 0);
    assert_true(page_is_zero(region + 7 * PAGE)); /* was present in this mapping */
    assert_true(page_is_zero(region + 8 * PAGE)); /* was not */
    assert_true(page_is(region + 6 * PAGE, 1, 6));
    assert_true(page_is(region + 9 * PAGE, 1, 9));
    assert_int_equal(sp_segment_read(&store, 7, got), 0);
    assert_true(page_is_zero(got));
    assert_int_equal(sp_segment_punch(&store, 0, SP_SEGMENT_PAGES), 0);
    assert_int_equal(sp_segment_memory(&store, &bytes), 0);
    assert_int_equal(bytes, 0);
}

/* I3 rests on it. */
static void broken_pages_survive_punching(void **state) {
    fill_and_map();
    page_fill(region + 7 * PAGE, 2, 7);
    region[8 * PAGE] = region[8 * PAGE] ^ 1;
    region[8 * PAGE] = region[8 * PAGE] ^ 1;
    *(volatile char *)(region + 9 * PAGE) = content[9 * PAGE];
    assert_int_equal(sp_segment_punch(&store, 0, N), 0);
    assert_true(page_is(region + 7 * PAGE, 2, 7));
    assert_true(page_is(region + 9 * PAGE, 1, 9));
    assert_true(page_is_zero(region + 6 * PAGE));
}

/* H5: why MADV_DONTNEED of the program on a merged range must be met by unmerging first. */
static void dontneed_shows_the_store_again(void **state) {
    fill_and_map();
    page_fill(region, 2, 0);
    assert_int_equal(sp_advise(AT(region, 0), PAGE, MADV_DONTNEED), 0);
    assert_true(page_is(region, 1, 0));
    assert_int_equal(sp_advise(AT(region, 0), PAGE, MADV_FREE), -EINVAL);
    assert_int_equal(sp_advise(AT(region, 0), PAGE, MADV_WIPEONFORK), -EINVAL);
    assert_int_equal(sp_map_fresh(AT(region, 0), PAGE, PROT_READ | PROT_WRITE), 0);
    assert_true(page_is_zero(region));
}

static bool started, stop;

/* Writes its own counter into every page, over and over, and reads back what it wrote last. */
static void *writer(void *arg) {
    unsigned long *lost = arg;
    uint64_t last[N] = {0}, round = 0;
    __atomic_store_n(&started, true, __ATOMIC_RELAXED);
    do {
        round++;
        for (size_t i = 0; i < N; i++) {
            volatile uint64_t *word = (uint64_t *)(void *)(region + i * PAGE + 64);
            if (round > 1 && *word != last[i])
                ++*lost;
            *word = last[i] = round;
        }
    } while (!__atomic_load_n(&stop, __ATOMIC_RELAXED));
    for (size_t i = 0; i < N; i++)
        *lost += *(uint64_t *)(void *)(region + i * PAGE + 64) != last[i];
    return NULL;
}

/* Our unmerge: MADV_POPULATE_WRITE on the store mapping copies what was not yet copied. */
static void unmerging_in_place_loses_no_write(void **state) {
    unsigned long lost = 0;
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        fill_and_map();
        stop = started = false;
        assert_int_equal(pthread_create(&thread, NULL, writer, &lost), 0);
        while (!__atomic_load_n(&started, __ATOMIC_RELAXED)) {
        }
        assert_int_equal(sp_advise(AT(region, 0), N * PAGE, MADV_POPULATE_WRITE), 0);
        struct sp_range range;
        size_t n;
        uint64_t next;
        assert_int_equal(
            sp_pagemap_scan(pagemap, SP_PAGEMAP_BROKEN, AT(region, 0), AT(region, N), &range, 1, &n, &next),
            0);
        assert_int_equal(n, 1);
        assert_int_equal(range.start, AT(region, 0));
        assert_int_equal(range.end, AT(region, N));
        assert_int_equal(sp_segment_punch(&store, 0, N), 0);
        __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        assert_int_equal(lost, 0);
        for (size_t i = 0; i < N; i++) {
            memcpy(region + i * PAGE + 64, content + i * PAGE + 64, 8);
            assert_true(page_is(region + i * PAGE, 1, i));
        }
    }
}

/* Maps until the kernel refuses, in a child with its own count of mappings. */
static int refused_at_the_limit(void *arg) {
    uint64_t limit;
    CHILD_CHECK(sp_proc_max_map_count(&limit) == 0);
    char *mine = pages_new(4);
    pages_fill(mine, 4, 8);
    size_t room = (limit + 16) * PAGE;
    char *many = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHILD_CHECK(many != MAP_FAILED);
    size_t i = 0;
    int r = 0;
    for (; r == 0 && i < limit; i += 2)
        r = sp_protect(AT(many, i), PAGE, PROT_READ);
    CHILD_CHECK(r == -ENOMEM);
    uint64_t count;
    CHILD_CHECK(sp_proc_map_count(&count) == 0);
    CHILD_CHECK(count + 4 >= limit);
    while (sp_protect(AT(many, i), PAGE, PROT_READ) == 0)
        i += 2;
    CHILD_CHECK(sp_map_store(AT(mine, 1), PAGE, store.fd_shared, 0) == -ENOMEM);
    for (size_t k = 0; k < 4; k++)
        CHILD_CHECK(page_is(mine + k * PAGE, 8, k));
    mine[PAGE] = 1;
    /* With room again the same call works. */
    CHILD_CHECK(munmap(many, room) == 0);
    CHILD_CHECK(sp_segment_write(&store, 0, content) == 0);
    CHILD_CHECK(sp_map_store(AT(mine, 1), PAGE, store.fd_shared, 0) == 0);
    CHILD_CHECK(page_is(mine + PAGE, 1, 0));
    CHILD_CHECK(page_is(mine, 8, 0) && page_is(mine + 2 * PAGE, 8, 2));
    return 0;
}

static void a_mapping_refused_at_the_limit_keeps_the_page(void **state) {
    if (SANITIZED)
        NOT_HERE("the sanitizer's own mappings would be refused too");
    assert_int_equal(in_child(refused_at_the_limit, NULL), 0);
}

/* H24: what another user can do with the descriptor it was handed. */
static int misuse_as_nobody(void *arg) {
    char path[64], page[SP_PAGE_SIZE];
    CHILD_CHECK(become_nobody() == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", store.fd_shared);
    CHILD_CHECK(open(path, O_RDWR) < 0 && errno == EACCES);
    CHILD_CHECK(open(path, O_WRONLY) < 0 && errno == EACCES);
    CHILD_CHECK(open(path, O_RDONLY | O_TRUNC) < 0 && errno == EACCES);
    CHILD_CHECK(write(store.fd_shared, "x", 1) < 0 && errno == EBADF);
    CHILD_CHECK(ftruncate(store.fd_shared, 0) < 0);
    CHILD_CHECK(fallocate(store.fd_shared, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) < 0);
    CHILD_CHECK(fchmod(store.fd_shared, 0777) < 0 && errno == EPERM);
    CHILD_CHECK(fcntl(store.fd_shared, F_ADD_SEALS, F_SEAL_WRITE) < 0);
    void *shared;
    CHILD_CHECK(sp_map_file(store.fd_shared, 0, PAGE, true, &shared) == -EACCES);
    CHILD_CHECK(sp_map_file(store.fd_shared, 0, PAGE, false, &shared) == 0);
    CHILD_CHECK(sp_protect((uintptr_t)shared, PAGE, PROT_READ | PROT_WRITE) == -EACCES);
    CHILD_CHECK(page_is(shared, 1, 0));
    CHILD_CHECK(sp_advise((uintptr_t)shared, PAGE, MADV_REMOVE) < 0);
    CHILD_CHECK(pread(store.fd_shared, page, PAGE, 0) == (long)PAGE && page_is(page, 1, 0));
    char *mine = pages_new(1);
    CHILD_CHECK(sp_map_store(AT(mine, 0), PAGE, store.fd_shared, 0) == 0);
    CHILD_CHECK(page_is(mine, 1, 0));
    mine[0] ^= 1;
    CHILD_CHECK(page_is(shared, 1, 0));
    return 0;
}

static void another_user_can_only_read(void **state) {
    fill_and_map();
    assert_int_equal(in_child(misuse_as_nobody, NULL), 0);
    char got[PAGE];
    assert_int_equal(sp_segment_read(&store, 0, got), 0);
    assert_true(page_is(got, 1, 0));
}

static bool see_mapping(void *ctx, const struct sp_mapping *m) {
    *(struct sp_mapping *)ctx = *m;
    return false;
}

static void store_mappings_are_known_by_name(void **state) {
    struct sp_mapping m = {0};
    fill_and_map();
    assert_int_equal(sp_proc_mappings(AT(region, 0), AT(region, N), see_mapping, &m), 0);
    assert_int_equal(m.start, AT(region, 0));
    assert_int_equal(m.end, AT(region, N));
    assert_int_equal(m.eligible, SP_FILE);
    assert_true(m.attributes & SP_ATTR_STORE);
}

/* Tokens (H6) */

static int token;
static void *token_mapping;

static void a_token_is_gone_when_dropped(void **state) {
    assert_int_equal(sp_token_new(&token, &token_mapping), 0);
    assert_int_equal(sp_token_gone(token), 0);
    assert_int_equal(sp_token_gone(token), 0);
    assert_int_equal(sp_token_drop(token_mapping), 0);
    assert_int_equal(sp_token_gone(token), 1);
    assert_int_equal(sp_token_gone(token), 1);
    void *again;
    assert_int_equal(sp_map_file(token, 0, PAGE, true, &again), -EPERM); /* nobody ever will */
    close(token);
    assert_int_equal(sp_token_gone(token), -EBADF);
}

static void a_child_holds_the_token_until_it_exits(void **state) {
    struct idler child;
    assert_int_equal(sp_token_new(&token, &token_mapping), 0);
    idler_start(&child);
    assert_int_equal(sp_token_drop(token_mapping), 0);
    assert_int_equal(sp_token_gone(token), 0);
    idler_end(&child);
    assert_int_equal(sp_token_gone(token), 1);
    close(token);
}

static void exec_drops_the_token(void **state) {
    int input[2], executed[2];
    char byte;
    assert_int_equal(sp_token_new(&token, &token_mapping), 0);
    assert_int_equal(pipe(input), 0);
    assert_int_equal(pipe2(executed, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(input[1]);
        dup2(input[0], 0);
        execl("/bin/cat", "cat", (char *)NULL);
        _exit(1);
    }
    close(executed[1]);
    close(input[0]);
    assert_int_equal(sp_token_drop(token_mapping), 0);
    assert_int_equal(read(executed[0], &byte, 1), 0); /* closed by exec */
    assert_int_equal(sp_token_gone(token), 1);
    assert_int_equal(kill(pid, 0), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0); /* it lives on without */
    close(input[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(executed[0]);
    close(token);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(pages_are_written_and_read_back),
        TEST(outside_is_refused),
        TEST(punched_pages_read_as_zeros),
        TEST(broken_pages_survive_punching),
        TEST(dontneed_shows_the_store_again),
        TEST(unmerging_in_place_loses_no_write),
        TEST(a_mapping_refused_at_the_limit_keeps_the_page),
        TEST(another_user_can_only_read),
        TEST(store_mappings_are_known_by_name),
        TEST(a_token_is_gone_when_dropped),

        TEST(a_child_holds_the_token_until_it_exits),
        TEST(exec_drops_the_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
