/* SPDX-License-Identifier: MIT */
/* What a domain promises, one promise at a time; test_domain_model.c lives whole random lives. */
#include "core_test.h"

#include "core/domain.h"

#include <errno.h>

#define EVENTS_MAX 4096

struct range {
    sp_store_page first;
    uint64_t n;
};

struct hinted {
    sp_client client;
    sp_page page;
};

struct world {
    struct test_memory memory;
    struct sp_domain *d;
    struct range punched[EVENTS_MAX];
    size_t punches;
    struct hinted hinted[EVENTS_MAX];
    size_t hints;
    sp_client a, b, c;
};

static struct world w;

static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
    assert_true(w.punches < EVENTS_MAX);
    w.punched[w.punches++] = (struct range){first, n};
}

static void on_hint(void *ctx, sp_client client, sp_page page) {
    assert_true(w.hints < EVENTS_MAX);
    w.hinted[w.hints++] = (struct hinted){client, page};
}

static sp_client client_new(void) {
    sp_client client = 0;
    assert_int_equal(sp_domain_client_add(w.d, &client), 0);
    return client;
}

static int world_begin(void **state) {
    w = (struct world){0};
    struct sp_alloc alloc = test_memory_alloc(&w.memory);
    struct sp_domain_events events = {on_punch, on_hint, NULL};
    assert_int_equal(sp_domain_new(&alloc, &events, &w.d), 0);
    w.a = client_new();
    w.b = client_new();
    w.c = client_new();
    return 0;
}

static int world_end(void **state) {
    w.d = sp_domain_free(w.d);
    assert_true(w.memory.bytes == 0);
    return 0;
}

static struct sp_query query(uint64_t page, uint64_t fp) {
    return (struct sp_query){{page}, {fp << 40 | fp << 1 | 1}};
}

/* The same by a probe. */
static struct sp_query probing(uint64_t page, uint64_t fp) {
    return (struct sp_query){{page}, {fp << 40 | fp << 1}};
}

/* The same page, asked about as a whole because its probe was not enough. */
static struct sp_query refined(uint64_t page, uint64_t fp) {
    return (struct sp_query){{page}, query(page, fp).fp, probing(page, fp).fp};
}

static sp_fp probe_of(struct sp_query q) {
    return (sp_fp){q.fp.v & ~UINT64_C(1)};
}

static sp_fp whole_of(struct sp_query q) {
    return (sp_fp){q.fp.v | 1};
}

static void offer(sp_client client, struct sp_query q, struct sp_answer *ret) {
    sp_domain_publish(w.d, client, q, whole_of(q), ret);
}

static int commit(sp_client client, struct sp_query q, sp_store_page store) {
    return sp_domain_publish_commit(w.d, client, q, whole_of(q), probe_of(q), store);
}

static struct sp_answer ask(sp_client client, struct sp_query q) {
    struct sp_answer a;
    sp_domain_ask(w.d, client, &q, 1, &a);
    return a;
}

static void expect(sp_client client, struct sp_query q, enum sp_answer_kind kind) {
    assert_int_equal(ask(client, q).kind, kind);
}

/* The page was asked to send, and does. */
static sp_store_page publish(sp_client client, struct sp_query q) {
    struct sp_answer a;
    offer(client, q, &a);
    assert_int_equal(a.kind, SP_ANSWER_SEND);
    assert_int_equal(commit(client, q, a.store), 0);
    return a.store;
}

/* Content `fp` becomes stable: `first` knows it, `second` publishes it. */
static sp_store_page make_stable(sp_client first, sp_client second, uint64_t page, uint64_t fp) {
    expect(first, query(page, fp), SP_ANSWER_UNKNOWN);
    expect(second, query(page, fp), SP_ANSWER_SEND);
    return publish(second, query(page, fp));
}

static uint64_t counter(enum sp_counter c) {
    struct sp_counters counters = {0};
    sp_domain_counters(w.d, &counters);
    return counters.v[c];
}

static bool was_hinted(sp_client client, uint64_t page) {
    for (size_t i = 0; i < w.hints; i++)
        if (w.hinted[i].client == client && w.hinted[i].page.v == page)
            return true;
    return false;
}

static void the_way_of_a_page(void **state) {
    expect(w.a, query(1000, 7), SP_ANSWER_UNKNOWN);
    expect(w.a, query(1000, 7), SP_ANSWER_UNKNOWN);
    assert_true(sp_domain_unstable(w.d) == 1);
    expect(w.b, query(2000, 7), SP_ANSWER_SEND);
    expect(w.c, query(3000, 7), SP_ANSWER_UNKNOWN);
    assert_int_equal(w.hints, 0);
    sp_store_page store = publish(w.b, query(2000, 7));
    assert_true(sp_domain_references(w.d, store) == 1);
    assert_true(sp_domain_unstable(w.d) == 0);
    assert_int_equal(w.hints, 2);
    assert_true(was_hinted(w.a, 1000) && was_hinted(w.c, 3000));
    struct sp_answer a = ask(w.a, query(1000, 7));
    assert_int_equal(a.kind, SP_ANSWER_SHARE);
    assert_true(a.store.v == store.v);
    assert_true(sp_domain_references(w.d, store) == 2);
    assert_true(counter(SP_COUNTER_pages_shared) == 1 && counter(SP_COUNTER_pages_sharing) == 1);
    assert_true(counter(SP_COUNTER_exposure_bytes) == SP_PAGE_SIZE);
    sp_domain_release_done(w.d, w.a, 1);
    assert_int_equal(sp_domain_release(w.d, w.a, store, 1, 1), 0);
    assert_int_equal(w.punches, 0);
    sp_domain_client_remove(w.d, w.b);
    assert_int_equal(w.punches, 1);
    assert_true(w.punched[0].first.v == store.v && w.punched[0].n == 1);
    expect(w.c, query(3000, 7), SP_ANSWER_UNKNOWN);
}

