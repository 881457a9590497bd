/* SPDX-License-Identifier: MIT */
/*
 * Broken pages, which were merged and written since, or unmerged: a quiescent merge merges them again, and
 * nothing else does (H13). In a domain of this process with either index, and through a daemon.
 */
#include "client_daemon.h"

#define N ((size_t)1200) /* three windows, no whole one needed */

/* Nothing happens but what is asked for; or the worker goes on all the time. */
#define STILL "sleep_millisecs=3600000,sleep_max_millisecs=3600000"
#define BUSY  "sleep_millisecs=1,sleep_max_millisecs=1"

enum where { HASH, TREE, DAEMON };

struct rig {
    enum where where;
    struct daemon daemon;
    struct pair p;
};

static void rig_open(struct rig *r, enum where where, const char *settings) {
    r->where = where;
    if (where == DAEMON) {
        daemon_start(&r->daemon, settings);
        assert_int_equal(connect_to(&r->daemon, &r->p.domain), 0);
    } else {
        struct samepage_options o = {
            .size = sizeof(o), .settings = settings, .index = where == TREE ? "tree" : "hash"};
        assert_int_equal(samepage_domain_open(&o, &r->p.domain), 0);
    }
}

static void rig_new(struct rig *r, enum where where, const char *settings, size_t n) {
    rig_open(r, where, settings);
    r->p.n = n;
    r->p.a = pages_new(n);
    r->p.b = pages_new(n);
    pages_fill(r->p.a, n, 1);
    pages_fill(r->p.b, n, 1);
    pair_register(&r->p);
}

static void rig_free(struct rig *r) {
    pair_free(&r->p);
    if (r->where == DAEMON)
        daemon_stop(&r->daemon);
}

static struct samepage_merge_result merge(struct rig *r, char *p, size_t n, unsigned flags) {
    struct samepage_merge_result m = {.size = sizeof(m)};
    assert_int_equal(samepage_merge(r->p.domain, p, n * PAGE, flags, &m), 0);
    assert_int_equal(m.changed_pages + m.refused_pages, 0);
    return m;
}

static struct samepage_merge_result merge_quiescent(struct rig *r, char *p, size_t n) {
    return merge(r, p, n, SAMEPAGE_QUIESCENT);
}

/* Everything is shared: what has a twin in the other range only is found by a third call. */
static void merge_all(struct rig *r) {
    merge_quiescent(r, r->p.a, r->p.n);
    merge_quiescent(r, r->p.b, r->p.n);
    assert_int_equal(merge_quiescent(r, r->p.a, r->p.n).shared_pages, r->p.n);
    assert_int_equal(merge_quiescent(r, r->p.b, r->p.n).shared_pages, r->p.n);
}

/* Every reference to a store page is that of a page which maps it. Waits for those that were given back: what
 * a child held as well, which a worker with nothing to do does not notice. */
static void books_balance(struct rig *r) {
    struct samepage_domain_counters d;
    do {
        usleep(1000);
        assert_int_equal(samepage_merge(r->p.domain, r->p.a, PAGE, 0, NULL), 0);
        d = domain_counters(r->p.domain);
    } while (d.pages_shared + d.pages_sharing !=
             region_counters(r->p.ra).ksm_merging_pages + region_counters(r->p.rb).ksm_merging_pages);
}

static void write_thirds(char *p, unsigned seed) {
    for (size_t i = 0; i < N; i += 3)
        page_fill(p + i * PAGE, seed, i);
}

static bool thirds_are(const char *p, unsigned seed) {
    for (size_t i = 0; i < N; i++)
        if (!page_is(p + i * PAGE, i % 3 ? 1 : seed, i))
            return false;
    return true;
}

/* ---- merged again ---- */

