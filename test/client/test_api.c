/* SPDX-License-Identifier: MIT */
/* Texts, handles, and every error that samepage.h promises for wrong arguments. */
#include "client_test.h"

#include <fcntl.h>

/* ---- texts ---- */

static void version_has_three_numbers(void **state) {
    unsigned a, b, c;
    char rest;
    assert_int_equal(sscanf(samepage_version(), "%u.%u.%u%c", &a, &b, &c, &rest), 3);
}

static void errors_have_texts_of_their_own(void **state) {
    static const int errors[] = {0,       -EINVAL,     -ERANGE,   -ENOENT,       -ENAMETOOLONG,
                                 -ENOMEM, -EOPNOTSUPP, -ENOTCONN, -ECONNREFUSED, -ETIMEDOUT,
                                 -EPERM,  -EACCES,     -ENOSYS,   -EAGAIN,       -ECANCELED};
    size_t n = sizeof(errors) / sizeof(*errors);
    for (size_t i = 0; i < n; i++) {
        const char *text = samepage_strerror(errors[i]);
        assert_true(*text && text[strlen(text) - 1] != '.');
        assert_string_equal(text, samepage_strerror(-errors[i]));
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(text, samepage_strerror(errors[k]));
    }
    assert_non_null(strstr(samepage_strerror(-EPERM), "samepage doctor"));
    assert_non_null(strstr(samepage_strerror(-EACCES), "samepage doctor"));
    assert_non_null(strstr(samepage_strerror(-ENOSYS), "samepage doctor"));
    assert_non_null(strstr(samepage_strerror(-EIO), "nput/output"));
    assert_string_equal(samepage_strerror(-99999), "unknown error");
    assert_string_equal(samepage_strerror((int)0x80000000u), "unknown error");
}

/* ---- opening ---- */

static int open_with(const char *socket_path, const char *settings, unsigned flags, char *error) {
    struct samepage_options o = {.size = sizeof(o), .flags = flags, .socket_path = socket_path};
    samepage_domain *d = (samepage_domain *)&o;
    o.connect_timeout_ms = 30;
    o.settings = settings;
    o.error = error;
    o.error_bytes = error ? 200 : 0;
    int r = samepage_domain_open(&o, &d);
    if (r)
        assert_ptr_equal(d, &o); /* untouched */
    else
        assert_int_equal(samepage_domain_close(d, 0), 0);
    return r;
}

static void open_accepts_defaults(void **state) {
    samepage_domain *d;
    const char *text = NULL;
    assert_int_equal(samepage_domain_open(NULL, &d), 0);
    assert_int_equal(samepage_domain_state(d, &text), SAMEPAGE_STATE_IDLE);
    assert_non_null(text);
    assert_int_equal(samepage_wait_settled(d, 0), 0); /* nothing registered */
    assert_int_equal(samepage_domain_state(d, NULL), SAMEPAGE_STATE_IDLE);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    assert_int_equal(open_with(NULL, "", 0, NULL), 0);
    assert_int_equal(open_with(NULL, "sleep_millisecs=20,freeze_micros=100", 0, NULL), 0);
}

static void open_checks_the_structure(void **state) {
    struct {
        struct samepage_options o;
        char later[16];
    } large = {.o.size = sizeof(large)};
    samepage_domain *d;
    assert_int_equal(samepage_domain_open(&large.o, &d), 0); /* a newer caller that asks for nothing new */
    assert_int_equal(samepage_domain_close(d, 0), 0);
    large.later[15] = 1;
    assert_int_equal(samepage_domain_open(&large.o, &d), -EINVAL);
    struct samepage_options o = {.size = 0};
    assert_int_equal(samepage_domain_open(&o, &d), -EINVAL);
    o.size = sizeof(o) - 1;
    assert_int_equal(samepage_domain_open(&o, &d), -EINVAL);
    assert_int_equal(open_with(NULL, NULL, 0x100, NULL), -EINVAL);
    assert_int_equal(open_with(NULL, NULL, SAMEPAGE_QUIESCENT, NULL), -EINVAL);
    assert_int_equal(open_with("", NULL, 0, NULL), -EINVAL);
}