static void twins_within_one_client(void **state) {
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.a, query(2, 7), SP_ANSWER_SEND);
    sp_store_page store = publish(w.a, query(2, 7));
    expect(w.a, query(1, 7), SP_ANSWER_SHARE);
    assert_true(sp_domain_client_references(w.d, w.a) == 2);
    sp_domain_client_remove(w.d, w.a);
    assert_true(sp_domain_references(w.d, store) == 0);
}

static void the_layout_of_the_first_owner_is_kept(void **state) {
    const uint64_t window = 100 * SP_WINDOW_PAGES;
    sp_store_page at = {0};
    for (uint64_t i = 0; i < SP_WINDOW_PAGES; i++) {
        sp_store_page store = make_stable(w.a, w.b, window + i, 10 + i);
        assert_true(i == 0 || store.v == at.v + 1);
        assert_true(store.v % SP_WINDOW_PAGES == i);
        at = store;
    }
    /* The slot was used: another chunk. So for another window, and for the first when it comes back. */
    sp_store_page again = make_stable(w.a, w.b, window + 511, 5000);
    assert_true(again.v == at.v + SP_WINDOW_PAGES);
    assert_true(make_stable(w.a, w.b, window + 512, 5001).v == at.v - 511 + 2 * SP_WINDOW_PAGES);
    assert_true(make_stable(w.a, w.b, window, 5002).v == at.v - 511 + 3 * SP_WINDOW_PAGES);
}

static void aborted_places_are_not_used_again(void **state) {
    struct sp_answer first, second;
    expect(w.a, query(5, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(5, 7), SP_ANSWER_SEND);
    offer(w.b, query(5, 7), &first);
    assert_int_equal(first.kind, SP_ANSWER_SEND);
    sp_domain_publish_abort(w.d, w.b, query(5, 7), first.store);
    assert_int_equal(w.punches, 1);
    assert_true(w.punched[0].first.v == first.store.v);
    expect(w.b, query(5, 7), SP_ANSWER_SEND);
    offer(w.b, query(5, 7), &second);
    assert_int_equal(second.kind, SP_ANSWER_SEND);
    assert_true(second.store.v / SP_WINDOW_PAGES > first.store.v / SP_WINDOW_PAGES);
    assert_true(counter(SP_COUNTER_pages_published) == 0);
}

static void only_the_one_that_was_asked_publishes(void **state) {
    struct sp_answer a;
    offer(w.a, query(1, 7), &a);
    assert_int_equal(a.kind, SP_ANSWER_DECLINED);
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    offer(w.a, query(1, 7), &a);
    assert_int_equal(a.kind, SP_ANSWER_DECLINED);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    offer(w.b, query(3, 7), &a);
    assert_int_equal(a.kind, SP_ANSWER_DECLINED);
    assert_int_equal(commit(w.b, query(2, 7), (sp_store_page){77}), -EINVAL);
    assert_int_equal(w.punches, 0);
    (void)publish(w.b, query(2, 7));
    offer(w.a, query(1, 7), &a);
    assert_int_equal(a.kind, SP_ANSWER_SHARE);
    assert_true(sp_domain_references(w.d, a.store) == 2);
}

static void refusing_passes_it_on(void **state) {
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    expect(w.c, query(3, 7), SP_ANSWER_UNKNOWN);
    sp_domain_publish_refuse(w.d, w.b, query(2, 7));
    assert_int_equal(w.hints, 1);
    assert_true(was_hinted(w.a, 1));
    expect(w.a, query(1, 7), SP_ANSWER_SEND);
    /* The hinted one forgets: the next is hinted. */
    expect(w.b, query(4, 7), SP_ANSWER_UNKNOWN);
    struct sp_query q = query(1, 7);
    w.hints = 0;
    sp_domain_forget(w.d, w.a, &q, 1);
    assert_int_equal(w.hints, 1);
    assert_true(was_hinted(w.c, 3));
    expect(w.c, query(3, 7), SP_ANSWER_SEND);
    (void)publish(w.c, query(3, 7));
}

static void the_last_twin_alone_just_waits(void **state) {
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    sp_domain_publish_refuse(w.d, w.b, query(2, 7));
    assert_true(sp_domain_unstable(w.d) == 1);
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.c, query(3, 7), SP_ANSWER_SEND);
    /* Asked to send, asks again: still it, as long as there is a twin. */
    expect(w.c, query(3, 7), SP_ANSWER_SEND);
    struct sp_query q = query(1, 7);
    sp_domain_forget(w.d, w.a, &q, 1);
    expect(w.c, query(3, 7), SP_ANSWER_UNKNOWN);
    assert_true(sp_domain_unstable(w.d) == 1);
}

static void a_gone_sender_strands_nobody(void **state) {
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    sp_domain_client_remove(w.d, w.b);
    expect(w.c, query(3, 7), SP_ANSWER_SEND);
    (void)publish(w.c, query(3, 7));
    assert_true(was_hinted(w.a, 1));
}

static void the_sweep_hints_those_whose_sender_has_gone(void **state) {
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    expect(w.c, query(3, 7), SP_ANSWER_UNKNOWN);
    sp_domain_client_remove(w.d, w.b);
    assert_true(sp_domain_unstable(w.d) == 3);
    size_t calls = 0;
    while (sp_domain_sweep(w.d, 10))
        calls++;
    assert_true(calls > 10);
    assert_true(sp_domain_unstable(w.d) == 2);
    assert_int_equal(w.hints, 1);
    assert_true(was_hinted(w.a, 1));
    assert_false(sp_domain_sweep(w.d, 10));
}

/* Enough for many to have the same place in the table. */
static void the_sweep_finds_everything(void **state) {
    struct test_random r = {9};
    for (uint64_t i = 0; i < 30000; i++) {
        struct sp_query q = {{i}, {test_random_next(&r) | 1}};
        expect(i % 3 ? w.a : w.b, q, SP_ANSWER_UNKNOWN);
    }
    sp_domain_client_remove(w.d, w.a);
    while (sp_domain_sweep(w.d, 100))
        ;
    assert_true(sp_domain_unstable(w.d) == 10000);
    sp_domain_client_remove(w.d, w.b);
    while (sp_domain_sweep(w.d, 1000))
        ;
    assert_true(sp_domain_unstable(w.d) == 0);
}