static void written_back(enum where where) {
    struct rig r;
    rig_new(&r, where, STILL, N);
    merge_all(&r);
    for (unsigned round = 1; round <= 3; round++) {
        write_thirds(r.p.a, 9);
        write_thirds(r.p.a, 1);
        assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, N / 3 * PAGE);
        struct samepage_merge_result m = merge_quiescent(&r, r.p.a, N);
        assert_int_equal(m.merged_pages, N / 3);
        assert_int_equal(m.shared_pages, N);
        assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, 0);
        struct samepage_region_counters a = region_counters(r.p.ra);
        assert_int_equal(a.ksm_merging_pages, N);
        assert_int_equal(a.pages_broken + a.pages_volatile + a.pages_unshared, 0);
        books_balance(&r);
        struct samepage_domain_counters d = domain_counters(r.p.domain);
        assert_int_equal(d.pages_broken, round * N / 3);
        assert_int_equal(d.pages_merged, 2 * N + round * N / 3);
        assert_int_equal(d.pages_shared, N);
        assert_int_equal(d.pages_sharing, N);
        assert_true(pages_are(r.p.a, N, 1) && pages_are(r.p.b, N, 1));
    }
    write_thirds(r.p.a, 7); /* still copied on write */
    assert_true(thirds_are(r.p.a, 7) && pages_are(r.p.b, N, 1));
    rig_free(&r);
}

/* A content that nobody had before, in broken pages of both ranges: they meet although neither is ordinary
 * memory any more, and although they are never merged by one call. */
static void other_content(enum where where) {
    struct rig r;
    rig_new(&r, where, STILL, N);
    merge_all(&r);
    write_thirds(r.p.a, 9);
    write_thirds(r.p.b, 9);
    assert_int_equal(merge_quiescent(&r, r.p.a, N).shared_pages, N - N / 3);
    struct samepage_region_counters a = region_counters(r.p.ra);
    assert_int_equal(a.pages_broken, N / 3);
    assert_int_equal(a.pages_unshared, where == TREE ? 0 : N / 3);
    if (where != TREE) {
        assert_int_equal(merge_quiescent(&r, r.p.b, N).shared_pages, N);
        assert_int_equal(merge_quiescent(&r, r.p.a, N).shared_pages, N);
        books_balance(&r);
        struct samepage_domain_counters d = domain_counters(r.p.domain);
        assert_int_equal(d.pages_shared, N);
        assert_int_equal(d.pages_sharing, N);
        assert_int_equal(d.pages_unshared, 0);
        assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, 0);
        assert_int_equal(usage_of(r.p.b, N * PAGE).private_bytes, 0);
    }
    assert_true(thirds_are(r.p.a, 9) && thirds_are(r.p.b, 9));
    rig_free(&r);
}

static void unmerged(enum where where) {
    struct rig r;
    rig_new(&r, where, STILL, N);
    merge_all(&r);
    assert_int_equal(samepage_unmerge(r.p.domain, r.p.a + 100 * PAGE, 900 * PAGE, 0), 0);
    page_fill(r.p.a + 150 * PAGE, 9, 150);
    assert_int_equal(merge(&r, r.p.a, N, 0).shared_pages, N - 900);
    struct samepage_merge_result m = merge_quiescent(&r, r.p.a, N);
    assert_int_equal(m.merged_pages, 899);
    assert_int_equal(m.shared_pages, N - 1);
    assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, PAGE);
    books_balance(&r);
    assert_int_equal(region_counters(r.p.ra).pages_broken, 1);
    page_fill(r.p.a + 150 * PAGE, 1, 150);
    assert_int_equal(merge_quiescent(&r, r.p.a, N).shared_pages, N);
    assert_true(pages_are(r.p.a, N, 1) && pages_are(r.p.b, N, 1));
    rig_free(&r);
}

/* Registered anew, what was merged is judged by what may be done with it, as other memory is: what is locked or
 * executable would not be so any more. */
