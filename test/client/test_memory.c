/* SPDX-License-Identifier: MIT */
/* What becomes of memory: shared, private again, discarded, ordinary again. By the kernel's account. */
#include "client_test.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define N ((size_t)1200) /* three windows, no whole one needed */

static void settled_means_merged(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    assert_int_equal(samepage_domain_state(p.domain, NULL) != SAMEPAGE_STATE_IDLE, 1);
    pair_settle(&p);
    assert_int_equal(samepage_domain_state(p.domain, NULL), SAMEPAGE_STATE_RUNNING);
    struct usage a = usage_of(p.a, N * PAGE);
    assert_true(a.store_mappings > 0);
    assert_int_equal(a.private_bytes, 0);
    assert_int_equal(usage_of(p.b, N * PAGE).private_bytes, 0);
    struct samepage_domain_counters d = domain_counters(p.domain);
    assert_int_equal(d.domain_known, 1);
    assert_int_equal(d.pages_shared, N);
    assert_int_equal(d.pages_sharing, N);
    assert_int_equal(d.saved_bytes, N * PAGE);
    assert_int_equal(d.pages_merged, 2 * N);
    assert_int_equal(d.registered_bytes, 2 * N * PAGE);
    assert_true(d.pages_scanned >= 2 * N && d.full_scans > 0 && d.freezes > 0);
    assert_true(d.freeze_p50_ns > 0 && d.freeze_p50_ns <= d.freeze_p99_ns &&
                d.freeze_p99_ns <= d.freeze_max_ns);
    assert_int_equal(region_counters(p.ra).resident_pages, N);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pair_free(&p);
}

static void writes_after_merging_are_private_and_counted(void **state) {
    struct pair p;
    pair_new(&p, N, "sleep_millisecs=5,sleep_max_millisecs=5");
    pair_settle(&p);
    for (size_t i = 0; i < N; i += 3)
        page_fill(p.a + i * PAGE, 9, i);
    WAIT_FOR(region_counters(p.ra).ksm_merging_pages == N - N / 3);
    assert_int_equal(region_counters(p.ra).pages_broken, N / 3);
    assert_int_equal(region_counters(p.rb).ksm_merging_pages, N);
    for (size_t i = 0; i < N; i++)
        assert_true(page_is(p.a + i * PAGE, i % 3 ? 1 : 9, i));
    assert_true(pages_are(p.b, N, 1));
    pair_free(&p);
}

static void wait_settled_waits_for_what_was_just_written(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    /* New content, never merged before, in a new region. */
    char *c = pages_new(2 * N);
    samepage_region *r;
    pages_fill(c, N, 2);
    pages_fill(c + N * PAGE, N, 2);
    assert_int_equal(samepage_register(p.domain, c, 2 * N * PAGE, 0, &r), 0);
    assert_int_equal(samepage_wait_settled(p.domain, 0), -ETIMEDOUT);
    assert_int_equal(samepage_wait_settled(p.domain, -1), 0);
    assert_int_equal(region_counters(r).ksm_merging_pages, 2 * N);
    assert_int_equal(samepage_unregister(r, 0), 0);
    pages_free(c, 2 * N);
    pair_free(&p);
}

static void unmerge_makes_private(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(samepage_unmerge(p.domain, p.a + 100 * PAGE, 700 * PAGE, 0), 0);
    assert_true(usage_of(p.a, N * PAGE).shared_bytes <= (N - 700) * PAGE);
    assert_int_equal(usage_of(p.a, N * PAGE).private_bytes >= 700 * PAGE, 1);
    assert_int_equal(region_counters(p.ra).ksm_merging_pages, N - 700);
    assert_int_equal(region_counters(p.ra).registered_bytes, N * PAGE);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    /* Its store pages lost a sharer, not their content. */
    WAIT_FOR(domain_counters(p.domain).pages_sharing == N - 700);
    assert_int_equal(domain_counters(p.domain).pages_shared, N);
    pair_free(&p);
}