static void numbers_rest_until_they_are_swept(void **state) {
    sp_client gone = w.a;
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    sp_domain_client_remove(w.d, gone);
    assert_true(client_new() != gone);
    /* Goes while a sweep is under way: the next one frees its number. */
    assert_true(sp_domain_sweep(w.d, 5));
    sp_client late = w.b;
    sp_domain_client_remove(w.d, late);
    assert_true(sp_domain_sweep(w.d, SIZE_MAX));
    assert_true(client_new() == gone);
    assert_true(client_new() != late);
    assert_false(sp_domain_sweep(w.d, SIZE_MAX));
    assert_true(client_new() == late);
    sp_domain_client_remove(w.d, 0);
    sp_domain_client_remove(w.d, SP_CLIENTS_MAX);
    sp_domain_client_remove(w.d, UINT32_MAX);
}

static void clients_run_out(void **state) {
    sp_client client = 0;
    uint64_t n = 3;
    int r;
    while ((r = sp_domain_client_add(w.d, &client)) == 0) {
        n++;
        assert_true(client < SP_CLIENTS_MAX);
    }
    assert_int_equal(r, -EUSERS);
    assert_int_equal(n, SP_CLIENTS_MAX - 1);
    expect(client, query((UINT64_C(1) << 44) - 1, 7), SP_ANSWER_UNKNOWN);
    expect(w.a, query(1, 7), SP_ANSWER_SEND);
    (void)publish(w.a, query(1, 7));
    assert_true(was_hinted(client, (UINT64_C(1) << 44) - 1));
    sp_domain_client_remove(w.d, client);
    assert_int_equal(sp_domain_client_add(w.d, &client), -EUSERS);
    assert_false(sp_domain_sweep(w.d, SIZE_MAX));
    assert_int_equal(sp_domain_client_add(w.d, &client), 0);
}

static void impossible_questions_are_declined(void **state) {
    struct sp_query wrong[] = {{{1}, {0}}, {{UINT64_C(1) << 44}, {5}}, {{UINT64_MAX}, {5}}};
    for (size_t i = 0; i < 3; i++) {
        struct sp_answer a;
        expect(w.a, wrong[i], SP_ANSWER_DECLINED);
        offer(w.a, wrong[i], &a);
        assert_int_equal(a.kind, SP_ANSWER_DECLINED);
        assert_int_equal(commit(w.a, wrong[i], (sp_store_page){0}), -EINVAL);
        sp_domain_publish_abort(w.d, w.a, wrong[i], (sp_store_page){0});
        sp_domain_publish_refuse(w.d, w.a, wrong[i]);
        sp_domain_forget(w.d, w.a, &wrong[i], 1);
    }
    expect(0, query(1, 7), SP_ANSWER_DECLINED);
    expect(4711, query(1, 7), SP_ANSWER_DECLINED);
    expect(UINT32_MAX, query(1, 7), SP_ANSWER_DECLINED);
    assert_true(sp_domain_unstable(w.d) == 0);
    assert_int_equal(w.punches, 0);
}

/* 200 pages: past the batch of loads, with every kind of answer in one call. */
static void many_questions_at_once(void **state) {
    struct sp_query q[200];
    struct sp_answer a[200];
    sp_store_page store[50];
    for (uint64_t i = 0; i < 50; i++)
        store[i] = make_stable(w.a, w.b, 512 + i, 1 + i);
    for (uint64_t i = 50; i < 100; i++)
        expect(w.a, query(512 + i, 1 + i), SP_ANSWER_UNKNOWN);
    for (uint64_t i = 0; i < 200; i++)
        q[i] = query(10000 + i, i == 199 ? 151 : 1 + i);
    sp_domain_ask(w.d, w.c, q, 200, a);
    for (size_t i = 0; i < 200; i++) {
        assert_int_equal(a[i].kind, i < 50                ? SP_ANSWER_SHARE
                                    : i < 100 || i == 199 ? SP_ANSWER_SEND
                                                          : SP_ANSWER_UNKNOWN);
        assert_true(i >= 50 || a[i].store.v == store[i].v);
    }
    sp_domain_ask(w.d, w.c, q, 0, a);
    sp_domain_forget(w.d, w.c, q, 200);
    assert_true(sp_domain_unstable(w.d) == 50);
}

static sp_store_page share_window(sp_client first, sp_client second, uint64_t window) {
    sp_store_page store = {0};
    for (uint64_t i = 0; i < SP_WINDOW_PAGES; i++) {
        uint64_t page = window * SP_WINDOW_PAGES + i;
        store = make_stable(first, second, page, 1 + page);
        expect(first, query(page, 1 + page), SP_ANSWER_SHARE);
    }
    return (sp_store_page){store.v - SP_WINDOW_PAGES + 1};
}

static void releases_are_checked_as_a_whole(void **state) {
    sp_store_page first = share_window(w.a, w.b, 3);
    uint64_t held = sp_domain_client_references(w.d, w.a);
    assert_int_equal(sp_domain_release(w.d, w.a, first, SP_WINDOW_PAGES + 1, 1), -EINVAL);
    assert_int_equal(sp_domain_release(w.d, w.c, first, 1, 1), -EINVAL);
    assert_int_equal(sp_domain_release(w.d, w.a, first, UINT64_MAX, 1), -EINVAL);
    assert_int_equal(sp_domain_release(w.d, w.a, SP_STORE_ZERO, 1, 1), -EINVAL);
    assert_int_equal(sp_domain_release(w.d, w.a, SP_STORE_NONE, 1, 1), -EINVAL);
    assert_int_equal(sp_domain_release(w.d, 4711, first, 1, 1), -EINVAL);
    assert_int_equal(sp_domain_release(w.d, w.a, first, 0, 1), 0);
    assert_true(sp_domain_client_references(w.d, w.a) == held);
    assert_true(sp_domain_references(w.d, first) == 2);
}

