/* SPDX-License-Identifier: MIT */
/* See budget.h. */
#include "core/budget.h"

#define SECOND_NS UINT64_C(1000000000)
/* Of a rate of 100 %: what may wait, what comes in, and what may be owed. */
#define WAITING_S    5
#define INFLOW       90 / 100
#define OWED_S       60
#define ALLOWANCE_NS SECOND_NS
/* More processors than there are; and products stay small. */
#define PERCENT_MAX 1000000
/* An allowance below this goes into looking alone. */
#define USEFUL_NS (SECOND_NS / 1000)
/* Whoever has not been heard of by then may be stopped. */
#define PERIOD_NS (5 * SECOND_NS)
/* A worker that joins has used some before it can report; not what it used for another daemon. */
#define JOINING_NS (SECOND_NS / 10)

static int64_t of_rate(const struct sp_budget *b, uint64_t ns) {
    return (int64_t)(ns / 100 * b->percent);
}

uint64_t sp_budget_wanted(const struct sp_settings *s, bool plenty) {
    uint64_t percent = s->v[SP_SETTING_advisor_max_cpu];
    if (s->v[SP_SETTING_advisor_mode] == SP_ADVISOR_NONE && percent == SP_ADVISOR_MAX_CPU)
        percent = SP_BUDGET_NONE;
    uint64_t lazy = plenty ? s->v[SP_SETTING_lazy_max_cpu] : 0;
    return lazy && lazy < percent ? lazy : percent;
}

/* Time has gone by. */
static void fill(struct sp_budget *b, uint64_t now_ns) {
    uint64_t passed = now_ns > b->at_ns ? now_ns - b->at_ns : 0;
    int64_t most = of_rate(b, WAITING_S * SECOND_NS);
    if (passed > 2 * OWED_S * SECOND_NS)
        passed = 2 * OWED_S * SECOND_NS;
    b->at_ns = now_ns;
    b->left_ns += of_rate(b, passed) * INFLOW;
    if (b->left_ns > most)
        b->left_ns = most;
}

void sp_budget_set(struct sp_budget *b, uint64_t percent, uint64_t now_ns) {
    bool bounded = b->percent != SP_BUDGET_NONE && b->at_ns;
    if (percent > PERCENT_MAX && percent != SP_BUDGET_NONE)
        percent = PERCENT_MAX;
    if (bounded && percent == b->percent)
        return;
    if (bounded)
        fill(b, now_ns);
    b->percent = percent;
    b->at_ns = now_ns;
    if (percent == SP_BUDGET_NONE)
        return;
    if (!bounded) {
        b->since_ns = now_ns;
        b->left_ns = 0;
    }
    fill(b, now_ns);
}

void sp_budget_spend(struct sp_budget *b, uint64_t ns) {
    if (b->percent == SP_BUDGET_NONE)
        return;
    int64_t least = -of_rate(b, OWED_S * SECOND_NS);
    b->left_ns -= (int64_t)ns;
    if (b->left_ns < least)
        b->left_ns = least;
}

static uint64_t unused(const struct sp_allowance *a) {
    return a->until_ns != SP_BUDGET_NONE && a->until_ns > a->used_ns ? a->until_ns - a->used_ns : 0;
}

/* How many hungry workers are to share. */
static uint64_t sharers(const struct sp_budget *b) {
    return b->hungry > b->hungry_now ? b->hungry : b->hungry_now;
}

static void count_hungry(struct sp_budget *b, struct sp_allowance *a, uint64_t now_ns) {
    if (!b->period || now_ns - b->period_ns > PERIOD_NS) {
        b->hungry = b->hungry_now;
        b->hungry_now = 0;
        b->period++;
        b->period_ns = now_ns;
    }
    b->hungry_now += a->period != b->period;
    a->period = b->period;
}

/* Whether it is the worker's turn, which it has then had. */
static bool take_turn(struct sp_budget *b, struct sp_allowance *a, uint64_t now_ns) {
    if (!b->round || b->served >= sharers(b) || now_ns - b->round_ns > PERIOD_NS) {
        b->round++;
        b->served = 0;
        b->round_ns = now_ns;
    }
    if (a->round == b->round)
        return false;
    a->round = b->round;
    b->served++;
    return true;
}

