/* SPDX-License-Identifier: MIT */
/* See trees.h. A page has a node in `unstable` from when its checksum was noted; whether it is in the tree is
 * the node's matter. */
#include "core/trees.h"

#include <errno.h>

#include "core/ordered.h"

struct sp_trees {
    struct sp_alloc alloc;
    const struct sp_key *key;
    struct sp_trees_reader reader;
    struct sp_ordered stable, unstable;
    bool changed; /* since the unstable tree was begun, something in it */
    uint64_t rebuilt;
};

static const void *store_content(void *ctx, uint64_t number) {
    const struct sp_trees *t = ctx;
    return t->reader.store(t->reader.ctx, (sp_store_page){number});
}

static const void *page_content(void *ctx, uint64_t number) {
    const struct sp_trees *t = ctx;
    return t->reader.page(t->reader.ctx, (sp_page){number});
}

int sp_trees_new(const struct sp_alloc *alloc, const struct sp_key *key, const struct sp_trees_reader *reader,
                 struct sp_trees **ret_trees) {
    struct sp_trees *t = sp_alloc_get(alloc, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->alloc = *alloc;
    t->key = key;
    t->reader = *reader;
    sp_ordered_init(&t->stable, &t->alloc, store_content, t);
    sp_ordered_init(&t->unstable, &t->alloc, page_content, t);
    *ret_trees = t;
    return 0;
}

struct sp_trees *sp_trees_free(struct sp_trees *t) {
    if (!t)
        return NULL;
    sp_ordered_deinit(&t->stable);
    sp_ordered_deinit(&t->unstable);
    struct sp_alloc alloc = t->alloc;
    sp_alloc_put(&alloc, t, sizeof *t);
    return NULL;
}

static uint32_t checksum_of(const struct sp_trees *t, const void *content) {
    return (uint32_t)(sp_fingerprint(t->key, content).v >> 32);
}

/* Takes a page of the unstable tree for one that has changed. */
static void page_changed(struct sp_trees *t, struct sp_ordered_node *node) {
    t->changed |= sp_ordered_has(node);
    sp_ordered_remove(&t->unstable, node);
}

/* Nothing is kept of the page, which has this content by now. */
static void page_drop(struct sp_trees *t, sp_page page, const void *content) {
    struct sp_ordered_node *node = sp_ordered_node(&t->unstable, page.v);
    if (!node)
        return;
    if (node->checksum != checksum_of(t, content))
        page_changed(t, node);
    sp_ordered_node_drop(&t->unstable, node);
}

static enum sp_trees_found stable_search(struct sp_trees *t, const void *content, sp_store_page *ret_store) {
    struct sp_ordered_node *found;
    uint64_t path;
    switch (sp_ordered_search(&t->stable, content, &found, &path)) {
    case SP_ORDERED_EQUAL:
        ret_store->v = found->number;
        return SP_TREES_STORE;
    case SP_ORDERED_NONE:
        return SP_TREES_ALONE;
    default:
        return SP_TREES_FAILED;
    }
}

/* Pages whose contents cannot be had are out of the tree then: they have gone, or will be forgotten soon. */
static enum sp_trees_found unstable_search(struct sp_trees *t, struct sp_ordered_node *own,
                                           const void *content, sp_page *ret_twin) {
    struct sp_ordered_node *found;
    uint64_t path;
    for (;;) {
        switch (sp_ordered_search(&t->unstable, content, &found, &path)) {
        case SP_ORDERED_EQUAL:
            ret_twin->v = found->number;
            return SP_TREES_TWIN;
        case SP_ORDERED_NONE:
            sp_ordered_insert(&t->unstable, own, path);
            return SP_TREES_ALONE;
        default:
            page_changed(t, found);
        }
    }
}

/* Whether the page is what it was one scan ago: only then it may enter the unstable tree. */
static enum sp_trees_found settled(struct sp_trees *t, sp_page page, const void *content,
                                   struct sp_ordered_node **ret_own) {
    struct sp_ordered_node *own = sp_ordered_node(&t->unstable, page.v);
    uint32_t checksum = checksum_of(t, content);
    bool same = own && own->checksum == checksum;
    if (!own)
        own = sp_ordered_node_get(&t->unstable, page.v);
    if (!own)
        return SP_TREES_FAILED;
    if (!same) {
        page_changed(t, own);
        own->checksum = checksum;
        return SP_TREES_NOTED;
    }
    sp_ordered_remove(&t->unstable, own);
    *ret_own = own;
    return SP_TREES_ALONE;
}

enum sp_trees_found sp_trees_ask(struct sp_trees *t, sp_page page, const void *content,
                                 sp_store_page *ret_store, sp_page *ret_twin) {
    struct sp_ordered_node *own;
    enum sp_trees_found found = stable_search(t, content, ret_store);
    if (found == SP_TREES_ALONE)
        found = settled(t, page, content, &own);
    if (found == SP_TREES_ALONE)
        return unstable_search(t, own, content, ret_twin);
    if (found != SP_TREES_NOTED)
        page_drop(t, page, content);
    return found;
}

enum sp_trees_found sp_trees_publish(struct sp_trees *t, sp_page page, const void *content,
                                     sp_store_page *ret_store) {
    const struct sp_ordered_node *own = sp_ordered_node(&t->unstable, page.v);
    bool same = own && own->checksum == checksum_of(t, content);
    enum sp_trees_found found = same ? stable_search(t, content, ret_store) : SP_TREES_NOTED;
    if (found != SP_TREES_ALONE)
        page_drop(t, page, content);
    return found;
}

int sp_trees_enter(struct sp_trees *t, sp_page page, sp_store_page store, const void *content) {
    struct sp_ordered_node *found;
    uint64_t path;
    enum sp_ordered_found there = sp_ordered_search(&t->stable, content, &found, &path);
    if (there != SP_ORDERED_NONE)
        return there == SP_ORDERED_EQUAL ? -EEXIST : -EIO;
    struct sp_ordered_node *node = sp_ordered_node_get(&t->stable, store.v);
    if (!node)
        return -ENOMEM;
    sp_ordered_insert(&t->stable, node, path);
    page_drop(t, page, content);
    return 0;
}

void sp_trees_drop(struct sp_trees *t, sp_store_page store) {
    struct sp_ordered_node *node = sp_ordered_node(&t->stable, store.v);
    if (node)
        sp_ordered_node_drop(&t->stable, node);
}

void sp_trees_forget(struct sp_trees *t, sp_page page) {
    struct sp_ordered_node *node = sp_ordered_node(&t->unstable, page.v);
    if (!node)
        return;
    page_changed(t, node);
    sp_ordered_node_drop(&t->unstable, node);
}

bool sp_trees_scanned(struct sp_trees *t) {
    if (!t->changed)
        return false;
    sp_ordered_clear(&t->unstable);
    t->changed = false;
    t->rebuilt++;
    return true;
}

void sp_trees_count(const struct sp_trees *t, struct sp_trees_counts *ret) {
    *ret = (struct sp_trees_counts){
        .stable = t->stable.nodes,
        .unstable = t->unstable.nodes,
        .compared = t->stable.compared + t->unstable.compared,
        .rebuilt = t->rebuilt,
    };
}