static void deferred_references_wait_for_their_epoch(void **state) {
    sp_store_page first = share_window(w.a, w.b, 3);
    sp_domain_client_remove(w.d, w.b);
    assert_int_equal(w.punches, 0);
    assert_int_equal(sp_domain_release(w.d, w.a, first, 100, 1), 0);
    assert_int_equal(sp_domain_release(w.d, w.a, first, 1, 1), -EINVAL); /* once only */
    sp_store_page next = {first.v + 100};
    assert_int_equal(sp_domain_release(w.d, w.a, next, 100, 3), 0);
    next.v += 100;
    assert_int_equal(sp_domain_release(w.d, w.a, next, 100, 2), 0); /* went down: counts as 3 */
    assert_true(counter(SP_COUNTER_pages_deferred) == 300);
    assert_true(sp_domain_client_references(w.d, w.a) == SP_WINDOW_PAGES);
    assert_true(sp_domain_references(w.d, first) == 1);
    sp_domain_release_done(w.d, w.a, 2);
    assert_int_equal(w.punches, 1);
    assert_true(w.punched[0].first.v == first.v && w.punched[0].n == 100);
    assert_true(sp_domain_references(w.d, first) == 0);
    assert_true(counter(SP_COUNTER_pages_deferred) == 200);
    next.v += 100;
    assert_int_equal(sp_domain_release(w.d, w.a, next, 1, 1), 0); /* and is not done with, as 1 would be */
    assert_true(counter(SP_COUNTER_pages_deferred) == 201);
    sp_domain_client_remove(w.d, w.a);
    assert_int_equal(w.punches, 2);
    assert_true(w.punched[1].first.v == first.v + 100 && w.punched[1].n == 412);
    assert_true(counter(SP_COUNTER_pages_deferred) == 0);
    assert_true(counter(SP_COUNTER_pages_punched) == SP_WINDOW_PAGES);
    sp_domain_release_done(w.d, w.a, 9);
}

/* The range crosses several blocks of the ledger: all of it is deferred, or nothing. */
static void a_release_without_memory_changes_nothing(void **state) {
    sp_store_page first = share_window(w.a, w.b, 3);
    uint64_t failed = 0;
    for (uint64_t i = 1;; i++) {
        w.memory.fail_at = w.memory.gets + i;
        uint64_t failures = w.memory.failures;
        int r = sp_domain_release(w.d, w.a, first, 300, 1);
        if (r == 0)
            break;
        assert_int_equal(r, -ENOMEM);
        assert_true(w.memory.failures > failures);
        assert_true(counter(SP_COUNTER_pages_deferred) == 0);
        failed++;
    }
    assert_true(failed >= 5);
    assert_int_equal(sp_domain_release(w.d, w.a, first, 300, 1), -EINVAL);
    sp_domain_release_done(w.d, w.a, 1);
    assert_true(sp_domain_client_references(w.d, w.a) == SP_WINDOW_PAGES - 300);
    assert_true(sp_domain_references(w.d, first) == 1);
}

static void a_commit_without_memory_keeps_none(void **state) {
    uint64_t failed = 0;
    /* Tables keep their arrays of shards: let them get those first. */
    sp_store_page store = make_stable(w.a, w.b, 7, 12345);
    sp_domain_release_done(w.d, w.b, 1);
    assert_int_equal(sp_domain_release(w.d, w.b, store, 1, 1), 0);
    for (uint64_t i = 1;; i++) {
        struct sp_answer a;
        expect(w.a, query(i * 1000, i), SP_ANSWER_UNKNOWN);
        expect(w.b, query(i * 1000, i), SP_ANSWER_SEND);
        offer(w.b, query(i * 1000, i), &a);
        uint64_t bytes = w.memory.bytes, punches = w.punches;
        w.memory.fail_at = w.memory.gets + i;
        uint64_t failures = w.memory.failures;
        int r = commit(w.b, query(i * 1000, i), a.store);
        w.memory.fail_at = 0;
        if (w.memory.failures == failures) {
            assert_int_equal(r, 0);
            break;
        }
        if (r == 0) { /* no memory for the probe: then it is found by its fingerprint only */
            expect(w.a, probing(i * 1000, i), SP_ANSWER_REFINE); /* hidden */
            assert_true(ask(w.a, query(i * 1000, i)).store.v == a.store.v);
            assert_int_equal(sp_domain_release(w.d, w.b, a.store, 1, 1), 0);
            sp_domain_client_remove(w.d, w.a);
            w.a = client_new();
            continue;
        }
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(w.punches, punches + 1);
        assert_true(sp_domain_references(w.d, a.store) == 0);
        assert_true(sp_domain_client_references(w.d, w.b) == 0);
        assert_true(w.memory.bytes <= bytes);
        failed++;
    }
    assert_true(failed >= 5);
}

/* Windows published in any order: what a client leaves is punched in as few ranges as there can be. */
static void punches_come_in_ranges(void **state) {
    for (uint64_t window = 1; window <= 6; window++)
        (void)share_window(w.a, w.b, window * 7 % 11);
    struct sp_query q[SP_WINDOW_PAGES];
    static struct sp_answer a[SP_WINDOW_PAGES];
    for (uint64_t window = 6; window >= 1; window--) { /* w.c meets them backwards */
        for (uint64_t i = 0; i < SP_WINDOW_PAGES; i++)
            q[i] = query(i, 1 + window * 7 % 11 * SP_WINDOW_PAGES + i);
        sp_domain_ask(w.d, w.c, q, SP_WINDOW_PAGES, a);
    }
    assert_true(sp_domain_client_references(w.d, w.c) == 6 * SP_WINDOW_PAGES);
    sp_domain_client_remove(w.d, w.a);
    sp_domain_client_remove(w.d, w.b);
    assert_int_equal(w.punches, 0);
    sp_domain_client_remove(w.d, w.c);
    assert_int_equal(w.punches, 1);
    assert_true(w.punched[0].n == 6 * SP_WINDOW_PAGES);
}

