/* SPDX-License-Identifier: MIT */
/*
 * What the index of a domain costs: memory for each candidate page (as counted by its allocator, the worst
 * moment while it grew, and what the process really holds) and time for each question, with 1, 10 and 100
 * million synthetic pages, or as many as are asked for. Usage: bench_index [MAX_PAGES [FIRST]]
 *
 *   insert   a page nobody knows is remembered (at random places of the index, as keyed fingerprints are)
 *   again    a page that is remembered is asked about again
 *   miss     a look-up of what is not there, which changes nothing
 *   publish  a tenth of the pages gets a twin: asked about, sent, committed
 *   share    another client asks about these: stable set, reference and ledger
 *   release  and gives them back
 */
#include "core/domain.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define BATCH        512
#define LARGE_BYTES  (64 * 1024)
#define BYTES_WANTED 24.0
/* All pages are put in; of more than so many, so many are asked about, as their places are random. */
#define ASKED_MAX UINT64_C(20000000)

/* Large blocks straight from the kernel, so that freed ones go back to it. */
struct memory {
    uint64_t bytes;
    uint64_t pages;       /* inserted so far */
    uint64_t pages_least; /* from which on the worst moment counts */
    double worst;         /* bytes per page */
};

static void *memory_get(void *ctx, size_t bytes) {
    struct memory *m = ctx;
    void *p;
    if (bytes >= LARGE_BYTES) {
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        p = p == MAP_FAILED ? NULL : p;
    } else {
        p = calloc(1, bytes);
    }
    if (!p)
        return NULL;
    m->bytes += bytes;
    if (m->pages >= m->pages_least && m->pages > 0 && (double)m->bytes / (double)m->pages > m->worst)
        m->worst = (double)m->bytes / (double)m->pages;
    return p;
}

static void memory_put(void *ctx, void *p, size_t bytes) {
    struct memory *m = ctx;
    if (!p)
        return;
    m->bytes -= bytes;
    if (bytes >= LARGE_BYTES)
        (void)munmap(p, bytes);
    else
        free(p);
}

