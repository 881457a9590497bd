/* SPDX-License-Identifier: MIT */
/*
 * The index of KSM's two trees (core/trees.h), see index.h.
 *
 * Every look at a page of the application is a copy made by the kernel (process_vm_readv on ourselves), from
 * which "not mapped" is an answer: the application writes, unmaps and protects its memory while it is
 * searched, without the engine's lock (H22), which must not be held for as long as a search takes. Pages of
 * the store are read, not mapped, as everywhere.
 *
 * Where nodes are kept apart each has a pair of trees of its own, as in KSM.
 */
#include "merge/index.h"

#include <errno.h>

#include "core/node.h"
#include "core/trees.h"
#include "os/mapping.h"

struct tree_index {
    struct sp_index index;
    struct sp_trees *trees[SP_NODE_MAX + 2]; /* by node, the first for SP_NODE_ANY; NULL: none yet */
    size_t n_trees;                          /* none behind these */
    uint8_t asked[SP_PAGE_SIZE];             /* the page that is asked about */
    uint8_t page[SP_PAGE_SIZE];              /* others, while they are compared with it */
    uint8_t store[SP_PAGE_SIZE];
};

static struct tree_index *tree_of(struct sp_index *x) {
    return (struct tree_index *)(void *)x;
}

static bool peek(sp_page page, void *ret_content) {
    return sp_peek(ret_content, (uintptr_t)page.v << SP_PAGE_SHIFT, SP_PAGE_SIZE) == 0;
}

static const void *read_page(void *ctx, sp_page page) {
    struct tree_index *t = ctx;
    return peek(page, t->page) ? t->page : NULL;
}

static const void *read_store(void *ctx, sp_store_page store) {
    struct tree_index *t = ctx;
    const struct sp_index_uses *u = &t->index.uses;
    return u->read(u->ctx, store, t->store) ? NULL : t->store;
}

/* NULL: no memory. */
static struct sp_trees *trees_of(struct tree_index *t, int node) {
    size_t i = (size_t)(node + 1);
    const struct sp_index_uses *u = &t->index.uses;
    struct sp_trees_reader reader = {.store = read_store, .page = read_page, .ctx = t};
    if (!t->trees[i] && sp_trees_new(sp_domain_alloc(u->domain), u->key, &reader, &t->trees[i]))
        return NULL;
    if (i >= t->n_trees)
        t->n_trees = i + 1;
    return t->trees[i];
}

/* Nothing is kept of the page, on no node but `trees`' (NULL: on none). */
static void forget(struct tree_index *t, sp_page page, const struct sp_trees *trees) {
    for (size_t i = 0; i < t->n_trees; i++)
        if (t->trees[i] && t->trees[i] != trees)
            sp_trees_forget(t->trees[i], page);
}

/* The trees of the node that the page was on when it was asked about. NULL: nobody knows, because this is
 * another content than it had then; or no memory. */
static struct sp_trees *trees_asked(struct tree_index *t, const struct sp_query *q, const void *content,
                                    int *ret_node) {
    const struct sp_key *key = t->index.uses.key;
    *ret_node = SP_NODE_ANY;
    if (t->index.uses.apart &&
        !sp_fp_node(q->fp, sp_fp_whole(q->fp) ? sp_fingerprint(key, content) : sp_probe(key, content),
                    ret_node))
        return NULL;
    return trees_of(t, *ret_node);
}

static struct sp_answer declined(void) {
    return (struct sp_answer){SP_ANSWER_DECLINED, SP_STORE_NONE};
}

/* The reference goes with the answer (I8). */
static struct sp_answer share(const struct sp_index_uses *u, sp_store_page store) {
    struct sp_answer answer;
    sp_domain_take(u->domain, u->client, store, &answer);
    return answer;
}

/* A page whose checksum was noted is to be asked about once more, and so is the twin, when the content will
 * have been published: both in the next scan. */
