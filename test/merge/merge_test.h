/* SPDX-License-Identifier: MIT */
/*
 * What the tests of merge/ share: pages whose content is a function of a seed and a number, so that a record
 * of every byte costs nothing; a watchdog, because the typical failure is a thread that sleeps for ever; what
 * /proc tells about single pages; a process in which an engine works.
 */
#ifndef SP_TEST_MERGE_H
#define SP_TEST_MERGE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../child.h"
#include "merge/engine.h"
#include "merge/local.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/pagemap.h"
#include "os/store.h"
#include "os/syscall.h"
#include "os/thread.h"
#include "os/uffd.h"

#define PAGE      SP_PAGE_SIZE
#define MIB       ((size_t)1 << 20)
#define SECOND_NS UINT64_C(1000000000)

static inline void must(int r, const char *what) {
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-r));
        exit(99);
    }
}

/* Kills the program when it hangs; a test program that is killed has failed. */
static inline void watchdog(unsigned seconds) {
    alarm(seconds);
}

static inline uint64_t random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Page i of content `seed`: no two alike, none of zeros. */
static inline void page_fill(void *page, uint64_t seed, uint64_t i) {
    uint64_t *w = page;
    uint64_t x = (seed << 40 ^ i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (size_t k = 0; k < PAGE / 8; k++)
        w[k] = x + k;
}

static inline bool page_is(const void *page, uint64_t seed, uint64_t i) {
    const uint64_t *w = page;
    uint64_t x = (seed << 40 ^ i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (size_t k = 0; k < PAGE / 8; k++)
        if (w[k] != x + k)
            return false;
    return true;
}

static inline bool page_is_zero(const void *page) {
    const uint64_t *w = page;
    for (size_t k = 0; k < PAGE / 8; k++)
        if (w[k])
            return false;
    return true;
}

static inline void fill(uint8_t *p, size_t pages, uint64_t seed) {
    for (size_t i = 0; i < pages; i++)
        page_fill(p + i * PAGE, seed, i);
}

/* The second half has the content of the first: each page has a twin. */
static inline void fill_twins(uint8_t *p, size_t pages, uint64_t seed) {
    fill(p, pages / 2, seed);
    memcpy(p + pages / 2 * PAGE, p, pages / 2 * PAGE);
}

/* How many of the pages are not what fill() wrote. */
static inline size_t wrong_pages(const uint8_t *p, size_t pages, uint64_t seed) {
    size_t wrong = 0;
    for (size_t i = 0; i < pages; i++)
        wrong += !page_is(p + i * PAGE, seed, i);
    return wrong;
}

/* Anonymous memory that begins with a window, in small pages. */
static inline uint8_t *memory_new(size_t bytes) {
    void *p;
    must(sp_map_new(bytes, SP_WINDOW_SIZE, &p), "map");
    must(sp_advise((uintptr_t)p, bytes, MADV_NOHUGEPAGE), "nohugepage");
    return p;
}

static inline void memory_free(void *p, size_t bytes) {
    must(sp_unmap(p, bytes), "unmap");
}

/* The entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
static inline uint64_t pagemap_entry(const void *page) {
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)page / PAGE * 8)) != 8)
        must(-EIO, "pagemap");
    close(fd);
    return entry;
}

static inline bool page_present(const void *page) {
    return pagemap_entry(page) >> 63 & 1;
}

/* Present and of a file: it maps the store and was not written since. */
static inline bool page_of_store(const void *page) {
    uint64_t entry = pagemap_entry(page);
    return entry >> 63 & 1 && entry >> 61 & 1;
}

/* The same after reading it: what was merged and not read since has no entry in the page tables. */
static inline bool is_of_store(const uint8_t *page) {
    return *(const volatile uint8_t *)page + 1 && page_of_store(page);
}

/* How many of so many pages from `p` on are. */
static inline size_t of_store(const uint8_t *p, size_t pages) {
    size_t n = 0;
    for (size_t i = 0; i < pages; i++)
        n += is_of_store(p + i * PAGE);
    return n;
}

/* Lines of /proc/self/maps that begin in [start, end). */
static inline size_t mappings_between(const void *start, const void *end) {
    char line[512];
    size_t n = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        uint64_t at = strtoull(line, NULL, 16);
        n += at >= (uintptr_t)start && at < (uintptr_t)end;
    }
    if (f)
        fclose(f);
    return n;
}

static inline size_t mappings_all(void) {
    return mappings_between(NULL, (void *)UINTPTR_MAX);
}

/* A number from a file of "Name:   number" lines, 0 when it is not there. */
static inline uint64_t proc_number(const char *path, const char *name) {
    char line[512];
    uint64_t v = 0;
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, name, strlen(name)))
            v = strtoull(line + strlen(name), NULL, 10);
    if (f)
        fclose(f);
    return v;
}

