/* SPDX-License-Identifier: MIT */
/* For reader.c, which walks over mappings, and window.c, which reads what it comes to. */
#ifndef SP_ESTIMATE_READER_H
#define SP_ESTIMATE_READER_H

#include "estimate/estimate.h"

#define SP_READER_PAGES 64 /* 256 KiB: in the processor's cache when they are fingerprinted */

struct sp_reader {
    struct sp_estimate *e;
    int pid, pagemap;
    const struct sp_estimate_progress *progress;
    uint64_t told; /* pages */
    char *buffer;  /* SP_READER_PAGES of them */

    size_t mapping; /* index */
    uint64_t window;
    sp_bits private, huge;
    unsigned last;                  /* slot of the page that was read last */
    uint64_t before;                /* what stands for it; 0: zeros, or nothing was read */
    uint64_t unit[SP_WINDOW_PAGES]; /* by slot */
    size_t record[SP_WINDOW_PAGES]; /* by slot: of a page that is in the sample; SIZE_MAX: none */
};

static inline struct sp_estimate_figures *sp_reader_figures(const struct sp_reader *r) {
    return &r->e->mapping[r->mapping].figures;
}

/* Reads pages [first, last) of r->window, which are of r->mapping; `look_huge`: some may be in huge pages. */
SP_WARN_UNUSED int sp_reader_window(struct sp_reader *r, unsigned first, unsigned last, bool look_huge);

#endif
