/* SPDX-License-Identifier: MIT */
/*
 * See domain.h. What a page's owner knows and what the index holds correspond: SP_ANSWER_UNKNOWN - the page
 * waits in the unstable set; SP_ANSWER_SEND - its entry there is pending; SP_ANSWER_SHARE - one more
 * reference in the stable set and in the client's ledger; SP_ANSWER_DECLINED - nothing.
 *
 * Invariants, whenever a callback is called or a function returns:
 *   - a fingerprint or probe that leads to a page of the stable set has no entries in the unstable set;
 *   - the references of a store page are the sum over the ledgers, deferred ones included;
 *   - of the living entries of a fingerprint at most one is pending; where two or more wait and none is
 *     pending, one of them was hinted since (group_settle) or was declined and asks again by itself;
 *   - while a page waits under its whole fingerprint, who waited under its probe before has been hinted since
 *     (probe_end), and who asks by it is told to refine (the sieve).
 */
#include "core/domain.h"
#include "core/clients.h"
#include "core/ledger.h"
#include "core/stable.h"
#include "core/unstable.h"

#include <errno.h>

/* Questions whose places in the tables are loaded ahead of the one that is answered. */
#define ASK_AHEAD 8

#define CHUNK_PAGES   SP_WINDOW_PAGES
#define SCATTERED_MAX 1024
#define WINDOW_NONE   UINT64_MAX

/* Guesses by probes that count: at most so many, and so many wrong ones are borne in any case. */
#define GUESSES_REMEMBERED 65536
#define GUESSES_WRONG_MIN  64

_Static_assert(SP_SEGMENT_PAGES % CHUNK_PAGES == 0, "a chunk never crosses a segment");

/* The chunk that a client publishes into: for one window at a time. */
struct chunk {
    uint64_t window; /* WINDOW_NONE: none yet */
    uint64_t number;
    sp_bits used; /* slots given out, also those that were aborted (I3) */
};

struct sp_member {
    struct sp_ledger ledger;
    struct chunk chunk;
    uint64_t sends_plus_1; /* the window that it was asked to send as a whole; 0: none */
    sp_fp sends;           /* its probe */
    sp_bits sent;          /* the pages of it that came */
};

struct sp_domain {
    struct sp_alloc alloc;  /* counts into index_bytes and forwards to `memory` */
    struct sp_alloc memory; /* the owner's */
    uint64_t index_bytes;
    struct sp_domain_events events;
    struct sp_sieve sieve;
    struct sp_stable stable;
    struct sp_unstable unstable;
    struct sp_clients clients;
    uint64_t chunks;          /* opened so far */
    uint64_t store_pages_max; /* 0: no limit */
    uint64_t sharers_max;     /* of one store page; SP_UNBOUNDED_SHARING: no limit */
    bool paused;
    bool sweeping;
    struct sp_table_place sweep;
    uint64_t deferred, published, punched;
    uint64_t scattered[SCATTERED_MAX]; /* see scattered_place */
    uint64_t guesses, guesses_wrong;   /* of late: by probes that lead to store pages; found to be wrong */
};

static void *counted_get(void *ctx, size_t bytes) {
    struct sp_domain *d = ctx;
    void *memory = sp_alloc_get(&d->memory, bytes);
    if (memory)
        d->index_bytes += bytes;
    return memory;
}

static void counted_put(void *ctx, void *memory, size_t bytes) {
    struct sp_domain *d = ctx;
    if (!memory)
        return;
    d->index_bytes -= bytes;
    sp_alloc_put(&d->memory, memory, bytes);
}