static void limits_decline(void **state) {
    sp_domain_limit(w.d, 1, false);
    sp_store_page store = make_stable(w.a, w.b, 1, 7);
    expect(w.a, query(2, 8), SP_ANSWER_UNKNOWN);
    expect(w.b, query(2, 8), SP_ANSWER_DECLINED);
    expect(w.a, query(1, 7), SP_ANSWER_SHARE); /* needs no store page */
    sp_domain_limit(w.d, 2, false);
    expect(w.b, query(2, 8), SP_ANSWER_SEND);
    sp_domain_limit(w.d, 1, false);
    struct sp_answer a;
    offer(w.b, query(2, 8), &a);
    assert_int_equal(a.kind, SP_ANSWER_DECLINED);
    assert_true(sp_domain_unstable(w.d) == 1);
    sp_domain_limit(w.d, 0, true);
    expect(w.c, query(1, 7), SP_ANSWER_DECLINED);
    expect(w.c, query(2, 8), SP_ANSWER_DECLINED);
    expect(w.c, query(3, 9), SP_ANSWER_UNKNOWN);
    sp_domain_limit(w.d, 0, false);
    expect(w.c, query(1, 7), SP_ANSWER_SHARE);
    assert_true(sp_domain_references(w.d, store) == 3);
}

static uint64_t full_pages(void) {
    struct sp_counters c = {0};
    sp_domain_counters(w.d, &c);
    assert_true(c.v[SP_COUNTER_stable_node_chains] == 0 && c.v[SP_COUNTER_stable_node_dups] == 0);
    return c.v[SP_COUNTER_pages_full];
}

/* Four sharers, of whom three may share one page: the fourth begins another. */
static void a_full_page_is_offered_no_more(void **state) {
    sp_domain_limit_sharing(w.d, 3);
    sp_store_page first = make_stable(w.a, w.b, 1, 7);
    expect(w.a, query(1, 7), SP_ANSWER_SHARE);
    assert_true(ask(w.c, query(1, 7)).store.v == first.v);
    assert_true(sp_domain_references(w.d, first) == 3 && full_pages() == 0);
    expect(w.c, query(2, 7), SP_ANSWER_UNKNOWN);
    assert_true(full_pages() == 1);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    sp_store_page second = publish(w.b, query(2, 7));
    assert_true(second.v != first.v && ask(w.c, query(2, 7)).store.v == second.v);
    struct sp_counters c = {0};
    sp_domain_counters(w.d, &c);
    assert_true(c.v[SP_COUNTER_pages_shared] == 2 && c.v[SP_COUNTER_pages_sharing] == 3);
    /* It goes with its last reference, and the other stays what it is. */
    assert_int_equal(sp_domain_release(w.d, w.a, first, 1, 1), 0);
    assert_int_equal(sp_domain_release(w.d, w.b, first, 1, 1), 0);
    assert_int_equal(sp_domain_release(w.d, w.c, first, 1, 1), 0);
    for (size_t i = 0; i < 3; i++)
        sp_domain_release_done(w.d, (sp_client[]){w.a, w.b, w.c}[i], 1);
    assert_int_equal(w.punches, 1);
    assert_true(w.punched[0].first.v == first.v && w.punched[0].n == 1 && full_pages() == 0);
    expect(w.a, query(1, 7), SP_ANSWER_SHARE);
    assert_true(sp_domain_references(w.d, second) == 3);
}

/* The same by probes, and the sieve forgets a page that was hidden. */
static void a_full_page_is_not_guessed_either(void **state) {
    sp_domain_limit_sharing(w.d, 2);
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, probing(1, 7), SP_ANSWER_SEND);
    sp_store_page first = publish(w.b, probing(1, 7));
    assert_true(ask(w.a, probing(1, 7)).store.v == first.v);
    expect(w.c, probing(1, 7), SP_ANSWER_UNKNOWN);
    assert_true(full_pages() == 1);
    expect(w.b, probing(2, 7), SP_ANSWER_SEND);
    sp_store_page second = publish(w.b, probing(2, 7));
    assert_true(second.v != first.v && ask(w.c, probing(1, 7)).store.v == second.v);
}

/* Nor does a page that follows another one lead to it. */
static void a_full_page_is_not_followed_to(void **state) {
    struct sp_answer answers[2];
    struct sp_query series[2] = {probing(1, 7), probing(2, 8)};
    sp_domain_limit_sharing(w.d, 2);
    for (size_t i = 0; i < 2; i++) {
        expect(w.a, series[i], SP_ANSWER_UNKNOWN);
        expect(w.b, series[i], SP_ANSWER_SEND);
        (void)publish(w.b, series[i]);
    }
    expect(w.a, series[1], SP_ANSWER_SHARE);
    sp_domain_ask(w.d, w.c, series, 2, answers); /* the first has room, the second is full */
    assert_int_equal(answers[0].kind, SP_ANSWER_SHARE);
    assert_int_equal(answers[1].kind, SP_ANSWER_UNKNOWN);
    assert_true(full_pages() == 1);
    sp_domain_limit_sharing(w.d, SP_UNBOUNDED_SHARING);
    sp_domain_ask(w.d, w.c, series, 2, answers); /* and closed by now */
    assert_int_equal(answers[0].kind, SP_ANSWER_SHARE);
    assert_int_equal(answers[1].kind, SP_ANSWER_UNKNOWN);
}

/* A lower limit takes nothing from those who share already. */
static void a_limit_of_sharers_can_change(void **state) {
    sp_store_page store = make_stable(w.a, w.b, 1, 7);
    for (uint64_t i = 1; i < 10; i++)
        expect(w.c, query(i, 7), SP_ANSWER_SHARE);
    sp_domain_limit_sharing(w.d, 4);
    expect(w.c, query(10, 7), SP_ANSWER_UNKNOWN);
    assert_true(sp_domain_references(w.d, store) == 10 && full_pages() == 1);
    sp_domain_limit_sharing(w.d, SP_UNBOUNDED_SHARING);
    expect(w.a, query(2, 7), SP_ANSWER_SEND);
    assert_true(publish(w.a, query(2, 7)).v != store.v);
}

