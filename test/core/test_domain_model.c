/* SPDX-License-Identifier: MIT */
/*
 * Random lives of a domain, checked against an oracle that keeps everything in the plainest way: for each
 * fingerprint a list of those who wait, for each client a list of single references. The oracle predicts
 * every answer, every store page that is punched and every hint that a publication gives, and checks after
 * each step:
 *
 *   - references of store pages, of clients and all counters (I8);
 *   - a store page is given out once, and punched once, when nobody holds it (I3);
 *   - where two or more wait for each other and nobody sends, one of them has been hinted (nobody is
 * stranded).
 *
 * The same lives are lived with each allocation failing in turn: then an answer may be SP_ANSWER_DECLINED or
 * -ENOMEM instead of the predicted one, if an allocation did fail in that step, and nothing else may differ.
 */
#include "core_test.h"

#include "core/domain.h"

#include <errno.h>

#define CLIENTS     10 /* at a time */
#define FPS_MAX     24 /* different contents */
#define PAGES       90 /* of a client: 30 in each of three windows */
#define WAITING_MAX 64 /* ordinary entries of a fingerprint */
#define CHUNKS_MAX  4096
#define STORE_MAX   (CHUNKS_MAX * SP_WINDOW_PAGES)
#define FLIGHTS_MAX 16
#define EVENTS_MAX  65536

struct entry {
    sp_client client;
    sp_page page;
    bool pending;
    bool hinted; /* since it was last asked about */
};

struct fingerprint {
    struct entry entry[WAITING_MAX + 1];
    size_t n;
    sp_store_page store; /* SP_STORE_NONE: not stable */
    bool excused;        /* somebody who has gone may not have been swept yet */
};

struct reference {
    sp_store_page store;
    uint64_t epoch; /* 0: not given back */
};

struct client {
    sp_client number; /* 0: none */
    struct reference *reference;
    size_t n, size;
    uint64_t epoch, done;
    uint64_t window, chunk;
    sp_bits used;
};

/* Between publish and commit. */
struct flight {
    sp_client client;
    sp_page page;
    unsigned fp;
    sp_store_page store;
};

struct store_page {
    uint32_t references;
    bool given, punched, punched_now;
    bool closed; /* was shared as often as allowed when somebody asked */
};

struct hinted {
    sp_client client;
    sp_page page;
};

struct oracle {
    struct sp_domain *d;
    struct test_memory memory;
    struct test_random random;
    unsigned fps;
    bool slow; /* those who were asked to send take their time, so that many wait */
    struct client client[CLIENTS];
    struct fingerprint fp[FPS_MAX];
    struct flight flight[FLIGHTS_MAX];
    size_t flights;
    struct store_page *store; /* STORE_MAX of them */
    uint64_t chunks, store_max, sharers_max;
    uint64_t closed; /* store pages in use that are */
    bool paused;
    uint64_t published, punched;
    uint64_t failures; /* of memory, before this step */
    /* What happened in this step. */
    struct hinted hint[EVENTS_MAX];
    size_t hints;
    uint64_t punched_now, expected_now;
    uint64_t punch_end; /* of the last range */
    /* How often the interesting things happened. */
    uint64_t shares, sends, caps, collisions, deferrals, refusals, closings;
};

static struct oracle o;

static uint64_t below(uint64_t n) {
    return test_random_below(&o.random, n);
}

static bool failed_now(void) {
    return o.memory.failures > o.failures;
}

static sp_fp fp_value(unsigned fp) {
    return (sp_fp){(fp + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1};
}

static int commit(sp_client client, struct sp_query q, sp_store_page store) {
    return sp_domain_publish_commit(o.d, client, q, q.fp, (sp_fp){q.fp.v & ~UINT64_C(1)}, store);
}

static struct sp_query query_of(sp_page page, unsigned fp) {
    return (struct sp_query){page, fp_value(fp)};
}

static sp_page page_make(void) {
    uint64_t i = below(PAGES);
    return (sp_page){(UINT64_C(1) << 43) + i / 30 * SP_WINDOW_PAGES + i % 30 * 17};
}

static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
    assert_true(n > 0);
    assert_true(first.v != o.punch_end); /* would have been one range */
    o.punch_end = first.v + n;
    for (uint64_t i = first.v; i < first.v + n; i++) {
        assert_true(i < STORE_MAX && o.store[i].given);
        assert_false(o.store[i].punched);
        o.store[i].punched = o.store[i].punched_now = true;
        o.punched_now++;
    }
}