static void quiescent_unmerge_gives_ordinary_memory_that_merges_again(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(samepage_unmerge(p.domain, p.a, N * PAGE, SAMEPAGE_QUIESCENT), 0);
    struct usage a = usage_of(p.a, N * PAGE);
    assert_int_equal(a.store_mappings, 0);
    assert_int_equal(a.private_bytes, N * PAGE);
    assert_true(pages_are(p.a, N, 1));
    pair_settle(&p);
    assert_true(usage_of(p.a, N * PAGE).store_mappings > 0);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pair_free(&p);
}

static void unregister_makes_private(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(samepage_unregister(p.ra, 0), 0);
    struct usage a = usage_of(p.a, N * PAGE);
    assert_int_equal(a.private_bytes, N * PAGE);
    assert_int_equal(a.shared_bytes, 0);
    assert_int_equal(domain_counters(p.domain).registered_bytes, N * PAGE);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    /* It is the caller's again. */
    assert_int_equal(mprotect(p.a, N * PAGE, PROT_READ), 0);
    assert_true(pages_are(p.a, N, 1));
    pair_free(&p);
}

static void quiescent_unregister_gives_ordinary_memory(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    memset(p.a + 3 * PAGE, 0, 5 * PAGE);
    pair_register(&(struct pair){.domain = p.domain, .a = pages_new(1), .b = pages_new(1), .n = 1});
    assert_int_equal(samepage_wait_settled(p.domain, LONG_MS), 0);
    assert_int_equal(region_counters(p.ra).ksm_zero_pages, 5);
    assert_int_equal(samepage_unregister(p.ra, SAMEPAGE_QUIESCENT), 0);
    assert_int_equal(usage_of(p.a, N * PAGE).store_mappings, 0);
    for (size_t i = 0; i < N; i++)
        assert_true(i >= 3 && i < 8 ? pages_are_zero(p.a + i * PAGE, 1) : page_is(p.a + i * PAGE, 1, i));
    assert_int_equal(madvise(p.a, N * PAGE, MADV_DONTNEED), 0);
    assert_true(pages_are_zero(p.a, N));
    /* And may be registered anew. */
    pages_fill(p.a, N, 1);
    assert_int_equal(samepage_register(p.domain, p.a, N * PAGE, 0, &p.ra), 0);
    pair_settle(&p);
    assert_true(pages_are(p.a, N, 1));
    pair_free(&p);
}

/* ---- discarding ---- */

static void discard_of_registered_memory_reads_zeros(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    for (size_t i = 0; i < N; i += 7) /* broken ones among them */
        p.a[i * PAGE]++;
    assert_int_equal(samepage_discard(p.domain, p.a + PAGE, (N - 2) * PAGE), 0);
    assert_true(pages_are_zero(p.a + PAGE, N - 2));
    assert_true(page_is(p.a + (N - 1) * PAGE, 1, N - 1));
    assert_int_equal(p.a[0], (char)(p.b[0] + 1));
    assert_true(pages_are(p.b, N, 1));
    assert_int_equal(region_counters(p.ra).registered_bytes, N * PAGE);
    /* It is still registered, and merges again. */
    pages_fill(p.a + PAGE, N - 2, 3);
    for (size_t i = 1; i < N - 1; i++)
        page_fill(p.a + i * PAGE, 1, i);
    assert_int_equal(samepage_wait_settled(p.domain, LONG_MS), 0);
    WAIT_FOR(region_counters(p.ra).ksm_merging_pages >= N - 2);
    for (size_t i = 1; i < N; i++)
        assert_true(page_is(p.a + i * PAGE, 1, i));
    pair_free(&p);
}

