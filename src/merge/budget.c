/* SPDX-License-Identifier: MIT */
/*
 * The worker's side of the CPU budget (core/budget.h): it works up to the CPU time of its own that the last
 * report brought, and asks for more with the next one. What is left to do then waits, as with pages_to_scan.
 *
 * A look at what was written comes before anything is read and cannot be cut: so that a process with much
 * memory and a small share does not look and look, and never comes to read, a pass that has begun reads for
 * as long as it looked, even if that is too much. It is paid for before the next one.
 */
#include "merge/state.h"

#define NS_PER_MS UINT64_C(1000000)
/* Between two questions whether there is more by now. The longest is shorter than the time after which the
 * budget takes no account of who does not ask. */
#define RETRY_NS     (500 * NS_PER_MS)
#define RETRY_MAX_NS (4000 * NS_PER_MS)

bool sp_cpu_is_used(const struct sp_worker *w) {
    const struct sp_link *l = w->engine->link;
    if (!l->cpu_bounded)
        return false;
    uint64_t until = l->cpu_until_ns > w->cpu_least_ns ? l->cpu_until_ns : w->cpu_least_ns;
    return sp_thread_cpu_ns() >= until;
}

bool sp_cpu_may_begin(struct sp_worker *w) {
    w->cpu_least_ns = 0;
    if (sp_cpu_is_used(w))
        return false;
    w->cpu_retry_ns = RETRY_NS;
    w->cpu_asked_ns = w->reported_ns;
    return true;
}

/* The next report asks; after one that did not help it comes later and later. Whatever else wakes the worker
 * meanwhile changes nothing. */
void sp_cpu_wait(struct sp_worker *w) {
    uint64_t now_ns = sp_now_ns();
    if (w->cpu_asked_ns != w->reported_ns && w->next_report_ns) {
        w->cpu_asked_ns = w->reported_ns;
        w->next_report_ns = w->reported_ns + w->cpu_retry_ns;
        w->cpu_retry_ns = w->cpu_retry_ns * 2 < RETRY_MAX_NS ? w->cpu_retry_ns * 2 : RETRY_MAX_NS;
    }
    w->next_pass_ns = w->next_report_ns > now_ns ? w->next_report_ns : now_ns;
}

void sp_cpu_looked(struct sp_worker *w, uint64_t began_ns) {
    if (w->engine->link->cpu_bounded)
        w->cpu_least_ns = 2 * sp_thread_cpu_ns() - began_ns;
}