static void registered_again(enum where where) {
    struct rig r;
    rig_new(&r, where, STILL, N);
    merge_all(&r);
    assert_int_equal(samepage_unregister(r.p.ra, 0), 0);
    assert_int_equal(mlock(r.p.a + N / 2 * PAGE, N / 2 * PAGE), 0);
    assert_int_equal(mprotect(r.p.a + N / 4 * PAGE, N / 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
    size_t eligible = 0;
    assert_int_equal(samepage_eligible(r.p.a, N * PAGE, &eligible, NULL), 0);
    assert_int_equal(eligible, N / 4 * PAGE);
    assert_int_equal(samepage_register(r.p.domain, r.p.a, N * PAGE, 0, &r.p.ra), 0);
    assert_int_equal(merge_quiescent(&r, r.p.a, N).shared_pages, N / 4);
    assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, N * 3 / 4 * PAGE);
    assert_true(pages_are(r.p.a, N, 1));
    books_balance(&r);
    assert_int_equal(munlock(r.p.a + N / 2 * PAGE, N / 2 * PAGE), 0);
    rig_free(&r);
}

/* A hole in a mapping of the store would show what the store has there. */
static void zeros(enum where where) {
    struct rig r;
    rig_new(&r, where, STILL ",max_page_sharing=2147483647", N);
    merge_all(&r);
    for (size_t i = 0; i < N; i += 3)
        memset(r.p.a + i * PAGE, 0, PAGE);
    struct samepage_merge_result m = merge_quiescent(&r, r.p.a, N);
    assert_int_equal(m.zero_pages, 0);
    assert_int_equal(m.shared_pages, N);
    assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, 0);
    books_balance(&r);
    assert_int_equal(domain_counters(r.p.domain).pages_shared, N + 1);
    for (size_t i = 0; i < N; i++)
        assert_true(i % 3 ? page_is(r.p.a + i * PAGE, 1, i) : pages_are_zero(r.p.a + i * PAGE, 1));
    assert_true(pages_are(r.p.b, N, 1));
    rig_free(&r);
}

/* Nobody promised anything for what lies beside the range. */
static void range_only(enum where where) {
    struct rig r;
    rig_new(&r, where, STILL, N);
    merge_all(&r);
    write_thirds(r.p.a, 9);
    write_thirds(r.p.a, 1);
    assert_int_equal(merge_quiescent(&r, r.p.a + 300 * PAGE, 300).shared_pages, 300);
    assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, (N / 3 - 100) * PAGE);
    assert_true(pages_are(r.p.a, N, 1) && pages_are(r.p.b, N, 1));
    rig_free(&r);
}

/* What there is no mapping left for stays as it is, and waits for the next call (H4). */
static void over_the_limit(enum where where) {
    struct rig r;
    struct samepage_merge_result m = {.size = sizeof(m)};
    rig_new(&r, where, STILL ",map_percent=1", N);
    merge_all(&r);
    write_thirds(r.p.a, 9);
    write_thirds(r.p.b, 9);
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(samepage_merge(r.p.domain, r.p.a, N * PAGE, SAMEPAGE_QUIESCENT, NULL), 0);
        assert_int_equal(samepage_merge(r.p.domain, r.p.b, N * PAGE, SAMEPAGE_QUIESCENT, &m), 0);
        assert_true(where == TREE || m.refused_pages > 0);
        struct samepage_region_counters b = region_counters(r.p.rb);
        assert_true(b.pages_broken > 0);
        assert_int_equal(b.pages_broken + b.ksm_merging_pages, N);
        assert_int_equal(b.pages_volatile, 0);
        assert_true(thirds_are(r.p.a, 9) && thirds_are(r.p.b, 9));
    }
    rig_free(&r);
}

/* ---- nothing else merges them ---- */

static void without_the_flag(enum where where) {
    struct rig r;
    rig_new(&r, where, BUSY, N);
    pair_settle(&r.p);
    write_thirds(r.p.a, 9);
    write_thirds(r.p.a, 1);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(merge(&r, r.p.a, N, 0).merged_pages, 0);
        assert_int_equal(samepage_wait_settled(r.p.domain, LONG_MS), 0);
        assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, N / 3 * PAGE);
        assert_int_equal(region_counters(r.p.ra).pages_volatile, 0);
    }
    assert_true(pages_are(r.p.a, N, 1) && pages_are(r.p.b, N, 1));
    assert_int_equal(merge_quiescent(&r, r.p.a, N).merged_pages, N / 3);
    rig_free(&r);
}

/* They wait in the index, and are hinted at when a twin is published: by ordinary memory, in the background.
 * They stay what they are, and leave the index, which would otherwise wait for their answer. */
