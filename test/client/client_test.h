/* SPDX-License-Identifier: MIT */
/*
 * What the tests of libsamepage share: memory with known content, what the kernel says about it, and
 * children. The library is used through its public header only.
 */
#ifndef SP_TEST_CLIENT_H
#define SP_TEST_CLIENT_H

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <samepage/samepage.h>

#include "../child.h"

#define PAGE SAMEPAGE_PAGE_SIZE
/* Long enough for any machine, so that its end means "never". */
#define LONG_MS 120000

static inline char *pages_new(size_t n) {
    char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || madvise(p, n * PAGE, MADV_NOHUGEPAGE)) {
        perror("mmap");
        exit(99);
    }
    return p;
}

static inline void pages_free(char *p, size_t n) {
    if (munmap(p, n * PAGE)) {
        perror("munmap");
        exit(99);
    }
}

/* The sanitizers turn mlock into nothing. */
static inline bool lock_pages(char *p, size_t n) {
    return !syscall(SYS_mlock, p, n * PAGE);
}

static inline bool unlock_pages(char *p, size_t n) {
    return !syscall(SYS_munlock, p, n * PAGE);
}

/* Page i of content `seed`: no two pages alike, no page of zeros. */
static inline void page_fill(void *page, unsigned seed, size_t i) {
    uint64_t *w = page, x = ((uint64_t)seed << 32 | i) * UINT64_C(0x9E3779B97F4A7C15) | 1;
    for (size_t k = 0; k < PAGE / 8; k++)
        w[k] = x + k * 2654435761u;
}

static inline bool page_is(const void *page, unsigned seed, size_t i) {
    char want[4096] __attribute__((aligned(8)));
    page_fill(want, seed, i);
    return !memcmp(page, want, PAGE);
}

static inline void pages_fill(char *p, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++)
        page_fill(p + i * PAGE, seed, i);
}

static inline bool pages_are(const char *p, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++)
        if (!page_is(p + i * PAGE, seed, i))
            return false;
    return true;
}

static inline bool pages_are_zero(const char *p, size_t n) {
    for (size_t i = 0; i < n * PAGE; i++)
        if (p[i])
            return false;
    return true;
}

/* What /proc/self/smaps says of a range whose ends are ends of mappings or lie in mappings of one kind. */
struct usage {
    size_t private_bytes;  /* Private_Clean and Private_Dirty */
    size_t shared_bytes;   /* Shared_Clean and Shared_Dirty */
    size_t store_mappings; /* of a memfd of ours */
};

static inline struct usage usage_of(const void *start, size_t bytes) {
    struct usage u = {0};
    char line[512];
    unsigned long from, to, kib, begin = (unsigned long)start;
    bool inside = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2 && strchr(line, '-') < strchr(line, ' ')) {
            inside = from < begin + bytes && to > begin;
            u.store_mappings += inside && strstr(line, "memfd:samepage");
        } else if (inside && sscanf(line, "Anonymous: %lu kB", &kib) == 1) {
            u.private_bytes += kib << 10;
            u.shared_bytes -= kib << 10;
        } else if (inside && sscanf(line, "Rss: %lu kB", &kib) == 1) {
            u.shared_bytes += kib << 10;
        }
    }
    if (f)
        fclose(f);
    return u;
}

static inline samepage_domain *domain_new(const char *settings) {
    struct samepage_options o = {.size = sizeof(o), .settings = settings};
    samepage_domain *d;
    int error = samepage_domain_open(&o, &d);
    if (error) {
        fprintf(stderr, "samepage_domain_open: %s\n", samepage_strerror(error));
        exit(99);
    }
    return d;
}

static inline struct samepage_domain_counters domain_counters(samepage_domain *d) {
    struct samepage_domain_counters c = {.size = sizeof(c)};
    assert_int_equal(samepage_domain_stats(d, &c), 0);
    return c;
}

static inline struct samepage_region_counters region_counters(samepage_region *r) {
    struct samepage_region_counters c = {.size = sizeof(c)};
    assert_int_equal(samepage_region_stats(r, &c), 0);
    return c;
}

/* A wait that only ends by success, or by the test's time limit. */
#define WAIT_FOR(condition)                                                                                  \
    do {                                                                                                     \
        usleep(2000);                                                                                        \
    } while (!(condition))

/* Ends the program as skipped where a worker cannot have a userfaultfd. */
static inline void require_userfaultfd(void) {
    samepage_domain *d = domain_new(NULL);
    samepage_region *r;
    char *p = pages_new(1);
    p[0] = 1;
    int error = samepage_register(d, p, PAGE, 0, &r);
    if (!error)
        error = samepage_wait_settled(d, LONG_MS);
    const char *text;
    if (samepage_domain_state(d, &text) != SAMEPAGE_STATE_RUNNING) {
        printf("1..0 # SKIP no merging here: %s (%s)\n", text, samepage_strerror(error));
        exit(77);
    }
    if (samepage_domain_close(d, 0))
        exit(99);
    pages_free(p, 1);
}

/* Two equal ranges, registered. */
struct pair {
    samepage_domain *domain;
    samepage_region *ra, *rb;
    char *a, *b;
    size_t n;
};

static inline void pair_register(struct pair *p) {
    assert_int_equal(samepage_register(p->domain, p->a, p->n * PAGE, 0, &p->ra), 0);
    assert_int_equal(samepage_register(p->domain, p->b, p->n * PAGE, 0, &p->rb), 0);
}

static inline void pair_new(struct pair *p, size_t n, const char *settings) {
    p->n = n;
    p->domain = domain_new(settings);
    p->a = pages_new(n);
    p->b = pages_new(n);
    pages_fill(p->a, n, 1);
    pages_fill(p->b, n, 1);
    pair_register(p);
}

static inline void pair_settle(struct pair *p) {
    assert_int_equal(samepage_wait_settled(p->domain, LONG_MS), 0);
    assert_int_equal(region_counters(p->ra).ksm_merging_pages, p->n);
    assert_int_equal(region_counters(p->rb).ksm_merging_pages, p->n);
}

static inline void pair_free(struct pair *p) {
    assert_int_equal(samepage_domain_close(p->domain, 0), 0);
    pages_free(p->a, p->n);
    pages_free(p->b, p->n);
}

#endif
