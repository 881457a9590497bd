/* SPDX-License-Identifier: MIT */
/*
 * One index beside the other: a domain within this process, whose memory is merged until it has settled.
 * Prints one line of JSON. bench/indexes.py runs it, in turns.
 *
 *   bench_trees same|shuffled|unique|last hash|tree MIB
 *
 * same:     the second half is the first once more, in the same order
 * shuffled: the second half is the first once more, in another order
 * unique:   no two pages are alike, and they differ in their first word
 * last:     no two pages are alike, but they differ in their last word only
 *
 * Besides, what the index alone costs, without an engine and without the kernel: the pages of the first half
 * are asked about, as new ones, until each is known, and their contents lie there to be read ("bare"). CPU is
 * that of the whole process, which does nothing else meanwhile.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/trees.h"
#include "merge/engine.h"
#include "merge/local.h"
#include "os/mapping.h"
#include "os/memory.h"

#define PAGE  SP_PAGE_SIZE
#define WORDS (PAGE / sizeof(uint64_t))

enum workload { SAME, SHUFFLED, UNIQUE, LAST, WORKLOADS };
static const char *const names[WORKLOADS] = {"same", "shuffled", "unique", "last"};

static enum workload workload;
static uint8_t *memory;
static uint64_t pages;

static void must(int error, const char *what) {
    if (error < 0) {
        fprintf(stderr, "bench_trees: %s: %s\n", what, strerror(-error));
        exit(1);
    }
}

static double seconds(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* splitmix64 */
static uint64_t mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Which content page i has. Shuffled: multiplication by an odd number, in a power of two. */
static uint64_t content_of(uint64_t i) {
    uint64_t half = pages / 2;
    if (workload == SHUFFLED && i >= half)
        return (i - half) * 2654435761u % half;
    return workload == SAME ? i % half : i;
}

static uint64_t word_of(uint64_t content, size_t k) {
    if (workload == LAST)
        return k < WORDS - 1 ? k + 1 : mix(content);
    return mix(content * WORDS + k);
}

static void fill(void) {
    for (uint64_t i = 0; i < pages; i++)
        for (size_t k = 0; k < WORDS; k++)
            ((uint64_t *)(void *)(memory + i * PAGE))[k] = word_of(content_of(i), k);
}

static uint64_t wrong(void) {
    uint64_t n = 0;
    for (uint64_t i = 0; i < pages; i++)
        for (size_t k = 0; k < WORDS; k++)
            n += ((uint64_t *)(void *)(memory + i * PAGE))[k] != word_of(content_of(i), k);
    return n;
}

/* ---- in a domain ---- */

struct result {
    double seconds, cpu;
    struct sp_counters counters;
};

static struct result merge(enum sp_index_kind kind) {
    struct sp_settings settings;
    struct sp_link *link;
    struct sp_engine *e;
    struct sp_report report;
    struct result r;
    sp_settings_init(&settings);
    must(sp_local_link_new(&settings, kind, &link), "link");
    must(sp_engine_new(link, &settings, &e), "engine");
    r.seconds = -seconds(CLOCK_MONOTONIC);
    r.cpu = -seconds(CLOCK_PROCESS_CPUTIME_ID);
    sp_engine_lock(e);
    must(sp_engine_add_locked(e, (uintptr_t)memory, (uintptr_t)memory + pages * PAGE, true, NULL), "add");
    sp_engine_unlock(e);
    must(sp_engine_wait_settled(e, UINT64_C(600000000000)), "wait");
    r.seconds += seconds(CLOCK_MONOTONIC);
    r.cpu += seconds(CLOCK_PROCESS_CPUTIME_ID);
    sp_engine_report(e, &report);
    sp_local_link_counters(link, &report.counters);
    r.counters = report.counters;
    sp_engine_free(e);
    return r;
}

/* ---- the index alone ---- */

static const void *bare_page(void *ctx, sp_page page) {
    return memory + page.v * PAGE;
}

static const void *bare_store(void *ctx, sp_store_page store) {
    return NULL; /* there is none */
}

static void bare_punch(void *ctx, sp_store_page first, uint64_t n) {
}

static void bare_hint(void *ctx, sp_client client, sp_page page) {
}

