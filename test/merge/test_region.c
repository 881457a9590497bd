/* SPDX-License-Identifier: MIT */
/* Regions against a map of one entry for each page: random additions, removals and cuts, also without memory.
 */
#include "merge_test.h"

#include "merge/region.h"

#define PAGES 256

static bool starving;
static size_t held;

static void *get(void *ctx, size_t bytes) {
    if (starving)
        return NULL;
    held += bytes;
    return calloc(1, bytes);
}

static void put(void *ctx, void *memory, size_t bytes) {
    if (memory)
        held -= bytes;
    free(memory);
}

static const struct sp_alloc alloc = {get, put, NULL};

/* 0: not registered; otherwise what tells regions apart. */
struct model {
    uint8_t kind[PAGES];
};

static struct sp_region region_of(unsigned first, unsigned last, unsigned kind) {
    return (struct sp_region){.start = first * PAGE,
                              .end = last * PAGE,
                              .prot = kind & 1 ? PROT_READ | PROT_WRITE : PROT_READ,
                              .attributes = kind & 2 ? SP_ATTR_DONTFORK : 0,
                              .armed = kind & 4};
}

static unsigned kind_of(const struct sp_region *r) {
    return 8 | (r->armed ? 4 : 0) | (r->attributes ? 2 : 0) | (r->prot & PROT_WRITE ? 1 : 0);
}

static void assert_same(const struct sp_regions *r, const struct model *m) {
    struct model got = {0};
    uint64_t bytes = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct sp_region *g = &r->items[i];
        assert_true(g->start < g->end && (i == 0 || r->items[i - 1].end <= g->start));
        bytes += g->end - g->start;
        for (uint64_t a = g->start; a < g->end; a += PAGE)
            got.kind[a / PAGE] = (uint8_t)kind_of(g);
    }
    assert_memory_equal(&got, m, sizeof(got));
    assert_int_equal(bytes, r->bytes);
}

static void assert_lookups(const struct sp_regions *r, const struct model *m, uint64_t *random) {
    unsigned first = (unsigned)(random_next(random) % PAGES),
             last = first + 1 + (unsigned)(random_next(random) % 9);
    bool overlap = false;
    for (unsigned i = first; i < last && i < PAGES; i++)
        overlap |= m->kind[i] != 0;
    assert_true(sp_regions_overlap(r, first * PAGE, last * PAGE) == overlap);
    size_t at = sp_regions_find(r, first * PAGE);
    assert_true(at == r->n || r->items[at].end > first * PAGE);
    assert_true(at == 0 || r->items[at - 1].end <= first * PAGE);
    sp_bits bits;
    sp_regions_window(r, 0, &bits);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_true(sp_bits_get(&bits, i) == (i < PAGES && (m->kind[i] & 9) == 9));
    sp_regions_armed(r, 0, &bits);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_true(sp_bits_get(&bits, i) == (i < PAGES && (m->kind[i] & 12) == 12));
}

/* Whole regions are no longer armed; they stay as many as they are. */
static void unarm(struct sp_regions *r, struct model *m, unsigned first, unsigned last) {
    for (size_t k = 0; k < r->n; k++) {
        uint64_t start = r->items[k].start / PAGE, end = r->items[k].end / PAGE;
        for (uint64_t i = start; start < last && end > first && i < end; i++)
            m->kind[i] &= (uint8_t)~4;
    }
    size_t n = r->n;
    sp_regions_unarm(r, first * PAGE, last * PAGE);
    assert_int_equal(r->n, n);
}

static void remove_model(struct model *m, unsigned first, unsigned last) {
    memset(&m->kind[first], 0, last - first);
}

static void test_model(void **state) {
    uint64_t random = 314159;
    unsigned starved = 0;
    for (unsigned run = 0; run < 60; run++) {
        struct sp_regions r;
        struct model m = {0};
        held = 0;
        sp_regions_init(&r, &alloc);
        for (unsigned step = 0; step < 1500; step++) {
            unsigned first = (unsigned)(random_next(&random) % PAGES);
            unsigned last = first + 1 + (unsigned)(random_next(&random) % (step % 3 ? 4 : 40));
            if (last > PAGES)
                last = PAGES;
            starving = random_next(&random) % 4 == 0;
            if (random_next(&random) % 2) {
                struct sp_region region = region_of(first, last, (unsigned)(random_next(&random) % 8));
                int error =
                    sp_regions_overlap(&r, region.start, region.end) ? 1 : sp_regions_add(&r, &region);
                if (!error)
                    memset(&m.kind[first], (int)kind_of(&region), last - first);
                else if (error < 0)
                    assert_true(starving && error == -ENOMEM && ++starved);
            } else if (random_next(&random) % 16 == 0) {
                unarm(&r, &m, first, last);
            } else if (random_next(&random) % 2) {
                int error = sp_regions_cut(&r, first * PAGE);
                assert_true(error == 0 || (starving && error == -ENOMEM));
                size_t at = sp_regions_find(&r, first * PAGE);
                assert_true(error || at == r.n || r.items[at].start >= first * PAGE);
            } else {
                uint64_t lower = sp_regions_find(&r, first * PAGE),
                         end = lower < r.n ? r.items[lower].end : 0;
                int error = sp_regions_remove(&r, first * PAGE, last * PAGE);
                remove_model(&m, first, last);
                if (error) { /* loses its upper part altogether */
                    assert_true(starving && error == -ENOMEM && end > last * PAGE && ++starved);
                    remove_model(&m, last, (unsigned)(end / PAGE));
                }
            }
            assert_same(&r, &m);
            assert_lookups(&r, &m, &random);
        }
        starving = false;
        sp_regions_deinit(&r);
        assert_int_equal(held, 0);
    }
    assert_true(starved > 10);
}

/* Neighbours that are alike are one. */
static void test_joins(void **state) {
    struct sp_regions r;
    sp_regions_init(&r, &alloc);
    struct sp_region left = region_of(0, 4, 1), right = region_of(8, 12, 1), middle = region_of(4, 8, 1);
    must(sp_regions_add(&r, &left), "add");
    must(sp_regions_add(&r, &right), "add");
    must(sp_regions_add(&r, &middle), "add");
    assert_int_equal(r.n, 1);
    struct sp_region other = region_of(12, 16, 3);
    must(sp_regions_add(&r, &other), "add");
    assert_int_equal(r.n, 2);
    sp_regions_deinit(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model), cmocka_unit_test(test_joins)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
