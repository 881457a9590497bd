/* SPDX-License-Identifier: MIT */
/* See advisor.h. */
#include "core/advisor.h"

#define MS_NS  UINT64_C(1000000)
#define WEIGHT 30 /* percent, of what is new */

static uint64_t at_least_1(uint64_t v) {
    return v ? v : 1;
}

static uint64_t bounded(uint64_t pages, const struct sp_settings *s) {
    uint64_t least = s->v[SP_SETTING_advisor_min_pages_to_scan];
    uint64_t most = s->v[SP_SETTING_advisor_max_pages_to_scan];
    if (pages < least)
        pages = least;
    return pages < most ? pages : most;
}

void sp_advisor_set(struct sp_advisor *a, const struct sp_settings *s, uint64_t now_ns, uint64_t cpu_ns) {
    bool on = s->v[SP_SETTING_advisor_mode] == SP_ADVISOR_SCAN_TIME;
    if (on && !a->on)
        *a = (struct sp_advisor){.began_ns = now_ns, .cpu_ns = cpu_ns, .change = 100};
    a->on = on;
    a->pages = bounded(a->pages, s);
}

/* What one percent of a CPU can read of it, times what may be used. */
static uint64_t affordable(uint64_t pages, uint64_t cpu_percent, const struct sp_settings *s) {
    return at_least_1(pages / cpu_percent) * s->v[SP_SETTING_advisor_max_cpu];
}

void sp_advisor_scanned(struct sp_advisor *a, const struct sp_settings *s, uint64_t now_ns, uint64_t cpu_ns) {
    if (!a->on)
        return;
    uint64_t took_s = at_least_1((now_ns - a->began_ns) / (1000 * MS_NS));
    uint64_t cpu_percent = at_least_1((cpu_ns - a->cpu_ns) / MS_NS / 10 / took_s);
    uint64_t speed = at_least_1(s->v[SP_SETTING_advisor_target_scan_time] * 100 / took_s);
    uint64_t change = at_least_1(took_s * 100 / (a->last_s ? a->last_s : took_s));
    a->change = ((100 - WEIGHT) * a->change + WEIGHT * change) / 100;
    uint64_t pages = a->pages * 100 / speed * a->change / 100;
    uint64_t most = affordable(a->pages, cpu_percent, s);
    a->pages = bounded(pages < most ? pages : most, s);
    a->last_s = took_s;
    a->began_ns = now_ns;
    a->cpu_ns = cpu_ns;
}

void sp_advisor_apply(const struct sp_advisor *a, struct sp_settings *s) {
    if (a->on)
        s->v[SP_SETTING_pages_to_scan] = a->pages;
}
