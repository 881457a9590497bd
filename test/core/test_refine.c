/* SPDX-License-Identifier: MIT */
/*
 * Clients that behave as workers do (merge/pass.c), at random: they choose pages, ask about them by their
 * probes, refine when told to, publish, compare what they were told to share, and pay later what they owe.
 * Each of these is a step of its own, and between any two of them other clients take theirs, pages change,
 * clients die, hints are lost and merging is paused. Memory fails now and then. One or several contents have
 * one probe, so that probes are trusted or not, or now and then; probes that differ have one trace.
 *
 * When all have come to rest nobody may be stranded: all pages of a content that two or more hold are shared,
 * with one store page, and nothing else is. When all have gone nothing may be left of them.
 */
#include "core_test.h"

#include "core/domain.h"
#include "core/fingerprint.h"

#define CLIENTS  6
#define PAGES    40
#define CONTENTS 60
#define MANY     200
#define LIVES    30
#define STORE    (1 << 20)
#define DEBTS    4096

/* What a client knows of a page; as in merge/window.h. */
struct page {
    unsigned content;
    bool written; /* changed, and nobody has looked since */
    bool fresh, reask, misled, shared;
    sp_fp known; /* under which the index knows it; 0: not at all */
    sp_store_page store;
};

enum phase { CHOOSE, ASK, REFINE, PUBLISH, SORT };

struct client {
    sp_client number;
    enum phase phase;
    struct page page[PAGES];
    size_t n;
    struct sp_query query[PAGES];
    struct sp_answer answer[PAGES];
    bool hinted[PAGES], hints_lost; /* waits to be read */
    size_t n_forgets, n_releases;   /* owed */
    struct sp_query forget[DEBTS];
    sp_store_page release[DEBTS];
    unsigned guessed_wrong;
};

static struct {
    struct sp_domain *d;
    struct test_memory memory;
    struct test_random random;
    struct client client[CLIENTS];
    unsigned stored[STORE]; /* content of a store page, + 1 */
    unsigned contents, resembling;
    bool quiet; /* nothing changes, fails or is lost */
} t;

/* How often, in all lives of a test. */
static struct { uint64_t refined, wrong_guesses, declined, deaths, refused, failures; } seen;

static uint64_t below(uint64_t n) {
    return test_random_below(&t.random, n);
}

static bool rarely(uint64_t n) {
    return !t.quiet && below(n) == 0;
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
    for (size_t c = 0; c < CLIENTS; c++) {
        if (t.client[c].number != client)
            continue;
        if (rarely(50))
            t.client[c].hints_lost = true;
        else
            t.client[c].hinted[page.v] = true;
    }
}

/* ---- what a client owes ---- */

static void unknow(struct client *c, size_t i) {
    if (c->page[i].known.v) {
        assert_true(c->n_forgets < DEBTS);
        c->forget[c->n_forgets++] = (struct sp_query){{i}, c->page[i].known};
    }
    c->page[i].known.v = 0;
    c->page[i].reask = false;
}

static void owe(struct client *c, sp_store_page store) {
    assert_true(c->n_releases < DEBTS);
    c->release[c->n_releases++] = store;
}

static void pay(struct client *c) {
    sp_domain_forget(t.d, c->number, c->forget, c->n_forgets);
    for (size_t i = 0; i < c->n_releases; i++)
        assert_int_equal(sp_domain_release(t.d, c->number, c->release[i], 1, 1), 0);
    c->n_forgets = c->n_releases = 0;
}

/* ---- the steps of a pass ---- */

static void take_hints(struct client *c) {
    for (size_t i = 0; i < PAGES; i++)
        if ((c->hinted[i] || c->hints_lost) && c->page[i].known.v)
            c->page[i].reask = true;
    memset(c->hinted, 0, sizeof c->hinted);
    c->hints_lost = false;
}

static void look(struct client *c) {
    for (size_t i = 0; i < PAGES; i++) {
        struct page *p = &c->page[i];
        if (!p->written)
            continue;
        unknow(c, i);
        if (p->shared)
            owe(c, p->store);
        p->shared = p->written = false;
        p->fresh = true;
    }
}

static void add(struct client *c, size_t i, sp_fp fp) {
    c->query[c->n++] = (struct sp_query){{i}, fp, probe_of(c->page[i].content)};
}

static void choose(struct client *c) {
    if (t.quiet || below(2))
        take_hints(c);
    look(c);
    pay(c);
    c->n = 0;
    for (size_t i = 0; i < PAGES; i++) {
        struct page *p = &c->page[i];
        if (rarely(3))
            continue;
        if (p->fresh) {
            add(c, i, p->misled ? whole_of(p->content) : probe_of(p->content));
            p->fresh = p->misled = false;
        } else if (p->reask && p->known.v) {
            add(c, i, p->known);
        }
        p->reask = false;
    }
}

