/* SPDX-License-Identifier: MIT */
/*
 * Watches the saving grow, cheaply, and says when it has reached a number of pages: the benchmark's
 * stopwatch, the same for the kernel's KSM and for samepage.
 *
 *   poll ksm PAGES TIMEOUT_SECONDS      reads pages_sharing and ksm_zero_pages of /sys/kernel/mm/ksm
 *   poll SOCKET PAGES TIMEOUT_SECONDS [PID ADDRESS PAGES]...
 *                                       asks the daemon at SOCKET
 *
 * KSM counts a page when it has been merged. A daemon counts it when it has promised it (I8), and the client
 * remaps it a little later: so once the daemon's counter is there, the page tables of the given memory, which
 * was all resident and private at first, are read too, until what has been remapped is there as well. That is
 * not done from the start, as it costs far more than asking.
 *
 * At the end, one JSON object on one line: whether it was reached, the time on CLOCK_MONOTONIC when that was
 * seen, pages saved, how the counter grew until then (pairs of time and pages), its own CPU time and, from a
 * daemon, its counters and freeze times. With PAGES 0 it looks once. Exit status: 0 reached, 1 not in time, 2
 * cannot look.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/counters.h"
#include "core/histogram.h"
#include "wire/control.h"

#define EVERY_NS (5 * 1000 * 1000)
#define NS       UINT64_C(1000000000)

/* Bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_FILE    (UINT64_C(1) << 61)

/* How the counter grew: a point for each 256th part of what is waited for, at most. */
#define CURVE_POINTS 256
static struct curve {
    size_t n;
    struct {
        uint64_t at_ns, pages;
    } point[CURVE_POINTS + 1];
} curve;

/* Memory of a workload. */
struct area {
    int pagemap_fd;
    uint64_t first_page, pages;
};

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

static void curve_add(uint64_t at_ns, uint64_t pages, uint64_t target_pages) {
    uint64_t last = curve.n ? curve.point[curve.n - 1].pages : 0;
    if (curve.n && pages < last + target_pages / CURVE_POINTS + 1)
        return;
    if (curve.n <= CURVE_POINTS)
        curve.point[curve.n++] = (typeof(*curve.point)){at_ns, pages};
}

static void curve_print(void) {
    printf(", \"curve\": [");
    for (size_t i = 0; i < curve.n; i++)
        printf("%s[%" PRIu64 ", %" PRIu64 "]", i ? ", " : "", curve.point[i].at_ns, curve.point[i].pages);
    printf("]");
}

/* A benchmark's daemon serves one user, so there is one domain, or none yet. */
static void status_take(const struct sp_status *s, struct sp_counters *ret_counters,
                        struct sp_durations *ret_freezes) {
    memset(ret_counters, 0, sizeof(*ret_counters));
    memset(ret_freezes, 0, sizeof(*ret_freezes));
    if (!s->n_domains)
        return;
    *ret_counters = s->domains[0].counters;
    *ret_freezes = s->domains[0].freezes;
}

static bool area_open(struct area *a, char **words) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%s/pagemap", words[0]);
    a->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
    a->first_page = strtoull(words[1], NULL, 10) / SP_PAGE_SIZE;
    a->pages = strtoull(words[2], NULL, 10);
    return a->pagemap_fd >= 0;
}

/* Pages that are no longer the process's own: remapped to the store, or given back. */
static uint64_t area_given_up_pages(const struct area *a) {
    static uint64_t entries[8192];
    uint64_t own = 0;
    for (uint64_t done = 0; done < a->pages;) {
        uint64_t n = a->pages - done;
        if (n > sizeof(entries) / sizeof(*entries))
            n = sizeof(entries) / sizeof(*entries);
        ssize_t got = pread(a->pagemap_fd, entries, n * 8, (off_t)((a->first_page + done) * 8));
        if (got <= 0)
            return 0;
        for (size_t i = 0; i < (size_t)got / 8; i++)
            own += entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) && !(entries[i] & PAGEMAP_FILE);
        done += (uint64_t)got / 8;
    }
    return a->pages - own;
}

