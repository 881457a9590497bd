/* SPDX-License-Identifier: MIT */
/*
 * Counting copies: against a slow count of the same pages that follows the definitions, and samples of known
 * populations against their truth: how often the stated error holds.
 */
#include "core_test.h"

#include "core/census.h"
#include "core/sample.h"

#include <math.h>
#include <stdio.h>

#define MAPPINGS  12
#define PROCESSES 4

/* A census with memory of its own, and its truth. */
struct world {
    struct sp_census c;
    struct sp_census_mapping mappings[MAPPINGS];
    struct sp_census_process processes[PROCESSES];
    struct sp_census_cell cells[SP_CENSUS_CELLS];
    uint32_t met[2 * PROCESSES];
};

/* Three mappings for each process, the third of which cannot be merged. */
static void world_init(struct world *w, struct sp_census_page *pages, size_t n, uint32_t one_in) {
    *w = (struct world){.c = {.one_in = one_in, .pages = pages, .n_pages = n, .n_processes = PROCESSES}};
    for (uint32_t i = 0; i < MAPPINGS; i++)
        w->mappings[i] =
            (struct sp_census_mapping){.process = i / 3, .mergeable = i % 3 != 2, .pages = 1 << 20};
    w->mappings[0].cells = w->cells;
    w->c.mappings = w->mappings;
    w->c.processes = w->processes;
    w->c.met = w->met;
    sp_census_sort(pages, n);
    sp_census_count(&w->c);
}

static bool near(double a, double b) {
    return fabs(a - b) < 1e-6 * (1 + fabs(a) + fabs(b));
}

/* --- Everything read ---------------------------------------------------------------------------------- */

static bool mergeable(const struct world *w, const struct sp_census_page *p) {
    return w->mappings[p->mapping & ~SP_CENSUS_HUGE].mergeable;
}

static uint32_t process_of(const struct world *w, const struct sp_census_page *p) {
    return w->mappings[p->mapping & ~SP_CENSUS_HUGE].process;
}

/* How many copies of a page there are: in all, in mergeable memory, in that of one process. */
static size_t copies(const struct world *w, const struct sp_census_page *all, size_t n, uint64_t content,
                     bool only_mergeable, int process) {
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += all[i].content == content && (!only_mergeable || mergeable(w, &all[i])) &&
                 (process < 0 || process_of(w, &all[i]) == (uint32_t)process);
    return found;
}

static void expect_mappings(const struct world *w, const struct sp_census_page *all, size_t n) {
    for (uint32_t m = 0; m < MAPPINGS; m++) {
        double kept = 0;
        for (size_t i = 0; i < n; i++)
            if ((all[i].mapping & ~SP_CENSUS_HUGE) == m)
                kept += 1 / (double)copies(w, all, n, all[i].content, w->mappings[m].mergeable, -1);
        assert_true(near(w->mappings[m].kept, kept));
    }
}

static void expect_processes(const struct world *w, const struct sp_census_page *all, size_t n) {
    for (int p = 0; p < PROCESSES; p++) {
        double distinct = 0, elsewhere = 0;
        for (size_t i = 0; i < n; i++) {
            if (process_of(w, &all[i]) != (uint32_t)p || !mergeable(w, &all[i]))
                continue;
            size_t own = copies(w, all, n, all[i].content, true, p);
            distinct += 1 / (double)own;
            if (copies(w, all, n, all[i].content, true, -1) > own)
                elsewhere += 1 / (double)own;
        }
        assert_true(near(w->processes[p].distinct, distinct));
        assert_true(near(w->processes[p].elsewhere, elsewhere));
    }
}

static void expect_pairs(struct world *w, const struct sp_census_page *all, size_t n) {
    struct sp_census_pairs pairs = {.shown = {3, 0, 2, 1}, .n = PROCESSES};
    sp_census_pairs(&w->c, &pairs);
    for (int a = 0; a < PROCESSES; a++)
        for (int b = 0; b < PROCESSES; b++) {
            double common = 0;
            for (size_t i = 0; i < n && a != b; i++)
                if (process_of(w, &all[i]) == pairs.shown[a] && mergeable(w, &all[i]) &&
                    copies(w, all, n, all[i].content, true, (int)pairs.shown[b]))
                    common += 1 / (double)copies(w, all, n, all[i].content, true, (int)pairs.shown[a]);
            assert_true(near(pairs.common[a][b], common));
        }
}