static void discard_of_memory_never_merged(void **state) {
    samepage_domain *d = domain_new(NULL);
    char *p = pages_new(8);
    pages_fill(p, 8, 1);
    assert_int_equal(samepage_discard(d, p, 4 * PAGE), 0);
    assert_int_equal(samepage_discard(NULL, p + 4 * PAGE, 2 * PAGE), 0);
    assert_true(pages_are_zero(p, 6));
    assert_true(page_is(p + 6 * PAGE, 1, 6));
    assert_true(lock_pages(p + 6 * PAGE, 1));
    assert_int_equal(samepage_discard(d, p + 6 * PAGE, PAGE), -EINVAL);
    assert_int_equal(munmap(p + 2 * PAGE, PAGE), 0);
    pages_fill(p, 2, 1);
    assert_true(unlock_pages(p + 6 * PAGE, 1));
    assert_int_equal(samepage_discard(d, p, 8 * PAGE), -ENOMEM);
    assert_true(pages_are_zero(p, 2) && pages_are_zero(p + 3 * PAGE, 5)); /* the rest was */
    assert_int_equal(samepage_domain_close(d, 0), 0);
    pages_free(p, 2);
    pages_free(p + 3 * PAGE, 5);
}

enum former { IN_ITS_DOMAIN, IN_ANOTHER, IN_NONE };

/* Memory in many mappings: every second page was merged. */
static void discard_of_former_memory(enum former how, unsigned close_flags) {
    struct pair p;
    pair_new(&p, N, NULL);
    for (size_t i = 0; i < N; i += 2)
        page_fill(p.a + i * PAGE, 5, i);
    assert_int_equal(samepage_wait_settled(p.domain, LONG_MS), 0);
    assert_int_equal(region_counters(p.ra).ksm_merging_pages, N / 2);
    samepage_domain *other = domain_new(NULL);
    if (how == IN_ITS_DOMAIN)
        assert_int_equal(samepage_unregister(p.ra, 0), 0);
    else
        assert_int_equal(samepage_domain_close(p.domain, close_flags), 0);
    assert_true(usage_of(p.a, N * PAGE).store_mappings >= N / 4);
    assert_int_equal(mprotect(p.a + 20 * PAGE, 20 * PAGE, PROT_READ), 0);
    samepage_domain *by = how == IN_ITS_DOMAIN ? p.domain : how == IN_ANOTHER ? other : NULL;
    assert_int_equal(samepage_discard(by, p.a + PAGE, (N - 1) * PAGE), 0);
    assert_true(pages_are_zero(p.a + PAGE, N - 1));
    assert_true(page_is(p.a, 5, 0));
    assert_int_equal(usage_of(p.a, N * PAGE).store_mappings, 0);
    for (size_t i = 1; i < N; i++)
        if (i < 20 || i >= 40)
            p.a[i * PAGE] = 1; /* writable as before */
    size_t eligible;
    assert_int_equal(samepage_eligible(p.a, N * PAGE, &eligible, NULL), 0);
    assert_int_equal(eligible, (N - 20) * PAGE); /* and read-only as before */
    assert_true(pages_are(p.b, N, 1));
    assert_int_equal(samepage_domain_close(other, 0), 0);
    if (how == IN_ITS_DOMAIN)
        assert_int_equal(samepage_domain_close(p.domain, 0), 0);
    pages_free(p.a, N);
    pages_free(p.b, N);
}

static void discard_after_unregistering(void **state) {
    discard_of_former_memory(IN_ITS_DOMAIN, 0);
}

static void discard_after_closing(void **state) {
    discard_of_former_memory(IN_NONE, 0);
    discard_of_former_memory(IN_NONE, SAMEPAGE_KEEP_MERGED);
    discard_of_former_memory(IN_ANOTHER, 0);
    discard_of_former_memory(IN_ANOTHER, SAMEPAGE_KEEP_MERGED);
}

/* ---- closing ---- */