static inline uint64_t threads_now(void) {
    return proc_number("/proc/self/status", "Threads:");
}

static inline void require_uffd(void) {
    uint64_t features;
    int r = sp_uffd_features(-1, &features);
    if (r < 0 || (features & SP_UFFD_NEEDED) != SP_UFFD_NEEDED) {
        printf("1..0 # SKIP no userfaultfd with MOVE, WP_ASYNC and WP_UNPOPULATED (%s)\n",
               r < 0 ? strerror(-r) : "features");
        exit(77);
    }
}

/* ---- an engine with an in-process domain ---- */

/* The same tests run with each kind of index: SAMEPAGE_TEST_INDEX=tree. */
static inline enum sp_index_kind test_index(void) {
    const char *kind = getenv("SAMEPAGE_TEST_INDEX");
    return kind && !strcmp(kind, "tree") ? SP_INDEX_TREE : SP_INDEX_HASH;
}

struct engine_rig {
    struct sp_settings settings;
    struct sp_link *link; /* the local one */
    struct sp_engine *engine;
};

/* Quick to settle, so that tests are. */
static inline void rig_settings(struct engine_rig *r) {
    sp_settings_init(&r->settings);
    r->settings.v[SP_SETTING_sleep_millisecs] = 10;
    r->settings.v[SP_SETTING_sleep_max_millisecs] = 40;
}

/* With the settings as they are. `wrap` may put a link of the test's own around the local one. */
static inline void rig_begin(struct engine_rig *r, struct sp_link *(*wrap)(struct sp_link *)) {
    must(sp_local_link_new(&r->settings, test_index(), &r->link), "local link");
    must(sp_engine_new(wrap ? wrap(r->link) : r->link, &r->settings, &r->engine), "engine");
}

static inline void rig_init(struct engine_rig *r, struct sp_link *(*wrap)(struct sp_link *)) {
    rig_settings(r);
    rig_begin(r, wrap);
}

static inline uint64_t rig_add(struct engine_rig *r, const void *p, size_t bytes) {
    uint64_t eligible = 0;
    sp_engine_lock(r->engine);
    int error = sp_engine_add_locked(r->engine, (uintptr_t)p, (uintptr_t)p + bytes, true, &eligible);
    sp_engine_unlock(r->engine);
    must(error, "add");
    return eligible;
}

/* New memory, registered, in which each page has a twin. */
static inline uint8_t *rig_twins(struct engine_rig *r, size_t bytes, uint64_t seed) {
    uint8_t *p = memory_new(bytes);
    fill_twins(p, bytes / PAGE, seed);
    rig_add(r, p, bytes);
    return p;
}

static inline int rig_settle(struct engine_rig *r) {
    return sp_engine_wait_settled(r->engine, 30 * SECOND_NS);
}

static inline uint64_t rig_counter(struct engine_rig *r, enum sp_counter which) {
    struct sp_report report;
    memset(&report, 0, sizeof(report));
    sp_engine_report(r->engine, &report);
    sp_local_link_counters(r->link, &report.counters);
    return report.counters.v[which];
}

/* Waits until a counter is what it should be; false: it did not become so in 30 s. */
static inline bool rig_until(struct engine_rig *r, enum sp_counter which, uint64_t least, uint64_t most) {
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t v = rig_counter(r, which);
        if (v >= least && v <= most)
            return true;
        sp_sleep_ns(SECOND_NS / 100);
    }
    fprintf(stderr, "%s is %llu, wanted %llu to %llu\n", sp_counter_info[which].name,
            (unsigned long long)rig_counter(r, which), (unsigned long long)least, (unsigned long long)most);
    return false;
}

static inline uint64_t rig_range(struct engine_rig *r, const void *p, size_t bytes, enum sp_counter which) {
    struct sp_counters c;
    sp_engine_range_counters(r->engine, (uintptr_t)p, (uintptr_t)p + bytes, &c);
    return c.v[which];
}

/* The application's side of munmap(2) of registered memory. */
static inline void rig_unmap(struct engine_rig *r, void *p, size_t bytes) {
    sp_engine_lock(r->engine);
    sp_engine_remove_locked(r->engine, (uintptr_t)p, (uintptr_t)p + bytes, true);
    int error = sp_unmap(p, bytes);
    sp_engine_unlock(r->engine);
    must(error, "unmap");
}

#endif