static void expect_total(const struct world *w, const struct sp_census_page *all, size_t n) {
    double kept = 0, huge = 0, mappings = 0;
    for (size_t i = 0; i < n; i++) {
        if (!mergeable(w, &all[i]))
            continue;
        double part = 1 / (double)copies(w, all, n, all[i].content, true, -1);
        kept += part;
        huge += all[i].mapping & SP_CENSUS_HUGE ? part : 0;
    }
    for (size_t m = 0; m < MAPPINGS; m++)
        mappings += w->mappings[m].mergeable ? w->mappings[m].kept : 0;
    assert_true(near(w->c.sum.kept, kept));
    assert_true(near(w->c.sum.kept, mappings)); /* the parts of everything are the whole */
    assert_true(near(w->c.kept_huge, huge));
    assert_true(sp_census_variance(&w->c, &w->c.sum) == 0);
}

static void expect_cells(const struct world *w, const struct sp_census_page *all, size_t n) {
    size_t read = 0, twins = 0, expected = 0, expected_twins = 0;
    for (size_t i = 0; i < SP_CENSUS_CELLS; i++) {
        read += w->cells[i].read;
        twins += w->cells[i].twin;
    }
    for (size_t i = 0; i < n; i++) {
        bool first = (all[i].mapping & ~SP_CENSUS_HUGE) == 0;
        expected += first;
        expected_twins += first && copies(w, all, n, all[i].content, true, -1) > 1;
    }
    assert_int_equal(read, expected);
    assert_int_equal(twins, expected_twins);
}

static void counts_as_defined(void **state) {
    struct test_random random = {1};
    for (size_t n = 0; n < 700; n = n * 3 / 2 + 1) {
        struct sp_census_page pages[1024], all[1024];
        struct world w;
        for (size_t i = 0; i < n; i++)
            pages[i] = (struct sp_census_page){
                .content = (test_random_below(&random, 1 + n / 3) + 1) * UINT64_C(0x9e3779b97f4a7c15),
                .mapping = (uint32_t)test_random_below(&random, MAPPINGS) |
                           (test_random_below(&random, 4) ? 0 : SP_CENSUS_HUGE),
                .page = (uint32_t)test_random_below(&random, 1 << 20),
            };
        memcpy(all, pages, sizeof all);
        world_init(&w, pages, n, 1);
        expect_mappings(&w, all, n);
        expect_processes(&w, all, n);
        expect_total(&w, all, n);
        expect_pairs(&w, all, n);
        expect_cells(&w, all, n);
    }
}

static void sorts(void **state) {
    struct test_random random = {2};
    static struct sp_census_page pages[100000];
    for (int kind = 0; kind < 4; kind++) {
        uint64_t sum = 0, sum_after = 0;
        size_t n = kind == 0 ? 47 : sizeof pages / sizeof *pages;
        for (size_t i = 0; i < n; i++) {
            uint64_t v = test_random_next(&random);
            pages[i].content = kind == 1 ? v & 0xff : kind == 2 ? v << 60 | 7 : v;
            pages[i].before = pages[i].content + 1;
            sum += v = pages[i].content * pages[i].content;
        }
        sp_census_sort(pages, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(!i || pages[i - 1].content <= pages[i].content);
            assert_true(pages[i].before == pages[i].content + 1); /* whole pages are moved */
            sum_after += pages[i].content * pages[i].content;
        }
        assert_true(sum == sum_after);
    }
}

static double runs_of(const char *const layout[], size_t n) {
    struct sp_census_page pages[256];
    size_t count = 0;
    for (uint32_t m = 0; m < n; m++)
        for (uint32_t i = 0; layout[m][i]; i++)
            if (layout[m][i] != '.')
                pages[count++] = (struct sp_census_page){
                    .content = (uint64_t)layout[m][i] << 40,
                    .before = i && layout[m][i - 1] != '.' ? (uint64_t)layout[m][i - 1] : 0,
                    .mapping = 3 * m, /* each in a process of its own */
                    .page = i,
                };
    struct world w;
    world_init(&w, pages, count, 1);
    double runs = 0;
    for (size_t p = 0; p < PROCESSES; p++)
        runs += w.processes[p].runs;
    return runs;
}

/* A letter is a content, a dot a page of zeros. */
static void counts_runs(void **state) {
    assert_true(runs_of((const char *const[]){"abcdef", "abcdef"}, 2) == 2);
    assert_true(runs_of((const char *const[]){"abcdef", "abcdef", "abcdef"}, 3) == 3);
    assert_true(runs_of((const char *const[]){"abcXdef", "abcYdef"}, 2) == 4);
    assert_true(runs_of((const char *const[]){"abc.def", "abc.def"}, 2) == 4);
    assert_true(runs_of((const char *const[]){"abcd", "dcba"}, 2) == 8);
    assert_true(runs_of((const char *const[]){"abcdef", "def"}, 2) == 2);
    assert_true(runs_of((const char *const[]){"abc", "xyz"}, 2) == 0);
}

