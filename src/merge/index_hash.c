/* SPDX-License-Identifier: MIT */
/* The index by fingerprints: the domain's own stable and unstable set (core/domain.h), see index.h. */
#include "merge/index.h"

#include <errno.h>

#include "core/node.h"

static void hash_free(struct sp_index *x) {
    sp_alloc_put(sp_domain_alloc(x->uses.domain), x, sizeof(*x));
}

static void hash_ask(struct sp_index *x, const struct sp_query *queries, size_t n,
                     struct sp_answer *ret_answers) {
    sp_domain_ask(x->uses.domain, x->uses.client, queries, n, ret_answers);
}

static struct sp_answer hash_publish(struct sp_index *x, const struct sp_query *q, const void *content) {
    const struct sp_index_uses *u = &x->uses;
    struct sp_answer answer = {.kind = SP_ANSWER_DECLINED, .store = SP_STORE_NONE};
    struct sp_answer declined = answer;
    sp_fp whole = {0}, probe = {0};
    int node;
    if (content) {
        whole = sp_fingerprint(u->key, content);
        probe = sp_probe(u->key, content);
    }
    if (!content || !sp_fp_node(q->fp, sp_fp_whole(q->fp) ? whole : probe, &node)) {
        sp_domain_publish_refuse(u->domain, u->client, *q);
        return declined;
    }
    whole = sp_fp_on_node(whole, node);
    probe = sp_fp_on_node(probe, node);
    sp_domain_publish(u->domain, u->client, *q, whole, &answer);
    if (answer.kind != SP_ANSWER_SEND)
        return answer;
    if (u->write(u->ctx, answer.store, content, node)) {
        sp_domain_publish_abort(u->domain, u->client, *q, answer.store);
        return declined;
    }
    if (sp_domain_publish_commit(u->domain, u->client, *q, whole, probe, answer.store))
        return declined;
    answer.kind = SP_ANSWER_SHARE;
    return answer;
}

static void hash_forget(struct sp_index *x, const struct sp_query *queries, size_t n) {
    sp_domain_forget(x->uses.domain, x->uses.client, queries, n);
}

static const struct sp_index_ops hash_ops = {
    .free = hash_free,
    .ask = hash_ask,
    .publish = hash_publish,
    .forget = hash_forget,
};

int sp_index_hash_new(const struct sp_index_uses *uses, struct sp_index **ret) {
    struct sp_index *x = sp_alloc_get(sp_domain_alloc(uses->domain), sizeof(*x));
    if (!x)
        return -ENOMEM;
    *x = (struct sp_index){.ops = &hash_ops, .uses = *uses};
    *ret = x;
    return 0;
}

int sp_index_new(enum sp_index_kind kind, const struct sp_index_uses *uses, struct sp_index **ret) {
    return kind == SP_INDEX_TREE ? sp_index_tree_new(uses, ret) : sp_index_hash_new(uses, ret);
}

struct sp_index *sp_index_free(struct sp_index *x) {
    if (x)
        x->ops->free(x);
    return NULL;
}
