/* SPDX-License-Identifier: MIT */
#include "merge/debts.h"

#include <string.h>

void sp_debts_init(struct sp_debts *d, const struct sp_alloc *alloc) {
    *d = (struct sp_debts){.alloc = alloc};
}

void sp_debts_deinit(struct sp_debts *d) {
    sp_alloc_put(d->alloc, d->runs, d->room_runs * sizeof(*d->runs));
    sp_alloc_put(d->alloc, d->forgets, d->room_forgets * sizeof(*d->forgets));
    sp_debts_init(d, d->alloc);
}

/* A larger copy of an array; NULL: no memory, the old one stays. */
static void *array_grow(const struct sp_alloc *alloc, void *old, size_t n, size_t *room, size_t item) {
    size_t larger = *room ? *room * 2 : 256;
    void *items = sp_alloc_get(alloc, larger * item);
    if (!items)
        return NULL;
    if (n)
        memcpy(items, old, n * item);
    sp_alloc_put(alloc, old, *room * item);
    *room = larger;
    return items;
}

void sp_debts_release(struct sp_debts *d, sp_store_page page) {
    if (d->n_runs) {
        struct sp_store_run *last = &d->runs[d->n_runs - 1];
        if (last->first.v + last->pages == page.v && page.v % SP_SEGMENT_PAGES) {
            last->pages++;
            return;
        }
    }
    if (d->n_runs == d->room_runs) {
        void *larger = array_grow(d->alloc, d->runs, d->n_runs, &d->room_runs, sizeof(*d->runs));
        if (!larger) {
            d->dropped++;
            return;
        }
        d->runs = larger;
    }
    d->runs[d->n_runs++] = (struct sp_store_run){page, 1};
}

void sp_debts_forget(struct sp_debts *d, sp_page page, sp_fp fp) {
    if (d->n_forgets == d->room_forgets) {
        void *larger = array_grow(d->alloc, d->forgets, d->n_forgets, &d->room_forgets, sizeof(*d->forgets));
        if (!larger)
            return;
        d->forgets = larger;
    }
    d->forgets[d->n_forgets++] = (struct sp_query){page, fp, {0}};
}

void sp_debts_clear(struct sp_debts *d) {
    d->n_runs = d->n_forgets = 0;
}