static void too_many_waiters_are_declined(void **state) {
    expect(w.a, query(0, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(0, 7), SP_ANSWER_SEND);
    for (uint64_t i = 1; i < 64; i++)
        expect(w.a, query(i, 7), SP_ANSWER_UNKNOWN);
    expect(w.a, query(64, 7), SP_ANSWER_DECLINED);
    expect(w.a, query(63, 7), SP_ANSWER_UNKNOWN);
    (void)publish(w.b, query(0, 7));
    assert_int_equal(w.hints, 64);
    assert_false(was_hinted(w.a, 64));
    expect(w.a, query(64, 7), SP_ANSWER_SHARE);
}

static void a_late_commit_changes_nothing(void **state) {
    struct sp_answer a;
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, query(2, 7), SP_ANSWER_SEND);
    offer(w.b, query(2, 7), &a);
    assert_int_equal(a.kind, SP_ANSWER_SEND);
    sp_domain_client_remove(w.d, w.b);
    expect(w.c, query(3, 7), SP_ANSWER_SEND);
    sp_store_page store = publish(w.c, query(3, 7));
    assert_int_equal(commit(w.b, query(2, 7), a.store), -ESRCH);
    assert_int_equal(w.punches, 1);
    assert_true(w.punched[0].first.v == a.store.v);
    assert_int_equal(commit(w.c, query(3, 7), store), -EINVAL);
    sp_domain_publish_abort(w.d, w.c, query(3, 7), store);
    assert_true(sp_domain_references(w.d, store) == 1);
    assert_int_equal(w.punches, 1);
}

#define domain_test(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

/* ---- probes ---- */

/* Another content with the same probe. */
static struct sp_query resembling(uint64_t page, uint64_t fp, uint64_t other) {
    return (struct sp_query){{page}, {other << 50 | fp << 1 | 1}};
}

static void probes_are_not_trusted(void) {
    sp_domain_guessed_wrong(w.d, 1000);
}

static void who_is_alone_waits_under_its_probe(void **state) {
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN); /* asking again is not a twin */
    assert_true(sp_domain_unstable(w.d) == 1);
    struct sp_query q = probing(1, 7);
    sp_domain_forget(w.d, w.a, &q, 1);
    expect(w.b, probing(2, 7), SP_ANSWER_UNKNOWN);
}

static void the_way_of_a_page_by_its_probe(void **state) {
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, probing(2, 7), SP_ANSWER_SEND);
    sp_store_page store = publish(w.b, probing(2, 7));
    assert_true(was_hinted(w.a, 1));
    assert_true(sp_domain_unstable(w.d) == 0);
    struct sp_answer a = ask(w.a, probing(1, 7)), c = ask(w.c, query(3, 7));
    assert_true(a.kind == SP_ANSWER_SHARE && a.store.v == store.v);
    assert_true(c.kind == SP_ANSWER_SHARE && c.store.v == store.v);
    assert_true(sp_domain_references(w.d, store) == 3);
}

/* Published by a probe, it ends the waiting of those who ask by the whole, too. */
static void whole_waiters_are_hinted_by_a_probes_publication(void **state) {
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, probing(2, 7), SP_ANSWER_SEND);
    expect(w.c, query(3, 7), SP_ANSWER_UNKNOWN);
    (void)publish(w.b, probing(2, 7));
    assert_true(was_hinted(w.c, 3) && was_hinted(w.a, 1));
    expect(w.c, query(3, 7), SP_ANSWER_SHARE);
}

static void wrong_guesses_end_the_trust_in_probes(void **state) {
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    sp_store_page stable = make_stable(w.b, w.c, 9, 9);
    probes_are_not_trusted();
    expect(w.a, probing(4, 9), SP_ANSWER_REFINE);
    assert_true(ask(w.a, query(4, 9)).store.v == stable.v);
    expect(w.b, probing(2, 7), SP_ANSWER_REFINE);
    expect(w.b, refined(2, 7), SP_ANSWER_UNKNOWN);
    assert_true(was_hinted(w.a, 1));
    expect(w.a, probing(1, 7), SP_ANSWER_REFINE);
    expect(w.a, refined(1, 7), SP_ANSWER_SEND);
    sp_store_page store = publish(w.a, query(1, 7));
    assert_true(was_hinted(w.b, 2));
    struct sp_answer a = ask(w.b, query(2, 7));
    assert_true(a.kind == SP_ANSWER_SHARE && a.store.v == store.v);
}

static void right_guesses_win_it_back(void **state) {
    (void)make_stable(w.a, w.b, 1, 7);
    probes_are_not_trusted();
    expect(w.c, probing(2, 7), SP_ANSWER_REFINE);
    unsigned tries = 0;
    while (ask(w.c, probing(2, 7)).kind == SP_ANSWER_REFINE)
        assert_true(tries++ < 10000);
}

/* Whatever made a page be asked about as a whole: here its probe has misled it, or another that has gone
 * since let the sieve pass. */
static void who_waits_under_the_probe_of_a_whole_is_hinted(void **state) {
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, refined(2, 7), SP_ANSWER_UNKNOWN);
    assert_true(was_hinted(w.a, 1));
    expect(w.a, probing(1, 7), SP_ANSWER_REFINE);
    expect(w.a, refined(1, 7), SP_ANSWER_SEND);
    assert_true(sp_domain_unstable(w.d) == 2); /* no longer under its probe */
}

/* One that asks while it is only being found out whether it has a twin is the second of the two. */
static void one_that_asks_between_refine_and_the_whole_is_hinted(void **state) {
    expect(w.c, query(9, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, probing(2, 7), SP_ANSWER_REFINE);
    struct sp_query gone = query(9, 7);
    sp_domain_forget(w.d, w.c, &gone, 1);
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, refined(2, 7), SP_ANSWER_UNKNOWN);
    assert_true(was_hinted(w.a, 1));
}