int sp_domain_new(const struct sp_alloc *alloc, const struct sp_domain_events *events,
                  struct sp_domain **ret_domain) {
    struct sp_domain *d = sp_alloc_get(alloc, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->memory = *alloc;
    d->alloc = (struct sp_alloc){counted_get, counted_put, d};
    d->index_bytes = sizeof *d;
    d->events = *events;
    d->sharers_max = SP_UNBOUNDED_SHARING;
    sp_sieve_init(&d->sieve, &d->alloc);
    sp_stable_init(&d->stable, &d->alloc, &d->sieve);
    sp_clients_init(&d->clients, &d->alloc);
    sp_unstable_init(&d->unstable, &d->alloc, &d->clients, &d->sieve);
    *ret_domain = d;
    return 0;
}

static void member_free(struct sp_domain *d, struct sp_member *m) {
    sp_ledger_deinit(&m->ledger);
    sp_alloc_put(&d->alloc, m, sizeof *m);
}

struct sp_domain *sp_domain_free(struct sp_domain *d) {
    if (!d)
        return NULL;
    for (sp_client client = 1; client < d->clients.fresh; client++) {
        struct sp_member *m = sp_clients_get(&d->clients, client);
        if (m)
            member_free(d, m);
    }
    sp_clients_deinit(&d->clients);
    sp_unstable_deinit(&d->unstable);
    sp_stable_deinit(&d->stable);
    sp_sieve_deinit(&d->sieve);
    struct sp_alloc memory = d->memory;
    sp_alloc_put(&memory, d, sizeof *d);
    return NULL;
}

void sp_domain_limit(struct sp_domain *d, uint64_t store_pages_max, bool paused) {
    d->store_pages_max = store_pages_max;
    d->paused = paused;
}

void sp_domain_limit_sharing(struct sp_domain *d, uint64_t sharers_max) {
    d->sharers_max = sharers_max;
}

int sp_domain_client_add(struct sp_domain *d, sp_client *ret_client) {
    struct sp_member *m = sp_alloc_get(&d->alloc, sizeof *m);
    if (!m)
        return -ENOMEM;
    sp_ledger_init(&m->ledger, &d->alloc);
    m->chunk.window = WINDOW_NONE;
    int r = sp_clients_add(&d->clients, m, ret_client);
    if (r < 0)
        member_free(d, m);
    return r;
}

/* Fingerprints and pages come from outside; the index cannot hold these. */
static bool query_valid(struct sp_query q) {
    return q.fp.v != 0 && q.page.v >> SP_PAGE_BITS == 0;
}

static bool may_publish(const struct sp_domain *d) {
    return !d->paused && (d->store_pages_max == 0 || d->stable.pages < d->store_pages_max);
}

/* Store pages that became free, told to the owner in ranges as long as they come. */
struct punches {
    sp_store_page first;
    uint64_t n;
};

static void punches_flush(struct sp_domain *d, struct punches *p) {
    if (p->n == 0)
        return;
    struct punches told = *p;
    p->n = 0;
    d->punched += told.n;
    d->events.punch(d->events.ctx, told.first, told.n);
}

static void punches_add(struct sp_domain *d, struct punches *p, sp_store_page store) {
    if (p->n > 0 && p->first.v + p->n == store.v) {
        p->n++;
        return;
    }
    punches_flush(d, p);
    *p = (struct punches){store, 1};
}

static void punch_one(struct sp_domain *d, sp_store_page store) {
    struct punches p = {store, 1};
    punches_flush(d, &p);
}

static void hint(struct sp_domain *d, sp_waiter w) {
    d->events.hint(d->events.ctx, sp_waiter_client(w), sp_waiter_page(w));
}

/* After an entry of this fingerprint has gone: when there are still twins and nobody is about to send, one of
 * them must ask again, or they would wait for ever. */
static void group_settle(struct sp_domain *d, sp_fp fp) {
    struct sp_group g;
    sp_unstable_group(&d->unstable, fp, &g);
    if (g.n >= 2 && sp_group_pending(&g) < 0)
        hint(d, g.entry[0]);
}

/* The page waits no more, if it did. */
static void forget_waiting(struct sp_domain *d, sp_client client, struct sp_query q) {
    struct sp_group g;
    sp_unstable_group(&d->unstable, q.fp, &g);
    int own = sp_group_find(&g, client, q.page);
    if (own >= 0)
        sp_unstable_remove(&d->unstable, q.fp, g.entry[own]);
    if (own >= 0 || g.dropped)
        group_settle(d, q.fp);
}

/* Whether one more may share a page that was found; if not, nobody finds it any more. */
static bool has_room(struct sp_domain *d, sp_store_page store) {
    if (d->sharers_max == SP_UNBOUNDED_SHARING || sp_stable_references(&d->stable, store) < d->sharers_max)
        return true;
    sp_stable_close(&d->stable, store);
    return false;
}

static bool find_whole(struct sp_domain *d, sp_fp fp, sp_store_page *ret_store) {
    return sp_stable_find(&d->stable, fp, ret_store) && has_room(d, *ret_store);
}

static bool find_probe(struct sp_domain *d, sp_fp probe, sp_store_page *ret_store) {
    return sp_stable_probe(&d->stable, probe, ret_store) && has_room(d, *ret_store);
}

/* Takes the reference, in the ledger first: that is what may fail. */
static struct sp_answer share(struct sp_domain *d, struct sp_member *m, sp_store_page store) {
    struct sp_answer declined = {SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (d->paused || sp_ledger_take(&m->ledger, store) < 0)
        return declined;
    if (sp_stable_take(&d->stable, store) < 0) {
        sp_ledger_give(&m->ledger, store);
        return declined;
    }
    return (struct sp_answer){SP_ANSWER_SHARE, store};
}

/* There are twins and nobody sends: this page is the one, if it may be. `own`: its entry, -1 if it has none.
 */
static enum sp_answer_kind send_offer(struct sp_domain *d, sp_client client, struct sp_query q,
                                      const struct sp_group *g, int own) {
    if (!may_publish(d)) {
        if (own >= 0)
            sp_unstable_remove(&d->unstable, q.fp, g->entry[own]);
        return SP_ANSWER_DECLINED;
    }
    if (own >= 0)
        sp_unstable_mark(&d->unstable, q.fp, g->entry[own], true);
    else if (sp_unstable_add(&d->unstable, q.fp, sp_waiter_of(client, q.page, true)) < 0)
        return SP_ANSWER_DECLINED;
    return SP_ANSWER_SEND;
}

static enum sp_answer_kind wait_offer(struct sp_domain *d, sp_client client, struct sp_query q,
                                      const struct sp_group *g, int own) {
    if (own >= 0)
        return SP_ANSWER_UNKNOWN;
    size_t waiting = g->n - (sp_group_pending(g) >= 0);
    if (waiting >= SP_GROUP_WAITING_MAX)
        return SP_ANSWER_DECLINED;
    if (sp_unstable_add(&d->unstable, q.fp, sp_waiter_of(client, q.page, false)) < 0)
        return SP_ANSWER_DECLINED;
    return SP_ANSWER_UNKNOWN;
}

/* The page's fingerprint is not in the stable set; `g` is its group in the unstable one. A page that was
 * asked to send and asks again did not get the message, or thought better of it: it is treated as one that
 * waits. */
static enum sp_answer_kind remember(struct sp_domain *d, sp_client client, struct sp_query q,
                                    struct sp_group *g) {
    int own = sp_group_find(g, client, q.page), pending = sp_group_pending(g);
    if (own >= 0 && own == pending) {
        sp_unstable_mark(&d->unstable, q.fp, g->entry[own], false);
        g->entry[own] = sp_waiter_of(client, q.page, false);
        pending = -1;
    }
    size_t others = g->n - (own >= 0);
    enum sp_answer_kind kind =
        pending < 0 && others > 0 ? send_offer(d, client, q, g, own) : wait_offer(d, client, q, g, own);
    if (kind == SP_ANSWER_DECLINED && (own >= 0 || g->dropped))
        group_settle(d, q.fp);
    return kind;
}

void sp_domain_guessed_wrong(struct sp_domain *d, uint64_t n) {
    d->guesses_wrong += n < SP_WINDOW_PAGES ? n : SP_WINDOW_PAGES;
}

/* Whether probes may decide who is a twin of whom: of late hardly any guess was wrong. What could have been
 * guessed counts also while they may not, so that they are tried again: one guess in sixteen may be wrong. */
static bool probes_trusted(struct sp_domain *d) {
    if (d->guesses > GUESSES_REMEMBERED) {
        d->guesses /= 2;
        d->guesses_wrong /= 2;
    }
    return d->guesses_wrong <= GUESSES_WRONG_MIN + d->guesses / 16;
}

/* Pages that follow each other in a client mostly do so in the store, too: the page that was shared last, and
 * where. */
struct trail {
    sp_page page;
    sp_store_page store; /* SP_STORE_NONE: none yet */
};

/* The store page that has this probe and stands where the trail leads. */
static bool trail_find(struct sp_domain *d, const struct trail *t, struct sp_query q, sp_store_page *ret) {
    if (t->store.v == SP_STORE_NONE.v || sp_fp_whole(q.fp))
        return false;
    sp_store_page store = {t->store.v + (q.page.v - t->page.v)};
    if (!sp_stable_has_probe(&d->stable, store, q.fp) || !has_room(d, store))
        return false;
    *ret = store;
    return true;
}

static struct sp_answer answer_probe(struct sp_domain *d, sp_client client, struct sp_member *m,
                                     const struct trail *trail, struct sp_query q) {
    sp_store_page store;
    struct sp_group g;
    bool trusted = probes_trusted(d);
    bool stable = trail_find(d, trail, q, &store) || find_probe(d, q.fp, &store);
    d->guesses += stable;
    if (trusted && stable)
        return share(d, m, store);
    sp_unstable_group(&d->unstable, q.fp, &g);
    bool others = g.n > (sp_group_find(&g, client, q.page) >= 0);
    if (stable || sp_sieve_passes(&d->sieve, q.fp) || (!trusted && others))
        return (struct sp_answer){SP_ANSWER_REFINE, SP_STORE_NONE};
    return (struct sp_answer){remember(d, client, q, &g), SP_STORE_NONE};
}

/* The page waits under its whole fingerprint now, no longer under its probe. Who still waits there may be its
 * twin: hinted, they ask again, and are told to refine, because of the sieve. Those who ask from now on are
 * told so, too, and those who were told and have not come back yet do the same as this page. So it does not
 * matter why a page is asked about as a whole, nor what happened since that was decided. */
static void probe_end(struct sp_domain *d, sp_client client, struct sp_query q) {
    struct sp_group g;
    if (q.probe.v == 0 || sp_fp_whole(q.probe))
        return;
    sp_unstable_group(&d->unstable, q.probe, &g);
    int own = sp_group_find(&g, client, q.page);
    if (own >= 0)
        sp_unstable_remove(&d->unstable, q.probe, g.entry[own]);
    for (size_t i = 0; i < g.n; i++)
        if ((int)i != own)
            hint(d, g.entry[i]);
}

/* Gives back what was taken of a chunk that could not be shared as a whole. */
static void unshare(struct sp_domain *d, struct sp_member *m, sp_store_page first, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        sp_store_page store = {first.v + i};
        sp_ledger_give(&m->ledger, store);
        (void)sp_stable_give(&d->stable, store, 1); /* others hold it: it was there before */
    }
}

/* A reference to each page of the chunk, or to none. */
static struct sp_answer share_window(struct sp_domain *d, struct sp_member *m, sp_store_page first) {
    struct sp_answer declined = {SP_ANSWER_DECLINED, SP_STORE_NONE};
    for (uint64_t i = 0; i < SP_WINDOW_PAGES; i++) {
        sp_store_page store = {first.v + i};
        if (has_room(d, store) && share(d, m, store).kind == SP_ANSWER_SHARE)
            continue;
        unshare(d, m, first, i);
        return declined;
    }
    d->guesses += SP_WINDOW_PAGES;
    return (struct sp_answer){SP_ANSWER_SHARE, first};
}

/*
 * Windows that were sent and did not become a whole, by their probes: one of their pages was in the store
 * already, or is in them twice. If each twin were asked to send it, each would, in vain; so these are asked
 * about page by page. Few are remembered, which costs a copy in vain where one is forgotten.
 */
static uint64_t *scattered_place(struct sp_domain *d, sp_fp probe) {
    return &d->scattered[(probe.v >> 8) % SCATTERED_MAX];
}

static bool is_scattered(struct sp_domain *d, sp_fp probe) {
    return *scattered_place(d, probe) == probe.v;
}

/* Who waits under the probe of a window is told when there is such a chunk (sp_domain_publish_commit), or
 * when nobody sends it any more, as everybody who waits. */
static struct sp_answer answer_window(struct sp_domain *d, sp_client client, struct sp_member *m,
                                      struct sp_query q) {
    sp_store_page first;
    struct sp_group g;
    if (!probes_trusted(d) || sp_page_slot(q.page))
        return (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (sp_stable_window(&d->stable, q.fp, &first))
        return share_window(d, m, first);
    if (is_scattered(d, q.fp)) {
        forget_waiting(d, client, q);
        return (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    }
    sp_unstable_group(&d->unstable, q.fp, &g);
    enum sp_answer_kind kind = remember(d, client, q, &g);
    if (kind == SP_ANSWER_SEND) {
        m->sends_plus_1 = sp_page_window(q.page) + 1;
        m->sends = q.fp;
        m->sent = (sp_bits){0};
    }
    return (struct sp_answer){kind, SP_STORE_NONE};
}

static struct sp_answer answer_note(struct sp_domain *d, sp_client client, struct sp_query q) {
    sp_store_page first;
    struct sp_group g;
    if (!probes_trusted(d) || sp_page_slot(q.page) || is_scattered(d, q.fp))
        return (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (sp_stable_window(&d->stable, q.fp, &first))
        return (struct sp_answer){SP_ANSWER_REFINE, SP_STORE_NONE};
    sp_unstable_group(&d->unstable, q.fp, &g);
    int own = sp_group_find(&g, client, q.page);
    size_t others = g.n - (own >= 0);
    bool sent = own >= 0 && sp_waiter_pending(g.entry[own]); /* it will not be sent as it was */
    if (sent)
        sp_unstable_mark(&d->unstable, q.fp, g.entry[own], false);
    enum sp_answer_kind kind = wait_offer(d, client, q, &g, own);
    if (others)
        kind = SP_ANSWER_REFINE; /* also where so many wait that one more is not noted */
    if (others == 1)
        hint(d, g.entry[own == 0]);
    else if (sent || g.dropped)
        group_settle(d, q.fp);
    return (struct sp_answer){kind, SP_STORE_NONE};
}

static bool is_note(struct sp_query q) {
    return !sp_fp_whole(q.fp) && q.probe.v == SP_PROBE_WINDOW_NOTE.v;
}

static bool is_window(struct sp_query q) {
    return !sp_fp_whole(q.fp) && q.probe.v == SP_PROBE_WINDOW.v;
}

static struct sp_answer answer(struct sp_domain *d, sp_client client, struct sp_member *m,
                               const struct trail *trail, struct sp_query q) {
    sp_store_page store;
    struct sp_group g;
    if (!m || !query_valid(q))
        return (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (is_window(q))
        return answer_window(d, client, m, q);
    if (is_note(q))
        return answer_note(d, client, q);
    if (!sp_fp_whole(q.fp))
        return answer_probe(d, client, m, trail, q);
    if (find_whole(d, q.fp, &store))
        return share(d, m, store);
    sp_unstable_group(&d->unstable, q.fp, &g);
    enum sp_answer_kind kind = remember(d, client, q, &g);
    if (kind != SP_ANSWER_DECLINED)
        probe_end(d, client, q);
    return (struct sp_answer){kind, SP_STORE_NONE};
}

void sp_domain_prefetch(const struct sp_domain *d, sp_fp fp) {
    sp_table_prefetch(sp_fp_whole(fp) ? &d->stable.table : &d->stable.probes, fp);
    sp_table_prefetch(&d->unstable.table, fp);
    sp_sieve_prefetch(&d->sieve, fp);
}

/* What is on the trail is found without the tables. */
static void prefetch(struct sp_domain *d, const struct trail *trail, const struct sp_query *q) {
    sp_store_page store;
    if (trail_find(d, trail, *q, &store))
        return;
    sp_domain_prefetch(d, q->fp);
    if (sp_fp_whole(q->fp))
        sp_table_prefetch(&d->unstable.table, q->probe);
}

void sp_domain_ask(struct sp_domain *d, sp_client client, const struct sp_query *queries, size_t n,
                   struct sp_answer *ret_answers) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    struct trail trail = {.store = SP_STORE_NONE};
    for (size_t i = 0; i < n && i < ASK_AHEAD; i++)
        prefetch(d, &trail, &queries[i]);
    for (size_t i = 0; i < n; i++) {
        if (i + ASK_AHEAD < n)
            prefetch(d, &trail, &queries[i + ASK_AHEAD]);
        ret_answers[i] = answer(d, client, m, &trail, queries[i]);
        if (ret_answers[i].kind == SP_ANSWER_SHARE)
            trail = (struct trail){queries[i].page, ret_answers[i].store};
    }
}

/* The place of the page in the store: its slot in the window's chunk. A slot that was given out once is not
 * given out again (I3): then the window gets a new chunk. */
static sp_store_page chunk_place(struct sp_domain *d, struct chunk *c, sp_page page) {
    unsigned slot = sp_page_slot(page);
    if (c->window != sp_page_window(page) || sp_bits_get(&c->used, slot))
        *c = (struct chunk){.window = sp_page_window(page), .number = d->chunks++};
    sp_bits_set(&c->used, slot);
    return (sp_store_page){c->number * CHUNK_PAGES + slot};
}

/* The page's pending entry, or a word that is 0: it has none. */
static sp_waiter pending_find(struct sp_domain *d, sp_client client, struct sp_query q) {
    struct sp_group g;
    sp_unstable_group(&d->unstable, q.fp, &g);
    int own = sp_group_find(&g, client, q.page);
    bool pending = own >= 0 && sp_waiter_pending(g.entry[own]);
    if (g.dropped && !pending)
        group_settle(d, q.fp);
    return pending ? g.entry[own] : (sp_waiter){0};
}

/* Ends the page's being pending without a store page. */
static void pending_drop(struct sp_domain *d, sp_client client, struct sp_query q) {
    sp_waiter w = pending_find(d, client, q);
    if (w.v == 0)
        return;
    sp_unstable_remove(&d->unstable, q.fp, w);
    group_settle(d, q.fp);
}

/* Whether the page comes with the window that the client was asked to send: each page once. */
static bool sends_window(struct sp_member *m, sp_page page) {
    unsigned slot = sp_page_slot(page);
    if (m->sends_plus_1 != sp_page_window(page) + 1 || sp_bits_get(&m->sent, slot))
        return false;
    sp_bits_set(&m->sent, slot);
    return true;
}

/* Those who wait under a fingerprint or probe whose content is stable now: they are hinted, `own` aside, and
 * asked about anew. */
static void group_end(struct sp_domain *d, sp_fp fp, sp_client client, sp_page own) {
    struct sp_group g;
    sp_unstable_group(&d->unstable, fp, &g);
    for (size_t i = 0; i < g.n; i++)
        sp_unstable_remove(&d->unstable, fp, g.entry[i]);
    int mine = sp_group_find(&g, client, own);
    for (size_t i = 0; i < g.n; i++)
        if ((int)i != mine)
            hint(d, g.entry[i]);
}

/* The last page of a chunk is there, or of a window that was to be sent and is there already, in a chunk that
 * nobody finds because it was like another one that has gone since: who waits for the whole of it. Or all of
 * a window was sent, and it is no such chunk. */
static void window_end(struct sp_domain *d, sp_client client, struct sp_member *m, sp_page page,
                       sp_store_page store) {
    sp_fp probe = sp_stable_window_made(&d->stable, store);
    bool last = sp_page_slot(page) == SP_WINDOW_PAGES - 1 && m->sends_plus_1 == sp_page_window(page) + 1;
    if (probe.v)
        group_end(d, probe, client, (sp_page){page.v - sp_page_slot(page)});
    else if (last && sp_bits_all(&m->sent))
        *scattered_place(d, m->sends) = m->sends.v;
    if (probe.v || last)
        m->sends_plus_1 = 0;
}

void sp_domain_publish(struct sp_domain *d, sp_client client, struct sp_query query, sp_fp whole,
                       struct sp_answer *ret) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    *ret = (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (!m || !query_valid(query))
        return;
    sp_store_page store;
    bool with_window = sends_window(m, query.page);
    if (find_whole(d, whole, &store)) {
        *ret = share(d, m, store);
        if (with_window && sp_page_slot(query.page) == SP_WINDOW_PAGES - 1)
            window_end(d, client, m, query.page, store);
        return;
    }
    if (!with_window && pending_find(d, client, query).v == 0)
        return;
    if (!may_publish(d)) {
        pending_drop(d, client, query);
        return;
    }
    *ret = (struct sp_answer){SP_ANSWER_SEND, chunk_place(d, &m->chunk, query.page)};
}

/* Its chunk was given out, and nothing was entered there. */
static bool place_open(const struct sp_domain *d, sp_store_page store) {
    return store.v / CHUNK_PAGES < d->chunks && sp_stable_references(&d->stable, store) == 0;
}

/* Into the stable set and the ledger, or neither. */
static int publish(struct sp_domain *d, struct sp_member *m, sp_fp fp, sp_fp probe, sp_store_page store) {
    int r = sp_ledger_take(&m->ledger, store);
    if (r < 0)
        return r;
    r = sp_stable_add(&d->stable, fp, probe, store);
    if (r < 0)
        sp_ledger_give(&m->ledger, store);
    return r;
}

int sp_domain_publish_commit(struct sp_domain *d, sp_client client, struct sp_query query, sp_fp whole,
                             sp_fp probe, sp_store_page store) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    sp_store_page there;
    if (!query_valid(query) || !sp_fp_whole(whole) || sp_fp_whole(probe) || !place_open(d, store))
        return -EINVAL;
    int r = !m ? -ESRCH : find_whole(d, whole, &there) ? -EEXIST : 0;
    if (r == 0)
        r = publish(d, m, whole, probe, store);
    if (r < 0) {
        sp_domain_publish_abort(d, client, query, store);
        return r;
    }
    d->published++;
    group_end(d, probe, client, query.page);
    if (sp_fp_whole(query.fp) || sp_sieve_passes(&d->sieve, whole)) /* else nobody waits under the whole */
        group_end(d, whole, client, query.page);
    window_end(d, client, m, query.page, store);
    return 0;
}

void sp_domain_publish_abort(struct sp_domain *d, sp_client client, struct sp_query query,
                             sp_store_page store) {
    if (!query_valid(query) || !place_open(d, store))
        return;
    pending_drop(d, client, query);
    punch_one(d, store);
}

void sp_domain_publish_refuse(struct sp_domain *d, sp_client client, struct sp_query query) {
    if (query_valid(query))
        pending_drop(d, client, query);
}

void sp_domain_take(struct sp_domain *d, sp_client client, sp_store_page store, struct sp_answer *ret) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    *ret = (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (m && sp_stable_references(&d->stable, store) > 0 && has_room(d, store))
        *ret = share(d, m, store);
}

void sp_domain_place(struct sp_domain *d, sp_client client, sp_page page, struct sp_answer *ret) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    *ret = (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
    if (m && may_publish(d))
        *ret = (struct sp_answer){SP_ANSWER_SEND, chunk_place(d, &m->chunk, page)};
}

int sp_domain_enter(struct sp_domain *d, sp_client client, sp_store_page store) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    if (!place_open(d, store))
        return -EINVAL;
    int r = m ? publish(d, m, (sp_fp){0}, (sp_fp){0}, store) : -ESRCH;
    d->published += r == 0;
    return r;
}

void sp_domain_leave(struct sp_domain *d, sp_store_page store) {
    if (place_open(d, store))
        punch_one(d, store);
}

const struct sp_alloc *sp_domain_alloc(const struct sp_domain *d) {
    return &d->alloc;
}

static void forget(struct sp_domain *d, sp_client client, struct sp_query q) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    if (m && m->sends_plus_1 == sp_page_window(q.page) + 1)
        m->sends_plus_1 = 0;
    forget_waiting(d, client, q);
}

void sp_domain_forget(struct sp_domain *d, sp_client client, const struct sp_query *queries, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (i + ASK_AHEAD < n)
            sp_table_prefetch(&d->unstable.table, queries[i + ASK_AHEAD].fp);
        if (query_valid(queries[i]))
            forget(d, client, queries[i]);
    }
}

