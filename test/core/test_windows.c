/* SPDX-License-Identifier: MIT */
/* Questions about whole windows: who is asked to send one, who shares it, and what they leave behind. */
#include "core_test.h"

#include "core/domain.h"
#include "core/fingerprint.h"

#define PAGES SP_WINDOW_PAGES
#define A     100 /* windows of the clients */
#define B     200
#define C     300

struct world {
    struct test_memory memory;
    struct sp_domain *d;
    sp_client a, b, c;
    uint64_t hints_whole[8]; /* of first pages, by client */
    uint64_t punched;
};

static struct world w;

static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
    w.punched += n;
}

static void on_hint(void *ctx, sp_client client, sp_page page) {
    assert_true(client < 8);
    w.hints_whole[client] += sp_page_slot(page) == 0;
}

static int world_begin(void **state) {
    w = (struct world){0};
    struct sp_alloc alloc = test_memory_alloc(&w.memory);
    struct sp_domain_events events = {on_punch, on_hint, NULL};
    assert_int_equal(sp_domain_new(&alloc, &events, &w.d), 0);
    assert_int_equal(sp_domain_client_add(w.d, &w.a), 0);
    assert_int_equal(sp_domain_client_add(w.d, &w.b), 0);
    assert_int_equal(sp_domain_client_add(w.d, &w.c), 0);
    return 0;
}

static int world_end(void **state) {
    w.d = sp_domain_free(w.d);
    assert_true(w.memory.bytes == 0);
    return 0;
}

/* Page `slot` of content `seed`, by its probe. */
static struct sp_query page_query(uint64_t window, uint64_t seed, unsigned slot) {
    uint64_t fp = (seed << 20 | slot) * UINT64_C(0x9e3779b97f4a7c15);
    return (struct sp_query){{window * PAGES + slot}, {fp << 1}, {0}};
}

static struct sp_query window_query(uint64_t window, uint64_t seed) {
    uint64_t probes[PAGES];
    for (unsigned i = 0; i < PAGES; i++)
        probes[i] = page_query(window, seed, i).fp.v;
    return (struct sp_query){{window * PAGES}, sp_window_probe(probes), SP_PROBE_WINDOW};
}

static struct sp_answer ask(sp_client client, struct sp_query q) {
    struct sp_answer a;
    sp_domain_ask(w.d, client, &q, 1, &a);
    return a;
}

static void expect(sp_client client, struct sp_query q, enum sp_answer_kind kind) {
    assert_int_equal(ask(client, q).kind, kind);
}

static enum sp_answer_kind publish_page(sp_client client, struct sp_query q, sp_store_page *ret_store) {
    struct sp_answer a;
    sp_fp whole = {q.fp.v | 1};
    sp_domain_publish(w.d, client, q, whole, &a);
    if (a.kind == SP_ANSWER_SEND)
        assert_int_equal(sp_domain_publish_commit(w.d, client, q, whole, q.fp, a.store), 0);
    *ret_store = a.store;
    return a.kind;
}

/* The first `n` pages of a window; their chunk. */
static sp_store_page publish(sp_client client, uint64_t window, uint64_t seed, unsigned n) {
    sp_store_page first = SP_STORE_NONE, store;
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(publish_page(client, page_query(window, seed, i), &store), SP_ANSWER_SEND);
        first = i ? first : store;
        assert_true(store.v == first.v + i);
    }
    return first;
}

/* `a` knows the window, `b` publishes it. */
static sp_store_page make_whole(uint64_t seed) {
    expect(w.a, window_query(A, seed), SP_ANSWER_UNKNOWN);
    expect(w.b, window_query(B, seed), SP_ANSWER_SEND);
    return publish(w.b, B, seed, PAGES);
}

static void references_are(sp_store_page first, uint64_t n) {
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(sp_domain_references(w.d, (sp_store_page){first.v + i}) == n);
}

static void release(sp_client client, sp_store_page first, uint64_t n) {
    assert_int_equal(sp_domain_release(w.d, client, first, n, 1), 0);
    sp_domain_release_done(w.d, client, 1);
}

