/* SPDX-License-Identifier: MIT */
/* Random windows, against a plan made page by page and a budget spent by trying the best run again and again.
 */
#include "core_test.h"

#include "core/plan.h"

#define ROUNDS 3000

/* Stretches of pages onto stretches of the store, with gaps, zeros, jumps and crossings of a segment. */
static size_t sites_make(struct test_random *r, struct sp_site *sites) {
    size_t n = 0;
    unsigned slot = 0;
    uint64_t stretch_max = 1 + test_random_below(r, 64);
    while (slot < SP_WINDOW_PAGES) {
        uint64_t kind = test_random_below(r, 8), length = 1 + test_random_below(r, stretch_max);
        uint64_t store = test_random_below(r, 4) * SP_SEGMENT_PAGES + test_random_below(r, 64);
        if (kind == 0)
            store = 2 * SP_SEGMENT_PAGES - 1 - test_random_below(r, 16);
        for (; length > 0 && slot < SP_WINDOW_PAGES; length--, slot++) {
            if (kind == 1)
                continue;
            sites[n].slot = slot;
            sites[n++].store = kind == 2 ? SP_STORE_ZERO : (sp_store_page){store++};
        }
    }
    return n;
}

/* Whether two sites that follow each other belong to the same run, from the definition. */
static bool joined(const struct sp_site *a, const struct sp_site *b) {
    bool zero_a = a->store.v == SP_STORE_ZERO.v, zero_b = b->store.v == SP_STORE_ZERO.v;
    if (b->slot != a->slot + 1 || zero_a != zero_b)
        return false;
    return zero_a ||
           (b->store.v == a->store.v + 1 && a->store.v / SP_SEGMENT_PAGES == b->store.v / SP_SEGMENT_PAGES);
}

static void runs_are_the_longest_and_cover_all(void **state) {
    struct test_random r = {1};
    static struct sp_site sites[SP_WINDOW_PAGES];
    static struct sp_run runs[SP_WINDOW_PAGES];
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = sites_make(&r, sites), expected = 0;
        size_t count = sp_plan_runs(sites, n, runs);
        for (size_t i = 0; i < n; i++) {
            if (i == 0 || !joined(&sites[i - 1], &sites[i])) {
                assert_true(expected < count);
                assert_int_equal(runs[expected].slot, sites[i].slot);
                assert_true(runs[expected].store.v == sites[i].store.v);
                expected++;
            }
            const struct sp_run *run = &runs[expected - 1];
            bool last = i + 1 == n || !joined(&sites[i], &sites[i + 1]);
            assert_true(!last || run->slot + run->pages == sites[i].slot + 1);
        }
        assert_int_equal(count, expected);
    }
}

/* The longest run that is not taken yet, the lowest slot first; n: none. */
static size_t best_of(const struct sp_run *runs, const bool *taken, size_t n) {
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (!taken[i] && runs[i].store.v != SP_STORE_ZERO.v &&
            (best == n || runs[i].pages > runs[best].pages ||
             (runs[i].pages == runs[best].pages && runs[i].slot < runs[best].slot)))
            best = i;
    return best;
}

static bool contains(const struct sp_run *runs, size_t n, const struct sp_run *wanted) {
    for (size_t i = 0; i < n; i++)
        if (runs[i].slot == wanted->slot && runs[i].pages == wanted->pages &&
            runs[i].store.v == wanted->store.v)
            return true;
    return false;
}

static void shuffle(struct test_random *r, struct sp_run *runs, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)test_random_below(r, i);
        struct sp_run t = runs[i - 1];
        runs[i - 1] = runs[j];
        runs[j] = t;
    }
}

static void budget_check(struct test_random *r, const struct sp_run *before, size_t n, uint64_t mappings,
                         uint64_t for_long) {
    static struct sp_run after[SP_WINDOW_PAGES];
    bool taken[SP_WINDOW_PAGES] = {false};
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++)
        wanted += taken[i] = before[i].store.v == SP_STORE_ZERO.v;
    for (uint64_t left = mappings; left >= SP_RUN_MAPPINGS; left -= SP_RUN_MAPPINGS) {
        size_t best = best_of(before, taken, n);
        if (best == n || (before[best].pages < SP_RUN_LONG && left < for_long + SP_RUN_MAPPINGS))
            break;
        taken[best] = true;
        wanted++;
    }
    memcpy(after, before, n * sizeof *after);
    if (test_random_below(r, 4) == 0)
        shuffle(r, after, n);
    size_t kept = sp_plan_budget(after, n, mappings, for_long);
    assert_int_equal(kept, wanted);
    for (size_t i = 0; i < n; i++)
        assert_true(contains(taken[i] ? after : after + kept, taken[i] ? kept : n - kept, &before[i]));
    for (size_t i = 1; i < kept; i++)
        assert_true(after[i - 1].slot < after[i].slot);
}

static void budget_goes_to_the_longest(void **state) {
    struct test_random r = {2};
    static struct sp_site sites[SP_WINDOW_PAGES];
    static struct sp_run runs[SP_WINDOW_PAGES];
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = sp_plan_runs(sites, sites_make(&r, sites), runs);
        uint64_t mappings = test_random_below(&r, 2 * n + 4);
        budget_check(&r, runs, n, mappings, 2 * test_random_below(&r, mappings / 2 + 4));
    }
}

static void budget_limits(void **state) {
    struct sp_run runs[3] = {{0, 1, {5}}, {7, 512, SP_STORE_ZERO}, {9, 1, {3}}};
    assert_int_equal(sp_plan_budget(runs, 0, 10, 0), 0);
    assert_int_equal(sp_plan_budget(runs, 3, UINT64_MAX, 0), 3);
    assert_int_equal(sp_plan_budget(runs, 3, 1, 0), 1);
    assert_true(runs[0].store.v == SP_STORE_ZERO.v);
    assert_int_equal(sp_plan_runs(NULL, 0, runs), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_the_longest_and_cover_all),
        cmocka_unit_test(budget_goes_to_the_longest),
        cmocka_unit_test(budget_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