static void on_hint(void *ctx, sp_client client, sp_page page) {
    assert_true(o.hints < EVENTS_MAX);
    o.hint[o.hints++] = (struct hinted){client, page};
}

static void step_begin(void) {
    o.hints = 0;
    o.punched_now = o.expected_now = 0;
    o.punch_end = UINT64_MAX;
    o.failures = o.memory.failures;
}

/* The oracle says that this page must have been punched in this step. */
static void expect_punched(sp_store_page store) {
    assert_true(o.store[store.v].punched_now);
    assert_int_equal(o.store[store.v].references, 0);
    o.store[store.v].punched_now = false;
    o.expected_now++;
    o.punched++;
}

static struct entry *entry_find(struct fingerprint *f, sp_client client, sp_page page) {
    for (size_t i = 0; i < f->n; i++)
        if (f->entry[i].client == client && f->entry[i].page.v == page.v)
            return &f->entry[i];
    return NULL;
}

static struct entry *entry_pending(struct fingerprint *f) {
    for (size_t i = 0; i < f->n; i++)
        if (f->entry[i].pending)
            return &f->entry[i];
    return NULL;
}

static void entry_remove(struct fingerprint *f, struct entry *e) {
    if (e)
        *e = f->entry[--f->n];
}

static void entry_add(struct fingerprint *f, struct entry e) {
    assert_true(f->n < WAITING_MAX + 1);
    f->entry[f->n++] = e;
}

static struct client *client_find(sp_client number) {
    for (size_t i = 0; i < CLIENTS; i++)
        if (o.client[i].number == number)
            return &o.client[i];
    return NULL;
}

static struct client *client_any(void) {
    struct client *c = &o.client[below(CLIENTS)];
    return c->number ? c : NULL;
}

/* Hints of this step about this fingerprint: each goes to somebody who waits for it. */
static void hints_note(struct fingerprint *f) {
    for (size_t i = 0; i < o.hints; i++) {
        struct entry *e = entry_find(f, o.hint[i].client, o.hint[i].page);
        assert_non_null(e);
        e->hinted = true;
    }
}

/* After a sweep: hints may be about any fingerprint. */
static void hints_note_anywhere(void) {
    for (size_t i = 0; i < o.hints; i++) {
        bool found = false;
        for (unsigned fp = 0; fp < o.fps; fp++) {
            struct entry *e = entry_find(&o.fp[fp], o.hint[i].client, o.hint[i].page);
            if (e)
                e->hinted = found = true;
        }
        assert_true(found);
    }
}

static void reference_add(struct client *c, sp_store_page store) {
    if (c->n == c->size) {
        c->size = c->size ? c->size * 2 : 64;
        c->reference = realloc(c->reference, c->size * sizeof *c->reference);
        assert_non_null(c->reference);
    }
    c->reference[c->n++] = (struct reference){store, 0};
    o.store[store.v].references++;
}

/* The reference has gone; the store page too, if it was the last. */
static void reference_drop(struct client *c, size_t i) {
    sp_store_page store = c->reference[i].store;
    c->reference[i] = c->reference[--c->n];
    if (--o.store[store.v].references > 0)
        return;
    for (unsigned fp = 0; fp < o.fps; fp++)
        if (o.fp[fp].store.v == store.v)
            o.fp[fp].store = SP_STORE_NONE;
    o.closed -= o.store[store.v].closed;
    expect_punched(store);
}

/* Somebody looks for the content: a page that is shared as often as allowed is found no more. */
static bool stable(struct fingerprint *f) {
    if (f->store.v != SP_STORE_NONE.v && o.store[f->store.v].references >= o.sharers_max) {
        o.store[f->store.v].closed = true;
        o.closed++;
        o.closings++;
        f->store = SP_STORE_NONE;
    }
    return f->store.v != SP_STORE_NONE.v;
}

