/* SPDX-License-Identifier: MIT */
/* A view can be read without a fault, whatever the kernel leaves out when it maps around a fault. */
#include "merge/state.h"
#include "merge_test.h"

#define PAGES SP_WINDOW_PAGES

static struct sp_worker w;

/* Pages that are not in memory yet (holes of the store) are among those that the kernel leaves out. */
static void gaps(void **state) {
    struct sp_segment s;
    uint8_t page[PAGE];
    must(sp_pagemap_open(&w.pagemap), "pagemap");
    must(sp_segment_init(&s), "segment");
    for (unsigned i = 0; i < PAGES; i++) {
        page_fill(page, 1, i);
        if (i % 5 < 3 && i > 2 && i < PAGES - 2)
            must(sp_segment_write(&s, i, page), "write");
    }
    struct sp_batch_run run = {.slot = 0, .pages = PAGES, .fd = s.fd_shared};
    assert_true(sp_view_make(&w, &run));
    for (unsigned i = 0; i < PAGES; i++) {
        const uint8_t *at = run.expected + i * PAGE;
        assert_true(page_present(at));
        assert_true(i % 5 < 3 && i > 2 && i < PAGES - 2 ? page_is(at, 1, i) : page_is_zero(at));
    }
    must(sp_unmap((void *)(uintptr_t)run.expected, SP_WINDOW_SIZE), "unmap");
    sp_segment_deinit(&s);
    close(w.pagemap);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gaps)};
    watchdog(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
