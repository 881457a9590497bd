/* SPDX-License-Identifier: MIT */
/* For the tests of what orders pages by their contents: numbered pages whose contents are made from a short
 * word, at the start, in the middle or at the very end of a page that is otherwise the same. */
#ifndef SP_TEST_CORE_PAGES_H
#define SP_TEST_CORE_PAGES_H

#include "core_test.h"

#include "core/types.h"

#define PAGES_MAX 600

static uint8_t pages[PAGES_MAX][SP_PAGE_SIZE];
static bool pages_gone[PAGES_MAX]; /* cannot be read */
static uint64_t pages_read;

static inline void page_write(uint64_t number, unsigned word) {
    static const size_t at[] = {0, 2000, SP_PAGE_SIZE - 4};
    memset(pages[number], 7, SP_PAGE_SIZE);
    memcpy(pages[number] + at[word % 3], &word, sizeof word);
}

static inline const void *page_read(void *ctx, uint64_t number) {
    assert_true(number < PAGES_MAX);
    pages_read++;
    return pages_gone[number] ? NULL : pages[number];
}

#endif
