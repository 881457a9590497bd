/* SPDX-License-Identifier: MIT */
/*
 * What a daemon tells to monitoring: the tables of counters and settings as a text of OpenMetrics 1.0, one
 * sample for each domain. Nothing of single clients, neither numbers nor names.
 */
#ifndef SP_CORE_OPENMETRICS_H
#define SP_CORE_OPENMETRICS_H

#include "core/counters.h"
#include "core/histogram.h"
#include "core/settings.h"

struct sp_metrics_domain {
    uint32_t uid;
    uint64_t clients; /* connected */
    uint64_t families_waiting;
    uint64_t store_bytes;
    struct sp_settings settings;
    struct sp_counters counters;
    struct sp_histogram freezes;
};

struct sp_metrics {
    uint64_t cpu_ns, rss_bytes; /* of the daemon */
    const struct sp_metrics_domain *domain;
    size_t n_domains;
};

/* Writes the text, as much of it as fits and always terminated, and returns how long all of it is: as
 * snprintf(3). */
size_t sp_openmetrics(const struct sp_metrics *m, char *text, size_t bytes);

#endif
