/* SPDX-License-Identifier: MIT */
/*
 * The index of a domain in this process: who finds out which pages have the same content. There are two
 * kinds, behind the same functions: by fingerprints (index_hash.c, the default), and KSM's two trees ordered
 * by contents (index_tree.c). What both leave to others: the domain (core/domain.h) keeps references, places
 * in the store and limits; the link (local.c) keeps the store itself; the primitive compares the bytes,
 * whatever an index said.
 *
 * Only in the process of the one client can there be the second kind, because it reads the pages themselves
 * at any time; an index in a daemon never reads a client's memory. Used by the link only, on the worker's
 * thread.
 */
#ifndef SP_MERGE_INDEX_H
#define SP_MERGE_INDEX_H

#include "core/domain.h"
#include "core/fingerprint.h"

enum sp_index_kind { SP_INDEX_HASH, SP_INDEX_TREE };

/* What an index works with; the link's. */
struct sp_index_uses {
    struct sp_domain *domain;
    sp_client client;
    const struct sp_key *key;
    bool apart; /* only pages on the same node may be found to be the same (core/node.h) */
    /* One page of the store; written, it is to lie on the node, or, with SP_NODE_ANY, anywhere. */
    int (*read)(void *ctx, sp_store_page store, void *ret_content);
    int (*write)(void *ctx, sp_store_page store, const void *content, int node);
    /* The page is worth asking about again; `ctx` as in struct sp_domain_events. */
    void (*hint)(void *ctx, sp_client client, sp_page page);
    void *ctx;
};

struct sp_index {
    const struct sp_index_ops *ops;
    struct sp_index_uses uses;
};

struct sp_index_ops {
    void (*free)(struct sp_index *x);
    /* As sp_domain_ask. */
    void (*ask)(struct sp_index *x, const struct sp_query *queries, size_t n, struct sp_answer *ret_answers);
    /* Publishes a page that was answered SP_ANSWER_SEND: SP_ANSWER_SHARE or SP_ANSWER_DECLINED. `content` is
     * a copy that nobody changes; NULL: the page has changed or gone. */
    struct sp_answer (*publish)(struct sp_index *x, const struct sp_query *q, const void *content);
    void (*forget)(struct sp_index *x, const struct sp_query *queries, size_t n);
    /* The domain has no use for these store pages any more. NULL: no need to be told. */
    void (*punched)(struct sp_index *x, sp_store_page first, uint64_t n);
    /* A scan is over. True: every page that has no twin yet is to be asked about again. NULL: no need. */
    bool (*scanned)(struct sp_index *x);
};

/* -ENOMEM. */
SP_WARN_UNUSED int sp_index_new(enum sp_index_kind kind, const struct sp_index_uses *uses,
                                struct sp_index **ret);
SP_WARN_UNUSED int sp_index_hash_new(const struct sp_index_uses *uses, struct sp_index **ret);
SP_WARN_UNUSED int sp_index_tree_new(const struct sp_index_uses *uses, struct sp_index **ret);
struct sp_index *sp_index_free(struct sp_index *x);

#endif