static struct sp_answer ask_one(struct tree_index *t, const struct sp_query *q) {
    const struct sp_index_uses *u = &t->index.uses;
    sp_store_page store;
    sp_page twin;
    int node;
    struct sp_trees *trees = peek(q->page, t->asked) ? trees_asked(t, q, t->asked, &node) : NULL;
    forget(t, q->page, trees);
    if (!trees)
        return declined();
    switch (sp_trees_ask(trees, q->page, t->asked, &store, &twin)) {
    case SP_TREES_STORE:
        return share(u, store);
    case SP_TREES_TWIN:
        u->hint(u->ctx, u->client, twin);
        return (struct sp_answer){SP_ANSWER_SEND, SP_STORE_NONE};
    case SP_TREES_NOTED:
        u->hint(u->ctx, u->client, q->page);
        return (struct sp_answer){SP_ANSWER_UNKNOWN, SP_STORE_NONE};
    case SP_TREES_ALONE:
        return (struct sp_answer){SP_ANSWER_UNKNOWN, SP_STORE_NONE};
    default:
        return declined();
    }
}

static void tree_ask(struct sp_index *x, const struct sp_query *queries, size_t n,
                     struct sp_answer *ret_answers) {
    for (size_t i = 0; i < n; i++)
        ret_answers[i] = ask_one(tree_of(x), &queries[i]);
}

/* The content goes to the page's place in the store, on that node, and into the stable tree. */
static struct sp_answer enter(struct tree_index *t, struct sp_trees *trees, sp_page page, const void *content,
                              int node) {
    const struct sp_index_uses *u = &t->index.uses;
    struct sp_answer answer;
    sp_domain_place(u->domain, u->client, page, &answer);
    if (answer.kind != SP_ANSWER_SEND)
        return answer;
    sp_store_page store = answer.store;
    bool entered = !u->write(u->ctx, store, content, node) && !sp_trees_enter(trees, page, store, content);
    if (entered && !sp_domain_enter(u->domain, u->client, store))
        return (struct sp_answer){SP_ANSWER_SHARE, store};
    sp_domain_leave(u->domain, store); /* and with it the stable tree */
    return declined();
}

static struct sp_answer tree_publish(struct sp_index *x, const struct sp_query *q, const void *content) {
    struct tree_index *t = tree_of(x);
    sp_store_page store;
    struct sp_answer answer = declined();
    int node;
    struct sp_trees *trees = content ? trees_asked(t, q, content, &node) : NULL;
    enum sp_trees_found found = trees ? sp_trees_publish(trees, q->page, content, &store) : SP_TREES_FAILED;
    if (found == SP_TREES_STORE)
        answer = share(&x->uses, store);
    else if (found == SP_TREES_ALONE)
        answer = enter(t, trees, q->page, content, node);
    if (answer.kind != SP_ANSWER_SHARE)
        forget(t, q->page, NULL);
    return answer;
}

static void tree_forget(struct sp_index *x, const struct sp_query *queries, size_t n) {
    for (size_t i = 0; i < n; i++)
        forget(tree_of(x), queries[i].page, NULL);
}

static void tree_punched(struct sp_index *x, sp_store_page first, uint64_t n) {
    const struct tree_index *t = tree_of(x);
    for (size_t k = 0; k < t->n_trees; k++)
        for (uint64_t i = 0; t->trees[k] && i < n; i++)
            sp_trees_drop(t->trees[k], (sp_store_page){first.v + i});
}

static bool tree_scanned(struct sp_index *x) {
    const struct tree_index *t = tree_of(x);
    bool any = false;
    for (size_t k = 0; k < t->n_trees; k++)
        any |= t->trees[k] && sp_trees_scanned(t->trees[k]);
    return any;
}

static void tree_free(struct sp_index *x) {
    struct tree_index *t = tree_of(x);
    for (size_t k = 0; k < t->n_trees; k++)
        sp_trees_free(t->trees[k]);
    sp_alloc_put(sp_domain_alloc(x->uses.domain), t, sizeof(*t));
}

static const struct sp_index_ops tree_ops = {
    .free = tree_free,
    .ask = tree_ask,
    .publish = tree_publish,
    .forget = tree_forget,
    .punched = tree_punched,
    .scanned = tree_scanned,
};

int sp_index_tree_new(const struct sp_index_uses *uses, struct sp_index **ret) {
    const struct sp_alloc *alloc = sp_domain_alloc(uses->domain);
    struct tree_index *t = sp_alloc_get(alloc, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->index = (struct sp_index){.ops = &tree_ops, .uses = *uses};
    *ret = &t->index;
    return 0;
}
