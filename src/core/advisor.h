/* SPDX-License-Identifier: MIT */
/*
 * KSM's scan-time advisor: it chooses pages_to_scan so that a full scan takes advisor_target_scan_time.
 *
 * After each full scan: as many times more pages as it took longer than it should have, times how the time of
 * a scan changes, smoothed (three tenths of what the last two scans say and seven of what was known before),
 * no more than advisor_max_cpu allows at what these pages cost, and between advisor_min_pages_to_scan and
 * advisor_max_pages_to_scan, of which the latter wins. Times are whole seconds, shares whole percents, all of
 * them at least 1. This is what the kernel's does (Documentation/admin-guide/mm/ksm.rst, "Advisor"; observed
 * on Linux 6.18), with one difference: the kernel's begins as if scans were becoming shorter and shorter,
 * which makes its first step a third of what is meant; ours begins with no change.
 *
 * Pure.
 */
#ifndef SP_CORE_ADVISOR_H
#define SP_CORE_ADVISOR_H

#include "core/settings.h"

struct sp_advisor {
    bool on;
    uint64_t pages;    /* the advice */
    uint64_t began_ns; /* the scan that is under way */
    uint64_t cpu_ns;   /* used until then */
    uint64_t last_s;   /* how long the one before took; 0: none yet */
    uint64_t change;   /* of scans' times, percent */
};

/* Settings have changed, or a domain begins with them: switches it on or off, and keeps its advice within its
 * bounds. `cpu_ns`: what merging has used so far. */
void sp_advisor_set(struct sp_advisor *a, const struct sp_settings *s, uint64_t now_ns, uint64_t cpu_ns);
/* A full scan has ended; nothing to do while it is off. */
void sp_advisor_scanned(struct sp_advisor *a, const struct sp_settings *s, uint64_t now_ns, uint64_t cpu_ns);
/* Puts the advice in the place of what somebody has set. */
void sp_advisor_apply(const struct sp_advisor *a, struct sp_settings *s);

#endif
