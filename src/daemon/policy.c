/* SPDX-License-Identifier: MIT */
/* See policy.h. */
#include "daemon/policy.h"

#include "os/thread.h"

#define TICK_NS UINT64_C(500000000)

static bool is_bounded(const struct domain *d) {
    return d->budget.percent != SP_BUDGET_NONE;
}

static void count_bounded(struct service *s) {
    bool measured = s->bounded > 0;
    s->bounded = 0;
    for (const struct domain *d = s->domains; d; d = d->next)
        s->bounded += is_bounded(d);
    if (s->bounded && !measured) {
        s->cpu_ns = sp_process_cpu_ns();
        s->served_ns = 0;
    }
}

void policy_changed(struct domain *d, uint64_t now_ns) {
    sp_budget_set(&d->budget, sp_budget_wanted(&d->settings, !d->service->pressed), now_ns);
    sp_advisor_set(&d->advisor, &d->settings, now_ns, d->cpu_ns);
    count_bounded(d->service);
}

void policy_pressure(struct service *s, bool pressed, uint64_t now_ns) {
    s->pressed = pressed;
    for (struct domain *d = s->domains; d; d = d->next)
        policy_changed(d, now_ns);
}

/* ---- the daemon's own CPU time ---- */

uint64_t policy_serve(const struct service *s) {
    return s->bounded ? sp_thread_cpu_ns() : UINT64_MAX;
}

void policy_served(struct service *s, struct domain *d, uint64_t begun_ns) {
    if (begun_ns == UINT64_MAX || !d)
        return;
    uint64_t spent = sp_thread_cpu_ns() - begun_ns;
    s->served_ns += spent;
    d->cpu_ns += spent;
    sp_budget_spend(&d->budget, spent);
}

/* What was used for nobody in particular. */
static void pay_for_all(struct service *s, uint64_t now_ns) {
    if (!s->bounded || now_ns < s->tick_ns)
        return;
    uint64_t cpu_ns = sp_process_cpu_ns(), spent = cpu_ns - s->cpu_ns;
    uint64_t rest = spent > s->served_ns ? spent - s->served_ns : 0;
    s->tick_ns = now_ns + TICK_NS;
    s->cpu_ns = cpu_ns;
    s->served_ns = 0;
    for (struct domain *d = s->domains; d; d = d->next) {
        d->cpu_ns += rest;
        sp_budget_spend(&d->budget, rest);
    }
}

/* ---- clients ---- */

/* True: the advice is another one. */
static bool advise(struct domain *d, uint64_t now_ns) {
    uint64_t before = d->advisor.pages;
    if (d->advised_scans == d->full_scans)
        return false;
    d->advised_scans = d->full_scans;
    sp_advisor_scanned(&d->advisor, &d->settings, now_ns, d->cpu_ns);
    return d->advisor.on && d->advisor.pages != before;
}

bool policy_reported(struct member *m, uint64_t now_ns) {
    struct domain *d = m->domain;
    uint64_t used_ns = m->counters.v[SP_COUNTER_cpu_ns];
    pay_for_all(d->service, now_ns);
    if (m->allowance.known && used_ns > m->allowance.used_ns)
        d->cpu_ns += used_ns - m->allowance.used_ns;
    sp_budget_report(&d->budget, &m->allowance, used_ns, now_ns);
    return advise(d, now_ns);
}

void policy_left(struct member *m, uint64_t now_ns) {
    sp_budget_leave(&m->domain->budget, &m->allowance, now_ns);
}

/* ---- what is seen ---- */

bool policy_advises(const struct sp_settings *s) {
    return s->v[SP_SETTING_advisor_mode] == SP_ADVISOR_SCAN_TIME;
}

struct sp_settings policy_settings(const struct domain *d) {
    struct sp_settings s = d->settings;
    sp_advisor_apply(&d->advisor, &s);
    return s;
}

/* Where several are advised, the most of it; where none is, what one would begin with. */
struct sp_settings policy_settings_of_all(const struct service *s) {
    struct sp_settings all = s->settings;
    struct sp_advisor shown = {0};
    sp_advisor_set(&shown, &all, 0, 0);
    for (const struct domain *d = s->domains; d; d = d->next)
        if (d->advisor.on && d->advisor.pages > shown.pages)
            shown.pages = d->advisor.pages;
    sp_advisor_apply(&shown, &all);
    return all;
}
