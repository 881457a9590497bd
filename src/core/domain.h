/* SPDX-License-Identifier: MIT */
/*
 * A domain: the clients that may share with each other, and what is known of their pages.
 *
 * The stable set maps fingerprints to store pages, each with its reference count; the unstable set maps
 * fingerprints to pages that are not shared yet and may change at any time. A question about a page is
 * answered from the stable set first. A reference is taken when the answer is given, before the offset is
 * told to anyone (I8), and kept in a ledger of the client, so that a client that dies gives back exactly what
 * it held, when its family has gone (H6).
 *
 * Layout: the store is cut into chunks of a window's size. The first publisher of a window gets a chunk of
 * its own and each of its pages the slot that it has in the window, so that what is contiguous at the first
 * owner stays contiguous in the store, and followers with the same layout can map long runs. Store pages are
 * never used twice (I3).
 *
 * Pure and single-threaded: the caller serialises. Nothing here touches page contents or files: the owner
 * writes and punches the store and is told through callbacks. No callback may call back into the domain.
 */
#ifndef SP_CORE_DOMAIN_H
#define SP_CORE_DOMAIN_H

#include "core/alloc.h"
#include "core/counters.h"
#include "core/settings.h"
#include "core/types.h"

struct sp_domain;

/* A client of a domain, 1 ... SP_CLIENTS_MAX - 1; never 0. Not used again while anything in the index still
 * carries it. */
typedef uint32_t sp_client;
#define SP_CLIENTS_MAX (UINT32_C(1) << 19)

struct sp_domain_events {
    /* `n` store pages from `first` on have no reference left and are out of the stable set: punch them (I2:
     * nobody can map them any more). */
    void (*punch)(void *ctx, sp_store_page first, uint64_t n);
    /* The page of `client`, earlier answered SP_ANSWER_UNKNOWN, may now have a twin in the store: it is worth
     * asking again. */
    void (*hint)(void *ctx, sp_client client, sp_page page);
    void *ctx;
};

/*
 * A question about one page, by its probe or by its whole fingerprint; or about a window at once: then `page`
 * is its first, `fp` the window's probe, and `probe` is SP_PROBE_WINDOW. Answers are about all of it:
 * SP_ANSWER_SHARE means its pages in the order of the chunk that begins at `store`, with a reference to each,
 * SP_ANSWER_SEND that all of them are to be published, page by page, SP_ANSWER_UNKNOWN that nobody has asked
 * about the same window yet or somebody is about to send it. SP_ANSWER_DECLINED: it is better asked about
 * page by page, which says more.
 *
 * Who waits under a window's probe is found by the same question only; a page that is found elsewhere on its
 * own finds none of it. So who gets no better answer soon asks about the pages besides. What was asked so is
 * forgotten like a page: (first page, window's probe).
 */
struct sp_query {
    sp_page page;
    sp_fp fp;
    sp_fp probe; /* of a page that is asked about by its whole fingerprint; else of no meaning, or: */
};
#define SP_PROBE_WINDOW ((sp_fp){2})
/*
 * As the probe of a question about a window: it is only to be noted, because it may still change. It waits,
 * and counts as a twin for whoever asks about the same, but nothing is shared with it or wanted from it.
 * SP_ANSWER_UNKNOWN: noted, and nobody else has such a window; SP_ANSWER_REFINE: somebody has, or it is in
 * the store: it is worth asking about as a whole. Who was the only one to have it is hinted when the second
 * comes. SP_ANSWER_DECLINED: not noted.
 */
#define SP_PROBE_WINDOW_NOTE ((sp_fp){4})