static uint64_t stable_pages(void) {
    uint64_t n = o.closed;
    for (unsigned fp = 0; fp < o.fps; fp++)
        n += o.fp[fp].store.v != SP_STORE_NONE.v;
    return n;
}

static bool may_publish(void) {
    return !o.paused && (o.store_max == 0 || stable_pages() < o.store_max);
}

static enum sp_answer_kind ask_predict(struct fingerprint *f, const struct entry *own,
                                       const struct entry *pending) {
    if (stable(f))
        return o.paused ? SP_ANSWER_DECLINED : SP_ANSWER_SHARE;
    size_t others = f->n - (own != NULL);
    if (others > 0 && (!pending || pending == own))
        return may_publish() ? SP_ANSWER_SEND : SP_ANSWER_DECLINED;
    if (!own && pending && f->n - 1 >= WAITING_MAX) {
        o.caps++;
        return SP_ANSWER_DECLINED;
    }
    return SP_ANSWER_UNKNOWN;
}

static void ask_apply(struct client *c, struct fingerprint *f, sp_page page, struct sp_answer a) {
    struct entry *own = entry_find(f, c->number, page);
    switch (a.kind) {
    case SP_ANSWER_SHARE:
        assert_true(a.store.v == f->store.v);
        reference_add(c, a.store);
        o.shares++;
        break;
    case SP_ANSWER_DECLINED:
        entry_remove(f, own);
        break;
    default:
        if (own)
            *own = (struct entry){c->number, page, a.kind == SP_ANSWER_SEND, false};
        else
            entry_add(f, (struct entry){c->number, page, a.kind == SP_ANSWER_SEND, false});
        o.sends += a.kind == SP_ANSWER_SEND;
    }
    assert_true(a.kind == SP_ANSWER_SHARE || a.store.v == SP_STORE_NONE.v);
}

static void step_ask(void) {
    struct client *c = client_any();
    if (!c)
        return;
    unsigned fp = (unsigned)below(o.fps);
    sp_page page = page_make();
    struct sp_query q = query_of(page, fp);
    struct sp_answer a;
    enum sp_answer_kind wanted =
        ask_predict(&o.fp[fp], entry_find(&o.fp[fp], c->number, page), entry_pending(&o.fp[fp]));
    sp_domain_ask(o.d, c->number, &q, 1, &a);
    if (a.kind != wanted)
        assert_true(a.kind == SP_ANSWER_DECLINED && failed_now());
    ask_apply(c, &o.fp[fp], page, a);
    hints_note(&o.fp[fp]);
}

static void publish_check_place(struct client *c, sp_page page, sp_store_page store) {
    unsigned slot = sp_page_slot(page);
    assert_true(store.v < STORE_MAX);
    assert_int_equal(store.v % SP_WINDOW_PAGES, slot);
    assert_false(o.store[store.v].given);
    o.store[store.v].given = true;
    uint64_t chunk = store.v / SP_WINDOW_PAGES;
    if (c->window == sp_page_window(page) && !sp_bits_get(&c->used, slot)) {
        assert_int_equal(chunk, c->chunk);
    } else {
        assert_int_equal(chunk, o.chunks);
        o.chunks++;
        c->window = sp_page_window(page);
        c->chunk = chunk;
        c->used = (sp_bits){0};
    }
    sp_bits_set(&c->used, slot);
}