static void the_probe_of_a_whole_must_be_one(void **state) {
    expect(w.a, query(1, 8), SP_ANSWER_UNKNOWN);
    expect(w.b, (struct sp_query){{2}, query(2, 7).fp, query(2, 8).fp}, SP_ANSWER_UNKNOWN);
    assert_false(was_hinted(w.a, 1));
}

/* Another content with the probe of `fp`, which b publishes. */
static sp_store_page make_hidden(uint64_t page, uint64_t fp) {
    struct sp_query q = resembling(page, fp, 1);
    struct sp_answer a;
    expect(w.a, resembling(page + SP_WINDOW_PAGES, fp, 1), SP_ANSWER_UNKNOWN);
    expect(w.b, q, SP_ANSWER_SEND);
    sp_domain_publish(w.d, w.b, q, q.fp, &a);
    assert_int_equal(sp_domain_publish_commit(w.d, w.b, q, q.fp, probing(0, fp).fp, a.store), 0);
    return a.store;
}

/* Two contents with one probe: by the probe the older is found, and when it has gone nobody is told that
 * there is nothing. */
static void a_hidden_page_is_found_by_refining(void **state) {
    sp_store_page first = make_stable(w.a, w.b, 1, 7);
    sp_store_page hidden = make_hidden(2, 7);
    assert_true(ask(w.c, probing(3, 7)).store.v == first.v);
    assert_true(ask(w.c, resembling(3, 7, 1)).store.v == hidden.v);
    sp_domain_client_remove(w.d, w.c);
    sp_domain_release_done(w.d, w.b, 1);
    assert_int_equal(sp_domain_release(w.d, w.b, first, 1, 1), 0);
    assert_true(sp_domain_references(w.d, first) == 0);
    expect(w.a, probing(4, 7), SP_ANSWER_REFINE);
    assert_true(ask(w.a, resembling(4, 7, 1)).store.v == hidden.v);
    /* Whoever would publish it again is given it. */
    expect(w.a, (struct sp_query){{5}, {UINT64_C(5) << 40}}, SP_ANSWER_UNKNOWN);
    expect(w.b, (struct sp_query){{6}, {UINT64_C(5) << 40}}, SP_ANSWER_SEND);
    struct sp_answer again;
    sp_domain_publish(w.d, w.b, (struct sp_query){{6}, {UINT64_C(5) << 40}}, resembling(0, 7, 1).fp, &again);
    assert_true(again.kind == SP_ANSWER_SHARE && again.store.v == hidden.v);
}

/* What follows in the client is looked for where it follows in the store, whatever else has its probe, for as
 * long as it is there. */
static void a_run_is_answered_by_a_run(void **state) {
    sp_store_page older = make_stable(w.a, w.b, 5, 8);
    sp_store_page first = make_stable(w.a, w.b, 1024, 7), second = make_hidden(1025, 8);
    assert_true(second.v == first.v + 1);
    struct sp_query run[] = {probing(3000, 7), probing(3001, 8)};
    struct sp_answer a[2];
    sp_domain_ask(w.d, w.c, run, 2, a);
    assert_true(a[0].kind == SP_ANSWER_SHARE && a[0].store.v == first.v);
    assert_true(a[1].kind == SP_ANSWER_SHARE && a[1].store.v == second.v);
    assert_true(ask(w.c, probing(4000, 8)).store.v == older.v);

    sp_domain_client_remove(w.d, w.c);
    sp_domain_release_done(w.d, w.b, 1);
    assert_int_equal(sp_domain_release(w.d, w.b, second, 1, 1), 0);
    sp_domain_ask(w.d, w.a, run, 2, a);
    assert_true(a[0].store.v == first.v && a[1].store.v == older.v);
}

/* When the last whole fingerprint with its trace has gone, a probe is alone again. */
static void the_sieve_empties(void **state) {
    expect(w.a, query(1, 7), SP_ANSWER_UNKNOWN);
    expect(w.c, probing(3, 7), SP_ANSWER_REFINE);
    struct sp_query q = query(1, 7);
    sp_domain_forget(w.d, w.a, &q, 1);
    expect(w.c, probing(3, 7), SP_ANSWER_UNKNOWN);
}

/* More of them than the sieve can count: it must not forget that they are there. */
static void the_sieve_does_not_overflow(void **state) {
    for (uint64_t i = 1; i <= 300; i++)
        expect(w.a, resembling(i, 7, i), SP_ANSWER_UNKNOWN);
    for (uint64_t i = 1; i < 300; i++) {
        struct sp_query q = resembling(i, 7, i);
        sp_domain_forget(w.d, w.a, &q, 1);
    }
    expect(w.c, probing(3, 7), SP_ANSWER_REFINE);
}

static void kinds_of_fingerprints_are_checked(void **state) {
    struct sp_answer a;
    expect(w.a, probing(1, 7), SP_ANSWER_UNKNOWN);
    offer(w.a, probing(1, 7), &a);
    assert_int_equal(a.kind, SP_ANSWER_DECLINED); /* was not asked to send */
    expect(w.b, query(1, 8), SP_ANSWER_UNKNOWN);
    expect(w.c, query(2, 8), SP_ANSWER_SEND);
    offer(w.c, query(2, 8), &a);
    sp_fp whole = query(2, 8).fp, probe = probing(2, 8).fp;
    assert_int_equal(sp_domain_publish_commit(w.d, w.c, query(2, 8), probe, probe, a.store), -EINVAL);
    assert_int_equal(sp_domain_publish_commit(w.d, w.c, query(2, 8), whole, whole, a.store), -EINVAL);
    assert_int_equal(commit(w.c, query(2, 8), a.store), 0);
}

/* ---- for an index of another kind ---- */

static struct sp_answer place(sp_client client, uint64_t page) {
    struct sp_answer a;
    sp_domain_place(w.d, client, (sp_page){page}, &a);
    return a;
}