static void close_makes_private(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(samepage_domain_close(p.domain, 0), 0);
    assert_int_equal(usage_of(p.a, N * PAGE).private_bytes, N * PAGE);
    assert_int_equal(usage_of(p.b, N * PAGE).private_bytes, N * PAGE);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pages_free(p.a, N);
    pages_free(p.b, N);
}

static void quiescent_close_gives_ordinary_memory(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(samepage_domain_close(p.domain, SAMEPAGE_QUIESCENT), 0);
    assert_int_equal(usage_of(p.a, N * PAGE).store_mappings, 0);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pages_free(p.a, N);
    pages_free(p.b, N);
}

static void close_can_keep_what_is_merged(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    pair_settle(&p);
    assert_int_equal(samepage_domain_close(p.domain, SAMEPAGE_KEEP_MERGED), 0);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    assert_int_equal(usage_of(p.a, N * PAGE).private_bytes, 0);
    assert_int_equal(usage_of(p.a, N * PAGE).shared_bytes, N * PAGE);
    pages_fill(p.a, N, 2);
    assert_true(pages_are(p.a, N, 2) && pages_are(p.b, N, 1));
    pages_free(p.a, N);
    pages_free(p.b, N);
}

/* ---- merging now ---- */

static void merge_reports_what_it_did(void **state) {
    struct pair p;
    pair_new(&p, N, "sleep_millisecs=3600000,sleep_max_millisecs=3600000");
    memset(p.a, 0, 10 * PAGE);
    struct samepage_merge_result m = {.size = sizeof(m)};
    assert_int_equal(samepage_merge(p.domain, p.a, N * PAGE, 0, &m), 0);
    assert_int_equal(m.zero_pages, 10);
    assert_int_equal(m.merged_pages, 0); /* no twins in this range */
    assert_int_equal(samepage_merge(p.domain, p.b, N * PAGE, 0, &m), 0);
    assert_int_equal(m.merged_pages, N - 10); /* with their twins, which follow by themselves */
    assert_int_equal(m.shared_pages, N - 10);
    assert_int_equal(m.changed_pages + m.refused_pages, 0);
    WAIT_FOR(region_counters(p.ra).ksm_merging_pages == N - 10);
    assert_true(pages_are_zero(p.a, 10) && page_is(p.a + 10 * PAGE, 1, 10) && pages_are(p.b, N, 1));
    pair_free(&p);
}

static void merge_finds_twins_within_its_range(void **state) {
    samepage_domain *d = domain_new("sleep_millisecs=3600000,sleep_max_millisecs=3600000");
    samepage_region *r;
    char *p = pages_new(2 * N);
    pages_fill(p, N, 1);
    pages_fill(p + N * PAGE, N, 1);
    assert_int_equal(samepage_register(d, p, 2 * N * PAGE, 0, &r), 0);
    for (unsigned flags = 0; flags <= SAMEPAGE_QUIESCENT; flags += SAMEPAGE_QUIESCENT) {
        struct samepage_merge_result m = {.size = sizeof(m)};
        assert_int_equal(samepage_merge(d, p, 2 * N * PAGE, flags, &m), 0);
        assert_int_equal(m.merged_pages, 2 * N);
        assert_int_equal(m.shared_pages, 2 * N);
        assert_true(pages_are(p, N, 1) && pages_are(p + N * PAGE, N, 1));
        assert_int_equal(samepage_unmerge(d, p, 2 * N * PAGE, SAMEPAGE_QUIESCENT), 0);
    }
    assert_int_equal(samepage_domain_close(d, 0), 0);
    pages_free(p, 2 * N);
}