static void bare_tree(const struct sp_alloc *alloc, const struct sp_key *key) {
    struct sp_trees_reader reader = {bare_store, bare_page, NULL};
    struct sp_trees *t;
    sp_store_page store;
    sp_page twin;
    must(sp_trees_new(alloc, key, &reader, &t), "trees");
    for (unsigned scan = 0; scan < 2; scan++)
        for (uint64_t i = 0; i < pages / 2; i++)
            if (sp_trees_ask(t, (sp_page){i}, memory + i * PAGE, &store, &twin) == SP_TREES_FAILED)
                must(-ENOMEM, "ask");
    sp_trees_free(t);
}

static void bare_hash(const struct sp_alloc *alloc, const struct sp_key *key) {
    struct sp_domain_events events = {bare_punch, bare_hint, NULL};
    struct sp_domain *d;
    sp_client client;
    static struct sp_query q[SP_WINDOW_PAGES];
    static struct sp_answer a[SP_WINDOW_PAGES];
    must(sp_domain_new(alloc, &events, &d), "domain");
    must(sp_domain_client_add(d, &client), "client");
    for (uint64_t i = 0; i < pages / 2; i += SP_WINDOW_PAGES) {
        size_t n = 0;
        for (; n < SP_WINDOW_PAGES && i + n < pages / 2; n++)
            q[n] = (struct sp_query){{i + n}, sp_probe(key, memory + (i + n) * PAGE), {0}};
        sp_domain_ask(d, client, q, n, a);
    }
    sp_domain_free(d);
}

/* CPU seconds. */
static double bare(enum sp_index_kind kind) {
    static const uint8_t random[32] = {1};
    struct sp_memory *own;
    struct sp_key key;
    sp_key_init(&key, random);
    must(sp_memory_new(false, &own), "memory");
    struct sp_alloc alloc = sp_memory_alloc(own);
    double cpu = -seconds(CLOCK_PROCESS_CPUTIME_ID);
    (kind == SP_INDEX_TREE ? bare_tree : bare_hash)(&alloc, &key);
    cpu += seconds(CLOCK_PROCESS_CPUTIME_ID);
    sp_memory_free(own);
    return cpu;
}

/* ---- main ---- */

static int usage(void) {
    fprintf(stderr, "usage: bench_trees same|shuffled|unique|last hash|tree MIB   (MIB a power of two)\n");
    return 2;
}

int main(int argc, char **argv) {
    char *end = NULL;
    unsigned long mib = argc == 4 ? strtoul(argv[3], &end, 10) : 0;
    while (argc == 4 && workload < WORKLOADS && strcmp(names[workload], argv[1]) != 0)
        workload++;
    bool tree = argc == 4 && !strcmp(argv[2], "tree");
    if (argc != 4 || workload == WORKLOADS || (!tree && strcmp(argv[2], "hash") != 0) || *end || !mib ||
        mib & (mib - 1) || mib > 65536)
        return usage();
    enum sp_index_kind kind = tree ? SP_INDEX_TREE : SP_INDEX_HASH;
    void *map;
    pages = mib << 20 >> SP_PAGE_SHIFT;
    must(sp_map_new(pages * PAGE, SP_WINDOW_SIZE, &map), "map");
    must(sp_advise((uintptr_t)map, pages * PAGE, MADV_NOHUGEPAGE), "nohugepage");
    memory = map;
    fill();
    double alone = bare(kind);
    struct result r = merge(kind);
    const uint64_t *v = r.counters.v;
    uint64_t bad = wrong(), twins = workload == SAME || workload == SHUFFLED ? pages / 2 : 0;
    printf("{\"pages\": %" PRIu64 ", \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"bare_cpu_seconds\": %.6f, "
           "\"bare_pages\": %" PRIu64 ", \"index_bytes\": %" PRIu64 ", \"sharing\": %" PRIu64
           ", \"twins\": %" PRIu64 ", \"scans\": %" PRIu64 ", \"wrong\": %" PRIu64 "}\n",
           pages, r.seconds, r.cpu, alone, pages / 2, v[SP_COUNTER_index_bytes], v[SP_COUNTER_pages_sharing],
           twins, v[SP_COUNTER_full_scans], bad);
    return bad || v[SP_COUNTER_pages_sharing] < twins * 99 / 100;
}
