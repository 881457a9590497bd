/* SPDX-License-Identifier: MIT */
/*
 * A chunk of the store that is being filled with a window which was a huge page, and shall be one in the
 * store, too: a publisher's present one. It is made huge when its first page is there (sp_segment_huge).
 *
 * A huge page is memory for all of its 512 pages, also for those that never come: a page is declined, because
 * somebody else has published it meanwhile, or the publisher goes away, or lied. So when the publisher goes
 * on to another chunk the places that were not given out, and never will be (I3), are punched, which splits
 * the huge page; nobody holds more than one chunk of memory beyond what is counted.
 *
 * Order of calls: place before anything is written there or any segment is closed, then the write, then
 * wrote.
 */
#ifndef SP_OS_FILLING_H
#define SP_OS_FILLING_H

#include "core/types.h"
#include "os/store.h"

struct sp_filling {
    uint64_t chunk_plus_1;  /* store page / SP_WINDOW_PAGES + 1; 0: none yet */
    bool wanted;            /* huge: its first page came with a whole window */
    sp_bits placed;         /* its pages that were given out, all of them since it was begun (I2) */
    bool tried, huge;       /* to make it so, and it was */
    struct sp_segment file; /* then: where it lies; the store's descriptors, not closed while it is filled */
};

/* The page will be written by this publisher. `whole`: for a window all of which comes and was huge. */
void sp_filling_place(struct sp_filling *f, sp_store_page store, bool whole);
/* Pages from `first` on were written to their segment. */
void sp_filling_wrote(struct sp_filling *f, const struct sp_segment *s, sp_store_page first);
/* The publisher goes, or goes on. */
void sp_filling_end(struct sp_filling *f);

#endif