/* Nobody promised anything for the pages beside the range, in whatever unit the worker works. */
static void merge_touches_its_range_only(void **state) {
    const size_t window = 512;
    char *all = pages_new(3 * window), *p = all;
    while ((uintptr_t)p % (window * PAGE))
        p += PAGE;
    samepage_domain *d = domain_new("sleep_millisecs=3600000,sleep_max_millisecs=3600000");
    samepage_region *r;
    for (size_t i = 0; i < window; i++)
        page_fill(p + i * PAGE, 1, i % 64);
    assert_int_equal(samepage_register(d, p, window * PAGE, 0, &r), 0);
    char *middle = p + 128 * PAGE;
    for (unsigned flags = 0; flags <= SAMEPAGE_QUIESCENT; flags += SAMEPAGE_QUIESCENT) {
        struct samepage_merge_result m = {.size = sizeof(m)};
        assert_int_equal(samepage_merge(d, middle, 128 * PAGE, flags, &m), 0);
        assert_int_equal(m.merged_pages, 128);
        assert_int_equal(usage_of(p, 128 * PAGE).private_bytes, 128 * PAGE);
        assert_int_equal(usage_of(p + 256 * PAGE, 256 * PAGE).private_bytes, 256 * PAGE);
        assert_int_equal(samepage_unmerge(d, middle, 128 * PAGE, SAMEPAGE_QUIESCENT), 0);
    }
    for (size_t i = 0; i < window; i++)
        assert_true(page_is(p + i * PAGE, 1, i % 64));
    assert_int_equal(samepage_domain_close(d, 0), 0);
    pages_free(all, 3 * window);
}

static void quiescent_merge_is_the_same(void **state) {
    struct pair p;
    pair_new(&p, N, "sleep_millisecs=3600000,sleep_max_millisecs=3600000");
    struct samepage_merge_result m = {.size = sizeof(m)};
    assert_int_equal(samepage_merge(p.domain, p.a, N * PAGE, SAMEPAGE_QUIESCENT, NULL), 0);
    assert_int_equal(samepage_merge(p.domain, p.b, N * PAGE, SAMEPAGE_QUIESCENT, &m), 0);
    assert_int_equal(m.shared_pages, N);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pair_free(&p);
}

/* Everything that is present counts as settled in such a merge, but not what is merged already. */
static void merging_again_leaves_nothing_to_be_tried(void **state) {
    struct pair p;
    pair_new(&p, N, "sleep_millisecs=3600000,sleep_max_millisecs=3600000");
    for (unsigned round = 0; round < 3; round++) {
        unsigned flags = round % 2 ? SAMEPAGE_QUIESCENT : 0;
        assert_int_equal(samepage_merge(p.domain, p.a, N * PAGE, flags, NULL), 0);
        assert_int_equal(samepage_merge(p.domain, p.b, N * PAGE, flags, NULL), 0);
    }
    struct samepage_region_counters a = region_counters(p.ra);
    assert_int_equal(a.ksm_merging_pages, N);
    assert_int_equal(a.pages_volatile, 0);
    assert_int_equal(a.resident_pages, N);
    pair_free(&p);
}

/* ---- several domains ---- */

static void two_domains_do_not_share(void **state) {
    struct pair p, q;
    pair_new(&p, N, NULL);
    pair_new(&q, N, NULL); /* the same content */
    pair_settle(&p);
    pair_settle(&q);
    assert_int_equal(domain_counters(p.domain).pages_shared, N);
    assert_int_equal(domain_counters(q.domain).pages_shared, N);
    assert_int_equal(samepage_domain_close(p.domain, 0), 0);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    assert_int_equal(domain_counters(q.domain).pages_sharing, N);
    assert_true(pages_are(q.a, N, 1) && pages_are(q.b, N, 1));
    pages_free(p.a, N);
    pages_free(p.b, N);
    pair_free(&q);
}