static void ask(struct client *c) {
    sp_domain_guessed_wrong(t.d, c->guessed_wrong);
    c->guessed_wrong = 0;
    sp_domain_ask(t.d, c->number, c->query, c->n, c->answer);
}

/* One message. */
static void refine(struct client *c) {
    struct sp_query q[PAGES];
    struct sp_answer a[PAGES];
    size_t n = 0, k = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (c->answer[i].kind != SP_ANSWER_REFINE)
            continue;
        unsigned content = c->page[c->query[i].page.v].content;
        assert_false(sp_fp_whole(c->query[i].fp));
        c->query[i] = (struct sp_query){c->query[i].page, whole_of(content), probe_of(content)};
        q[n++] = c->query[i];
    }
    seen.refined += n;
    sp_domain_ask(t.d, c->number, q, n, a);
    for (size_t i = 0; i < c->n; i++)
        if (c->answer[i].kind == SP_ANSWER_REFINE)
            c->answer[i] = a[k++];
}

/* The first half, as a daemon does it with a message: everything is offered, then everything is committed. */
static void offer(struct client *c, size_t i) {
    unsigned content = c->page[c->query[i].page.v].content;
    struct sp_query q = c->query[i];
    sp_fp fp = sp_fp_whole(q.fp) ? whole_of(content) : probe_of(content);
    c->answer[i] = (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (fp.v != q.fp.v || rarely(10)) {
        seen.refused++;
        sp_domain_publish_refuse(t.d, c->number, q);
    } else {
        sp_domain_publish(t.d, c->number, q, whole_of(content), &c->answer[i]);
    }
    if (c->answer[i].kind == SP_ANSWER_SEND)
        t.stored[c->answer[i].store.v] = content + 1;
}

static void commit(struct client *c, size_t i) {
    sp_store_page store = c->answer[i].store;
    unsigned content = t.stored[store.v] - 1;
    c->answer[i] = (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (rarely(20)) /* the file system is full */
        sp_domain_publish_abort(t.d, c->number, c->query[i], store);
    else if (sp_domain_publish_commit(t.d, c->number, c->query[i], whole_of(content), probe_of(content),
                                      store) == 0)
        c->answer[i] = (struct sp_answer){SP_ANSWER_SHARE, store};
}

static void publish(struct client *c) {
    bool offered[PAGES] = {false};
    for (size_t i = 0; i < c->n; i++) {
        if (c->answer[i].kind != SP_ANSWER_SEND)
            continue;
        offer(c, i);
        offered[i] = c->answer[i].kind == SP_ANSWER_SEND;
    }
    for (size_t i = 0; i < c->n; i++)
        if (offered[i])
            commit(c, i);
}

/* Told to share: compares, and shares or not. */
static void merge(struct client *c, const struct sp_query *q, sp_store_page store) {
    size_t i = q->page.v;
    struct page *p = &c->page[i];
    if (p->known.v == q->fp.v)
        p->known.v = 0; /* the index has dropped it */
    unknow(c, i);
    if (t.stored[store.v] == p->content + 1) {
        p->shared = true;
        p->fresh = p->written = false;
        p->store = store;
        return;
    }
    assert_true(t.stored[store.v] != 0);
    owe(c, store);
    p->fresh = true;
    if (sp_fp_whole(q->fp))
        return;
    p->misled = true;
    seen.wrong_guesses++;
    c->guessed_wrong += below(2) != 0; /* sometimes it is not told */
}

static void sort(struct client *c) {
    for (size_t k = 0; k < c->n; k++) {
        const struct sp_query *q = &c->query[k];
        struct page *p = &c->page[q->page.v];
        if (c->answer[k].kind == SP_ANSWER_SHARE) {
            merge(c, q, c->answer[k].store);
        } else if (c->answer[k].kind == SP_ANSWER_UNKNOWN) {
            if (p->known.v != q->fp.v)
                unknow(c, q->page.v);
            p->known = q->fp;
        } else {
            assert_int_equal(c->answer[k].kind, SP_ANSWER_DECLINED);
            seen.declined++;
            unknow(c, q->page.v);
            p->fresh = true;
        }
    }
}

static void step(struct client *c) {
    static void (*const steps[])(struct client * c) = {choose, ask, refine, publish, sort};
    steps[c->phase](c);
    c->phase = c->phase == SORT || c->n == 0 ? CHOOSE : c->phase + 1;
}

/* ---- what happens to clients ---- */

static void change(struct page *p) {
    p->content = (unsigned)below(t.contents);
    p->written = true;
}

static void born(struct client *c) {
    *c = (struct client){0};
    while (sp_domain_client_add(t.d, &c->number) < 0)
        ;
    sp_domain_release_done(t.d, c->number, 1);
    for (size_t i = 0; i < PAGES; i++)
        change(&c->page[i]);
}

static void die(struct client *c) {
    sp_domain_client_remove(t.d, c->number);
    c->number = 0;
    seen.deaths++;
}

static bool at_rest(const struct client *c) {
    bool busy = c->phase != CHOOSE || c->n_forgets || c->n_releases || c->hints_lost;
    for (size_t i = 0; i < PAGES; i++)
        busy |= c->page[i].written || c->page[i].fresh || (c->page[i].known.v && c->page[i].reask) ||
                (c->page[i].known.v && c->hinted[i]);
    return !busy;
}

static void come_to_rest(void) {
    t.quiet = true;
    t.memory.fail_at = 0;
    sp_domain_limit(t.d, 0, false);
    unsigned steps = 0;
    for (bool busy = true; busy;) {
        busy = sp_domain_sweep(t.d, SIZE_MAX);
        for (size_t k = 0; k < CLIENTS; k++) {
            struct client *c = &t.client[(k + steps) % CLIENTS];
            busy |= !at_rest(c);
            step(c);
        }
        assert_true(++steps < 10000);
    }
    t.quiet = false;
}

static void nobody_is_stranded(void) {
    for (unsigned content = 0; content < t.contents; content++) {
        size_t holders = 0, sharing = 0;
        sp_store_page store = SP_STORE_NONE;
        for (size_t k = 0; k < CLIENTS * PAGES; k++) {
            const struct page *p = &t.client[k / PAGES].page[k % PAGES];
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

/* No entry, no reference, and no trace in the sieve. */
static void nothing_is_left(void) {
    for (size_t k = 0; k < CLIENTS; k++)
        die(&t.client[k]);
    while (sp_domain_sweep(t.d, SIZE_MAX))
        ;
    assert_int_equal(sp_domain_unstable(t.d), 0);
    sp_client last;
    assert_int_equal(sp_domain_client_add(t.d, &last), 0);
    for (unsigned content = 0; content < t.contents; content += t.resembling) {
        struct sp_query q = {{content}, probe_of(content)};
        struct sp_answer a;
        sp_domain_ask(t.d, last, &q, 1, &a);
        assert_int_equal(a.kind, SP_ANSWER_UNKNOWN);
    }
}

static void happen(void) {
    struct client *c = &t.client[below(CLIENTS)];
    if (below(3) == 0)
        change(&c->page[below(PAGES)]);
    else
        step(c);
    if (rarely(400)) {
        die(c);
        born(c);
    }
    if (rarely(300))
        sp_domain_limit(t.d, below(2) ? 0 : 1 + below(20), below(4) == 0);
    if (rarely(40))
        t.memory.fail_at = t.memory.gets + 1 + below(5);
    if (rarely(20))
        sp_domain_sweep(t.d, 1 + below(2000));
}

static void live(uint64_t seed, unsigned contents, unsigned resembling) {
    memset(&t, 0, sizeof t);
    t.random.state = seed;
    t.contents = contents;
    t.resembling = resembling;
    struct sp_alloc alloc = test_memory_alloc(&t.memory);
    struct sp_domain_events events = {.punch = on_punch, .hint = on_hint};
    assert_int_equal(sp_domain_new(&alloc, &events, &t.d), 0);
    for (size_t k = 0; k < CLIENTS; k++)
        born(&t.client[k]);
    for (unsigned round = 0; round < 150; round++) {
        for (uint64_t n = below(300); n; n--)
            happen();
        come_to_rest();
        nobody_is_stranded();
    }
    seen.failures += t.memory.failures;
    nothing_is_left();
    t.d = sp_domain_free(t.d);
    assert_true(t.memory.bytes == 0);
}

/* Guesses are wrong only where a page changed meanwhile. */
static void probes_that_tell_all(void **state) {
    memset(&seen, 0, sizeof seen);
    for (uint64_t seed = 1; seed <= LIVES; seed++) {
        live(seed, CONTENTS, 1);
        live(seed, 4, 1);
        live(seed, MANY, 1);
    }
    assert_true(seen.declined && seen.deaths && seen.refused && seen.failures);
}

static void probes_that_mislead(void **state) {
    memset(&seen, 0, sizeof seen);
    for (uint64_t seed = 1; seed <= LIVES; seed++) {
        live(seed, CONTENTS, 2 + (unsigned)(seed % 4));
        live(seed, 4, 4);
        live(seed, MANY, 2 + (unsigned)(seed % 20));
    }
    assert_true(seen.wrong_guesses > 1000 * LIVES && seen.refined > 1000 * LIVES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probes_that_tell_all),
        cmocka_unit_test(probes_that_mislead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