static int open_index(const char *index, const char *socket_path, size_t size) {
    struct samepage_options o = {.size = size, .index = index, .socket_path = socket_path};
    samepage_domain *d = NULL;
    int r = samepage_domain_open(&o, &d);
    if (!r)
        assert_int_equal(samepage_domain_close(d, 0), 0);
    return r;
}

static void open_checks_the_index(void **state) {
    size_t size = sizeof(struct samepage_options);
    assert_int_equal(open_index("hash", NULL, size), 0);
    assert_int_equal(open_index("tree", NULL, size), 0);
    assert_int_equal(open_index("hash", "/nonexistent/socket", size), 0);
    assert_int_equal(open_index("tree", "/nonexistent/socket", size), -EINVAL);
    assert_int_equal(open_index("trees", NULL, size), -EINVAL);
    assert_int_equal(open_index("", NULL, size), -EINVAL);
    /* A caller from before there was a choice: what lies behind its structure is not ours to read. */
    assert_int_equal(open_index("nonsense", NULL, offsetof(struct samepage_options, index)), 0);
}

/* Both find the same. */
static void open_tree_merges(void **state) {
    struct samepage_options o = {.size = sizeof(o), .index = "tree"};
    struct pair p;
    p.n = 700;
    assert_int_equal(samepage_domain_open(&o, &p.domain), 0);
    p.a = pages_new(p.n);
    p.b = pages_new(p.n);
    pages_fill(p.a, p.n, 1);
    pages_fill(p.b, p.n, 1);
    pair_register(&p);
    pair_settle(&p);
    assert_int_equal(domain_counters(p.domain).pages_shared, p.n);
    assert_int_equal(domain_counters(p.domain).pages_sharing, p.n);
    assert_true(pages_are(p.a, p.n, 1) && pages_are(p.b, p.n, 1));
    pair_free(&p);
}

static void open_checks_settings(void **state) {
    char error[200] = "";
    assert_int_equal(open_with(NULL, "nonsense", 0, error), -EINVAL);
    assert_non_null(strstr(error, "nonsense"));
    assert_int_equal(open_with(NULL, "no_such_thing=1", 0, error), -ENOENT);
    assert_non_null(strstr(error, "no_such_thing"));
    assert_int_equal(open_with(NULL, "freeze_micros=0", 0, error), -ERANGE);
    assert_non_null(strstr(error, "freeze_micros"));
    assert_int_equal(open_with(NULL, "freeze_micros=0", 0, NULL), -ERANGE);
}

static void open_of_an_absent_daemon(void **state) {
    char path[300];
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[299] = '\0';
    assert_int_equal(open_with(path, NULL, 0, NULL), -ENAMETOOLONG);
    assert_int_equal(open_with("/nonexistent/socket", NULL, 0, NULL), 0);
    assert_int_equal(open_with("/nonexistent/socket", NULL, SAMEPAGE_OPEN_CONNECT, NULL), -ETIMEDOUT);
}

static void absent_daemon_leaves_memory_alone(void **state) {
    struct samepage_options o = {.size = sizeof(o), .socket_path = "/nonexistent/socket"};
    samepage_domain *d;
    samepage_region *r;
    char *p = pages_new(8);
    pages_fill(p, 8, 1);
    assert_int_equal(samepage_domain_open(&o, &d), 0);
    assert_int_equal(samepage_register(d, p, 8 * PAGE, 0, &r), 0);
    assert_int_equal(samepage_merge(d, p, 8 * PAGE, 0, NULL), -ENOTCONN);
    assert_int_equal(samepage_wait_settled(d, 30), -ETIMEDOUT);
    assert_int_equal(samepage_domain_state(d, NULL), SAMEPAGE_STATE_CONNECTING);
    struct samepage_domain_counters c = domain_counters(d);
    assert_int_equal(c.domain_known, 0);
    assert_int_equal(c.saved_bytes, 0);
    assert_int_equal(c.registered_bytes, 8 * PAGE);
    assert_int_equal(samepage_unmerge(d, p, 8 * PAGE, 0), 0);
    assert_int_equal(samepage_unregister(r, 0), 0);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    assert_true(pages_are(p, 8, 1));
    pages_free(p, 8);
}

