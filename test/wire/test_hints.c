/* SPDX-License-Identifier: MIT */
/* The queue of hints against a plain model: no hint is lost while there is room, none is invented, and when
 * there is no room one that stands for all says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/hints.h"

#define WINDOWS 6000 /* more than fit */

static struct sp_hint_queue queue;
static sp_bits model[WINDOWS];

static int setup(void **state) {
    memset(&queue, 0, sizeof queue);
    memset(model, 0, sizeof model);
    return 0;
}

static bool all_hinted(void) {
    if (!queue.lost)
        return false;
    struct sp_wire_hint hint[2];
    assert_int_equal(sp_hint_queue_take(&queue, hint, 2), 1);
    assert_true(hint[0].window == SP_WIRE_HINT_ALL);
    memset(model, 0, sizeof model);
    return true;
}

/* Takes at most `max` out of both. */
static size_t take(size_t max) {
    struct sp_wire_hint *hints = calloc(max, sizeof *hints);
    assert_non_null(hints);
    size_t n = sp_hint_queue_take(&queue, hints, max);
    assert_true(n <= max);
    for (size_t i = 0; i < n; i++) {
        assert_true(hints[i].window < WINDOWS);
        assert_memory_equal(&hints[i].pages, &model[hints[i].window], sizeof(sp_bits));
        assert_true(sp_bits_any(&hints[i].pages));
        memset(&model[hints[i].window], 0, sizeof(sp_bits));
    }
    free(hints);
    return n;
}

static void test_against_model(void **state) {
    unsigned seed = 1;
    size_t taken = 0, lost = 0;
    for (unsigned i = 0; i < 400000; i++) {
        uint64_t window = (uint64_t)rand_r(&seed) % WINDOWS;
        unsigned slot = (unsigned)rand_r(&seed) % SP_WINDOW_PAGES;
        sp_hint_queue_add_page(&queue, (sp_page){window * SP_WINDOW_PAGES + slot});
        sp_bits_set(&model[window], slot);
        lost += all_hinted();
        if (rand_r(&seed) % 1000 == 0)
            taken += take((size_t)rand_r(&seed) % 2000 + 1);
    }
    while (!sp_hint_queue_empty(&queue))
        taken += take(100);
    for (size_t i = 0; i < WINDOWS; i++)
        assert_false(sp_bits_any(&model[i]));
    assert_true(taken > 0 && lost > 0);
}

static void test_full(void **state) {
    for (uint64_t w = 0; w < SP_HINT_QUEUE_WINDOWS; w++)
        sp_hint_queue_add_page(&queue, (sp_page){w * SP_WINDOW_PAGES});
    /* A window that waits already takes more. */
    sp_hint_queue_add_page(&queue, (sp_page){5 * SP_WINDOW_PAGES + 1});
    assert_false(queue.lost);
    sp_hint_queue_add_page(&queue, (sp_page){SP_HINT_QUEUE_WINDOWS * SP_WINDOW_PAGES});
    sp_hint_queue_add_page(&queue, (sp_page){0}); /* one of all, by now */
    assert_false(sp_hint_queue_empty(&queue));
    assert_true(all_hinted());
    assert_true(sp_hint_queue_empty(&queue));
    sp_hint_queue_add_page(&queue, (sp_page){0});
    struct sp_wire_hint hint;
    assert_int_equal(sp_hint_queue_take(&queue, &hint, 1), 1);
    assert_true(hint.window == 0 && sp_bits_get(&hint.pages, 0));
}

/* From one queue to the next. */
static void test_all(void **state) {
    sp_bits none = {{0}};
    sp_hint_queue_add_page(&queue, (sp_page){7});
    sp_hint_queue_add(&queue, SP_WIRE_HINT_ALL, &none);
    assert_true(all_hinted());
    assert_true(sp_hint_queue_empty(&queue));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_against_model, setup),
        cmocka_unit_test_setup(test_full, setup),
        cmocka_unit_test_setup(test_all, setup),
    };
    return cmocka_run_group_tests_name("wire/hints", tests, NULL, NULL);
}