/* Mostly by somebody who was asked to send, sometimes by anybody. */
static void step_publish(void) {
    if (o.flights == FLIGHTS_MAX || (o.slow && below(50) > 0))
        return;
    unsigned fp = (unsigned)below(o.fps);
    struct fingerprint *f = &o.fp[fp];
    struct entry *pending = entry_pending(f);
    struct client *c = pending && below(8) > 0 ? client_find(pending->client) : client_any();
    if (!c)
        return;
    sp_page page = pending && c->number == pending->client ? pending->page : page_make();
    struct entry *own = entry_find(f, c->number, page);
    enum sp_answer_kind wanted = SP_ANSWER_DECLINED;
    bool dropped = false;
    if (stable(f))
        wanted = o.paused ? SP_ANSWER_DECLINED : SP_ANSWER_SHARE;
    else if (own && own->pending)
        wanted = may_publish() ? SP_ANSWER_SEND : SP_ANSWER_DECLINED, dropped = wanted == SP_ANSWER_DECLINED;
    struct sp_answer a;
    sp_domain_publish(o.d, c->number, query_of(page, fp), fp_value(fp), &a);
    if (a.kind != wanted)
        assert_true(a.kind == SP_ANSWER_DECLINED && wanted == SP_ANSWER_SHARE && failed_now());
    if (dropped)
        entry_remove(f, own);
    if (a.kind == SP_ANSWER_SHARE) {
        assert_true(a.store.v == f->store.v);
        reference_add(c, a.store);
    } else if (a.kind == SP_ANSWER_SEND) {
        publish_check_place(c, page, a.store);
        o.flight[o.flights++] = (struct flight){c->number, page, fp, a.store};
    } else {
        assert_true(a.store.v == SP_STORE_NONE.v);
    }
    hints_note(f);
}

/* Everybody who waits, but the publisher, is hinted, and nobody else. */
static void commit_check_hints(struct fingerprint *f, const struct flight *l) {
    size_t wanted = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct entry *e = &f->entry[i];
        size_t times = 0;
        for (size_t k = 0; k < o.hints; k++)
            times += o.hint[k].client == e->client && o.hint[k].page.v == e->page.v;
        bool own = e->client == l->client && e->page.v == l->page.v;
        assert_int_equal(times, own ? 0 : 1);
        wanted += times;
    }
    assert_int_equal(o.hints, wanted);
}

/* Not published: the store page is punched, the entry gone if it was pending. */
static void flight_failed(const struct flight *l) {
    struct fingerprint *f = &o.fp[l->fp];
    struct entry *own = entry_find(f, l->client, l->page);
    if (own && own->pending)
        entry_remove(f, own);
    expect_punched(l->store);
    hints_note(f);
}

static void step_commit(void) {
    if (o.flights == 0)
        return;
    size_t i = (size_t)below(o.flights);
    struct flight l = o.flight[i];
    o.flight[i] = o.flight[--o.flights];
    struct fingerprint *f = &o.fp[l.fp];
    struct client *c = client_find(l.client);
    if (below(8) == 0) {
        sp_domain_publish_abort(o.d, l.client, query_of(l.page, l.fp), l.store);
        flight_failed(&l);
        return;
    }
    int wanted = !c ? -ESRCH : stable(f) ? -EEXIST : 0;
    int r = commit(l.client, query_of(l.page, l.fp), l.store);
    if (r != wanted)
        assert_true(r == -ENOMEM && failed_now());
    o.collisions += r == -EEXIST;
    if (r < 0) {
        flight_failed(&l);
        return;
    }
    commit_check_hints(f, &l);
    f->n = 0;
    f->store = l.store;
    o.published++;
    reference_add(c, l.store);
    assert_int_equal(commit(l.client, query_of(l.page, l.fp), l.store), -EINVAL);
}

static void step_refuse(void) {
    unsigned fp = (unsigned)below(o.fps);
    struct fingerprint *f = &o.fp[fp];
    struct entry *pending = entry_pending(f);
    if (!pending)
        return;
    struct query_owner {
        sp_client client;
        sp_page page;
    } owner = {pending->client, pending->page};
    if (below(8) == 0) { /* not the one that was asked: nothing happens */
        struct client *c = client_any();
        sp_page page = page_make();
        if (c && (c->number != owner.client || page.v != owner.page.v))
            sp_domain_publish_refuse(o.d, c->number, query_of(page, fp));
        hints_note(f);
        return;
    }
    sp_domain_publish_refuse(o.d, owner.client, query_of(owner.page, fp));
    entry_remove(f, pending);
    assert_true(f->n < 2 || o.hints > 0);
    hints_note(f);
    o.refusals++;
}