static void hinted_at(enum where where) {
    struct rig r;
    rig_new(&r, where, BUSY, N);
    pair_settle(&r.p);
    write_thirds(r.p.a, 9);
    merge_quiescent(&r, r.p.a, N);
    char *c = pages_new(2 * N);
    samepage_region *rc;
    for (size_t i = 0; i < 2 * N; i++)
        page_fill(c + i * PAGE, 9, i % N);
    assert_int_equal(samepage_register(r.p.domain, c, 2 * N * PAGE, 0, &rc), 0);
    WAIT_FOR(region_counters(rc).ksm_merging_pages == 2 * N);
    WAIT_FOR(region_counters(r.p.ra).pages_unshared == 0);
    assert_int_equal(samepage_wait_settled(r.p.domain, LONG_MS), 0);
    struct samepage_region_counters a = region_counters(r.p.ra);
    assert_int_equal(a.pages_broken, N / 3);
    assert_int_equal(a.ksm_merging_pages, N - N / 3);
    assert_int_equal(a.pages_volatile, 0);
    assert_int_equal(usage_of(r.p.a, N * PAGE).private_bytes, N / 3 * PAGE);
    assert_int_equal(samepage_domain_state(r.p.domain, NULL), SAMEPAGE_STATE_RUNNING);
    assert_true(thirds_are(r.p.a, 9) && pages_are(r.p.b, N, 1));
    assert_int_equal(merge_quiescent(&r, r.p.a, N).shared_pages, N);
    assert_true(thirds_are(r.p.a, 9));
    assert_int_equal(samepage_unregister(rc, 0), 0);
    pages_free(c, 2 * N);
    rig_free(&r);
}

/* What waits in the index may change unseen: it is read and compared anew. */
static void changed_while_it_waits(enum where where) {
    struct rig r;
    rig_new(&r, where, BUSY, N);
    pair_settle(&r.p);
    for (unsigned round = 2; round < 12; round++) {
        write_thirds(r.p.a, round);
        merge_quiescent(&r, r.p.a, N); /* waits */
        write_thirds(r.p.a, round + 1);
        write_thirds(r.p.b, round); /* the twin that it was */
        merge_quiescent(&r, r.p.b, N);
        assert_true(thirds_are(r.p.a, round + 1) && thirds_are(r.p.b, round));
        write_thirds(r.p.b, round + 1);
        merge_quiescent(&r, r.p.a, N);
        merge_quiescent(&r, r.p.b, N);
        merge_quiescent(&r, r.p.a, N);
        if (where != TREE) {
            assert_int_equal(region_counters(r.p.ra).ksm_merging_pages, N);
            assert_int_equal(region_counters(r.p.rb).ksm_merging_pages, N);
        }
        assert_true(thirds_are(r.p.a, round + 1) && thirds_are(r.p.b, round + 1));
    }
    rig_free(&r);
}

/* ---- children ---- */

struct heir {
    struct rig *r;
    int go, done; /* pipes */
};