static uint64_t rss_bytes(void) {
    unsigned long long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (f)
        (void)fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static double now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* A probe, as pages are asked about first. splitmix64: a bijection, so hardly any two are the same. */
static sp_fp fp_of(uint64_t i) {
    uint64_t x = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return (sp_fp){x & ~UINT64_C(1) ? x & ~UINT64_C(1) : 2};
}

static void punch(void *ctx, sp_store_page first, uint64_t n) {
    *(uint64_t *)ctx += n;
}

static void hint(void *ctx, sp_client client, sp_page page) {
}

struct run {
    struct sp_domain *d;
    struct sp_query queries[BATCH];
    struct sp_answer answers[BATCH];
};

static size_t batch_fill(struct run *r, uint64_t from, uint64_t end, uint64_t fp_offset) {
    size_t n = end - from < BATCH ? (size_t)(end - from) : BATCH;
    for (size_t i = 0; i < n; i++)
        r->queries[i] = (struct sp_query){{from + i}, fp_of(from + i + fp_offset)};
    return n;
}

static void expect(struct run *r, size_t n, enum sp_answer_kind kind) {
    for (size_t i = 0; i < n; i++) {
        if (r->answers[i].kind != kind) {
            fprintf(stderr, "bench_index: answer %d instead of %d\n", r->answers[i].kind, kind);
            exit(1);
        }
    }
}

/* Each returns nanoseconds per page. */
static double ask_all(struct run *r, sp_client client, uint64_t pages, enum sp_answer_kind kind,
                      uint64_t *progress) {
    double start = now_ns();
    for (uint64_t at = 0; at < pages; at += BATCH) {
        size_t n = batch_fill(r, at, pages, 0);
        sp_domain_ask(r->d, client, r->queries, n, r->answers);
        expect(r, n, kind);
        if (progress)
            *progress = at + n;
    }
    return (now_ns() - start) / (double)pages;
}

static double miss_all(struct run *r, sp_client client, uint64_t pages) {
    double start = now_ns();
    for (uint64_t at = 0; at < pages; at += BATCH) {
        size_t n = batch_fill(r, at, pages, UINT64_C(1) << 40);
        sp_domain_forget(r->d, client, r->queries, n);
    }
    return (now_ns() - start) / (double)pages;
}

static double publish_all(struct run *r, sp_client client, uint64_t pages) {
    double start = now_ns();
    for (uint64_t at = 0; at < pages; at += BATCH) {
        size_t n = batch_fill(r, at, pages, 0);
        sp_domain_ask(r->d, client, r->queries, n, r->answers);
        expect(r, n, SP_ANSWER_SEND);
        for (size_t i = 0; i < n; i++) {
            struct sp_answer a;
            sp_fp whole = {r->queries[i].fp.v | 1};
            sp_domain_publish(r->d, client, r->queries[i], whole, &a);
            if (a.kind != SP_ANSWER_SEND ||
                sp_domain_publish_commit(r->d, client, r->queries[i], whole, r->queries[i].fp, a.store) < 0) {
                fprintf(stderr, "bench_index: cannot publish\n");
                exit(1);
            }
        }
    }
    return (now_ns() - start) / (double)pages;
}

static double release_all(struct run *r, sp_client client, uint64_t pages) {
    double start = now_ns();
    for (uint64_t at = 0; at < pages; at += SP_WINDOW_PAGES) {
        uint64_t n = pages - at < SP_WINDOW_PAGES ? pages - at : SP_WINDOW_PAGES;
        if (sp_domain_release(r->d, client, (sp_store_page){at}, n, 1) < 0) {
            fprintf(stderr, "bench_index: cannot release\n");
            exit(1);
        }
    }
    return (now_ns() - start) / (double)pages;
}

static sp_client client_new(struct sp_domain *d) {
    sp_client client;
    if (sp_domain_client_add(d, &client) < 0) {
        fprintf(stderr, "bench_index: no memory\n");
        exit(1);
    }
    return client;
}

/* True: within the bytes wanted. */
static bool measure(uint64_t pages) {
    struct memory m = {.pages_least = pages / 2};
    uint64_t punched = 0, rss = rss_bytes();
    struct sp_alloc alloc = {memory_get, memory_put, &m};
    struct sp_domain_events events = {punch, hint, &punched};
    static struct run r;
    if (sp_domain_new(&alloc, &events, &r.d) < 0) {
        fprintf(stderr, "bench_index: no memory\n");
        exit(1);
    }
    sp_client first = client_new(r.d), second = client_new(r.d), third = client_new(r.d);
    double insert = ask_all(&r, first, pages, SP_ANSWER_UNKNOWN, &m.pages);
    double counted = (double)m.bytes / (double)pages;
    double resident = (double)(rss_bytes() - rss) / (double)pages;
    double worst = m.worst;
    uint64_t asked = pages < ASKED_MAX ? pages : ASKED_MAX, shared = asked / 10;
    double again = ask_all(&r, first, asked, SP_ANSWER_UNKNOWN, NULL);
    double miss = miss_all(&r, first, asked);
    double publish = publish_all(&r, second, shared);
    double share = ask_all(&r, third, shared, SP_ANSWER_SHARE, NULL);
    sp_domain_release_done(r.d, third, 1);
    double release = release_all(&r, third, shared);
    printf("%11" PRIu64 " | %7.2f %7.2f %7.2f | %6.0f %6.0f %6.0f | %7.0f %6.0f %7.0f\n", pages, counted,
           worst, resident, insert, again, miss, publish, share, release);
    (void)fflush(stdout);
    r.d = sp_domain_free(r.d);
    if (m.bytes != 0) {
        fprintf(stderr, "bench_index: %" PRIu64 " bytes lost\n", m.bytes);
        exit(1);
    }
    return worst <= BYTES_WANTED && resident <= BYTES_WANTED;
}

/* 0: it is no number, or too small. */
static unsigned long long pages_of(const char *text) {
    char *end;
    errno = 0;
    unsigned long long pages = strtoull(text, &end, 10);
    return end == text || *end != '\0' || errno != 0 || pages < 1000 ? 0 : pages;
}

int main(int argc, char **argv) {
    unsigned long long max = argc > 1 ? pages_of(argv[1]) : 100000000, pages = max < 1000000 ? max : 1000000;
    if (argc > 2)
        pages = pages_of(argv[2]);
    if (argc > 3 || !max || !pages || pages > max) {
        fprintf(
            stderr,
            "usage: bench_index [MAX_PAGES [FIRST]]   (at least 1000; default 100000000, from 1000000 on)\n");
        return 2;
    }
    struct utsname u;
    if (uname(&u) == 0)
        printf("%s %s %s, %ld processors\n", u.sysname, u.release, u.machine, sysconf(_SC_NPROCESSORS_ONLN));
    printf("            |    bytes for each page  |          ns for each page\n"
           "      pages | counted   worst     RSS | insert  again   miss | publish  share release\n");
    bool good = true; /* the largest size decides: small ones feel malloc's rounding */
    for (unsigned long long last = 0; last<max; pages = pages> max / 10 ? max : 10 * pages)
        good = measure(last = pages);
    printf("at most %.0f bytes for each page of the largest, while growing and resident: %s\n", BYTES_WANTED,
           good ? "yes" : "NO");
    return good ? 0 : 1;
}