/* One reference to each of the pages goes, which the ledger holds and which are not deferred. */
static void give_back(struct sp_domain *d, struct sp_member *m, sp_store_page first, uint64_t n,
                      struct punches *p) {
    for (uint64_t i = 0; i < n; i++) {
        sp_store_page store = {first.v + i};
        sp_ledger_give(&m->ledger, store);
        if (sp_stable_give(&d->stable, store, 1))
            punches_add(d, p, store);
    }
}

int sp_domain_release(struct sp_domain *d, sp_client client, sp_store_page first, uint64_t n,
                      uint64_t epoch) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    if (!m || !sp_ledger_covers(&m->ledger, first, n))
        return -EINVAL;
    if (n == 0)
        return 0;
    /* An epoch that goes down would take effect too early: it counts as the latest. */
    uint64_t least = m->ledger.epoch_last > 0 ? m->ledger.epoch_last : 1;
    if (epoch < least)
        epoch = least;
    if (epoch > m->ledger.epoch_done) {
        int r = sp_ledger_defer(&m->ledger, first, n, epoch);
        d->deferred += r == 0 ? n : 0;
        return r;
    }
    struct punches p = {0};
    give_back(d, m, first, n, &p);
    punches_flush(d, &p);
    return 0;
}

void sp_domain_release_done(struct sp_domain *d, sp_client client, uint64_t epoch) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    if (!m)
        return;
    if (epoch > m->ledger.epoch_done)
        m->ledger.epoch_done = epoch;
    struct sp_deferral due;
    struct punches p = {0};
    while (sp_ledger_due(&m->ledger, epoch, &due)) {
        d->deferred -= due.n;
        give_back(d, m, due.first, due.n, &p);
    }
    punches_flush(d, &p);
}

