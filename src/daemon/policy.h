/* SPDX-License-Identifier: MIT */
/*
 * How much a domain works: its CPU budget (core/budget.h), the advisor that chooses pages_to_scan
 * (core/advisor.h), and, when that is wanted, memory pressure, which decides between two budgets.
 *
 * The budget is paid by the CPU time that clients report, and by the daemon's own. Of the latter a domain
 * pays what serving its clients takes, and what is done for all: so that no domain pays less than it costs,
 * and none pays for another's clients. Nothing is measured while no domain has a budget.
 */
#ifndef SP_DAEMON_POLICY_H
#define SP_DAEMON_POLICY_H

#include "daemon/service.h"

/* The domain's settings have changed, it is new, or the pressure is another one. */
void policy_changed(struct domain *d, uint64_t now_ns);
/* A client has reported; true: the domain's clients are to be told other settings. */
bool policy_reported(struct member *m, uint64_t now_ns);
/* It has gone. */
void policy_left(struct member *m, uint64_t now_ns);
/* Pressure is there, or no more. */
void policy_pressure(struct service *s, bool pressed, uint64_t now_ns);

/* Around what is done for a client: the former's result goes to the latter, with the client's domain, NULL
 * when it has none. */
uint64_t policy_serve(const struct service *s);
void policy_served(struct service *s, struct domain *d, uint64_t begun_ns);

/* The domain's settings with what is in the place of some of them at present. */
struct sp_settings policy_settings(const struct domain *d);
/* The same of all domains together, as who controls them sees it. */
struct sp_settings policy_settings_of_all(const struct service *s);
/* Whether pages_to_scan is the advisor's, with these settings. */
bool policy_advises(const struct sp_settings *s);

#endif