enum sp_answer_kind {
    SP_ANSWER_UNKNOWN = 0, /* no twin known; remembered in the unstable set */
    SP_ANSWER_SHARE = 1,   /* shares with `store`; a reference was taken for the asking client; nothing waits
                            * under   what it asked by any more */
    SP_ANSWER_SEND = 2, /* a twin was seen elsewhere: publish this page's content (or say that it changed) */
    SP_ANSWER_DECLINED = 3, /* a limit (store full, exposure, memory): not remembered, ask again much later */
    SP_ANSWER_REFINE = 4,   /* there may be a twin: ask at once by the whole fingerprint; not remembered */
};

struct sp_answer {
    enum sp_answer_kind kind;
    sp_store_page store; /* SP_ANSWER_SHARE only, else SP_STORE_NONE */
};

/* -ENOMEM. `alloc` and `events` are copied; what their ctx points to must outlive the domain. */
SP_WARN_UNUSED int sp_domain_new(const struct sp_alloc *alloc, const struct sp_domain_events *events,
                                 struct sp_domain **ret_domain);
/* Frees everything; punches nothing (the owner closes the store). Returns NULL. */
struct sp_domain *sp_domain_free(struct sp_domain *d);

/* Limits, set at any time: most store pages that may be in use (0: no limit), and whether nothing new may be
 * shared for now (exposure guard). */
void sp_domain_limit(struct sp_domain *d, uint64_t store_pages_max, bool paused);

/* Most pages that may share one store page (SP_UNBOUNDED_SHARING: no limit), set at any time. Those that
 * share already more than a new limit go on; nobody joins them. */
void sp_domain_limit_sharing(struct sp_domain *d, uint64_t sharers_max);

/* -ENOMEM, -EUSERS (no free client number: try again after sp_domain_sweep). */
SP_WARN_UNUSED int sp_domain_client_add(struct sp_domain *d, sp_client *ret_client);

/*
 * Answers `n` questions of a client, in order. A page that is in doubt is answered SP_ANSWER_DECLINED (also
 * when memory runs out), so this never fails. The first that asks about a fingerprint is remembered; the
 * second is asked to send; those who ask while the second is about to send are remembered and hinted when it
 * has (or told to send themselves when it could not).
 *
 * By probes it goes the same way, while pages with the same probe mostly turn out to be the same (see
 * sp_domain_guessed_wrong). SP_ANSWER_SHARE is then a guess: whoever finds the bytes to differ gives the
 * reference back and asks by the whole fingerprint. When guesses have been wrong too often, or where the
 * index knows whole fingerprints that the probe may belong to, everybody who may have a twin is told to
 * refine. Whoever waits under the probe of a page that is asked about as a whole is hinted.
 */
void sp_domain_ask(struct sp_domain *d, sp_client client, const struct sp_query *queries, size_t n,
                   struct sp_answer *ret_answers);

/* Clients compared `n` pages (at most a window's count at a time) with what they had been told to share by
 * their probes, and found them to differ. */
void sp_domain_guessed_wrong(struct sp_domain *d, uint64_t n);

/* Loads what a fingerprint or probe leads to into the cache, for whoever is about to publish several. */
void sp_domain_prefetch(const struct sp_domain *d, sp_fp fp);

/*
 * First half of publishing, after SP_ANSWER_SEND, by the caller who has checked that the content has the
 * query's fingerprint or probe; `whole` is its whole fingerprint.
 * SP_ANSWER_SHARE: it is there meanwhile, a reference was taken, drop the content. SP_ANSWER_SEND: write the
 * content at *ret->store, then commit or abort; SP_ANSWER_DECLINED: a limit, or the client was not asked to
 * send this, nor its window.
 */
void sp_domain_publish(struct sp_domain *d, sp_client client, struct sp_query query, sp_fp whole,
                       struct sp_answer *ret);
/* The content is in the store; `whole` and `probe` are its fingerprint and its probe: makes it part of the
 * stable set with one reference, the client's, and hints everybody who waits for it. -ENOMEM, -ESRCH (the
 * client has gone meanwhile), -EEXIST (somebody else has published it meanwhile): not published, as
 * sp_domain_publish_abort. -EINVAL: not a store page that sp_domain_publish gave out, or in use already;
 * nothing is changed. */
