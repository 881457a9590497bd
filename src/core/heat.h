/* SPDX-License-Identifier: MIT */
/*
 * Heat: how a window is treated in which much is written. A page that was not written between two looks has
 * settled where little else was; in a window whose pages are written every tenth of a second most of them
 * have not been written for a fiftieth, and merging these gains nothing: each is written again at once, which
 * costs the program a fault and a copy, and a mapping for good.
 *
 * So the pages around it tell how long a page must stay unwritten. If of all watched pages a part f was
 * written in a time t, pages like these last t / f. Sharing one is worth it for a second at least, so those
 * that are left have settled when t is f seconds or more: at once where f is next to nothing, and after a
 * second at most. Until then they are watched, twice if need be. Where they would be written long before
 * that, or all of them are, nothing is watched for a second, and then 2, 4 and 8, so that the program takes
 * no faults for it; then all are watched for as long as was found to be needed.
 */
#ifndef SP_CORE_HEAT_H
#define SP_CORE_HEAT_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed: of a window that nothing is known of. */
struct sp_heat {
    uint64_t since_ns; /* what was written was written since then; 0: since the look before */
    uint64_t until_ns; /* not to be looked at before; 0: to be looked at each time */
    uint32_t watch_ms; /* how long it is to be watched when it has rested */
    uint8_t level;     /* how often in a row it was hot */
    uint8_t watches;   /* how often in a row it was found that it is to be watched */
    bool rests;        /* it is not watched: its pages may have been written, and nobody knows */
};

enum sp_heat_verdict {
    SP_HEAT_SETTLED, /* what was not written may be merged */
    SP_HEAT_WATCH,   /* not yet; it is watched from now on */
    SP_HEAT_REST,    /* is not to be watched for a while */
};

/* A look at `now_ns` found that `written` of the `watched` pages were written since the one before, which was
 * at `before_ns` where since_ns says nothing else. */
enum sp_heat_verdict sp_heat_look(struct sp_heat *h, unsigned watched, unsigned written, uint64_t before_ns,
                                  uint64_t now_ns);

/* It is kept waiting, and was not found hot twice in a row: it may well settle as soon as it is looked at. */
static inline bool sp_heat_is_new(const struct sp_heat *h) {
    return h->until_ns && h->level < 2;
}

#endif
