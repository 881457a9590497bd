/* SPDX-License-Identifier: MIT */
/* See scans.h. A member without a session takes no part. */
#include "daemon/scans.h"

#include "daemon/service.h"
#include "merge/engine.h"

static void round_begin(struct domain *d) {
    d->unscanned = 0;
    d->any_scanned = false;
    for (struct member *m = d->members; m; m = m->next) {
        m->scanned = !m->session;
        m->scans_before = m->counters.v[SP_COUNTER_full_scans];
        d->unscanned += !m->scanned;
    }
}

static void round_end(struct domain *d) {
    if (d->unscanned || !d->any_scanned)
        return;
    d->full_scans++;
    round_begin(d);
}

static void done(struct member *m) {
    m->domain->unscanned -= !m->scanned;
    m->scanned = true;
}

void scans_joined(struct member *m) {
    m->scanned = false;
    m->domain->unscanned++;
}

void scans_reported(struct member *m) {
    bool came_round = m->counters.v[SP_COUNTER_full_scans] > m->scans_before;
    if (m->scanned)
        return;
    if (came_round || m->state != SP_ENGINE_RUNNING)
        done(m);
    m->domain->any_scanned |= came_round;
    round_end(m->domain);
}

void scans_left(struct member *m) {
    done(m);
    round_end(m->domain);
}
