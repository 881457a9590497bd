/* SPDX-License-Identifier: MIT */
/*
 * Clients that behave as workers do, at random: they ask about pages by their probes, refine when told to,
 * follow hints, publish, compare what they were told to share, and change pages at any time. One or several
 * contents have one probe, so that probes are trusted or not, or now and then; probes that differ have one
 * trace. When they have come to rest, nobody may be stranded:
 * all pages of a content that two or more hold are shared, with one store page, and nothing else is.
 */
#include "core_test.h"

#include "core/domain.h"
#include "core/fingerprint.h"

#define CLIENTS  6
#define PAGES    40
#define CONTENTS 60
#define STORE    (1 << 18)
#define STEPS    20000

/* What a client knows of a page; as in merge/window.h. */
struct page {
    unsigned content;
    bool fresh, hinted, misled, shared;
    sp_fp known; /* under which the index knows it; 0: not at all */
    sp_store_page store;
};

static struct {
    struct sp_domain *d;
    struct test_memory memory;
    struct test_random random;
    sp_client client[CLIENTS];
    struct page page[CLIENTS][PAGES];
    unsigned stored[STORE]; /* content of a store page, + 1 */
    unsigned resembling;
    uint64_t refined, wrong_guesses;
} t;

static uint64_t below(uint64_t n) {
    return test_random_below(&t.random, n);
}

/* t.resembling contents to a probe, and two probes to a trace. */
static sp_fp probe_of(unsigned content) {
    uint64_t probe = content / t.resembling, trace = probe / 2;
    return (sp_fp){(probe + 1) << 40 | trace << 1};
}

static sp_fp whole_of(unsigned content) {
    uint64_t trace = content / t.resembling / 2;
    return (sp_fp){(uint64_t)(content + 1) * UINT64_C(0x9e3779b97f4a7c15) << 23 | trace << 1 | 1};
}

static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        t.stored[first.v + i] = 0;
}

static void on_hint(void *ctx, sp_client client, sp_page page) {
    for (size_t c = 0; c < CLIENTS; c++)
        if (t.client[c] == client)
            t.page[c][page.v].hinted = true;
}

static struct sp_query query_of(size_t page, sp_fp fp) {
    return (struct sp_query){{page}, fp};
}

static void page_forget(size_t c, size_t i) {
    struct page *p = &t.page[c][i];
    struct sp_query q = query_of(i, p->known);
    if (p->known.v)
        sp_domain_forget(t.d, t.client[c], &q, 1);
    p->known.v = 0;
}

static void release(size_t c, sp_store_page store) {
    sp_domain_release_done(t.d, t.client[c], 1);
    assert_int_equal(sp_domain_release(t.d, t.client[c], store, 1, 1), 0);
}

static struct sp_answer publish(size_t c, struct sp_query q, unsigned content) {
    struct sp_answer a;
    sp_domain_publish(t.d, t.client[c], q, whole_of(content), &a);
    if (a.kind != SP_ANSWER_SEND)
        return a;
    t.stored[a.store.v] = content + 1;
    assert_int_equal(
        sp_domain_publish_commit(t.d, t.client[c], q, whole_of(content), probe_of(content), a.store), 0);
    a.kind = SP_ANSWER_SHARE;
    return a;
}

static void page_share(size_t c, size_t i, sp_store_page store) {
    struct page *p = &t.page[c][i];
    page_forget(c, i);
    if (t.stored[store.v] == p->content + 1) {
        p->shared = true;
        p->store = store;
        return;
    }
    t.wrong_guesses++;
    if (below(2)) /* sometimes it is not told */
        sp_domain_guessed_wrong(t.d, 1);
    release(c, store);
    p->fresh = p->misled = true;
}

static void page_waits(size_t c, size_t i, sp_fp fp) {
    struct page *p = &t.page[c][i];
    if (p->known.v != fp.v)
        page_forget(c, i);
    p->known = fp;
}