/* --- Samples ------------------------------------------------------------------------------------------- */

/* A population: contents with a number of copies each, and units of several contents. */
struct population {
    size_t contents;
    uint64_t (*copies)(struct test_random *random, size_t content);
    uint64_t (*unit)(struct test_random *random, size_t content); /* any number that stands for it */
};

static uint64_t one_copy(struct test_random *random, size_t content) {
    return 1;
}

static uint64_t few_copies(struct test_random *random, size_t content) {
    return 1 + test_random_below(random, 3);
}

/* Half of all pages are copies of one. */
static uint64_t one_of_many_copies(struct test_random *random, size_t content) {
    return content == 17 ? 30000 : 1;
}

static uint64_t own_unit(struct test_random *random, size_t content) {
    return content;
}

/* Up to a hundred contents have the same lines, most have their own. */
static uint64_t crowded_unit(struct test_random *random, size_t content) {
    return content % 10 ? content : UINT64_C(1) << 40 | (uint64_t)sqrt((double)content);
}

static const struct population populations[] = {
    {30000, one_copy, own_unit},
    {20000, few_copies, own_unit},
    {30000, one_of_many_copies, own_unit},
    {30000, few_copies, crowded_unit},
};

static uint64_t mix(uint64_t x) {
    return sp_sample_unit_whole((sp_fp){x + UINT64_C(0x9e3779b97f4a7c15)});
}

/* One sample with a fresh key: the pages that are in it, and the truth. */
static size_t draw(const struct population *p, uint64_t seed, uint32_t one_in, struct sp_census_page *pages,
                   double *ret_distinct, double *ret_first) {
    struct test_random random = {99}; /* the population is the same each time, the key is not */
    size_t n = 0;
    double first = 0;
    for (size_t i = 0; i < p->contents; i++) {
        uint64_t copies_left = p->copies(&random, i), unit = mix(p->unit(&random, i) ^ mix(seed));
        first += i % PROCESSES == 0;
        for (uint64_t k = 0; k < copies_left && unit < UINT64_MAX / one_in; k++)
            pages[n++] = (struct sp_census_page){.content = unit << 32 | mix(i) >> 32,
                                                 .mapping = (uint32_t)(i % PROCESSES) * 3};
    }
    *ret_distinct = (double)p->contents;
    *ret_first = first;
    return n;
}

/* Two standard deviations hold in 95 of 100 cases of a normal distribution. Of 400 draws with fixed seeds at
 * least 92 % must hold, for the whole and for one process, and the error must not be so large that it says
 * nothing. */
static void stated_errors_hold(void **state) {
    static struct sp_census_page pages[200000];
    enum { DRAWS = 400 };
    for (size_t p = 0; p < sizeof populations / sizeof *populations; p++) {
        for (uint32_t one_in = 4; one_in <= 64; one_in *= 4) {
            int held = 0, held_first = 0;
            double mean = 0, error = 0, truth = 0, first;
            for (uint64_t seed = 0; seed < DRAWS; seed++) {
                struct world w;
                size_t n = draw(&populations[p], seed, one_in, pages, &truth, &first);
                world_init(&w, pages, n, one_in);
                double stated = 2 * sqrt(sp_census_variance(&w.c, &w.c.sum));
                double stated_first = 2 * sqrt(sp_census_variance(&w.c, &w.processes[0].sum));
                held += fabs(w.c.sum.kept - truth) <= stated;
                held_first += fabs(w.processes[0].sum.kept - first) <= stated_first;
                mean += w.c.sum.kept / DRAWS;
                error += stated / DRAWS;
            }
            print_message("# population %zu, 1/%u: error %.1f %% of the truth; holds in %d and %d of %d\n", p,
                          one_in, 100 * error / truth, held, held_first, DRAWS);
            assert_true(held >= DRAWS * 92 / 100 && held_first >= DRAWS * 92 / 100);
            assert_true(fabs(mean - truth) < error / 5); /* no bias */
            assert_true(error < 2.5 * sqrt((double)one_in * truth) * (p == 3 ? 3 : 1));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_as_defined),
        cmocka_unit_test(sorts),
        cmocka_unit_test(counts_runs),
        cmocka_unit_test(stated_errors_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