/* ---- ranges ---- */

struct range {
    char *address;
    size_t bytes;
};

/* Ranges that no call accepts. */
static size_t bad_ranges(char *p, struct range *ret) {
    size_t n = 0;
    ret[n++] = (struct range){p, 0};
    ret[n++] = (struct range){p + 1, PAGE};
    ret[n++] = (struct range){p, PAGE + 1};
    ret[n++] = (struct range){p, PAGE - 1};
    ret[n++] = (struct range){p, (size_t)0 - PAGE};
    ret[n++] = (struct range){(char *)((uintptr_t)0 - PAGE), PAGE}; /* its end would be 2^64 */
    return n;
}

static void bad_ranges_are_refused(void **state) {
    samepage_domain *d = domain_new(NULL);
    samepage_region *r = NULL, *good;
    char *p = pages_new(4);
    struct range bad[8];
    size_t n = bad_ranges(p, bad), eligible;
    assert_int_equal(samepage_register(d, p, 4 * PAGE, 0, &good), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(samepage_register(d, bad[i].address, bad[i].bytes, 0, &r), -EINVAL);
        assert_int_equal(samepage_merge(d, bad[i].address, bad[i].bytes, 0, NULL), -EINVAL);
        assert_int_equal(samepage_unmerge(d, bad[i].address, bad[i].bytes, 0), -EINVAL);
        assert_int_equal(samepage_discard(d, bad[i].address, bad[i].bytes), -EINVAL);
        assert_int_equal(samepage_eligible(bad[i].address, bad[i].bytes, &eligible, NULL), -EINVAL);
    }
    assert_null(r);
    assert_int_equal(samepage_unregister(good, 0), 0);
    assert_int_equal(samepage_unregister(NULL, 0), 0);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    assert_int_equal(samepage_domain_close(NULL, 0), 0);
    pages_free(p, 4);
}

static void bad_flags_are_refused(void **state) {
    samepage_domain *d = domain_new(NULL);
    samepage_region *r;
    char *p = pages_new(4);
    assert_int_equal(samepage_register(d, p, 4 * PAGE, 1, &r), -EINVAL);
    assert_int_equal(samepage_register(d, p, 4 * PAGE, 0, &r), 0);
    assert_int_equal(samepage_merge(d, p, PAGE, SAMEPAGE_KEEP_MERGED, NULL), -EINVAL);
    assert_int_equal(samepage_unmerge(d, p, PAGE, SAMEPAGE_KEEP_MERGED), -EINVAL);
    assert_int_equal(samepage_unregister(r, SAMEPAGE_KEEP_MERGED), -EINVAL);
    assert_int_equal(samepage_domain_close(d, SAMEPAGE_OPEN_CONNECT), -EINVAL);
    assert_int_equal(samepage_unregister(r, 0), 0);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    pages_free(p, 4);
}

