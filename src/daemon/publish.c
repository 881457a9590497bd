/* SPDX-License-Identifier: MIT */
/*
 * Publishing: contents that a client sent, on their way into the store. They lie in our private receive
 * buffer, so what is checked is what is written. A content whose fingerprint under the domain's key is not
 * what the client asked about is declined; a client that lies about fingerprints can thus not place a page
 * under a fingerprint that is not its own. (Even so a reader compares all bytes before it maps anything.)
 *
 * Pages that follow each other both in the buffer and in the store are written together. A page becomes part
 * of the stable set after it was written (I2, I8).
 */
#include "daemon/service.h"

#include <string.h>

#include "daemon/log.h"

/* What the content of an item is known by. */
struct identity {
    sp_fp whole, probe;
    const uint8_t *content; /* NULL: it has none, or not what was asked about */
    int node;               /* on which it is to lie, or SP_NODE_ANY */
};

/* Items first ... first + n - 1 of the message, all on one node, to be written to consecutive store pages
 * from `store` on. */
struct batch {
    size_t first, n;
    sp_store_page store;
    const struct identity *identities; /* of the items of the message */
};

static void answer_set(struct sp_wire_answer *a, enum sp_answer_kind kind, sp_store_page store) {
    *a = (struct sp_wire_answer){.kind = (uint32_t)kind, .store = store.v};
}

static struct sp_query query_of(const struct sp_wire_item *item) {
    return (struct sp_query){.page = {item->page}, .fp = {item->fp}};
}

static void commit_one(struct member *m, const struct sp_wire_item *item, const struct identity *identity,
                       sp_store_page store, struct sp_wire_answer *ret_answer) {
    if (sp_domain_publish_commit(m->domain->index, m->client, query_of(item), identity->whole,
                                 identity->probe, store) == 0)
        answer_set(ret_answer, SP_ANSWER_SHARE, store);
}

static void write_failed(struct domain *d, int error) {
    if (!d->write_failed)
        log_line("writing to the store of uid %u failed: %s; such pages stay unshared for now",
                 (unsigned)d->uid, strerror(-error));
    d->write_failed = true;
}

/* Answers stay SP_ANSWER_DECLINED where something fails. */
static void batch_flush(struct member *m, const struct sp_wire_publish *p, struct batch *b,
                        struct sp_wire_answer *ret_answers) {
    struct domain *d = m->domain;
    if (!b->n)
        return;
    const struct identity *first = &b->identities[b->first];
    int r = store_write(&d->store, b->store, first->content, b->n, first->node);
    if (r)
        write_failed(d, r);
    else
        d->write_failed = false;
    if (!r)
        store_wrote(&d->store, &m->filling, b->store);
    for (size_t i = 0; i < b->n; i++) {
        const struct sp_wire_item *item = &p->item[b->first + i];
        sp_store_page store = {b->store.v + i};
        if (r)
            sp_domain_publish_abort(d->index, m->client, query_of(item), store);
        else
            commit_one(m, item, &b->identities[b->first + i], store, &ret_answers[b->first + i]);
    }
    b->n = 0;
}

static bool batch_continues(const struct batch *b, size_t item, sp_store_page store) {
    bool same_segment = store.v / SP_SEGMENT_PAGES == b->store.v / SP_SEGMENT_PAGES;
    return b->n && b->first + b->n == item && b->store.v + b->n == store.v && same_segment &&
           b->identities[b->first].node == b->identities[item].node;
}

/* The index wants the content: it joins the batch, or the batch is written and it begins the next. */
static void batch_add(struct member *m, const struct sp_wire_publish *p, struct batch *b, size_t item,
                      sp_store_page store, struct sp_wire_answer *ret_answers) {
    struct domain *d = m->domain;
    sp_filling_place(&m->filling, store, p->item[item].flags & SP_WIRE_ITEM_WHOLE);
    int r = store_place(&d->store, store, &m->segment);
    if (r) {
        write_failed(d, r);
        sp_domain_publish_abort(d->index, m->client, query_of(&p->item[item]), store);
        return;
    }
    if (!batch_continues(b, item, store)) {
        batch_flush(m, p, b, ret_answers);
        b->first = item;
        b->store = store;
    }
    b->n++;
}

/*
 * What a content is known by that was asked about as `fp`; nothing when it is another content.
 *
 * Nor when the client keeps nodes apart and the domain does not, or the other way: it has not heard of the
 * settings yet. When these are changed nothing is shared, so that from then on there is never a store page
 * that was published by other rules, whatever clients do.
 */
static struct identity identity_of(const struct domain *d, const uint8_t *content, sp_fp fp) {
    struct identity none = {.node = SP_NODE_ANY};
    sp_fp whole = sp_fingerprint(&d->key, content), probe = sp_probe(&d->key, content);
    int node;
    if (!sp_fp_node(fp, sp_fp_whole(fp) ? whole : probe, &node))
        return none;
    if ((node == SP_NODE_ANY) != d->settings.v[SP_SETTING_merge_across_nodes])
        return none;
    return (struct identity){sp_fp_on_node(whole, node), sp_fp_on_node(probe, node), content, node};
}

/* What the contents are known by. */
static void identify(const struct domain *d, const struct sp_wire_publish *p,
                     struct identity ret[SP_WIRE_PUBLISH_MAX]) {
    const uint8_t *content = sp_wire_publish_contents(p);
    for (size_t i = 0; i < p->n; i++) {
        if (!(p->item[i].flags & SP_WIRE_ITEM_CONTENT))
            continue;
        ret[i] = identity_of(d, content, (sp_fp){p->item[i].fp});
        content += SP_PAGE_SIZE;
        if (!ret[i].content)
            continue;
        sp_domain_prefetch(d->index, ret[i].whole);
        sp_domain_prefetch(d->index, ret[i].probe);
    }
}

void member_publish(struct member *m, const struct sp_wire_publish *p, struct sp_wire_answer *ret_answers) {
    struct domain *d = m->domain;
    struct identity identities[SP_WIRE_PUBLISH_MAX] = {0};
    struct batch b = {.identities = identities};
    identify(d, p, identities);
    for (size_t i = 0; i < p->n; i++) {
        const struct sp_wire_item *item = &p->item[i];
        struct sp_answer a;
        answer_set(&ret_answers[i], SP_ANSWER_DECLINED, SP_STORE_NONE);
        if (!identities[i].content) {
            sp_domain_publish_refuse(d->index, m->client, query_of(item));
            continue;
        }
        sp_domain_publish(d->index, m->client, query_of(item), identities[i].whole, &a);
        if (a.kind == SP_ANSWER_SHARE)
            answer_set(&ret_answers[i], SP_ANSWER_SHARE, a.store);
        else if (a.kind == SP_ANSWER_SEND)
            batch_add(m, p, &b, i, a.store, ret_answers);
    }
    batch_flush(m, p, &b, ret_answers);
    domain_note_saved(d);
}