static void block_give_back(struct sp_domain *d, const struct sp_block *block, struct punches *p) {
    for (unsigned slot = 0; slot < SP_BLOCK_PAGES; slot++) {
        sp_store_page store = {block->number * SP_BLOCK_PAGES + slot};
        uint32_t held = sp_ledger_held_at(block, slot);
        if (held > 0 && sp_stable_give(&d->stable, store, held))
            punches_add(d, p, store);
    }
}

void sp_domain_client_remove(struct sp_domain *d, sp_client client) {
    struct sp_member *m = sp_clients_get(&d->clients, client);
    if (!m)
        return;
    sp_clients_remove(&d->clients, client);
    d->deferred -= m->ledger.deferred.total;
    struct punches p = {0};
    sp_blocks_sort(&m->ledger.held.blocks);
    for (const struct sp_block *b = m->ledger.held.blocks.first; b; b = b->next)
        block_give_back(d, b, &p);
    member_free(d, m);
    punches_flush(d, &p);
}

bool sp_domain_sweep(struct sp_domain *d, size_t buckets) {
    if (!d->sweeping) {
        d->sweeping = sp_clients_sweep_start(&d->clients);
        d->sweep = (struct sp_table_place){0};
    }
    if (!d->sweeping)
        return false;
    sp_fp fp;
    sp_waiter w;
    sp_table_walk_changed(&d->sweep);
    while (sp_table_walk(&d->unstable.table, &d->sweep, &buckets, &fp, &w.v)) {
        if (sp_clients_get(&d->clients, sp_waiter_client(w)))
            continue;
        sp_unstable_remove(&d->unstable, fp, w);
        sp_table_walk_changed(&d->sweep);
        group_settle(d, fp);
    }
    if (sp_table_walked(&d->unstable.table, &d->sweep)) {
        sp_clients_sweep_end(&d->clients);
        d->sweeping = false;
    }
    return d->sweeping || d->clients.resting != 0;
}

uint64_t sp_domain_client_references(const struct sp_domain *d, sp_client client) {
    const struct sp_member *m = sp_clients_get(&d->clients, client);
    return m ? m->ledger.held.total : 0;
}

void sp_domain_counters(const struct sp_domain *d, struct sp_counters *into) {
    uint64_t sharing = d->stable.references - d->stable.pages;
    into->v[SP_COUNTER_pages_shared] = d->stable.pages;
    into->v[SP_COUNTER_pages_sharing] = sharing;
    into->v[SP_COUNTER_pages_full] = d->stable.closed;
    into->v[SP_COUNTER_pages_published] = d->published;
    into->v[SP_COUNTER_pages_punched] = d->punched;
    into->v[SP_COUNTER_pages_deferred] = d->deferred;
    into->v[SP_COUNTER_exposure_bytes] = sharing * SP_PAGE_SIZE;
    into->v[SP_COUNTER_index_bytes] = d->index_bytes;
}

uint64_t sp_domain_references(const struct sp_domain *d, sp_store_page store) {
    return sp_stable_references(&d->stable, store);
}

uint64_t sp_domain_unstable(const struct sp_domain *d) {
    return d->unstable.table.count;
}
