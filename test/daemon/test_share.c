/* SPDX-License-Identifier: MIT */
/*
 * Two and more clients share pages through a real daemon: content, hints, references, limits, and that a
 * content which is not what its fingerprint says is declined.
 */
#include "linked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "merge/engine.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/pagemap.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/thread.h"
#include "os/uffd.h"

#define PAGES SP_WINDOW_PAGES

static int setup(void **state) {
    linked_start(NULL);
    return 0;
}

static int teardown(void **state) {
    linked_stop();
    return 0;
}

/* What a client sees at store pages, through a private mapping of the segment. */
static void assert_store(struct sp_link *l, sp_store_page store, const uint8_t *page) {
    void *mapping;
    int fd;
    assert_int_equal(l->ops->segment(l, store.v / SP_SEGMENT_PAGES, &fd), 0);
    assert_int_equal(sp_map_new(SP_PAGE_SIZE, SP_PAGE_SIZE, &mapping), 0);
    assert_int_equal(
        sp_map_store((uintptr_t)mapping, SP_PAGE_SIZE, fd, store.v % SP_SEGMENT_PAGES * SP_PAGE_SIZE), 0);
    assert_memory_equal(mapping, page, SP_PAGE_SIZE);
    assert_int_equal(sp_unmap(mapping, SP_PAGE_SIZE), 0);
}

static void test_content(void **state) {
    sp_store_page store[PAGES];
    uint8_t *pages = pages_new(PAGES, 0);
    share_pages(a, b, &welcome, pages, PAGES, store);
    for (size_t i = 0; i < PAGES; i++) {
        /* The layout of the window is kept. */
        assert_int_equal(store[i].v, store[0].v + i);
        assert_store(a, store[i], pages + i * SP_PAGE_SIZE);
        assert_store(b, store[i], pages + i * SP_PAGE_SIZE);
    }
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_sharing), PAGES);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_published), PAGES);
    pages_free(pages, PAGES);
}