static void page_ask(size_t c, size_t i) {
    struct page *p = &t.page[c][i];
    bool whole = p->misled || sp_fp_whole(p->known);
    struct sp_query q = query_of(i, whole ? whole_of(p->content) : probe_of(p->content));
    struct sp_answer a;
    p->fresh = p->misled = p->hinted = false;
    sp_domain_ask(t.d, t.client[c], &q, 1, &a);
    if (a.kind == SP_ANSWER_REFINE) {
        assert_false(whole);
        t.refined++;
        q.fp = whole_of(p->content);
        sp_domain_ask(t.d, t.client[c], &q, 1, &a);
    }
    if (a.kind == SP_ANSWER_SEND)
        a = publish(c, q, p->content);
    if (a.kind == SP_ANSWER_SHARE) {
        page_share(c, i, a.store);
        return;
    }
    assert_int_equal(a.kind, SP_ANSWER_UNKNOWN);
    page_waits(c, i, q.fp);
}

static void page_change(size_t c, size_t i, unsigned content) {
    struct page *p = &t.page[c][i];
    page_forget(c, i);
    if (p->shared)
        release(c, p->store);
    *p = (struct page){.content = content, .fresh = true};
}

static bool page_due(const struct page *p) {
    return !p->shared && (p->fresh || (p->hinted && p->known.v));
}

static void come_to_rest(void) {
    for (bool busy = true; busy;) {
        busy = false;
        for (size_t c = 0; c < CLIENTS; c++)
            for (size_t i = 0; i < PAGES; i++)
                if (page_due(&t.page[c][i])) {
                    page_ask(c, i);
                    busy = true;
                }
    }
}

static void nobody_is_stranded(void) {
    for (unsigned content = 0; content < CONTENTS; content++) {
        size_t holders = 0, sharing = 0;
        sp_store_page store = SP_STORE_NONE;
        for (size_t k = 0; k < CLIENTS * PAGES; k++) {
            const struct page *p = &t.page[k / PAGES][k % PAGES];
            if (p->content != content)
                continue;
            holders++;
            sharing += p->shared;
            if (!p->shared)
                continue;
            assert_true(store.v == SP_STORE_NONE.v || store.v == p->store.v);
            store = p->store;
        }
        assert_true(holders < 2 || sharing == holders);
        assert_true(!sharing || sp_domain_references(t.d, store) == sharing);
    }
}

static void live(uint64_t seed, unsigned contents, unsigned resembling) {
    memset(&t, 0, sizeof t);
    t.random.state = seed;
    t.resembling = resembling;
    struct sp_alloc alloc = test_memory_alloc(&t.memory);
    struct sp_domain_events events = {.punch = on_punch, .hint = on_hint};
    assert_int_equal(sp_domain_new(&alloc, &events, &t.d), 0);
    for (size_t c = 0; c < CLIENTS; c++) {
        assert_int_equal(sp_domain_client_add(t.d, &t.client[c]), 0);
        for (size_t i = 0; i < PAGES; i++)
            t.page[c][i] = (struct page){.content = (unsigned)below(contents), .fresh = true};
    }
    for (unsigned step = 0; step < STEPS; step++) {
        size_t c = below(CLIENTS), i = below(PAGES);
        if (below(4) == 0)
            page_change(c, i, (unsigned)below(contents));
        else if (page_due(&t.page[c][i]))
            page_ask(c, i);
        if (step % 1000 == 999) {
            come_to_rest();
            nobody_is_stranded();
        }
    }
    t.d = sp_domain_free(t.d);
    assert_true(t.memory.bytes == 0);
}

static void probes_that_tell_all(void **state) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        live(seed, CONTENTS, 1);
        assert_true(t.wrong_guesses == 0);
        live(seed, 4, 1);
    }
}

static void probes_that_mislead(void **state) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        live(seed, CONTENTS, 2 + (unsigned)(seed % 4));
        assert_true(t.wrong_guesses >= 64 && t.refined >= 64);
        live(seed, 4, 4);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probes_that_tell_all),
        cmocka_unit_test(probes_that_mislead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