/* What the page tables say is saved, given how many store pages stand for what was given up. */
static uint64_t areas_saved_pages(const struct area *areas, size_t n_areas, uint64_t store_pages) {
    uint64_t given_up = 0;
    for (size_t i = 0; i < n_areas; i++)
        given_up += area_given_up_pages(&areas[i]);
    return given_up > store_pages ? given_up - store_pages : 0;
}

static uint64_t counters_saved_pages(const struct sp_counters *c) {
    return c->v[SP_COUNTER_pages_sharing] + c->v[SP_COUNTER_ksm_zero_pages];
}

static void print_daemon(const struct sp_status *s) {
    struct sp_counters counters;
    struct sp_durations freezes;
    status_take(s, &counters, &freezes);
    printf(", \"daemon_cpu_ns\": %" PRIu64 ", \"daemon_rss_bytes\": %" PRIu64, s->daemon_cpu_ns,
           s->daemon_rss_bytes);
    printf(", \"freezes\": %" PRIu64 ", \"freeze_p50_ns\": %" PRIu64 ", \"freeze_p99_ns\": %" PRIu64
           ", \"freeze_max_ns\": %" PRIu64,
           freezes.count, freezes.p50_ns, freezes.p99_ns, freezes.max_ns);
    printf(", \"counters\": {");
    for (size_t c = 0; c < SP_COUNTER_COUNT; c++)
        printf("%s\"%s\": %" PRIu64, c ? ", " : "", sp_counter_info[c].name, counters.v[c]);
    printf("}");
}

static int report(bool reached, uint64_t at_ns, uint64_t saved_pages, const struct sp_status *s) {
    printf("{\"reached\": %s, \"at_ns\": %" PRIu64 ", \"saved_pages\": %" PRIu64
           ", \"poll_cpu_ns\": %" PRIu64,
           reached ? "true" : "false", at_ns, saved_pages, now_ns(CLOCK_PROCESS_CPUTIME_ID));
    curve_print();
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
        curve_add(now, saved, target_pages);
        if (saved >= target_pages || now >= deadline_ns)
            return report(saved >= target_pages, now, saved, NULL);
        nanosleep(&(struct timespec){.tv_nsec = EVERY_NS}, NULL);
    }
}

static int poll_daemon(const char *socket_path, uint64_t target_pages, uint64_t deadline_ns,
                       const struct area *areas, size_t n_areas) {
    for (;;) {
        struct sp_status *s = NULL;
        int r = sp_control_status(socket_path, 5000, &s);
        if (r < 0) {
            fprintf(stderr, "poll: %s: %s\n", socket_path, strerror(-r));
            return 2;
        }
        struct sp_counters counters;
        struct sp_durations freezes;
        status_take(s, &counters, &freezes);
        uint64_t saved = counters_saved_pages(&counters);
        curve_add(now_ns(CLOCK_MONOTONIC), saved, target_pages);
        if (n_areas && saved >= target_pages)
            saved = areas_saved_pages(areas, n_areas, counters.v[SP_COUNTER_pages_shared]);
        uint64_t now = now_ns(CLOCK_MONOTONIC);
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
    struct area areas[64];
    size_t n_areas = 0;
    if (argc < 4 || (argc - 4) % 3 || argc > 4 + 3 * 64) {
        fprintf(stderr, "usage: poll ksm|SOCKET PAGES TIMEOUT_SECONDS [PID ADDRESS PAGES]...\n");
        return 2;
    }
    for (; 4 + 3 * (int)n_areas < argc; n_areas++)
        if (!area_open(&areas[n_areas], argv + 4 + 3 * n_areas)) {
            perror("poll: pagemap");
            return 2;
        }
    uint64_t target_pages = strtoull(argv[2], NULL, 10);
    uint64_t deadline_ns = now_ns(CLOCK_MONOTONIC) + strtoull(argv[3], NULL, 10) * NS;
    if (strcmp(argv[1], "ksm") == 0)
        return poll_ksm(target_pages, deadline_ns);
    return poll_daemon(argv[1], target_pages, deadline_ns, areas, n_areas);
}
