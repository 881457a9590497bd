/* SPDX-License-Identifier: MIT */
/*
 * The numbers of a domain's clients. The number of a client that has gone rests until a whole sweep of the
 * unstable set that began after it had gone is over: only then does nothing carry it any more. Internal to
 * core/.
 */
#ifndef SP_CORE_CLIENTS_H
#define SP_CORE_CLIENTS_H

#include "core/alloc.h"
#include "core/types.h"

struct sp_member; /* what the domain keeps for a client */

struct sp_client_slot {
    struct sp_member *member; /* NULL: nobody has the number */
    uint32_t next;            /* the next of the list that the number is in; 0: the last */
};

struct sp_clients {
    const struct sp_alloc *alloc;
    struct sp_client_slot *slots; /* by number; 0 is never used */
    uint32_t size;                /* slots */
    uint32_t fresh;               /* the first number that was never given out */
    uint32_t free;                /* lists: may be given out again */
    uint32_t resting;             /* gone since the present sweep began */
    uint32_t sweeping;            /* gone before that */
};

void sp_clients_init(struct sp_clients *c, const struct sp_alloc *alloc);
void sp_clients_deinit(struct sp_clients *c);

/* -ENOMEM, -EUSERS. */
SP_WARN_UNUSED int sp_clients_add(struct sp_clients *c, struct sp_member *member, uint32_t *ret_number);
void sp_clients_remove(struct sp_clients *c, uint32_t number);

/* A sweep begins. False: nobody has gone, there is no need of one. */
bool sp_clients_sweep_start(struct sp_clients *c);
void sp_clients_sweep_end(struct sp_clients *c);

static inline struct sp_member *sp_clients_get(const struct sp_clients *c, uint32_t number) {
    return number < c->size ? c->slots[number].member : NULL;
}

#endif
