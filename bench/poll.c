/* SPDX-License-Identifier: MIT */
/*
 * Watches the saving grow, cheaply, and says when it has reached a number of pages: the benchmark's
 * stopwatch, the same for the kernel's KSM and for samepage.
 *
 *   poll ksm PAGES TIMEOUT_SECONDS      reads pages_sharing and ksm_zero_pages of /sys/kernel/mm/ksm
 *   poll SOCKET PAGES TIMEOUT_SECONDS   asks the daemon at SOCKET
 *
 * At the end, one JSON object on one line: whether it was reached, the time on CLOCK_MONOTONIC when that was
 * seen, pages saved, its own CPU time and, from a daemon, its counters and freeze times. With PAGES 0 it
 * looks once. Exit status: 0 reached, 1 not in time, 2 cannot look.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/counters.h"
#include "core/histogram.h"
#include "wire/control.h"

#define EVERY_NS (5 * 1000 * 1000)
#define NS       UINT64_C(1000000000)

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static bool ksm_value(const char *name, uint64_t *ret_value) {
    char path[128];
    snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", name);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fscanf(f, "%" SCNu64, ret_value) == 1;
    fclose(f);
    return ok;
}

static bool ksm_saved(uint64_t *ret_pages) {
    uint64_t sharing, zero = 0;
    if (!ksm_value("pages_sharing", &sharing))
        return false;
    (void)ksm_value("ksm_zero_pages", &zero); /* kernels before 6.6 have none */
    *ret_pages = sharing + zero;
    return true;
}

/* What all domains have together: a benchmark's daemon serves one user, so there is one. */
static void status_sum(const struct sp_status *s, struct sp_counters *ret_counters,
                       struct sp_histogram *ret_freezes) {
    memset(ret_counters, 0, sizeof(*ret_counters));
    memset(ret_freezes, 0, sizeof(*ret_freezes));
    for (size_t d = 0; d < s->n_domains; d++) {
        for (size_t c = 0; c < SP_COUNTER_COUNT; c++)
            ret_counters->v[c] += s->domains[d].counters.v[c];
        sp_histogram_merge(ret_freezes, &s->domains[d].freezes);
    }
}

static uint64_t counters_saved_pages(const struct sp_counters *c) {
    return c->v[SP_COUNTER_pages_sharing] + c->v[SP_COUNTER_ksm_zero_pages];
}

static void print_daemon(const struct sp_status *s) {
    struct sp_counters counters;
    struct sp_histogram freezes;
    status_sum(s, &counters, &freezes);
    printf(", \"daemon_cpu_ns\": %" PRIu64 ", \"daemon_rss_bytes\": %" PRIu64, s->daemon_cpu_ns,
           s->daemon_rss_bytes);
    printf(", \"freezes\": %" PRIu64 ", \"freeze_p50_ns\": %" PRIu64 ", \"freeze_p99_ns\": %" PRIu64
           ", \"freeze_max_ns\": %" PRIu64,
           sp_histogram_total(&freezes), sp_histogram_percentile(&freezes, 50),
           sp_histogram_percentile(&freezes, 99), freezes.max_ns);
    printf(", \"counters\": {");
    for (size_t c = 0; c < SP_COUNTER_COUNT; c++)
        printf("%s\"%s\": %" PRIu64, c ? ", " : "", sp_counter_info[c].name, counters.v[c]);
    printf("}");
}

static int report(bool reached, uint64_t at_ns, uint64_t saved_pages, const struct sp_status *s) {
    printf("{\"reached\": %s, \"at_ns\": %" PRIu64 ", \"saved_pages\": %" PRIu64
           ", \"poll_cpu_ns\": %" PRIu64,
           reached ? "true" : "false", at_ns, saved_pages, now_ns(CLOCK_PROCESS_CPUTIME_ID));
    if (s)
        print_daemon(s);
    puts("}");
    return reached ? 0 : 1;
}

static int poll_ksm(uint64_t target_pages, uint64_t deadline_ns) {
    for (;;) {
        uint64_t saved = 0;
        if (!ksm_saved(&saved)) {
            fprintf(stderr, "poll: cannot read /sys/kernel/mm/ksm\n");
            return 2;
        }
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        if (saved >= target_pages || now >= deadline_ns)
            return report(saved >= target_pages, now, saved, NULL);
        nanosleep(&(struct timespec){.tv_nsec = EVERY_NS}, NULL);
    }
}

static int poll_daemon(const char *socket_path, uint64_t target_pages, uint64_t deadline_ns) {
    for (;;) {
        struct sp_status *s = NULL;
        int r = sp_control_status(socket_path, 5000, &s);
        if (r < 0) {
            fprintf(stderr, "poll: %s: %s\n", socket_path, strerror(-r));
            return 2;
        }
        struct sp_counters counters;
        struct sp_histogram freezes;
        status_sum(s, &counters, &freezes);
        uint64_t saved = counters_saved_pages(&counters), now = now_ns(CLOCK_MONOTONIC);
        if (saved >= target_pages || now >= deadline_ns) {
            r = report(saved >= target_pages, now, saved, s);
            sp_status_free(s);
            return r;
        }
        sp_status_free(s);
        nanosleep(&(struct timespec){.tv_nsec = EVERY_NS}, NULL);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: poll ksm|SOCKET PAGES TIMEOUT_SECONDS\n");
        return 2;
    }
    uint64_t target_pages = strtoull(argv[2], NULL, 10);
    uint64_t deadline_ns = now_ns(CLOCK_MONOTONIC) + strtoull(argv[3], NULL, 10) * NS;
    if (strcmp(argv[1], "ksm") == 0)
        return poll_ksm(target_pages, deadline_ns);
    return poll_daemon(argv[1], target_pages, deadline_ns);
}
