/* SPDX-License-Identifier: MIT */
/* Without any access to userfaultfd: merging what the caller declares quiescent works all the same. */
#include "client_test.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define NOBODY 65534
#define N      ((size_t)600)

/* A process that was just set to another user is like a set-user-ID program: its /proc belongs to root. One
 * that is started by that user is not. */
static int become_nobody(void) {
    CHILD_CHECK(!setgid(NOBODY) && !setuid(NOBODY) && !prctl(PR_SET_DUMPABLE, 1));
    CHILD_CHECK(syscall(SYS_userfaultfd, O_CLOEXEC) < 0);
    CHILD_CHECK(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) < 0);
    return 0;
}

static int merge_as_nobody(void *unused) {
    int error = become_nobody();
    if (error)
        return error;
    samepage_domain *d = domain_new(NULL);
    samepage_region *ra, *rb;
    char *a = pages_new(N), *b = pages_new(N);
    pages_fill(a, N, 1);
    pages_fill(b, N, 1);
    memset(b, 0, PAGE);
    CHILD_CHECK(!samepage_register(d, a, N * PAGE, 0, &ra));
    CHILD_CHECK(!samepage_register(d, b, N * PAGE, 0, &rb));

    error = samepage_wait_settled(d, LONG_MS);
    CHILD_CHECK(error == -EPERM || error == -EACCES);
    CHILD_CHECK(strstr(samepage_strerror(error), "samepage doctor"));
    CHILD_CHECK(samepage_merge(d, a, N * PAGE, 0, NULL) == error);
    CHILD_CHECK(samepage_domain_state(d, NULL) == SAMEPAGE_STATE_NO_USERFAULTFD);
    CHILD_CHECK(usage_of(a, N * PAGE).store_mappings == 0);

    struct samepage_merge_result m = {.size = sizeof(m)};
    CHILD_CHECK(!samepage_merge(d, a, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.merged_pages == 0);
    CHILD_CHECK(!samepage_merge(d, b, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.merged_pages == N - 1 && m.zero_pages == 1 && m.shared_pages == N - 1);
    CHILD_CHECK(!samepage_merge(d, a, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.merged_pages == N - 1 && m.shared_pages == N - 1);
    CHILD_CHECK(pages_are(a, N, 1) && pages_are_zero(b, 1));
    for (size_t i = 1; i < N; i++)
        CHILD_CHECK(page_is(b + i * PAGE, 1, i));
    CHILD_CHECK(usage_of(a, N * PAGE).private_bytes == PAGE);
    CHILD_CHECK(usage_of(b, N * PAGE).private_bytes <= PAGE);
    struct samepage_domain_counters c = {.size = sizeof(c)};
    CHILD_CHECK(!samepage_domain_stats(d, &c) && c.pages_shared == N - 1 && c.freezes == 0);

    /* Writes, then merging anew. */
    for (size_t i = 0; i < N; i += 2)
        page_fill(a + i * PAGE, 7, i);
    CHILD_CHECK(!samepage_merge(d, a, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.shared_pages == N / 2);
    for (size_t i = 0; i < N; i++)
        CHILD_CHECK(page_is(a + i * PAGE, i % 2 ? 1 : 7, i));
    for (size_t i = 0; i < N; i += 2)
        page_fill(a + i * PAGE, 1, i);
    CHILD_CHECK(!samepage_merge(d, a, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.shared_pages == N - 1 && m.merged_pages == N / 2 - 1 && pages_are(a, N, 1));
    CHILD_CHECK(!samepage_unmerge(d, a, N * PAGE, 0));
    CHILD_CHECK(usage_of(a, N * PAGE).private_bytes == N * PAGE);
    CHILD_CHECK(!samepage_discard(d, a, N * PAGE) && pages_are_zero(a, N));
    CHILD_CHECK(!samepage_unregister(rb, SAMEPAGE_QUIESCENT));
    CHILD_CHECK(!samepage_domain_close(d, 0));
    CHILD_CHECK(page_is(b + PAGE, 1, 1) && page_is(b + (N - 1) * PAGE, 1, N - 1));
    return 0;
}

static void quiescent_merging_needs_no_userfaultfd(void **state) {
    assert_int_equal(in_child(merge_as_nobody, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(quiescent_merging_needs_no_userfaultfd)};
    int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY);
    char allowed = '0';
    if (geteuid() || fd < 0 || read(fd, &allowed, 1) != 1 || allowed != '0') {
        puts("1..0 # SKIP needs root, to become a user who has no userfaultfd");
        return 77;
    }
    close(fd);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
