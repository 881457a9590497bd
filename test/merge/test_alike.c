/* SPDX-License-Identifier: MIT */
/*
 * Pages that resemble each other: all of one base, of which two cache lines are exchanged. For each line
 * there are some with it among the two, so that whichever lines a probe is made of (fingerprint.h), it is the
 * same for hundreds of different pages, and different for others. Some contents are there once, some several
 * times. Whatever the index guesses from probes, all pages with a twin end up sharing one store page, and
 * each byte stays what an independent record says.
 */
#include "merge_test.h"

#define LINE   64
#define LINES  (PAGE / LINE)
#define KINDS  (LINES * 12) /* contents */
#define COPIES 3            /* of one content, at most, in a range */
#define N      (8 * MIB)
#define PAGES  (N / PAGE)

_Static_assert(KINDS *(1 + COPIES) / 2 <= PAGES, "room for all of them");

/* A range and the record of what is in it: the number of each page's content. */
struct range {
    uint8_t *p;
    unsigned kind[PAGES];
};

static uint64_t seed;

/* Content `kind`: lines `kind % LINES` and another one are its own. */
static void content(unsigned kind, uint8_t *into) {
    unsigned first = kind % LINES, second = (first + 1 + kind / LINES * 5) % LINES;
    page_fill(into, 1, 0);
    memset(into + first * LINE, 1 + (int)(kind / LINES), LINE);
    memcpy(into + second * LINE, &kind, sizeof kind);
}

static bool is_content(const uint8_t *page, unsigned kind) {
    uint8_t expected[PAGE];
    content(kind, expected);
    return memcmp(page, expected, PAGE) == 0;
}

/* Contents from `from` up to `to`, each once, twice or three times, then the first again, in any order. */
static void range_fill(struct range *r, unsigned from, unsigned to) {
    size_t n = 0;
    for (unsigned kind = from; kind < to && n < PAGES; kind++)
        for (unsigned copy = 0; copy <= kind % COPIES && n < PAGES; copy++)
            r->kind[n++] = kind;
    while (n < PAGES)
        r->kind[n++] = from;
    for (size_t i = PAGES - 1; i > 0; i--) {
        size_t k = random_next(&seed) % (i + 1);
        unsigned kind = r->kind[i];
        r->kind[i] = r->kind[k];
        r->kind[k] = kind;
    }
    for (size_t i = 0; i < PAGES; i++)
        content(r->kind[i], r->p + i * PAGE);
}

/* The store page that each page of the range maps, + 1, or 0. */
static void store_pages(const struct range *r, uint64_t ret[PAGES]) {
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    memset(ret, 0, PAGES * sizeof *ret);
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long start, end, offset;
        if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) != 3 || !strstr(line, "memfd:samepage"))
            continue;
        for (uintptr_t at = start; at < end; at += PAGE)
            if (at >= (uintptr_t)r->p && at < (uintptr_t)r->p + N && page_of_store((const void *)at))
                ret[(at - (uintptr_t)r->p) / PAGE] = 1 + (offset + at - start) / PAGE;
    }
    if (f)
        fclose(f);
}

/* Whether all pages of a content that is there twice or more map one store page. No two contents ever map the
 * same. */
static bool all_twins_share_now(const struct range *ranges, size_t n) {
    static uint64_t at[PAGES];
    static uint64_t store[KINDS];
    static unsigned holders[KINDS], sharing[KINDS];
    static bool taken[1 + SP_SEGMENT_PAGES];
    memset(store, 0, sizeof store);
    memset(holders, 0, sizeof holders);
    memset(sharing, 0, sizeof sharing);
    memset(taken, 0, sizeof taken);
    for (size_t k = 0; k < n; k++) {
        for (size_t i = 0; i < PAGES; i++) /* which also brings in what is only mapped */
            assert_true(is_content(ranges[k].p + i * PAGE, ranges[k].kind[i]));
        store_pages(&ranges[k], at);
        for (size_t i = 0; i < PAGES; i++) {
            unsigned kind = ranges[k].kind[i];
            holders[kind]++;
            if (!at[i])
                continue;
            sharing[kind]++;
            assert_true(!store[kind] || store[kind] == at[i]);
            store[kind] = at[i];
        }
    }
    bool all = true;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        all &= holders[kind] < 2 || sharing[kind] == holders[kind];
        assert_true(store[kind] <= SP_SEGMENT_PAGES && (!store[kind] || !taken[store[kind]]));
        taken[store[kind]] = true;
    }
    return all;
}

/* Settled is also who only leaves pages alone for a while: those that the index declined at first. */
static void all_twins_share(const struct range *ranges, size_t n) {
    for (unsigned tries = 0; !all_twins_share_now(ranges, n); tries++) {
        assert_true(tries < 200);
        sp_sleep_ns(SECOND_NS / 20);
    }
}