static void regions_must_not_overlap(void **state) {
    samepage_domain *d = domain_new(NULL), *other = domain_new(NULL);
    samepage_region *r, *low, *high, *none;
    char *p = pages_new(12);
    assert_int_equal(samepage_register(d, p + 4 * PAGE, 4 * PAGE, 0, &r), 0);
    samepage_domain *const both[] = {d, other};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(samepage_register(both[i], p + 4 * PAGE, 4 * PAGE, 0, &none), -EINVAL);
        assert_int_equal(samepage_register(both[i], p, 5 * PAGE, 0, &none), -EINVAL);
        assert_int_equal(samepage_register(both[i], p + 7 * PAGE, 2 * PAGE, 0, &none), -EINVAL);
        assert_int_equal(samepage_register(both[i], p + 5 * PAGE, PAGE, 0, &none), -EINVAL);
        assert_int_equal(samepage_register(both[i], p, 12 * PAGE, 0, &none), -EINVAL);
    }
    assert_int_equal(samepage_register(d, p, 4 * PAGE, 0, &low), 0);
    assert_int_equal(samepage_register(other, p + 8 * PAGE, 4 * PAGE, 0, &high), 0);
    /* What belongs to another domain is not for this one. */
    assert_int_equal(samepage_merge(other, p, PAGE, 0, NULL), -EINVAL);
    assert_int_equal(samepage_unmerge(other, p, PAGE, 0), -EINVAL);
    assert_int_equal(samepage_discard(other, p, PAGE), -EINVAL);
    assert_int_equal(samepage_discard(NULL, p, PAGE), -EINVAL);
    assert_int_equal(samepage_unregister(r, 0), 0);
    assert_int_equal(samepage_register(other, p + 4 * PAGE, 4 * PAGE, 0, &r), 0);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    assert_int_equal(samepage_domain_close(other, 0), 0);
    pages_free(p, 12);
}

static void unregistered_ranges_are_refused(void **state) {
    samepage_domain *d = domain_new(NULL);
    char *p = pages_new(4);
    assert_int_equal(samepage_merge(d, p, 4 * PAGE, 0, NULL), -EINVAL);
    assert_int_equal(samepage_unmerge(d, p, 4 * PAGE, 0), -EINVAL);
    assert_int_equal(samepage_unmerge(d, p, 4 * PAGE, SAMEPAGE_QUIESCENT), -EINVAL);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    pages_free(p, 4);
}

/* ---- eligibility ---- */

static void refuse(samepage_domain *d, char *p, size_t n, const char *part_of_reason) {
    const char *why = NULL;
    size_t eligible = 1;
    samepage_region *r;
    assert_int_equal(samepage_register(d, p, n * PAGE, 0, &r), -EOPNOTSUPP);
    assert_int_equal(samepage_eligible(p, n * PAGE, &eligible, &why), 0);
    assert_int_equal(eligible, 0);
    assert_non_null(why);
    if (!strstr(why, part_of_reason))
        fail_msg("'%s' does not say '%s'", why, part_of_reason);
}