static void step_forget(void) {
    struct client *c = client_any();
    if (!c || (o.slow && below(8) > 0))
        return;
    unsigned fp = (unsigned)below(o.fps);
    struct fingerprint *f = &o.fp[fp];
    sp_page page = page_make();
    if (f->n > 0 && below(2)) {
        const struct entry *e = &f->entry[below(f->n)];
        c = client_find(e->client);
        page = e->page;
    }
    struct sp_query q = query_of(page, fp);
    sp_domain_forget(o.d, c->number, &q, 1);
    entry_remove(f, entry_find(f, c->number, page));
    hints_note(f);
}

/* The index of a reference to the store page that is not given back yet, or n. */
static size_t reference_find(const struct client *c, sp_store_page store) {
    size_t i = 0;
    while (i < c->n && (c->reference[i].store.v != store.v || c->reference[i].epoch > 0))
        i++;
    return i;
}

static void step_release(void) {
    struct client *c = client_any();
    if (!c)
        return;
    sp_store_page first = {below(o.chunks * SP_WINDOW_PAGES + 1)};
    uint64_t n = 1 + below(3);
    if (c->n > 0 && below(8) > 0)
        first = c->reference[below(c->n)].store;
    if (below(4) > 0)
        n = 1;
    if (below(16) == 0)
        n = UINT64_MAX - below(4);
    c->epoch += below(8) == 0;
    bool valid = n < 4;
    for (uint64_t i = 0; valid && i < n; i++)
        valid = reference_find(c, (sp_store_page){first.v + i}) < c->n;
    int r = sp_domain_release(o.d, c->number, first, n, c->epoch);
    if (r != (valid ? 0 : -EINVAL))
        assert_true(r == -ENOMEM && failed_now() && c->epoch > c->done);
    assert_int_equal(o.hints, 0);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        size_t at = reference_find(c, (sp_store_page){first.v + i});
        if (c->epoch > c->done)
            c->reference[at].epoch = c->epoch;
        else
            reference_drop(c, at);
        o.deferrals += c->epoch > c->done;
    }
}

static void step_release_done(void) {
    struct client *c = client_any();
    if (!c)
        return;
    uint64_t epoch = below(c->epoch + 1);
    sp_domain_release_done(o.d, c->number, epoch);
    c->done = epoch > c->done ? epoch : c->done;
    for (size_t i = c->n; i > 0; i--)
        if (c->reference[i - 1].epoch > 0 && c->reference[i - 1].epoch <= c->done)
            reference_drop(c, i - 1);
}

static void step_client_add(void) {
    struct client *c = &o.client[below(CLIENTS)];
    if (c->number)
        return;
    sp_client number = 0;
    int r = sp_domain_client_add(o.d, &number);
    if (r < 0) {
        assert_true(r == -ENOMEM && failed_now());
        return;
    }
    assert_true(number > 0 && number < SP_CLIENTS_MAX);
    assert_null(client_find(number));
    for (size_t i = 0; i < o.flights; i++)
        if (o.flight[i].client == number)
            o.flight[i].client = SP_CLIENTS_MAX; /* the owner of a store must not mix them up either */
    *c = (struct client){
        .number = number, .epoch = 1, .window = UINT64_MAX, .reference = c->reference, .size = c->size};
}

static void client_remove(struct client *c) {
    sp_client number = c->number;
    sp_domain_client_remove(o.d, number);
    while (c->n > 0)
        reference_drop(c, c->n - 1);
    c->number = 0;
    for (unsigned fp = 0; fp < o.fps; fp++) {
        struct fingerprint *f = &o.fp[fp];
        for (size_t i = f->n; i > 0; i--) {
            if (f->entry[i - 1].client == number) {
                entry_remove(f, &f->entry[i - 1]);
                f->excused = true;
            }
        }
    }
    assert_int_equal(o.hints, 0);
    assert_true(sp_domain_client_references(o.d, number) == 0);
}

static uint64_t entries(void) {
    uint64_t n = 0;
    for (unsigned fp = 0; fp < o.fps; fp++)
        n += o.fp[fp].n;
    return n;
}