/* Has the broken pages of its parent's, and what the store had for the others. */
static int inherits(void *arg) {
    struct heir *h = arg;
    char byte = 0;
    struct samepage_merge_result m = {.size = sizeof(m)};
    char *a = h->r->p.a, *b = h->r->p.b;
    CHILD_CHECK(read(h->go, &byte, 1) == 1); /* the parent has merged its own */
    CHILD_CHECK(thirds_are(a, 9) && thirds_are(b, 9));
    /* Its own domain, or a client of its own: what still maps its parent's store is left alone. */
    CHILD_CHECK(!samepage_merge(h->r->p.domain, a, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.shared_pages <= N / 3);
    CHILD_CHECK(!samepage_merge(h->r->p.domain, b, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(m.shared_pages <= N / 3 && (h->r->where == TREE || m.shared_pages == N / 3));
    CHILD_CHECK(!samepage_merge(h->r->p.domain, a, N * PAGE, SAMEPAGE_QUIESCENT, &m));
    CHILD_CHECK(h->r->where == TREE || m.shared_pages == N / 3);
    CHILD_CHECK(thirds_are(a, 9) && thirds_are(b, 9));
    write_thirds(a, 4);
    CHILD_CHECK(thirds_are(a, 4) && thirds_are(b, 9));
    CHILD_CHECK(write(h->done, &byte, 1) == 1);
    CHILD_CHECK(read(h->go, &byte, 1) == 1); /* the parent has written everything */
    CHILD_CHECK(thirds_are(a, 4) && thirds_are(b, 9));
    return 0;
}

static void child_between(enum where where) {
    struct rig r;
    int go[2], done[2];
    char byte = 0;
    rig_new(&r, where, STILL, N);
    merge_all(&r);
    write_thirds(r.p.a, 9);
    write_thirds(r.p.b, 9);
    assert_int_equal(pipe(go) + pipe(done), 0);
    struct heir h = {.r = &r, .go = go[0], .done = done[1]};
    fflush(NULL);
    pid_t pid = fork();
    if (!pid)
        _exit(inherits(&h));
    close(go[0]);
    close(done[1]);
    merge_quiescent(&r, r.p.a, N);
    merge_quiescent(&r, r.p.b, N);
    merge_quiescent(&r, r.p.a, N);
    if (where != TREE)
        assert_int_equal(region_counters(r.p.ra).ksm_merging_pages, N);
    assert_true(thirds_are(r.p.a, 9) && thirds_are(r.p.b, 9));
    assert_int_equal(write(go[1], &byte, 1), 1);
    assert_int_equal(read(done[0], &byte, 1), 1);
    pages_fill(r.p.a, N, 2);
    pages_fill(r.p.b, N, 2);
    merge_quiescent(&r, r.p.a, N);
    merge_quiescent(&r, r.p.b, N);
    assert_int_equal(write(go[1], &byte, 1), 1);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(pages_are(r.p.a, N, 2) && pages_are(r.p.b, N, 2));
    merge_quiescent(&r, r.p.a, N);
    books_balance(&r); /* with the child everything goes that it held */
    close(go[1]);
    close(done[0]);
    rig_free(&r);
}

/* What the region was advised to be is carried over by each merge (H7). */
static int lacks(void *p) {
    unsigned char there;
    return mincore(p, PAGE, &there) == -1 && errno == ENOMEM ? 0 : 1;
}

static void attributes(enum where where) {
    struct rig r;
    rig_open(&r, where, STILL);
    r.p.n = N;
    r.p.a = pages_new(N);
    r.p.b = pages_new(N);
    pages_fill(r.p.a, N, 1);
    pages_fill(r.p.b, N, 1);
    assert_int_equal(madvise(r.p.a, N * PAGE, MADV_DONTFORK), 0);
    pair_register(&r.p);
    merge_all(&r);
    write_thirds(r.p.a, 9);
    write_thirds(r.p.a, 1);
    merge_quiescent(&r, r.p.a, N);
    for (size_t i = 0; i < N; i += 100)
        assert_int_equal(in_child(lacks, r.p.a + i * PAGE), 0);
    assert_true(pages_are(r.p.a, N, 1));
    rig_free(&r);
}

/* ---- at random ---- */

#define ROUNDS   1000
#define M        ((size_t)320) /* pages of each range */
#define CONTENTS 40            /* 0: zeros */

struct model {
    struct rig r;
    uint64_t random;
    unsigned content[2][M];
};

static size_t below(struct model *m, size_t n) {
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random % n;
}

static char *page_of(struct model *m, size_t half, size_t i) {
    return (half ? m->r.p.b : m->r.p.a) + i * PAGE;
}

static void model_write(struct model *m, size_t half, size_t i, unsigned content) {
    char *page = page_of(m, half, i);
    m->content[half][i] = content;
    if (content)
        page_fill(page, 1, content);
    else
        memset(page, 0, PAGE);
}

static void model_check(struct model *m) {
    for (size_t half = 0; half < 2; half++)
        for (size_t i = 0; i < M; i++) {
            unsigned content = m->content[half][i];
            const char *page = page_of(m, half, i);
            assert_true(content ? page_is(page, 1, content) : pages_are_zero(page, 1));
        }
}

static void model_step(struct model *m) {
    struct samepage_merge_result result = {.size = sizeof(result)};
    size_t half = below(m, 2), first = below(m, M), n = 1 + below(m, M - first);
    char *p = page_of(m, half, first);
    for (size_t k = below(m, M / 4); k > 0; k--)
        model_write(m, below(m, 2), below(m, M), (unsigned)below(m, CONTENTS));
    switch (below(m, 16)) {
    case 0:
        assert_int_equal(samepage_unmerge(m->r.p.domain, p, n * PAGE, 0), 0);
        break;
    case 1:
        assert_int_equal(samepage_unmerge(m->r.p.domain, p, n * PAGE, SAMEPAGE_QUIESCENT), 0);
        break;
    case 2:
        assert_int_equal(samepage_discard(m->r.p.domain, p, n * PAGE), 0);
        memset(&m->content[half][first], 0, n * sizeof(unsigned));
        break;
    case 3:
        assert_int_equal(samepage_merge(m->r.p.domain, p, n * PAGE, 0, &result), 0);
        break;
    default:
        assert_int_equal(samepage_merge(m->r.p.domain, p, n * PAGE, SAMEPAGE_QUIESCENT, &result), 0);
        break;
    }
}

/* Nothing is left alone that has a twin, zeros in ordinary memory aside, which are holes. */
static void model_all_shared(struct model *m) {
    size_t pages[CONTENTS] = {0}, twins = 0;
    for (size_t half = 0; half < 2; half++)
        for (size_t i = 0; i < M; i++)
            pages[m->content[half][i]]++;
    for (size_t c = 1; c < CONTENTS; c++)
        twins += pages[c] > 1 ? pages[c] : 0;
    for (size_t half = 0; half < 4; half++)
        merge_quiescent(&m->r, page_of(m, half % 2, 0), M);
    size_t shared =
        region_counters(m->r.p.ra).ksm_merging_pages + region_counters(m->r.p.rb).ksm_merging_pages;
    assert_true(shared >= twins && shared <= twins + pages[0] + CONTENTS);
    books_balance(&m->r);
}

static void at_random(enum where where, const char *settings) {
    struct model m = {.random = 88172645463325252u + where};
    rig_new(&m.r, where, settings, M);
    for (size_t i = 0; i < 2 * M; i++)
        model_write(&m, i / M, i % M, (unsigned)(i % CONTENTS));
    for (unsigned round = 1; round <= ROUNDS; round++) {
        model_step(&m);
        model_check(&m);
        if (round % 100)
            continue;
        if (where != TREE)
            model_all_shared(&m);
        books_balance(&m.r);
        model_check(&m);
    }
    rig_free(&m.r);
}

static void random_rounds(enum where where) {
    at_random(where, STILL);
}

/* While the worker merges what is ordinary memory. */
static void random_rounds_beside_the_worker(enum where where) {
    at_random(where, BUSY);
}

/* ---- all of them in each kind of domain ---- */

#define EACH_CASE(X)                                                                                         \
    X(written_back)                                                                                          \
    X(other_content)                                                                                         \
    X(unmerged)                                                                                              \
    X(registered_again)                                                                                      \
    X(zeros)                                                                                                 \
    X(range_only)                                                                                            \
    X(over_the_limit)                                                                                        \
    X(without_the_flag)                                                                                      \
    X(hinted_at)                                                                                             \
    X(changed_while_it_waits)                                                                                \
    X(child_between)                                                                                         \
    X(attributes)                                                                                            \
    X(random_rounds)                                                                                         \
    X(random_rounds_beside_the_worker)

#define DEFINE(name)                                                                                         \
    static void name##_hash(void **state) {                                                                  \
        name(HASH);                                                                                          \
    }                                                                                                        \
    static void name##_tree(void **state) {                                                                  \
        name(TREE);                                                                                          \
    }                                                                                                        \
    static void name##_daemon(void **state) {                                                                \
        name(DAEMON);                                                                                        \
    }
EACH_CASE(DEFINE)

#define TEST(name)                                                                                           \
    cmocka_unit_test(name##_hash), cmocka_unit_test(name##_tree), cmocka_unit_test(name##_daemon),

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {EACH_CASE(TEST)};
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    require_userfaultfd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