static void the_way_of_a_window(void **state) {
    struct sp_answer a;
    expect(w.a, window_query(A, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, window_query(B, 7), SP_ANSWER_SEND);
    expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
    assert_true(sp_domain_unstable(w.d) == 3);
    sp_store_page first = publish(w.b, B, 7, PAGES - 1), store;
    assert_true(w.hints_whole[w.a] == 0 && w.hints_whole[w.c] == 0);
    assert_int_equal(publish_page(w.b, page_query(B, 7, PAGES - 1), &store), SP_ANSWER_SEND);
    assert_true(w.hints_whole[w.a] == 1 && w.hints_whole[w.b] == 0 && w.hints_whole[w.c] == 1);
    assert_true(sp_domain_unstable(w.d) == 0);
    a = ask(w.a, window_query(A, 7));
    assert_int_equal(a.kind, SP_ANSWER_SHARE);
    assert_true(a.store.v == first.v);
    expect(w.c, window_query(C, 7), SP_ANSWER_SHARE);
    references_are(first, 3);
    assert_true(sp_domain_client_references(w.d, w.a) == PAGES);
}

/* Nobody publishes what it was not asked for, and each page of what it was asked for once. */
static void only_what_is_asked_for(void **state) {
    struct sp_answer a;
    sp_store_page store;
    assert_int_equal(publish_page(w.b, page_query(B, 7, 0), &store), SP_ANSWER_DECLINED);
    expect(w.a, window_query(A, 7), SP_ANSWER_UNKNOWN);
    assert_int_equal(publish_page(w.a, page_query(A, 7, 0), &store), SP_ANSWER_DECLINED);
    expect(w.b, window_query(B, 7), SP_ANSWER_SEND);
    assert_int_equal(publish_page(w.b, page_query(C, 7, 0), &store), SP_ANSWER_DECLINED);
    assert_int_equal(publish_page(w.c, page_query(B, 7, 0), &store), SP_ANSWER_DECLINED);
    sp_domain_publish(w.d, w.b, page_query(B, 7, 3), (sp_fp){99}, &a);
    assert_int_equal(a.kind, SP_ANSWER_SEND);
    sp_domain_publish_abort(w.d, w.b, page_query(B, 7, 3), a.store);
    assert_int_equal(publish_page(w.b, page_query(B, 7, 3), &store), SP_ANSWER_DECLINED);
    struct sp_query q = window_query(B, 7);
    sp_domain_forget(w.d, w.b, &q, 1);
    assert_int_equal(publish_page(w.b, page_query(B, 7, 4), &store), SP_ANSWER_DECLINED);
}

/* Who has changed its mind is no twin; who waits for a sender that gave up is the next. */
static void forgotten_windows(void **state) {
    struct sp_query qa = window_query(A, 7), qb = window_query(B, 7);
    expect(w.a, qa, SP_ANSWER_UNKNOWN);
    sp_domain_forget(w.d, w.a, &qa, 1);
    expect(w.b, qb, SP_ANSWER_UNKNOWN);
    expect(w.a, qa, SP_ANSWER_SEND);
    expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
    sp_domain_forget(w.d, w.a, &qa, 1);
    assert_true(w.hints_whole[w.b] + w.hints_whole[w.c] == 1);
    expect(w.b, qb, SP_ANSWER_SEND);
}

/* When the last reference to a single page goes, nobody is led to the chunk as a whole any more. */
static void a_page_that_goes_takes_the_whole_along(void **state) {
    sp_store_page first = make_whole(7);
    expect(w.a, window_query(A, 7), SP_ANSWER_SHARE);
    release(w.a, (sp_store_page){first.v + 300}, 1);
    expect(w.c, window_query(C, 7), SP_ANSWER_SHARE);
    release(w.c, (sp_store_page){first.v + 300}, 1);
    release(w.b, (sp_store_page){first.v + 300}, 1);
    assert_true(w.punched == 1);
    expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
    release(w.a, first, 300);
    release(w.b, first, 300);
    release(w.c, first, 300);
    expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
}

/* A chunk with a page that has no room for one more is not shared as a whole, and nothing is taken. */
static void no_room(void **state) {
    sp_domain_limit_sharing(w.d, 2);
    sp_store_page first = make_whole(7), other;
    expect(w.c, page_query(C + 1, 7, 300), SP_ANSWER_SHARE);
    expect(w.a, window_query(A, 7), SP_ANSWER_DECLINED);
    assert_true(sp_domain_client_references(w.d, w.a) == 0);
    assert_true(sp_domain_references(w.d, (sp_store_page){first.v + 299}) == 1);
    expect(w.a, window_query(A, 7), SP_ANSWER_UNKNOWN);
    /* And the next chunk with these contents is a whole one. */
    sp_domain_limit_sharing(w.d, SP_UNBOUNDED_SHARING);
    other = make_whole(8);
    assert_true(other.v % PAGES == 0);
    expect(w.c, window_query(C, 8), SP_ANSWER_SHARE);
}

/* Published page by page, for whatever reason: found as a whole all the same. */
static void pages_that_make_a_whole(void **state) {
    for (unsigned i = 0; i < PAGES; i++) {
        sp_store_page store;
        expect(w.a, page_query(A, 7, i), SP_ANSWER_UNKNOWN);
        expect(w.b, page_query(B, 7, i), SP_ANSWER_SEND);
        expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
        assert_int_equal(publish_page(w.b, page_query(B, 7, i), &store), SP_ANSWER_SEND);
    }
    assert_true(w.hints_whole[w.c] == 1);
    expect(w.c, window_query(C, 7), SP_ANSWER_SHARE);
    expect(w.a, window_query(A, 7), SP_ANSWER_SHARE);
}

/* The reference to a page in the middle cannot be had: then there is none. */
static void without_memory_nothing_is_taken(void **state) {
    sp_store_page first = make_whole(7);
    unsigned failed = 0;
    for (uint64_t k = 1;; k++) {
        w.memory.failures = 0;
        w.memory.fail_at = w.memory.gets + k;
        enum sp_answer_kind kind = ask(w.c, window_query(C, 7)).kind;
        w.memory.fail_at = 0;
        if (kind == SP_ANSWER_SHARE)
            break;
        assert_int_equal(kind, SP_ANSWER_DECLINED);
        assert_true(sp_domain_client_references(w.d, w.c) == 0);
        references_are(first, 1);
        failed++;
    }
    assert_true(failed > 2);
    references_are(first, 2);
}

/* Of another content than publish_page's with the same probe. */
static sp_fp other_whole(sp_fp probe) {
    return (sp_fp){(probe.v ^ UINT64_C(1) << 50) | 1};
}

/* Published while a chunk with the same probes and other contents was the one that is found: it is found when
 * that has gone, and somebody was asked to send it once more. */
static void behind_another(void **state) {
    sp_store_page first = make_whole(7), second = SP_STORE_NONE;
    struct sp_answer a;
    for (unsigned i = 0; i < PAGES; i++) {
        struct sp_query q = page_query(A + 1, 7, i), twin = page_query(C, 7, i);
        sp_fp probe = q.fp;
        q.fp = twin.fp = other_whole(probe);
        expect(w.a, q, SP_ANSWER_UNKNOWN);
        expect(w.c, twin, SP_ANSWER_SEND);
        sp_domain_publish(w.d, w.c, twin, twin.fp, &a);
        assert_int_equal(a.kind, SP_ANSWER_SEND);
        assert_int_equal(sp_domain_publish_commit(w.d, w.c, twin, twin.fp, probe, a.store), 0);
        second = i ? second : a.store;
    }
    release(w.b, first, PAGES);
    expect(w.a, window_query(A + 2, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, window_query(B, 7), SP_ANSWER_SEND);
    w.hints_whole[w.a] = 0;
    for (unsigned i = 0; i < PAGES; i++) {
        struct sp_query q = page_query(B, 7, i);
        sp_domain_publish(w.d, w.b, q, other_whole(q.fp), &a);
        assert_int_equal(a.kind, SP_ANSWER_SHARE);
        assert_true(a.store.v == second.v + i);
    }
    assert_true(w.hints_whole[w.a] == 1);
    a = ask(w.a, window_query(A + 2, 7));
    assert_int_equal(a.kind, SP_ANSWER_SHARE);
    assert_true(a.store.v == second.v);
}

static void only_first_pages(void **state) {
    struct sp_query q = window_query(A, 7);
    q.page.v++;
    expect(w.a, q, SP_ANSWER_DECLINED);
}

static struct sp_query note_query(uint64_t window, uint64_t seed) {
    struct sp_query q = window_query(window, seed);
    q.probe = SP_PROBE_WINDOW_NOTE;
    return q;
}

/* Who notes a window is told of those that have the same, and they of it. */
static void notes_find_each_other(void **state) {
    expect(w.a, note_query(A, 7), SP_ANSWER_UNKNOWN);
    assert_true(w.hints_whole[w.a] == 0);
    expect(w.b, note_query(B, 7), SP_ANSWER_REFINE);
    assert_true(w.hints_whole[w.a] == 1 && w.hints_whole[w.b] == 0);
    expect(w.c, note_query(C, 7), SP_ANSWER_REFINE);
    assert_true(w.hints_whole[w.a] == 1 && w.hints_whole[w.b] == 0 && w.hints_whole[w.c] == 0);
    /* The first to ask sends; the others wait, and share. */
    expect(w.b, window_query(B, 7), SP_ANSWER_SEND);
    expect(w.a, window_query(A, 7), SP_ANSWER_UNKNOWN);
    sp_store_page first = publish(w.b, B, 7, PAGES);
    assert_true(w.hints_whole[w.a] == 2 && w.hints_whole[w.c] == 1);
    assert_true(sp_domain_unstable(w.d) == 0);
    expect(w.a, window_query(A, 7), SP_ANSWER_SHARE);
    references_are(first, 2);
    /* What is in the store is known, but not taken. */
    expect(w.c, note_query(C, 7), SP_ANSWER_REFINE);
    assert_true(sp_domain_unstable(w.d) == 0);
    references_are(first, 2);
}

static void notes_are_forgotten(void **state) {
    struct sp_query qa = note_query(A, 7);
    expect(w.a, qa, SP_ANSWER_UNKNOWN);
    expect(w.b, note_query(B, 7), SP_ANSWER_REFINE);
    sp_domain_forget(w.d, w.a, &qa, 1);
    expect(w.b, window_query(B, 7), SP_ANSWER_UNKNOWN);
    assert_true(sp_domain_unstable(w.d) == 1);
    expect(w.b, note_query(B + 1, 7), SP_ANSWER_REFINE); /* another one of its own */
}

/* Who was asked to send a window and notes it anew will not send it as it was. */
static void noted_again_is_not_sent(void **state) {
    expect(w.a, note_query(A, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, note_query(B, 7), SP_ANSWER_REFINE);
    expect(w.b, window_query(B, 7), SP_ANSWER_SEND);
    expect(w.b, note_query(B, 7), SP_ANSWER_REFINE);
    expect(w.a, window_query(A, 7), SP_ANSWER_SEND);
}

static void notes_of_first_pages_only(void **state) {
    struct sp_query q = note_query(A, 7);
    q.page.v++;
    expect(w.a, q, SP_ANSWER_DECLINED);
    assert_true(sp_domain_unstable(w.d) == 0);
}

/* Two pages of it are the same: it does not become a whole, and nobody else is to send it. */
static void sent_in_vain_once(void **state) {
    sp_store_page store;
    struct sp_query qb = window_query(B, 7);
    expect(w.a, note_query(A, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, note_query(B, 7), SP_ANSWER_REFINE);
    expect(w.b, qb, SP_ANSWER_SEND);
    expect(w.a, window_query(A, 7), SP_ANSWER_UNKNOWN);
    expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
    for (unsigned i = 0; i < PAGES; i++) {
        struct sp_query q = page_query(B, 7, i);
        q.fp = page_query(B, 7, i == 9 ? 7 : i).fp;
        assert_int_equal(publish_page(w.b, q, &store), i == 9 ? SP_ANSWER_SHARE : SP_ANSWER_SEND);
    }
    uint64_t hints_a = w.hints_whole[w.a], hints_c = w.hints_whole[w.c];
    sp_domain_forget(w.d, w.b, &qb, 1);
    assert_true(w.hints_whole[w.a] - hints_a + w.hints_whole[w.c] - hints_c == 1);
    bool a_first = w.hints_whole[w.a] > hints_a;
    expect(a_first ? w.a : w.c, window_query(a_first ? A : C, 7), SP_ANSWER_DECLINED);
    expect(a_first ? w.c : w.a, window_query(a_first ? C : A, 7), SP_ANSWER_DECLINED);
    expect(w.a, note_query(A, 7), SP_ANSWER_DECLINED);
    assert_true(sp_domain_unstable(w.d) == 0);
}

/* A note that finds that the sender is gone sees to it that somebody else is asked. */
static void a_note_settles(void **state) {
    sp_client d;
    assert_int_equal(sp_domain_client_add(w.d, &d), 0);
    expect(w.a, window_query(A, 7), SP_ANSWER_UNKNOWN);
    expect(w.b, window_query(B, 7), SP_ANSWER_SEND);
    expect(w.c, window_query(C, 7), SP_ANSWER_UNKNOWN);
    sp_domain_client_remove(w.d, w.b);
    uint64_t before = w.hints_whole[w.a] + w.hints_whole[w.c];
    expect(d, note_query(B, 7), SP_ANSWER_REFINE);
    assert_true(w.hints_whole[w.a] + w.hints_whole[w.c] + w.hints_whole[d] > before);
}

/* As many as may wait do: who is not noted knows of them all the same. */
static void a_crowd_of_notes(void **state) {
    for (unsigned i = 0; i < 100; i++)
        expect(w.a, note_query(A + i, 7), i ? SP_ANSWER_REFINE : SP_ANSWER_UNKNOWN);
}

#define window_test(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

int main(void) {
    const struct CMUnitTest tests[] = {
        window_test(the_way_of_a_window),
        window_test(only_what_is_asked_for),
        window_test(forgotten_windows),
        window_test(a_page_that_goes_takes_the_whole_along),
        window_test(no_room),
        window_test(pages_that_make_a_whole),
        window_test(behind_another),
        window_test(without_memory_nothing_is_taken),
        window_test(only_first_pages),
        window_test(notes_find_each_other),
        window_test(notes_are_forgotten),
        window_test(noted_again_is_not_sent),
        window_test(notes_of_first_pages_only),
        window_test(sent_in_vain_once),
        window_test(a_note_settles),
        window_test(a_crowd_of_notes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
