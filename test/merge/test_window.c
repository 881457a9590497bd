/* SPDX-License-Identifier: MIT */
/* The tree of windows against a plain list, the bits of a window against single tests, and debts. */
#include "merge_test.h"

#include "merge/debts.h"
#include "merge/window.h"

#define MOST 512

static unsigned starving; /* every nth allocation fails; 0: none */
static unsigned allocations;
static size_t held;

static void *get(void *ctx, size_t bytes) {
    if (starving && ++allocations % starving == 0)
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

static struct sp_window *model[MOST];
static size_t n_model;

static size_t model_find(uint64_t number) {
    for (size_t i = 0; i < n_model; i++)
        if (model[i]->number == number)
            return i;
    return n_model;
}

static struct sp_window *model_next(uint64_t number) {
    struct sp_window *best = NULL;
    for (size_t i = 0; i < n_model; i++)
        if (model[i]->number >= number && (!best || model[i]->number < best->number))
            best = model[i];
    return best;
}

/* Numbers that meet: near to each other, at the ends of nodes, and at the end of everything. */
static uint64_t some_number(uint64_t *random) {
    uint64_t near = random_next(random) % 8;
    switch (random_next(random) % 5) {
    case 0:
        return near;
    case 1:
        return (near << 9) - (random_next(random) % 2);
    case 2:
        return (near << 18) - (random_next(random) % 2);
    case 3:
        return SP_WINDOWS_MAX - 4 + near;
    default:
        return random_next(random) % SP_WINDOWS_MAX;
    }
}

static void test_tree(void **state) {
    uint64_t random = 271828;
    for (unsigned run = 0; run < 6; run++) {
        struct sp_windows t;
        sp_windows_init(&t, &alloc);
        n_model = held = 0;
        for (unsigned step = 0; step < 4000; step++) {
            uint64_t number = some_number(&random);
            size_t at = model_find(number);
            starving = random_next(&random) % 8 == 0 ? 1 + (unsigned)(random_next(&random) % 4) : 0;
            if (random_next(&random) % 3) {
                struct sp_window *w = n_model < MOST ? sp_windows_get(&t, number) : NULL;
                if (number >= SP_WINDOWS_MAX)
                    assert_null(w);
                else if (at < n_model && n_model < MOST)
                    assert_ptr_equal(w, model[at]);
                else if (n_model < MOST)
                    assert_true(w || starving);
                if (w && at == n_model) {
                    assert_int_equal(w->number, number);
                    assert_true(sp_window_empty(w));
                    model[n_model++] = w;
                }
                starving = random_next(&random) % 2;
                if (w && random_next(&random) % 2)
                    assert_true(sp_window_slots(&t, w) == (w->slot != NULL));
            } else if (at < n_model) {
                sp_windows_drop(&t, model[at]);
                model[at] = model[--n_model];
            }
            assert_int_equal(t.n, n_model);
            number = some_number(&random);
            at = model_find(number);
            assert_ptr_equal(sp_windows_find(&t, number), at < n_model ? model[at] : NULL);
            assert_ptr_equal(sp_windows_next(&t, number), model_next(number));
        }
        uint64_t last = 0;
        size_t seen = 0;
        SP_WINDOWS_EACH(&t, 0, UINT64_MAX, w) {
            assert_true(seen++ == 0 || w->number > last);
            last = w->number;
        }
        assert_int_equal(seen, n_model);
        sp_windows_deinit(&t);
        assert_int_equal(held, 0);
    }
    starving = 0;
}

/* Random pages are shared, mostly one piece of the store, and some known: whatever the window does with its
 * slots, what it tells of these pages stays the same. */
static void test_fold(void **state) {
    uint64_t random = 141421, folded = 0;
    struct sp_windows t;
    sp_windows_init(&t, &alloc);
    struct sp_window *w = sp_windows_get(&t, 7);
    for (unsigned run = 0; run < 3000; run++) {
        static uint64_t want[SP_WINDOW_PAGES];
        uint64_t first = random_next(&random) << 3;
        unsigned different = 0;
        assert_true(sp_window_slots(&t, w));
        memset(&w->shared, 0, sizeof(w->shared));
        memset(&w->known, 0, sizeof(w->known));
        for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++) {
            bool elsewhere = run % 3 == 0 && random_next(&random) % 512 == 0;
            w->slot[slot] = want[slot] = first + slot + (elsewhere ? 1 : 0);
            if (random_next(&random) % (run % 4 + 1))
                continue;
            sp_bits_set(&w->shared, slot);
            different += elsewhere;
        }
        unsigned known = sp_bits_next_clear(&w->shared, 0);
        if (run % 5 == 0 && known < SP_WINDOW_PAGES)
            sp_bits_set(&w->known, known);
        /* If all that is shared lies elsewhere, it is one piece again. */
        bool one_piece = !different || different == sp_bits_count(&w->shared);
        sp_window_fold(&t, w);
        assert_true((w->slot == NULL) == (one_piece && !sp_bits_any(&w->known)));
        folded += w->slot == NULL;
        for (unsigned pass = 0; pass < 3; pass++) {
            SP_BITS_EACH(&w->shared, slot) {
                assert_int_equal(sp_window_value(w, slot), want[slot]);
            }
            SP_BITS_EACH(&w->known, slot) {
                assert_int_equal(sp_window_value(w, slot), want[slot]);
            }
            starving = pass == 0 && !w->slot; /* without memory it stays as it is */
            assert_true(sp_window_slots(&t, w) == (w->slot != NULL));
            assert_true(w->slot || starving);
            starving = 0;
        }
    }
    assert_in_range(folded, 500, 2900);
    sp_windows_deinit(&t);
    assert_int_equal(held, 0);
}

