/* SPDX-License-Identifier: MIT */
#include "merge/segments.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "os/kernel.h"
#include "os/mapping.h"

#define VIEWS_BYTES (SP_SEGMENTS_MAX * sizeof(struct sp_segment_view))

int sp_segments_init(struct sp_segments *s) {
    void *views;
    int error = sp_map_new(VIEWS_BYTES, SP_PAGE_SIZE, &views);
    if (!error)
        s->views = views;
    return error;
}

void sp_segments_clear(struct sp_segments *s) {
    for (uint64_t i = 0; i < s->end; i++) {
        if (!s->views[i].pages)
            continue;
        int unused = sp_unmap((void *)(uintptr_t)s->views[i].pages, SP_SEGMENT_PAGES * SP_PAGE_SIZE);
        (void)unused;
        s->views[i] = (struct sp_segment_view){NULL, -1};
    }
    s->end = s->populated = 0;
}

void sp_segments_deinit(struct sp_segments *s) {
    if (!s->views)
        return;
    sp_segments_clear(s);
    int unused = sp_unmap(s->views, VIEWS_BYTES);
    (void)unused;
    s->views = NULL;
}

int sp_segments_get(struct sp_segments *s, struct sp_link *link, sp_store_page page,
                    struct sp_segment_view *ret_view) {
    uint64_t number = page.v / SP_SEGMENT_PAGES;
    if (number >= SP_SEGMENTS_MAX)
        return -ERANGE;
    struct sp_segment_view *view = &s->views[number];
    if (!view->pages) {
        int fd;
        int error = link->ops->segment(link, number, &fd);
        if (error)
            return error;
        void *pages;
        size_t bytes = SP_SEGMENT_PAGES * SP_PAGE_SIZE;
        error = sp_map_file(fd, 0, bytes, false, &pages);
        if (error)
            return error;
        error = sp_advise((uintptr_t)pages, bytes, MADV_DONTFORK);
        if (!error)
            error = sp_advise((uintptr_t)pages, bytes, MADV_DONTDUMP);
        if (error) {
            int unused = sp_unmap(pages, bytes);
            (void)unused;
            return error;
        }
        *view = (struct sp_segment_view){pages, fd};
        if (number >= s->end)
            s->end = number + 1;
    }
    *ret_view = *view;
    return 0;
}

static uintptr_t view_address(const struct sp_segment_view *view, sp_store_page page) {
    return (uintptr_t)view->pages + (page.v % SP_SEGMENT_PAGES) * SP_PAGE_SIZE;
}

/*
 * One read in each 64 KiB: the kernel maps what is resident around a fault, 16 pages at a time
 * (fault_around_bytes, Documentation/ABI/testing/debugfs). That is cheaper than MADV_POPULATE_READ, which
 * looks at each page. What is missed is faulted in by the comparison.
 */
#define FAULT_AROUND_PAGES 16

void sp_segments_populate(struct sp_segments *s, const struct sp_segment_view *view, sp_store_page first,
                          size_t n) {
    s->populated += n < FAULT_AROUND_PAGES ? FAULT_AROUND_PAGES : n;
    const volatile uint8_t *pages = (const volatile uint8_t *)view_address(view, first);
    for (size_t i = 0; i < n; i += i ? FAULT_AROUND_PAGES : FAULT_AROUND_PAGES - first.v % FAULT_AROUND_PAGES)
        (void)pages[i * SP_PAGE_SIZE];
}

/* Mapped twice, a page counts twice in the resident set; this much of it at most, for the length of a pass.
 */
#define DROP_PAGES 16384

void sp_segments_drop(struct sp_segments *s, bool all) {
    if (!s->populated || (!all && s->populated < DROP_PAGES))
        return;
    for (uint64_t i = 0; i < s->end; i++) {
        if (!s->views[i].pages)
            continue;
        /* A hint: without it the pages stay mapped longer. */
        int unused = sp_advise((uintptr_t)s->views[i].pages, SP_SEGMENT_PAGES * SP_PAGE_SIZE, MADV_DONTNEED);
        (void)unused;
    }
    s->populated = 0;
}