static void a_range_can_move_between_domains(void **state) {
    struct pair p;
    pair_new(&p, N, NULL);
    samepage_domain *const both[] = {p.domain, domain_new(NULL)};
    for (unsigned round = 0; round < 6; round++) {
        pair_settle(&p);
        assert_int_equal(samepage_unregister(p.ra, SAMEPAGE_QUIESCENT), 0);
        assert_int_equal(samepage_unregister(p.rb, SAMEPAGE_QUIESCENT), 0);
        p.domain = both[(round + 1) / 2 % 2];
        pair_register(&p);
        assert_int_equal(samepage_region_eligible_bytes(p.ra), N * PAGE);
        assert_int_equal(samepage_region_eligible_bytes(p.rb), N * PAGE);
    }
    pair_settle(&p);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    assert_int_equal(samepage_domain_close(both[0], 0), 0);
    assert_int_equal(samepage_domain_close(both[1], 0), 0);
    pages_free(p.a, N);
    pages_free(p.b, N);
}

/* ---- the program's own userfaultfd ---- */

static int userfaultfd_new(void) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
    return fd;
}

static int userfaultfd_register(int fd, char *p, size_t n) {
    struct uffdio_register r = {.range = {(uintptr_t)p, n * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(fd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

/* VmFlags "um" of the mapping that holds `p`. */
static bool watched(const char *p) {
    size_t eligible;
    const char *why;
    assert_int_equal(samepage_eligible(p, PAGE, &eligible, &why), 0);
    return !eligible && strstr(why, "userfaultfd");
}

static void the_programs_own_userfaultfd_is_left_alone(void **state) {
    samepage_domain *d = domain_new(NULL);
    samepage_region *r;
    int fd = userfaultfd_new();
    char *p = pages_new(30);
    pages_fill(p, 30, 1);
    assert_int_equal(userfaultfd_register(fd, p + 10 * PAGE, 10), 0);
    assert_int_equal(samepage_register(d, p + 10 * PAGE, 10 * PAGE, 0, &r), -EOPNOTSUPP);
    assert_int_equal(samepage_register(d, p, 30 * PAGE, 0, &r), 0);
    assert_int_equal(samepage_region_eligible_bytes(r), 20 * PAGE);
    assert_int_equal(samepage_wait_settled(d, LONG_MS), 0);
    assert_true(watched(p) && watched(p + 20 * PAGE)); /* by us */
    assert_int_equal(samepage_unregister(r, 0), 0);
    assert_false(watched(p));
    assert_false(watched(p + 20 * PAGE));
    assert_true(watched(p + 10 * PAGE));
    assert_int_equal(userfaultfd_register(fd, p, 30), 0); /* nobody else has any of it */
    assert_int_equal(samepage_domain_close(d, 0), 0);
    close(fd);
    assert_true(pages_are(p, 30, 1));
    pages_free(p, 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settled_means_merged),
        cmocka_unit_test(writes_after_merging_are_private_and_counted),
        cmocka_unit_test(wait_settled_waits_for_what_was_just_written),
        cmocka_unit_test(unmerge_makes_private),
        cmocka_unit_test(quiescent_unmerge_gives_ordinary_memory_that_merges_again),
        cmocka_unit_test(unregister_makes_private),
        cmocka_unit_test(quiescent_unregister_gives_ordinary_memory),
        cmocka_unit_test(discard_of_registered_memory_reads_zeros),
        cmocka_unit_test(discard_of_memory_never_merged),
        cmocka_unit_test(discard_after_unregistering),
        cmocka_unit_test(discard_after_closing),
        cmocka_unit_test(close_makes_private),
        cmocka_unit_test(quiescent_close_gives_ordinary_memory),
        cmocka_unit_test(close_can_keep_what_is_merged),
        cmocka_unit_test(merge_reports_what_it_did),
        cmocka_unit_test(merge_finds_twins_within_its_range),
        cmocka_unit_test(merge_touches_its_range_only),
        cmocka_unit_test(quiescent_merge_is_the_same),
        cmocka_unit_test(merging_again_leaves_nothing_to_be_tried),
        cmocka_unit_test(two_domains_do_not_share),
        cmocka_unit_test(a_range_can_move_between_domains),
        cmocka_unit_test(the_programs_own_userfaultfd_is_left_alone),
    };
    require_userfaultfd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