static void test_bits(void **state) {
    uint64_t random = 5772;
    for (unsigned run = 0; run < 3000; run++) {
        sp_bits b = {{0}}, c = {{0}};
        bool want[SP_WINDOW_PAGES] = {false};
        for (unsigned k = 0; k < run % 7; k++) {
            unsigned first = (unsigned)(random_next(&random) % SP_WINDOW_PAGES);
            unsigned last = first + (unsigned)(random_next(&random) % (SP_WINDOW_PAGES - first + 1));
            sp_bits_range(&b, first, last);
            for (unsigned i = first; i < last; i++)
                want[i] = true;
        }
        unsigned count = 0, each = 0;
        for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) {
            assert_true(sp_bits_get(&b, i) == want[i]);
            count += want[i];
        }
        assert_int_equal(sp_bits_count(&b), count);
        assert_true(sp_bits_any(&b) == (count > 0));
        SP_BITS_EACH(&b, i) {
            assert_true(want[i]);
            each++;
        }
        assert_int_equal(each, count);
        unsigned from = (unsigned)(random_next(&random) % SP_WINDOW_PAGES), clear = from;
        while (clear < SP_WINDOW_PAGES && want[clear])
            clear++;
        assert_int_equal(sp_bits_next_clear(&b, from), clear);
        assert_int_equal(sp_bits_next(&b, SP_WINDOW_PAGES), SP_WINDOW_PAGES);
        sp_bits_range(&c, from, SP_WINDOW_PAGES);
        sp_bits both = b, either = b, only = b;
        sp_bits_and(&both, &c);
        sp_bits_or(&either, &c);
        sp_bits_minus(&only, &c);
        for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) {
            assert_true(sp_bits_get(&both, i) == (want[i] && i >= from));
            assert_true(sp_bits_get(&either, i) == (want[i] || i >= from));
            assert_true(sp_bits_get(&only, i) == (want[i] && i < from));
        }
    }
}

static void test_clip(void **state) {
    struct sp_window w = {.number = 3};
    unsigned first, last;
    sp_window_clip(&w, 0, UINT64_MAX, &first, &last);
    assert_true(first == 0 && last == SP_WINDOW_PAGES);
    sp_window_clip(&w, 3 * SP_WINDOW_SIZE + 5 * PAGE, 3 * SP_WINDOW_SIZE + 9 * PAGE, &first, &last);
    assert_true(first == 5 && last == 9);
}

/* ---- debts ---- */

static uint64_t owed_pages(const struct sp_debts *d) {
    uint64_t n = 0;
    for (size_t i = 0; i < d->n_runs; i++)
        n += d->runs[i].pages;
    return n;
}

static void test_debts(void **state) {
    struct sp_debts d;
    held = 0;
    sp_debts_init(&d, &alloc);
    for (uint64_t i = 0; i < 1000; i++)
        sp_debts_release(&d, (sp_store_page){SP_SEGMENT_PAGES - 500 + i});
    /* Runs join, but never across segments: a run lies in one file. */
    assert_int_equal(d.n_runs, 2);
    assert_int_equal(d.runs[0].pages, 500);
    assert_int_equal(d.runs[1].first.v, SP_SEGMENT_PAGES);
    for (uint64_t i = 0; i < 1000; i++)
        sp_debts_release(&d, (sp_store_page){7 * i});
    assert_int_equal(owed_pages(&d), 2000);
    for (uint64_t i = 0; i < 700; i++)
        sp_debts_forget(&d, (sp_page){i}, (sp_fp){i * i});
    assert_int_equal(d.n_forgets, 700);
    for (uint64_t i = 0; i < 700; i++)
        assert_true(d.forgets[i].page.v == i && d.forgets[i].fp.v == i * i);
    /* Without memory references are kept, and counted: never given back twice or wrongly (I8). */
    starving = 1;
    uint64_t dropped = 0;
    for (uint64_t i = 0; i < 5000; i++)
        sp_debts_release(&d, (sp_store_page){100000000 + 3 * i});
    dropped = d.dropped;
    starving = 0;
    assert_true(dropped > 0);
    assert_int_equal(owed_pages(&d) + dropped, 7000);
    sp_debts_clear(&d);
    assert_true(d.n_runs == 0 && d.n_forgets == 0);
    sp_debts_deinit(&d);
    assert_int_equal(held, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree), cmocka_unit_test(test_fold),  cmocka_unit_test(test_bits),
        cmocka_unit_test(test_clip), cmocka_unit_test(test_debts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