static void test_segment_is_read_only(void **state) {
    sp_store_page store[1];
    uint8_t *page = pages_new(1, 5);
    int fd;
    share_pages(a, b, &welcome, page, 1, store);
    assert_int_equal(a->ops->segment(a, 0, &fd), 0);
    assert_int_equal(pwrite(fd, page, 1, 0), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_ptr_equal(mmap(NULL, SP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(a->ops->segment(a, 1, &fd), -ENOENT);
    assert_int_equal(a->ops->segment(a, UINT64_MAX, &fd), -ENFILE);
    pages_free(page, 1);
}

/* Who asked first is told when the twin has been published. */
static void test_hints(void **state) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    const void *contents[PAGES];
    struct sp_hint hints[8];
    uint8_t *pages = pages_new(PAGES, 100);
    size_t n = 0, seen = 0;
    queries_of(&welcome, pages, PAGES, 1024, queries);
    for (size_t i = 0; i < PAGES; i++)
        contents[i] = pages + i * SP_PAGE_SIZE;
    assert_int_equal(a->ops->ask(a, queries, PAGES, answers), 0);
    assert_int_equal(a->ops->hints(a, hints, 8, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
    assert_int_equal(b->ops->publish(b, queries, contents, PAGES, answers), 0);
    sp_bits all = {{0}};
    for (uint64_t since = 0; seen < PAGES;) {
        int fd = a->ops->hint_fd(a);
        assert_true(fd >= 0);
        assert_int_equal(a->ops->hints(a, hints, 8, &n), 0);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(hints[i].window, 1024 / SP_WINDOW_PAGES);
            for (size_t w = 0; w < SP_WINDOW_PAGES / 64; w++)
                all.w[w] |= hints[i].pages.w[w];
        }
        seen = sp_bits_count(&all);
        if (!n)
            assert_true(sp_wait_readable(&fd, 1, 1000000) >= 0);
        wait_step(&since);
    }
    pages_free(pages, PAGES);
}

/* Hints that come while a reply is awaited are kept, and the reply is still the right one. */
static void test_hints_while_waiting(void **state) {
    struct sp_query query[2];
    struct sp_answer answer[2];
    struct sp_hint hint;
    size_t n = 0;
    uint8_t *page = pages_new(2, 200);
    const void *content = page;
    queries_of(&welcome, page, 2, 77, query);
    assert_int_equal(a->ops->ask(a, query, 1, answer), 0);
    assert_int_equal(b->ops->ask(b, query, 1, answer), 0);
    assert_int_equal(b->ops->publish(b, query, &content, 1, answer), 0);
    /* The hint lies in a's socket now, or will come with the reply. */
    for (uint64_t since = 0; !n; wait_step(&since)) {
        assert_int_equal(a->ops->ask(a, query + 1, 1, answer), 0);
        assert_int_equal(answer[0].kind, SP_ANSWER_UNKNOWN);
        assert_int_equal(a->ops->hints(a, &hint, 1, &n), 0);
    }
    assert_int_equal(hint.window, 0);
    assert_true(sp_bits_get(&hint.pages, 77));
    pages_free(page, 2);
}

static void test_wrong_content(void **state) {
    struct sp_query query;
    struct sp_answer answer;
    uint8_t *page = pages_new(1, 300);
    const void *content = page;
    queries_of(&welcome, page, 1, 5, &query);
    assert_int_equal(a->ops->ask(a, &query, 1, &answer), 0);
    assert_int_equal(b->ops->ask(b, &query, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_SEND);
    page[4095] ^= 1;
    assert_int_equal(b->ops->publish(b, &query, &content, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_DECLINED);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_published), 0);
    /* Put right, it is taken. */
    page[4095] ^= 1;
    assert_int_equal(b->ops->ask(b, &query, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_SEND);
    assert_int_equal(b->ops->publish(b, &query, &content, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_SHARE);
    assert_store(a, answer.store, page);
    pages_free(page, 1);
}

/* Publishing without having been asked to is declined and nothing is kept. */
static void test_unasked_content(void **state) {
    struct sp_query query;
    struct sp_answer answer;
    uint8_t *page = pages_new(1, 400);
    const void *content = page;
    queries_of(&welcome, page, 1, 5, &query);
    assert_int_equal(b->ops->publish(b, &query, &content, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_DECLINED);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_published), 0);
    pages_free(page, 1);
}

/* Some pages refused, some not readable, some fine: each gets its own answer. */
static void test_publish_mixed(void **state) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    const void *contents[PAGES];
    uint8_t *pages = pages_new(PAGES, 500);
    queries_of(&welcome, pages, PAGES, 512, queries);
    assert_int_equal(a->ops->ask(a, queries, PAGES, answers), 0);
    assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        contents[i] = i % 7 == 3 ? NULL : pages + i * SP_PAGE_SIZE;
    for (size_t i = 100; i < 140; i += 13)
        assert_int_equal(mprotect(pages + i * SP_PAGE_SIZE, SP_PAGE_SIZE, PROT_NONE), 0);
    assert_int_equal(munmap(pages + 300 * SP_PAGE_SIZE, SP_PAGE_SIZE), 0);
    assert_int_equal(b->ops->publish(b, queries, contents, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++) {
        bool hidden = i == 300 || (i >= 100 && i < 140 && (i - 100) % 13 == 0);
        assert_int_equal(answers[i].kind, hidden || !contents[i] ? SP_ANSWER_DECLINED : SP_ANSWER_SHARE);
        if (answers[i].kind == SP_ANSWER_SHARE)
            assert_store(a, answers[i].store, contents[i]);
    }
    pages_free(pages, PAGES);
}

static uint64_t store_bytes(struct sp_link *l) {
    struct stat st;
    int fd;
    assert_int_equal(l->ops->segment(l, 0, &fd), 0);
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* How many pages of a chunk are mapped by a huge entry when all of it is mapped. */
static unsigned mapped_huge(struct sp_link *l, uint64_t chunk) {
    void *window;
    int fd, pagemap;
    sp_bits bits;
    assert_int_equal(l->ops->segment(l, 0, &fd), 0);
    assert_int_equal(sp_map_new(SP_WINDOW_SIZE, SP_WINDOW_SIZE, &window), 0);
    assert_int_equal(sp_map_store((uintptr_t)window, SP_WINDOW_SIZE, fd, chunk * SP_WINDOW_SIZE), 0);
    assert_int_equal(sp_advise((uintptr_t)window, SP_WINDOW_SIZE, MADV_POPULATE_READ), 0);
    assert_int_equal(sp_pagemap_open(&pagemap), 0);
    assert_int_equal(
        sp_pagemap_window(pagemap, SP_PAGEMAP_HUGE, (uintptr_t)window / SP_WINDOW_SIZE, 0, PAGES, &bits), 0);
    close(pagemap);
    assert_int_equal(sp_unmap(window, SP_WINDOW_SIZE), 0);
    return sp_bits_count(&bits);
}

static void share_at(uint8_t *pages, size_t n, uint64_t first, sp_store_page *ret_store) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    const void *contents[PAGES];
    queries_of(&welcome, pages, n, first, queries);
    for (size_t i = 0; i < n; i++)
        contents[i] = pages + i * SP_PAGE_SIZE;
    assert_int_equal(a->ops->ask(a, queries, n, answers), 0);
    assert_int_equal(b->ops->ask(b, queries, n, answers), 0);
    assert_int_equal(b->ops->publish(b, queries, contents, n, answers), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_SHARE);
    *ret_store = answers[0].store;
}

/* What a client says is a whole huge page is one in the store; what never comes of it takes no memory longer
 * than until the next chunk. */
static void test_huge_chunk(void **state) {
    uint8_t *pages = pages_new(PAGES + 3, 3000);
    sp_store_page whole, part, other;
    b->whole = true;
    share_at(pages, PAGES, 0, &whole);
    assert_int_equal(whole.v % SP_WINDOW_PAGES, 0);
    if (mapped_huge(a, whole.v / SP_WINDOW_PAGES) < PAGES) {
        print_message("# skipped: memfds cannot be made huge here\n");
        b->whole = false;
        return;
    }
    for (size_t i = 0; i < PAGES; i += 37)
        assert_store(a, (sp_store_page){whole.v + i}, pages + i * SP_PAGE_SIZE);
    assert_int_equal(store_bytes(a), SP_WINDOW_SIZE);
    share_at(pages + PAGES * SP_PAGE_SIZE, 1, 2 * PAGES, &part);
    assert_int_equal(store_bytes(a), 2 * SP_WINDOW_SIZE);
    b->whole = false;
    share_at(pages + (PAGES + 1) * SP_PAGE_SIZE, 2, 3 * PAGES, &other);
    assert_int_equal(store_bytes(a), SP_WINDOW_SIZE + 3 * SP_PAGE_SIZE);
    assert_store(a, part, pages + PAGES * SP_PAGE_SIZE);
    assert_store(a, other, pages + (PAGES + 1) * SP_PAGE_SIZE);
    assert_int_equal(mapped_huge(a, whole.v / SP_WINDOW_PAGES), PAGES);
    pages_free(pages, PAGES + 3);
}

/* A window of which a page was published before comes again as a whole: its chunk is not all of one piece. */
static void test_huge_chunk_begun(void **state) {
    uint8_t *pages = pages_new(PAGES + 2, 9000);
    sp_store_page early, store;
    b->whole = false;
    share_at(pages, 1, 4 * PAGES + 400, &early);
    assert_store(a, early, pages);
    b->whole = true;
    share_at(pages + SP_PAGE_SIZE, PAGES, 4 * PAGES, &store);
    b->whole = false;
    assert_store(a, early, pages);
    share_at(pages + (PAGES + 1) * SP_PAGE_SIZE, 1, 6 * PAGES, &store);
    assert_store(a, early, pages);
    pages_free(pages, PAGES + 2);
}

/* A window that two clients hold goes by one question of each, and one more of who came first. */
static void test_window(void **state) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES], answer;
    const void *contents[PAGES];
    uint64_t probes[PAGES];
    uint8_t *pages = pages_new(PAGES, 12000);
    queries_of(&welcome, pages, PAGES, 8 * PAGES, queries);
    for (size_t i = 0; i < PAGES; i++) {
        queries[i].fp = sp_probe(&welcome.key, pages + i * SP_PAGE_SIZE);
        probes[i] = queries[i].fp.v;
        contents[i] = pages + i * SP_PAGE_SIZE;
    }
    struct sp_query window = {queries[0].page, sp_window_probe(probes), SP_PROBE_WINDOW};
    assert_int_equal(a->ops->ask(a, &window, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_UNKNOWN);
    assert_int_equal(b->ops->ask(b, &window, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_SEND);
    assert_int_equal(b->ops->publish(b, queries, contents, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_SHARE);
    assert_int_equal(a->ops->ask(a, &window, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_SHARE);
    assert_int_equal(answer.store.v, answers[0].store.v);
    counter_wait(&d, SP_COUNTER_pages_sharing, PAGES);
    assert_store(a, (sp_store_page){answer.store.v + 300}, pages + 300 * SP_PAGE_SIZE);
    /* What it has got so it can give back. */
    struct sp_store_run run = {answer.store, PAGES};
    assert_int_equal(a->ops->release(a, &run, 1), 0);
    counter_wait(&d, SP_COUNTER_pages_sharing, 0);
    pages_free(pages, PAGES);
}

static void test_release(void **state) {
    sp_store_page store[PAGES];
    uint8_t *pages = pages_new(PAGES, 600);
    share_pages(a, b, &welcome, pages, PAGES, store);
    struct sp_store_run run = {store[0], PAGES};
    assert_int_equal(a->ops->release(a, &run, 1), 0);
    counter_wait(&d, SP_COUNTER_pages_sharing, 0);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), PAGES);
    assert_store(b, store[3], pages + 3 * SP_PAGE_SIZE);
    /* Not held any more: refused, the link goes on. */
    assert_int_equal(a->ops->release(a, &run, 1), -EINVAL);
    /* More runs than fit into one message. */
    struct sp_store_run runs[PAGES + 1];
    for (size_t i = 0; i < PAGES; i++)
        runs[i] = (struct sp_store_run){store[i], 1};
    runs[PAGES] = (struct sp_store_run){{1 << 20}, 1}; /* nobody has that */
    assert_int_equal(b->ops->release(b, runs, PAGES + 1), -EINVAL);
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    counter_wait(&d, SP_COUNTER_pages_punched, PAGES);
    pages_free(pages, PAGES);
}

static void test_forget(void **state) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    uint8_t *pages = pages_new(PAGES, 700);
    queries_of(&welcome, pages, PAGES, 512, queries);
    assert_int_equal(a->ops->ask(a, queries, PAGES, answers), 0);
    assert_int_equal(a->ops->forget(a, queries, PAGES), 0);
    assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_UNKNOWN);
    pages_free(pages, PAGES);
}

static void test_report_and_status(void **state) {
    struct sp_report *report = calloc(1, sizeof *report);
    struct sp_status *s;
    bool pause = true;
    assert_non_null(report);
    report->counters.v[SP_COUNTER_pages_merged] = 11;
    report->counters.v[SP_COUNTER_ksm_zero_pages] = 5;
    report->counters.v[SP_COUNTER_resident_pages] = 50;
    sp_histogram_add(&report->freezes, 1000);
    assert_int_equal(a->ops->report(a, report, &pause), 0);
    assert_false(pause);
    assert_int_equal(b->ops->report(b, report, &pause), 0);
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    assert_int_equal(s->daemon_pid, d.pid);
    assert_true(s->daemon_rss_bytes > 0);
    assert_int_equal(s->n_domains, 1);
    assert_int_equal(s->domains[0].uid, 0);
    assert_int_equal(s->domains[0].n_clients, 2);
    assert_int_equal(s->domains[0].clients[0].pid, getpid());
    assert_true(s->domains[0].clients[0].name[0]);
    assert_int_equal(s->domains[0].counters.v[SP_COUNTER_pages_merged], 22);
    assert_int_equal(s->domains[0].counters.v[SP_COUNTER_resident_pages], 100);
    assert_int_equal(s->domains[0].saved_bytes, 10 * SP_PAGE_SIZE);
    assert_int_equal(s->domains[0].freezes.count, 2);
    assert_int_equal(s->domains[0].clients[1].freezes.count, 1);
    assert_int_equal(s->domains[0].clients[1].freezes.p50_ns, 1000);
    sp_status_free(s);
    /* What only grows stays when a client goes; what describes it goes with it; the peak stays. */
    b->ops->close(b);
    clients_wait(&d, 1, 0);
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    assert_int_equal(s->domains[0].counters.v[SP_COUNTER_pages_merged], 22);
    assert_int_equal(s->domains[0].counters.v[SP_COUNTER_resident_pages], 50);
    assert_int_equal(s->domains[0].saved_bytes, 5 * SP_PAGE_SIZE);
    assert_int_equal(s->domains[0].saved_peak_bytes, 10 * SP_PAGE_SIZE);
    assert_int_equal(s->domains[0].freezes.count, 2);
    sp_status_free(s);
    free(report);
}

/* How much each of them shares, and how old its figures are. */
static void test_status_of_clients(void **state) {
    struct sp_report *report = calloc(1, sizeof *report);
    struct sp_status *s;
    bool pause;
    sp_store_page store[PAGES];
    uint8_t *pages = pages_new(PAGES, 300);
    assert_non_null(report);
    share_pages(a, b, &welcome, pages, PAGES, store);
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    const struct sp_status_client *c = s->domains[0].clients;
    assert_int_equal(s->domains[0].n_clients, 2);
    assert_int_equal(c[0].shared_pages, PAGES);
    assert_int_equal(c[1].shared_pages, PAGES);
    assert_int_not_equal(c[0].client, c[1].client);
    assert_true(!c[0].reported_ns && !c[1].reported_ns);
    uint64_t before = s->uptime_ns;
    sp_status_free(s);
    assert_int_equal(a->ops->report(a, report, &pause), 0);
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    c = s->domains[0].clients;
    uint64_t reported_ns = c[0].reported_ns ? c[0].reported_ns : c[1].reported_ns;
    assert_true(!c[0].reported_ns || !c[1].reported_ns);
    assert_true(reported_ns >= before && reported_ns <= s->uptime_ns);
    sp_status_free(s);
    pages_free(pages, PAGES);
    free(report);
}

/* Why merging has ended in a process stays to be seen for as long as the process lives, whether it has merged
 * anything or not; of one that merely left nothing is. */
static void test_reason_stays(void **state) {
    struct sp_report *report = calloc(1, sizeof *report);
    struct sp_status *s;
    bool pause;
    assert_non_null(report);
    report->state = SP_ENGINE_RUNNING;
    assert_int_equal(b->ops->report(b, report, &pause), 0);
    b->ops->close(b);
    report->state = SP_ENGINE_RAW_CALLS;
    assert_int_equal(a->ops->report(a, report, &pause), 0);
    a->ops->close(a);
    size_t n = 2;
    for (uint64_t since = 0; n > 1; wait_step(&since)) {
        assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
        n = s->domains[0].n_clients;
        sp_status_free(s);
    }
    sp_sleep_ns(UINT64_C(300000000)); /* longer than between two looks at a token */
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    assert_int_equal(s->domains[0].n_clients, 1);
    assert_int_equal(s->domains[0].families_waiting, 1);
    assert_int_equal(s->domains[0].clients[0].state, SP_ENGINE_RAW_CALLS);
    sp_status_free(s);
    free(report);
}

static void test_userfaultfd(void **state) {
    int fd;
    bool forks = false;
    assert_int_equal(a->ops->userfaultfd(a, &fd, &forks), 0);
    assert_true(forks); /* the tests run as root */
    /* Enabled: a second time is refused. */
    assert_int_equal(sp_uffd_enable(fd, SP_UFFD_NEEDED), -EINVAL);
    close(fd);
}

static int setup_limited(void **state) {
    static const char *const options[] = {"--set", "store_max_mbytes=1", NULL};
    daemon_start(&d, options);
    a = link_open(d.socket, &welcome);
    b = link_open(d.socket, &welcome);
    return 0;
}

static void test_store_limit(void **state) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    const void *contents[PAGES];
    uint8_t *pages = pages_new(PAGES, 800);
    size_t shared = 0;
    assert_int_equal(welcome.settings.v[SP_SETTING_store_max_mbytes], 1);
    queries_of(&welcome, pages, PAGES, 512, queries);
    for (size_t i = 0; i < PAGES; i++)
        contents[i] = pages + i * SP_PAGE_SIZE;
    assert_int_equal(a->ops->ask(a, queries, PAGES, answers), 0);
    assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
    assert_int_equal(b->ops->publish(b, queries, contents, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        shared += answers[i].kind == SP_ANSWER_SHARE;
    assert_true(shared > 0 && shared <= 256);
    assert_true(counter(&d, 0, SP_COUNTER_pages_shared) <= 256);
    struct sp_status *s;
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    assert_true(s->domains[0].store_bytes > 0 && s->domains[0].store_bytes <= 1 << 20);
    sp_status_free(s);
    pages_free(pages, PAGES);
}

/* With the least limit there is. */
static int setup_guarded(void **state) {
    static const char *const options[] = {"--set", "exposure_max_percent=1", NULL};
    daemon_start(&d, options);
    a = link_open(d.socket, &welcome);
    b = link_open(d.socket, &welcome);
    return 0;
}

static void pause_wait(bool expected) {
    static struct sp_report report;
    bool pause = !expected;
    for (uint64_t since = 0; pause != expected; wait_step(&since))
        assert_int_equal(a->ops->report(a, &report, &pause), 0);
}

/* Sharing stops when the exposure exceeds its share of the available memory, and goes on when it no longer
 * does (H15). */
static void test_guard(void **state) {
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    struct sp_store_run runs[PAGES];
    sp_store_page store[1];
    uint8_t *page = pages_new(1, 900);
    uint64_t available, total, taken = 0;
    share_pages(a, b, &welcome, page, 1, store);
    pause_wait(false);
    for (size_t i = 0; i < PAGES; i++) {
        queries_of(&welcome, page, 1, 8192 + i, &queries[i]);
        runs[i] = (struct sp_store_run){store[0], 1};
    }
    /* Many sites of one page: references enough for twice the limit. */
    assert_int_equal(sp_proc_memory(&available, &total), 0);
    for (; taken * SP_PAGE_SIZE < total / 50; taken += PAGES) {
        assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
        if (answers[PAGES - 1].kind != SP_ANSWER_SHARE)
            break;
    }
    pause_wait(true);
    assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_DECLINED);
    for (int r = 0; !r;)
        r = b->ops->release(b, runs, PAGES);
    pause_wait(false);
    assert_int_equal(a->ops->ask(a, queries, 1, answers), 0);
    assert_int_equal(answers[0].kind, SP_ANSWER_SHARE);
    pages_free(page, 1);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_content),
        TEST(test_segment_is_read_only),
        TEST(test_hints),
        TEST(test_hints_while_waiting),
        TEST(test_wrong_content),
        TEST(test_unasked_content),
        TEST(test_publish_mixed),
        TEST(test_huge_chunk),
        TEST(test_huge_chunk_begun),
        TEST(test_window),
        TEST(test_release),
        TEST(test_forget),
        TEST(test_report_and_status),
        TEST(test_status_of_clients),
        TEST(test_reason_stays),
        TEST(test_userfaultfd),
        cmocka_unit_test_setup_teardown(test_store_limit, setup_limited, teardown),
        cmocka_unit_test_setup_teardown(test_guard, setup_guarded, teardown),
    };
    return cmocka_run_group_tests_name("daemon/share", tests, NULL, NULL);
}