static void step_sweep(void) {
    bool more = sp_domain_sweep(o.d, 1 + below(2000));
    hints_note_anywhere();
    if (more)
        return;
    for (unsigned fp = 0; fp < o.fps; fp++)
        o.fp[fp].excused = false;
    assert_true(sp_domain_unstable(o.d) == entries());
}

static void step_limit(void) {
    o.paused = below(6) == 0;
    o.store_max = below(3) == 0 ? 1 + below(o.fps) : 0;
    o.sharers_max = below(2) ? 2 + below(40) : SP_UNBOUNDED_SHARING;
    sp_domain_limit(o.d, o.store_max, o.paused);
    sp_domain_limit_sharing(o.d, o.sharers_max);
}

static void check_nobody_stranded(void) {
    for (unsigned fp = 0; fp < o.fps; fp++) {
        struct fingerprint *f = &o.fp[fp];
        bool hinted = f->n < 2 || entry_pending(f) || f->excused;
        for (size_t i = 0; !hinted && i < f->n; i++)
            hinted = f->entry[i].hinted;
        assert_true(hinted);
    }
}

static void check_counters(void) {
    struct sp_counters c = {0};
    uint64_t references = 0, deferred = 0;
    for (size_t i = 0; i < CLIENTS; i++) {
        references += o.client[i].n;
        for (size_t k = 0; k < o.client[i].n; k++)
            deferred += o.client[i].reference[k].epoch > 0;
        if (o.client[i].number)
            assert_true(sp_domain_client_references(o.d, o.client[i].number) == o.client[i].n);
    }
    sp_domain_counters(o.d, &c);
    assert_true(c.v[SP_COUNTER_pages_shared] == stable_pages());
    assert_true(c.v[SP_COUNTER_pages_full] == o.closed);
    assert_true(c.v[SP_COUNTER_pages_sharing] == references - stable_pages());
    assert_true(c.v[SP_COUNTER_exposure_bytes] == (references - stable_pages()) * SP_PAGE_SIZE);
    assert_true(c.v[SP_COUNTER_pages_deferred] == deferred);
    assert_true(c.v[SP_COUNTER_pages_published] == o.published);
    assert_true(c.v[SP_COUNTER_pages_punched] == o.punched);
    assert_true(c.v[SP_COUNTER_index_bytes] == o.memory.bytes);
    assert_true(sp_domain_unstable(o.d) >= entries());
}

static void check_references(void) {
    for (uint64_t i = 0; i < o.chunks * SP_WINDOW_PAGES; i++)
        if (o.store[i].given)
            assert_true(sp_domain_references(o.d, (sp_store_page){i}) == o.store[i].references);
}

static void step_end(void) {
    assert_true(o.punched_now == o.expected_now);
    check_nobody_stranded();
    check_counters();
}

static void step_client_remove(void) {
    struct client *c = client_any();
    if (c)
        client_remove(c);
    if (below(4) > 0)
        return;
    for (size_t i = 0; i < CLIENTS; i++) { /* all at once: contents are unknown again */
        step_end();
        step_begin();
        if (o.client[i].number)
            client_remove(&o.client[i]);
    }
}

static void step(void) {
    static const struct {
        unsigned weight;
        void (*run)(void);
    } kind[] = {
        {400, step_ask},         {120, step_publish}, {100, step_commit},      {25, step_refuse},
        {60, step_forget},       {500, step_release}, {60, step_release_done}, {60, step_client_add},
        {8, step_client_remove}, {20, step_sweep},    {4, step_limit},
    };
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        total += kind[i].weight;
    uint64_t at = below(total);
    size_t i = 0;
    for (; at >= kind[i].weight; i++)
        at -= kind[i].weight;
    step_begin();
    kind[i].run();
    step_end();
}

