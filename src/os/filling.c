/* SPDX-License-Identifier: MIT */
/* See filling.h. */
#include "os/filling.h"

static bool is_here(const struct sp_filling *f, sp_store_page store) {
    return f->chunk_plus_1 == store.v / SP_WINDOW_PAGES + 1;
}

void sp_filling_end(struct sp_filling *f) {
    uint64_t base = (f->chunk_plus_1 - 1) * SP_WINDOW_PAGES % SP_SEGMENT_PAGES;
    for (unsigned first = 0, last; f->huge && first < SP_WINDOW_PAGES; first = last) {
        last = first + 1;
        if (sp_bits_get(&f->placed, first))
            continue;
        while (last < SP_WINDOW_PAGES && !sp_bits_get(&f->placed, last))
            last++;
        /* Memory that stays taken is all that a failure costs. */
        int unused = sp_segment_punch(&f->file, base + first, last - first);
        (void)unused;
    }
    *f = (struct sp_filling){0};
}

void sp_filling_place(struct sp_filling *f, sp_store_page store, bool whole) {
    if (!is_here(f, store)) {
        sp_filling_end(f);
        f->chunk_plus_1 = store.v / SP_WINDOW_PAGES + 1;
        f->wanted = whole && store.v % SP_WINDOW_PAGES == 0;
    }
    sp_bits_set(&f->placed, store.v % SP_WINDOW_PAGES);
}

void sp_filling_wrote(struct sp_filling *f, const struct sp_segment *s, sp_store_page first) {
    if (!is_here(f, first) || !f->wanted || f->tried)
        return;
    f->tried = true;
    f->file = *s;
    f->huge = !sp_segment_huge(s, first.v % SP_SEGMENT_PAGES / SP_WINDOW_PAGES * SP_WINDOW_PAGES);
}