SP_WARN_UNUSED int sp_domain_publish_commit(struct sp_domain *d, sp_client client, struct sp_query query,
                                            sp_fp whole, sp_fp probe, sp_store_page store);
/* It could not be written: the store page is given to events.punch and never used. */
void sp_domain_publish_abort(struct sp_domain *d, sp_client client, struct sp_query query,
                             sp_store_page store);
/* The client was asked to send but will not (the page changed): the next one that waits is hinted. */
void sp_domain_publish_refuse(struct sp_domain *d, sp_client client, struct sp_query query);

/*
 * For an index of another kind, that finds out by itself which pages are the same (core/trees.h), and asks
 * nothing of the above: references, places in the store and limits are kept here all the same. Store pages
 * that were entered so are not found by fingerprints.
 *
 * sp_domain_take: SP_ANSWER_SHARE: the reference to a store page in use was taken; or SP_ANSWER_DECLINED,
 * also when as many share it as may.
 *
 * sp_domain_place: SP_ANSWER_SEND: write the page's content at ret->store, then enter it, or leave the place;
 * or SP_ANSWER_DECLINED, a limit. sp_domain_enter: it is there; with one reference, the client's. -ENOMEM,
 * -ESRCH (no such client), -EINVAL (not a place that was given out, or in use): the place must be left.
 * sp_domain_leave: it will not be used: punched.
 */
void sp_domain_take(struct sp_domain *d, sp_client client, sp_store_page store, struct sp_answer *ret);
void sp_domain_place(struct sp_domain *d, sp_client client, sp_page page, struct sp_answer *ret);
SP_WARN_UNUSED int sp_domain_enter(struct sp_domain *d, sp_client client, sp_store_page store);
void sp_domain_leave(struct sp_domain *d, sp_store_page store);
/* The memory of such an index, counted as this one's. */
const struct sp_alloc *sp_domain_alloc(const struct sp_domain *d);

/* The pages changed or are no longer registered: takes them out of the unstable set, where they are known. */
void sp_domain_forget(struct sp_domain *d, sp_client client, const struct sp_query *queries, size_t n);

/*
 * Gives back one reference to each of `n` store pages from `first` on. -EINVAL: the client does not hold them
 * all; -ENOMEM: they could not be deferred (nothing is changed: the references stay until given back again or
 * until the client goes).
 *
 * A child forked from the client may still map them: they take effect only when sp_domain_release_done has
 * been called for `epoch` (H6). Epochs of a client start at 1 and never go down. Store pages whose last
 * reference goes are punched.
 */
SP_WARN_UNUSED int sp_domain_release(struct sp_domain *d, sp_client client, sp_store_page first, uint64_t n,
                                     uint64_t epoch);
/* Nobody that was forked up to the end of `epoch` lives any more: everything given back up to it takes
 * effect. */
void sp_domain_release_done(struct sp_domain *d, sp_client client, uint64_t epoch);

/* The client has gone and so has its whole family: everything it held is given back, at once. Entries in the
 * unstable set are dropped as they are met. */
void sp_domain_client_remove(struct sp_domain *d, sp_client client);

/* Works through a part of the index (at most `buckets`) dropping what belongs to clients that have gone. True
 * while there is more to do. */
bool sp_domain_sweep(struct sp_domain *d, size_t buckets);

/* References that the client holds, deferred ones included. */
uint64_t sp_domain_client_references(const struct sp_domain *d, sp_client client);
/* Fills in the DOMAIN counters; the others are left alone. */
void sp_domain_counters(const struct sp_domain *d, struct sp_counters *into);
/* Reference count of a store page, 0 when it is not in use: for tests and audits. */
uint64_t sp_domain_references(const struct sp_domain *d, sp_store_page store);
/* Entries in the unstable set. */
uint64_t sp_domain_unstable(const struct sp_domain *d);

#endif
