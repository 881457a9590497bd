/* SPDX-License-Identifier: MIT */
/* See unstable.h. */
#include "core/unstable.h"

#include <assert.h>

#define SHARD_BITS 10 /* as in the stable set */

_Static_assert(SP_CLIENTS_MAX == 1 << (63 - SP_PAGE_BITS), "a waiter is one word");

void sp_unstable_init(struct sp_unstable *u, const struct sp_alloc *alloc, const struct sp_clients *clients,
                      struct sp_sieve *sieve) {
    sp_table_init(&u->table, alloc, SHARD_BITS);
    u->clients = clients;
    u->sieve = sieve;
}

void sp_unstable_deinit(struct sp_unstable *u) {
    sp_table_deinit(&u->table);
}

void sp_unstable_group(struct sp_unstable *u, sp_fp fp, struct sp_group *ret_group) {
    uint64_t found[SP_GROUP_MAX];
    size_t n = sp_table_collect(&u->table, fp, found, SP_GROUP_MAX);
    ret_group->n = 0;
    ret_group->dropped = false;
    for (size_t i = 0; i < n; i++) {
        sp_waiter w = {found[i]};
        if (sp_clients_get(u->clients, sp_waiter_client(w))) {
            ret_group->entry[ret_group->n++] = w;
        } else {
            sp_unstable_remove(u, fp, w);
            ret_group->dropped = true;
        }
    }
}

int sp_group_find(const struct sp_group *g, sp_client client, sp_page page) {
    for (size_t i = 0; i < g->n; i++)
        if (sp_waiter_client(g->entry[i]) == client && sp_waiter_page(g->entry[i]).v == page.v)
            return (int)i;
    return -1;
}

int sp_group_pending(const struct sp_group *g) {
    for (size_t i = 0; i < g->n; i++)
        if (sp_waiter_pending(g->entry[i]))
            return (int)i;
    return -1;
}

int sp_unstable_add(struct sp_unstable *u, sp_fp fp, sp_waiter w) {
    int r = sp_sieve_add(u->sieve, fp);
    if (r < 0)
        return r;
    r = sp_table_insert(&u->table, fp, w.v);
    if (r < 0)
        sp_sieve_remove(u->sieve, fp);
    return r;
}

void sp_unstable_remove(struct sp_unstable *u, sp_fp fp, sp_waiter w) {
    bool removed = sp_table_remove(&u->table, fp, w.v);
    assert(removed);
    (void)removed;
    sp_sieve_remove(u->sieve, fp);
}

void sp_unstable_mark(struct sp_unstable *u, sp_fp fp, sp_waiter w, bool pending) {
    sp_waiter to = sp_waiter_of(sp_waiter_client(w), sp_waiter_page(w), pending);
    bool replaced = sp_table_replace(&u->table, fp, w.v, to.v);
    assert(replaced);
    (void)replaced;
}