static char *map_kind(int prot, int flags, int fd) {
    char *p = mmap(NULL, 4 * PAGE, prot, flags, fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    return p;
}

static void ineligible_memory_is_refused_with_the_reason(void **state) {
    const int both = PROT_READ | PROT_WRITE, own = MAP_PRIVATE | MAP_ANONYMOUS;
    samepage_domain *d = domain_new(NULL);
    char *p = map_kind(both, MAP_SHARED | MAP_ANONYMOUS, -1);
    refuse(d, p, 4, "shared");
    pages_free(p, 4);
    int fd = open("/proc/self/exe", O_RDONLY);
    p = map_kind(both, MAP_PRIVATE, fd);
    close(fd);
    refuse(d, p, 4, "file");
    pages_free(p, 4);
    p = map_kind(PROT_READ, own, -1);
    refuse(d, p, 4, "readable and writable");
    pages_free(p, 4);
    p = map_kind(PROT_NONE, own, -1);
    refuse(d, p, 4, "readable and writable");
    pages_free(p, 4);
    p = map_kind(both | PROT_EXEC, own, -1);
    refuse(d, p, 4, "executable");
    pages_free(p, 4);
    p = map_kind(both, own, -1);
    assert_true(lock_pages(p, 4));
    refuse(d, p, 4, "locked");
    pages_free(p, 4);
    refuse(d, p, 4, "nothing is mapped");
    assert_int_equal(samepage_domain_close(d, 0), 0);
}

static void eligible_parts_are_taken(void **state) {
    samepage_domain *d = domain_new(NULL);
    samepage_region *r;
    const char *why;
    size_t eligible;
    char *p = pages_new(10);
    assert_int_equal(samepage_eligible(p, 10 * PAGE, &eligible, &why), 0);
    assert_int_equal(eligible, 10 * PAGE);
    assert_null(why);
    assert_int_equal(mprotect(p + 2 * PAGE, 3 * PAGE, PROT_READ), 0);
    assert_int_equal(munmap(p + 8 * PAGE, PAGE), 0);
    assert_int_equal(samepage_eligible(p, 10 * PAGE, &eligible, &why), 0);
    assert_int_equal(eligible, 6 * PAGE);
    assert_non_null(strstr(why, "readable and writable")); /* the largest part */
    assert_int_equal(samepage_eligible(p, 10 * PAGE, &eligible, NULL), 0);
    assert_int_equal(samepage_register(d, p, 10 * PAGE, 0, &r), 0);
    assert_int_equal(samepage_region_eligible_bytes(r), 6 * PAGE);
    struct samepage_region_counters c = region_counters(r);
    assert_int_equal(c.eligible_bytes, 6 * PAGE);
    assert_int_equal(c.registered_bytes, 6 * PAGE);
    assert_int_equal(domain_counters(d).registered_bytes, 6 * PAGE);
    assert_int_equal(samepage_domain_close(d, 0), 0);
    pages_free(p, 8);
    pages_free(p + 9 * PAGE, 1);
}

/* ---- structures of results ---- */

static void results_check_and_keep_their_size(void **state) {
    struct pair p;
    pair_new(&p, 4, NULL);
    struct samepage_merge_result m = {.size = sizeof(m) - 1, .merged_pages = 77};
    struct samepage_region_counters r = {.size = 0};
    struct samepage_domain_counters d = {.size = 8};
    assert_int_equal(samepage_merge(p.domain, p.a, PAGE, SAMEPAGE_QUIESCENT, &m), -EINVAL);
    assert_int_equal(m.merged_pages, 77);
    assert_int_equal(samepage_region_stats(p.ra, &r), -EINVAL);
    assert_int_equal(samepage_domain_stats(p.domain, &d), -EINVAL);
    /* A newer caller: what we do not know is 0, what lies beyond is not touched. */
    struct {
        struct samepage_domain_counters d;
        uint64_t newer, beyond;
    } large = {.newer = 5, .beyond = 6};
    large.d.size = sizeof(large.d) + 8;
    assert_int_equal(samepage_domain_stats(p.domain, &large.d), 0);
    assert_int_equal(large.d.size, sizeof(large.d) + 8);
    assert_int_equal(large.d.registered_bytes, 8 * PAGE);
    assert_int_equal(large.newer, 0);
    assert_int_equal(large.beyond, 6);
    struct {
        struct samepage_merge_result m;
        uint64_t newer, beyond;
    } more = {.newer = 5, .beyond = 6};
    more.m.size = sizeof(more.m) + 8;
    assert_int_equal(samepage_merge(p.domain, p.a, 4 * PAGE, SAMEPAGE_QUIESCENT, &more.m), 0);
    assert_int_equal(more.m.size, sizeof(more.m) + 8);
    assert_int_equal(more.newer, 0);
    assert_int_equal(more.beyond, 6);
    pair_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_has_three_numbers),
        cmocka_unit_test(errors_have_texts_of_their_own),
        cmocka_unit_test(open_accepts_defaults),
        cmocka_unit_test(open_checks_the_structure),
        cmocka_unit_test(open_checks_the_index),
        cmocka_unit_test(open_tree_merges),
        cmocka_unit_test(open_checks_settings),
        cmocka_unit_test(open_of_an_absent_daemon),
        cmocka_unit_test(absent_daemon_leaves_memory_alone),
        cmocka_unit_test(bad_ranges_are_refused),
        cmocka_unit_test(bad_flags_are_refused),
        cmocka_unit_test(regions_must_not_overlap),
        cmocka_unit_test(unregistered_ranges_are_refused),
        cmocka_unit_test(ineligible_memory_is_refused_with_the_reason),
        cmocka_unit_test(eligible_parts_are_taken),
        cmocka_unit_test(results_check_and_keep_their_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
