/* SPDX-License-Identifier: MIT */
/*
 * The index of a domain in this process: who finds out which pages have the same content. What it leaves to
 * others: the domain (core/domain.h) keeps references, places in the store and limits; the link (local.c)
 * keeps the store itself; the primitive compares the bytes, whatever an index said. Used by the link only, on
 * the worker's thread.
 */
#ifndef SP_MERGE_INDEX_H
#define SP_MERGE_INDEX_H

#include "core/domain.h"
#include "core/fingerprint.h"

/* What an index works with; the link's. */
struct sp_index_uses {
    struct sp_domain *domain;
    sp_client client;
    const struct sp_key *key;
    /* One page of the store. */
    int (*write)(void *ctx, sp_store_page store, const void *content);
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
};

/* -ENOMEM. */
SP_WARN_UNUSED int sp_index_hash_new(const struct sp_index_uses *uses, struct sp_index **ret);
struct sp_index *sp_index_free(struct sp_index *x);

#endif
