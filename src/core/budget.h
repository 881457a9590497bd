/* SPDX-License-Identifier: MIT */
/*
 * A CPU budget that holds: whatever the workers of a domain and its daemon use together stays, over a minute,
 * at or under so many percent of one CPU.
 *
 * Kept by whoever keeps the index. Budget flows in evenly, at 90 % of the rate, and up to five seconds' worth
 * of it may wait: so a minute sees 5 + 54 of its 60 seconds' worth at the most, and the rest is for what
 * cannot be foreseen (a pass that has begun looks at memory before it can be told to end). What was used is
 * paid after the fact, as workers report it: the budget may go below zero, and then nobody works until it has
 * come up again.
 *
 * With each report a worker is told up to which CPU time of its own it may work: its allowance. Allowances
 * that were not used yet are set aside, so that they never add up to more than there is. Who used most of the
 * last one is hungry, and the hungry get equal shares of what is left; what the others do not use goes back.
 * Where equal shares are too small to be of use, one after the other gets a useful one.
 *
 * Pure, and not thread-safe.
 */
#ifndef SP_CORE_BUDGET_H
#define SP_CORE_BUDGET_H

#include "core/settings.h"

/* As a rate, and as an allowance: no bound. */
#define SP_BUDGET_NONE UINT64_MAX

/* Zeros, then sp_budget_set. */
struct sp_budget {
    uint64_t since_ns;   /* when there was none before */
    uint64_t percent;    /* of one CPU; SP_BUDGET_NONE */
    int64_t left_ns;     /* that may be used now, by those who have allowances, too */
    uint64_t at_ns;      /* when that was so */
    uint64_t aside_ns;   /* of it: allowances that are not used yet */
    uint32_t period;     /* hungry workers are counted anew in each, because some stop and say nothing */
    uint64_t period_ns;  /* when it began */
    uint64_t hungry;     /* as counted in the last one */
    uint64_t hungry_now; /* and so far in this one */
    uint32_t round;      /* in which each of the hungry gets something in turn */
    uint64_t round_ns;   /* when it began */
    uint64_t served;     /* in it so far */
};

/* Of one worker; zeros to begin with. */
struct sp_allowance {
    bool known;
    uint32_t period;      /* in which it was hungry last */
    uint32_t round;       /* in which it had its turn last */
    uint64_t used_ns;     /* CPU time, as reported last */
    uint64_t reported_ns; /* when */
    uint64_t until_ns;    /* CPU time up to which it may work; SP_BUDGET_NONE */
};

/* What the settings want; `plenty`: there is no memory pressure. */
uint64_t sp_budget_wanted(const struct sp_settings *s, bool plenty);
/* The rate is another one, perhaps none. */
void sp_budget_set(struct sp_budget *b, uint64_t percent, uint64_t now_ns);
/* Something was used by who has no allowance. */
void sp_budget_spend(struct sp_budget *b, uint64_t ns);
/* A worker has used so much CPU time in all. Returns up to which it may work: a->until_ns. */
uint64_t sp_budget_report(struct sp_budget *b, struct sp_allowance *a, uint64_t used_ns, uint64_t now_ns);
/* A worker has gone: what it can have used since its last report is counted as used. */
void sp_budget_leave(struct sp_budget *b, struct sp_allowance *a, uint64_t now_ns);

#endif