static void range_new(struct range *r) {
    r->p = memory_new(N);
}

/* How often guesses were wrong: at least once, or this test shows nothing. Who compares contents does not
 * guess. */
static bool guessed_wrong(struct engine_rig *r, uint64_t most) {
    uint64_t differed = rig_counter(r, SP_COUNTER_pages_differed);
    return test_index() == SP_INDEX_TREE ? differed == 0 : differed > 0 && differed <= most;
}

static void test_background(void **state) {
    static struct range ranges[3];
    struct engine_rig r;
    seed = 1;
    rig_init(&r, NULL);
    for (size_t k = 0; k < 3; k++)
        range_new(&ranges[k]);
    /* One range alone, then two that have contents in common with it and with each other. */
    range_fill(&ranges[0], 0, KINDS / 2);
    rig_add(&r, ranges[0].p, N);
    assert_int_equal(rig_settle(&r), 0);
    all_twins_share(ranges, 1);
    assert_true(guessed_wrong(&r, UINT64_MAX));
    range_fill(&ranges[1], KINDS / 4, KINDS);
    range_fill(&ranges[2], KINDS / 3, KINDS);
    rig_add(&r, ranges[1].p, N);
    rig_add(&r, ranges[2].p, N);
    assert_int_equal(rig_settle(&r), 0);
    all_twins_share(ranges, 3);
    /* One goes and comes back with other contents. */
    rig_unmap(&r, ranges[0].p, N);
    range_new(&ranges[0]);
    range_fill(&ranges[0], KINDS / 2, KINDS);
    rig_add(&r, ranges[0].p, N);
    assert_int_equal(rig_settle(&r), 0);
    all_twins_share(ranges, 3);
    r.engine = sp_engine_free(r.engine);
    assert_true(all_twins_share_now(ranges, 3));
    for (size_t k = 0; k < 3; k++)
        memory_free(ranges[k].p, N);
}

/* Few that resemble each other, among many that are alike. */
#define FEW 24

static void test_few(void **state) {
    static struct range range;
    struct engine_rig r;
    seed = 2;
    rig_init(&r, NULL);
    range_new(&range);
    range_fill(&range, 0, FEW);
    rig_add(&r, range.p, N);
    assert_int_equal(rig_settle(&r), 0);
    all_twins_share(&range, 1);
    /* Whom its probe has misled once is not asked about by it again. */
    assert_true(guessed_wrong(&r, FEW * (1 + COPIES) / 2));
    r.engine = sp_engine_free(r.engine);
    memory_free(range.p, N);
}

/* What lies in the range is merged at once, whatever the index guesses on the way; what has a twin elsewhere
 * may have to wait until that one has been asked about as a whole. */
static void merge_now(bool quiescent) {
    static struct range ranges[2];
    struct engine_rig r;
    struct sp_merge_result result;
    seed = 3;
    rig_init(&r, NULL);
    for (size_t k = 0; k < 2; k++) {
        range_new(&ranges[k]);
        range_fill(&ranges[k], 0, KINDS);
        rig_add(&r, ranges[k].p, N);
        uintptr_t start = (uintptr_t)ranges[k].p;
        assert_int_equal(sp_engine_merge(r.engine, start, start + N, quiescent, &result), 0);
        assert_true(all_twins_share_now(&ranges[k], 1));
    }
    all_twins_share(ranges, 2);
    r.engine = sp_engine_free(r.engine);
    for (size_t k = 0; k < 2; k++)
        memory_free(ranges[k].p, N);
}

/* Both of two twins are led to a page that only resembles them, and nobody hints at anything. */
static void test_misled_now(void **state) {
    struct engine_rig r;
    struct sp_merge_result result;
    rig_init(&r, NULL);
    uint8_t *memory[2];
    for (int value = 1; value <= 2; value++) {
        uint8_t *p = memory[value - 1] = memory_new(N);
        for (size_t i = 0; i < 2; i++) {
            page_fill(p + i * PAGE, 1, 0);
            memset(p + i * PAGE + 9 * LINE, value, LINE);
        }
        rig_add(&r, p, N);
        assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)p, (uintptr_t)p + N, false, &result), 0);
        assert_int_equal(result.shared_pages, 2);
        assert_true(p[9 * LINE] == value && p[PAGE + 10 * LINE - 1] == value);
    }
    r.engine = sp_engine_free(r.engine);
    memory_free(memory[0], N);
    memory_free(memory[1], N);
}

static void test_now(void **state) {
    merge_now(false);
}

static void test_quiescent(void **state) {
    merge_now(true);
}

int main(void) {
    require_uffd();
    watchdog(250);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_background), cmocka_unit_test(test_few),
        cmocka_unit_test(test_misled_now), cmocka_unit_test(test_now),
        cmocka_unit_test(test_quiescent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