/* What a hungry worker gets. */
static uint64_t share(struct sp_budget *b, struct sp_allowance *a, uint64_t now_ns) {
    int64_t free = b->left_ns - (int64_t)b->aside_ns;
    uint64_t equal = free > 0 ? (uint64_t)free / (2 * sharers(b)) : 0;
    if (equal < USEFUL_NS)
        equal = free >= (int64_t)USEFUL_NS && take_turn(b, a, now_ns) ? USEFUL_NS : 0;
    return equal;
}

/* Who works hardly at all keeps a little, and is not counted. */
static void keep_little(const struct sp_budget *b, struct sp_allowance *a) {
    int64_t free = b->left_ns - (int64_t)b->aside_ns;
    uint64_t has = unused(a);
    if (has > USEFUL_NS)
        a->until_ns -= (has + 1) / 2 < has - USEFUL_NS ? (has + 1) / 2 : has - USEFUL_NS;
    else if (has < USEFUL_NS / 2 && free >= (int64_t)USEFUL_NS)
        a->until_ns = a->used_ns + USEFUL_NS;
}

static void allow(struct sp_budget *b, struct sp_allowance *a, bool hungry, uint64_t now_ns) {
    uint64_t most = a->used_ns + ALLOWANCE_NS;
    if (hungry) {
        count_hungry(b, a, now_ns);
        a->until_ns += share(b, a, now_ns);
    } else {
        keep_little(b, a);
    }
    if (a->until_ns > most)
        a->until_ns = most;
}

/* Of what a worker used that was not bounded when it reported last, most may have been before. All of them
 * together owe no more than what may wait, or it would take long until anybody works again. */
static uint64_t since_bounded(const struct sp_budget *b, uint64_t spent, uint64_t now_ns) {
    uint64_t most = now_ns - b->since_ns;
    int64_t rest = b->left_ns + of_rate(b, WAITING_S * SECOND_NS);
    if (rest < 0)
        return 0;
    if (spent > (uint64_t)rest)
        spent = (uint64_t)rest;
    return spent < most ? spent : most;
}

uint64_t sp_budget_report(struct sp_budget *b, struct sp_allowance *a, uint64_t used_ns, uint64_t now_ns) {
    uint64_t spent = used_ns > a->used_ns ? used_ns - a->used_ns : 0, had = unused(a);
    if (!a->known && spent > JOINING_NS)
        spent = JOINING_NS;
    if (b->percent == SP_BUDGET_NONE) {
        b->aside_ns -= had;
        *a = (struct sp_allowance){
            .known = true, .used_ns = used_ns, .reported_ns = now_ns, .until_ns = SP_BUDGET_NONE};
        return SP_BUDGET_NONE;
    }
    /* Not bounded before, or not there: as if it had been allowed what it used. */
    if (a->until_ns == SP_BUDGET_NONE)
        spent = since_bounded(b, spent, now_ns);
    if (!a->known || a->until_ns == SP_BUDGET_NONE)
        a->until_ns = used_ns;
    a->known = true;
    fill(b, now_ns);
    sp_budget_spend(b, spent);
    bool busy = spent >= USEFUL_NS / 2 && spent >= (had + 1) / 2;
    b->aside_ns -= had;
    a->used_ns = used_ns;
    a->reported_ns = now_ns;
    /* What it owes by itself is forgotten when the domain's debt is. */
    if (a->until_ns + ALLOWANCE_NS < used_ns)
        a->until_ns = used_ns - ALLOWANCE_NS;
    b->aside_ns += had = unused(a);
    allow(b, a, busy || had == 0, now_ns);
    b->aside_ns += unused(a) - had;
    return a->until_ns;
}

void sp_budget_leave(struct sp_budget *b, struct sp_allowance *a, uint64_t now_ns) {
    uint64_t had = unused(a), passed = now_ns > a->reported_ns ? now_ns - a->reported_ns : 0;
    if (a->known)
        sp_budget_spend(b, had < passed ? had : passed);
    b->aside_ns -= had;
    *a = (struct sp_allowance){0};
}