/* False: not even the domain could be made. */
static bool life_begin(uint64_t seed, unsigned fps, uint64_t fail_at, bool fail_onwards) {
    struct client kept[CLIENTS];
    struct store_page *store = o.store;
    memcpy(kept, o.client, sizeof kept);
    if (!store)
        store = calloc(STORE_MAX, sizeof *store);
    assert_non_null(store);
    memset(store, 0, o.chunks * SP_WINDOW_PAGES * sizeof *store);
    o = (struct oracle){.random = {seed}, .fps = fps, .store = store, .sharers_max = SP_UNBOUNDED_SHARING};
    o.memory.fail_at = fail_at;
    o.memory.fail_onwards = fail_onwards;
    for (size_t i = 0; i < CLIENTS; i++)
        o.client[i] = (struct client){.reference = kept[i].reference, .size = kept[i].size};
    for (unsigned fp = 0; fp < FPS_MAX; fp++)
        o.fp[fp].store = SP_STORE_NONE;
    struct sp_alloc alloc = test_memory_alloc(&o.memory);
    struct sp_domain_events events = {on_punch, on_hint, NULL};
    int r = sp_domain_new(&alloc, &events, &o.d);
    assert_true(r == 0 || (r == -ENOMEM && o.memory.failures > 0));
    return r == 0;
}

/* Everybody goes: nothing may be left. */
static void life_end(void) {
    check_references();
    for (size_t i = 0; i < CLIENTS; i++) {
        step_begin();
        if (o.client[i].number)
            client_remove(&o.client[i]);
        step_end();
    }
    assert_true(stable_pages() == 0);
    while (sp_domain_sweep(o.d, 100))
        ;
    assert_true(sp_domain_unstable(o.d) == 0);
    check_references();
    o.d = sp_domain_free(o.d);
    assert_null(o.d);
    assert_true(o.memory.bytes == 0);
}

static void random_lives(void **state) {
    uint64_t shares = 0, sends = 0, caps = 0, collisions = 0, deferrals = 0, refusals = 0, closings = 0;
    static const unsigned fps[] = {2, 6, FPS_MAX};
    for (uint64_t seed = 1; seed <= 150; seed++) {
        assert_true(life_begin(seed, fps[seed % 3], 0, false));
        for (int i = 0; i < 8000 && o.chunks + 8 < CHUNKS_MAX; i++) {
            step();
            o.slow = seed % 2 == 0 && i / 1000 % 2 == 0;
            if (i % 500 == 0)
                check_references();
        }
        shares += o.shares, sends += o.sends, caps += o.caps, collisions += o.collisions;
        deferrals += o.deferrals, refusals += o.refusals, closings += o.closings;
        life_end();
    }
    print_message(
        "# shares %llu, sends %llu, over the cap %llu, overtaken %llu, deferred %llu, refused %llu, "
        "full %llu\n",
        (unsigned long long)shares, (unsigned long long)sends, (unsigned long long)caps,
        (unsigned long long)collisions, (unsigned long long)deferrals, (unsigned long long)refusals,
        (unsigned long long)closings);
    /* Or the test has lost its meaning. */
    assert_true(shares > 1000 && sends > 1000 && caps > 10 && collisions > 0 && deferrals > 1000 &&
                refusals > 100 && closings > 100);
}

static void each_allocation_fails_in_turn(void **state) {
    uint64_t gets = UINT64_MAX;
    for (uint64_t fail_at = 1; fail_at <= gets; fail_at++) {
        if (life_begin(77, 6, fail_at, false)) {
            for (int i = 0; i < 1500; i++)
                step();
            life_end();
        }
        assert_true(o.memory.bytes == 0);
        assert_true(o.memory.failures > 0 || o.memory.gets < fail_at);
        if (o.memory.failures == 0)
            gets = fail_at; /* beyond the last */
    }
    assert_true(gets > 100 && gets < UINT64_MAX);
}

static void memory_runs_out_for_good(void **state) {
    for (uint64_t fail_at = 1; fail_at < 400; fail_at++) {
        if (!life_begin(78, FPS_MAX, fail_at, true))
            continue;
        for (int i = 0; i < 1500; i++)
            step();
        life_end();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_lives),
        cmocka_unit_test(each_allocation_fails_in_turn),
        cmocka_unit_test(memory_runs_out_for_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
