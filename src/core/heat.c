/* SPDX-License-Identifier: MIT */
/* See heat.h. */
#include "core/heat.h"

#define MS UINT64_C(1000000)
/* How long a page should stay shared to be worth it. */
#define WORTH_NS (1000 * MS)
/* What fewer pages do is not worth waiting for. */
#define FEW_PAGES 16
/* It would take so many times as long as they were watched: they will not last. */
#define FAR       4
#define LEVEL_MAX 3
/* So many times at most it is found that pages must be watched for longer. */
#define WATCHES_MAX 2

static void level_up(struct sp_heat *h) {
    h->level += h->level < LEVEL_MAX;
}

static enum sp_heat_verdict watch(struct sp_heat *h, uint64_t ns, uint64_t now_ns) {
    h->watches++;
    h->rests = false;
    h->since_ns = now_ns;
    h->until_ns = now_ns + ns;
    return SP_HEAT_WATCH;
}

static enum sp_heat_verdict rest(struct sp_heat *h, uint64_t needed_ns, uint64_t now_ns) {
    h->rests = true;
    h->watches = 0;
    h->watch_ms = (uint32_t)((needed_ns + MS - 1) / MS);
    h->until_ns = now_ns + (WORTH_NS << h->level);
    level_up(h);
    return SP_HEAT_REST;
}

/* Where some of it is hot and some is not, the latter may be merged, and the program's faults for the former
 * come less and less often. */
static enum sp_heat_verdict settled(struct sp_heat *h, bool hot, uint64_t needed_ns, uint64_t now_ns) {
    h->watches = 0;
    h->since_ns = hot ? now_ns : 0;
    h->until_ns = hot ? now_ns + (needed_ns << h->level) : 0;
    if (hot)
        level_up(h);
    else
        h->level = 0;
    return SP_HEAT_SETTLED;
}

enum sp_heat_verdict sp_heat_look(struct sp_heat *h, unsigned watched, unsigned written, uint64_t before_ns,
                                  uint64_t now_ns) {
    if (h->rests)
        return watch(h, h->watch_ms * MS, now_ns);
    if (written < FEW_PAGES)
        return settled(h, false, 0, now_ns);
    uint64_t elapsed_ns = now_ns - (h->since_ns ? h->since_ns : before_ns);
    uint64_t needed_ns = WORTH_NS * written / watched;
    if (written == watched || needed_ns > FAR * elapsed_ns)
        return rest(h, needed_ns, now_ns);
    if (needed_ns > elapsed_ns && h->watches < WATCHES_MAX)
        return watch(h, needed_ns, now_ns);
    /* What had to be watched for longer than from one look to the next is hot, however little of it: or the
     * next look would judge by that short time again, and find that it must rest. */
    return settled(h, h->since_ns || written > watched / 4, needed_ns, now_ns);
}