static struct sp_answer take(sp_client client, sp_store_page store) {
    struct sp_answer a;
    sp_domain_take(w.d, client, store, &a);
    return a;
}

static void what_is_entered_is_shared_and_given_back(void **state) {
    struct sp_answer a = place(w.a, 512 * 8 + 5), b = place(w.a, 512 * 8 + 6);
    assert_int_equal(a.kind, SP_ANSWER_SEND);
    assert_int_equal(b.store.v, a.store.v + 1); /* the layout is kept */
    assert_int_equal(take(w.b, a.store).kind, SP_ANSWER_DECLINED);
    assert_int_equal(sp_domain_enter(w.d, w.a, a.store), 0);
    assert_int_equal(sp_domain_enter(w.d, w.a, b.store), 0);
    struct sp_answer t = take(w.b, a.store);
    assert_int_equal(t.kind, SP_ANSWER_SHARE);
    assert_int_equal(t.store.v, a.store.v);
    assert_int_equal(sp_domain_references(w.d, a.store), 2);
    assert_int_equal(counter(SP_COUNTER_pages_shared), 2);
    assert_int_equal(counter(SP_COUNTER_pages_sharing), 1);
    assert_int_equal(counter(SP_COUNTER_pages_published), 2);
    sp_domain_client_remove(w.d, w.b);
    assert_int_equal(sp_domain_references(w.d, a.store), 1);
    assert_int_equal(w.punches, 0);
    sp_domain_client_remove(w.d, w.a);
    assert_int_equal(w.punches, 1);
    assert_int_equal(w.punched[0].n, 2);
    assert_int_equal(take(w.c, a.store).kind, SP_ANSWER_DECLINED);
    assert_int_not_equal(place(w.c, 512 * 8 + 5).store.v, a.store.v); /* I3 */
}

static void entering_is_checked(void **state) {
    struct sp_answer a = place(w.a, 3);
    assert_int_equal(sp_domain_enter(w.d, w.a, (sp_store_page){1 << 20}), -EINVAL);
    assert_int_equal(sp_domain_enter(w.d, SP_CLIENTS_MAX - 1, a.store), -ESRCH);
    assert_int_equal(sp_domain_enter(w.d, w.a, a.store), 0);
    assert_int_equal(sp_domain_enter(w.d, w.a, a.store), -EINVAL);
    sp_domain_leave(w.d, a.store); /* in use: stays */
    assert_int_equal(w.punches, 0);
    a = place(w.a, 4);
    sp_domain_leave(w.d, a.store);
    assert_int_equal(w.punches, 1);
    assert_int_equal(w.punched[0].first.v, a.store.v);
    sp_domain_limit(w.d, 1, false);
    assert_int_equal(place(w.a, 5).kind, SP_ANSWER_DECLINED);
    sp_domain_limit(w.d, 0, true);
    assert_int_equal(place(w.a, 5).kind, SP_ANSWER_DECLINED);
    assert_int_equal(place(SP_CLIENTS_MAX - 1, 5).kind, SP_ANSWER_DECLINED);
}

static void entering_without_memory_leaves_nothing(void **state) {
    for (uint64_t at = 1;; at++) {
        struct sp_answer a = place(w.a, 512 * (at + 1));
        w.memory.fail_at = w.memory.gets + at;
        int r = sp_domain_enter(w.d, w.a, a.store);
        w.memory.fail_at = 0;
        assert_int_equal(sp_domain_references(w.d, a.store), r == 0);
        assert_int_equal(sp_domain_client_references(w.d, w.a), r == 0);
        if (r == 0)
            return;
        assert_int_equal(r, -ENOMEM);
        sp_domain_leave(w.d, a.store);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        domain_test(what_is_entered_is_shared_and_given_back),
        domain_test(entering_is_checked),
        domain_test(entering_without_memory_leaves_nothing),
        domain_test(the_way_of_a_page),
        domain_test(twins_within_one_client),
        domain_test(the_layout_of_the_first_owner_is_kept),
        domain_test(aborted_places_are_not_used_again),
        domain_test(only_the_one_that_was_asked_publishes),
        domain_test(refusing_passes_it_on),
        domain_test(the_last_twin_alone_just_waits),
        domain_test(a_gone_sender_strands_nobody),
        domain_test(the_sweep_hints_those_whose_sender_has_gone),
        domain_test(the_sweep_finds_everything),
        domain_test(numbers_rest_until_they_are_swept),
        domain_test(clients_run_out),
        domain_test(impossible_questions_are_declined),
        domain_test(many_questions_at_once),
        domain_test(releases_are_checked_as_a_whole),
        domain_test(deferred_references_wait_for_their_epoch),
        domain_test(a_release_without_memory_changes_nothing),
        domain_test(a_commit_without_memory_keeps_none),
        domain_test(punches_come_in_ranges),
        domain_test(limits_decline),
        domain_test(a_full_page_is_offered_no_more),
        domain_test(a_full_page_is_not_guessed_either),
        domain_test(a_full_page_is_not_followed_to),
        domain_test(a_limit_of_sharers_can_change),
        domain_test(too_many_waiters_are_declined),
        domain_test(a_late_commit_changes_nothing),
        domain_test(who_is_alone_waits_under_its_probe),
        domain_test(the_way_of_a_page_by_its_probe),
        domain_test(whole_waiters_are_hinted_by_a_probes_publication),
        domain_test(wrong_guesses_end_the_trust_in_probes),
        domain_test(right_guesses_win_it_back),
        domain_test(who_waits_under_the_probe_of_a_whole_is_hinted),
        domain_test(one_that_asks_between_refine_and_the_whole_is_hinted),
        domain_test(the_probe_of_a_whole_must_be_one),
        domain_test(a_hidden_page_is_found_by_refining),
        domain_test(a_run_is_answered_by_a_run),
        domain_test(the_sieve_empties),
        domain_test(the_sieve_does_not_overflow),
        domain_test(kinds_of_fingerprints_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
