/* SPDX-License-Identifier: MIT */
/* See clients.h. */
#include "core/clients.h"
#include "core/domain.h"

#include <errno.h>
#include <string.h>

#define SIZE_FIRST 16

void sp_clients_init(struct sp_clients *c, const struct sp_alloc *alloc) {
    *c = (struct sp_clients){.alloc = alloc, .fresh = 1};
}

void sp_clients_deinit(struct sp_clients *c) {
    sp_alloc_put(c->alloc, c->slots, c->size * sizeof *c->slots);
    c->slots = NULL;
    c->size = 0;
}

static int slots_grow(struct sp_clients *c) {
    uint32_t size = c->size ? c->size * 2 : SIZE_FIRST;
    struct sp_client_slot *slots = sp_alloc_get(c->alloc, size * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    if (c->slots) {
        memcpy(slots, c->slots, c->size * sizeof *slots);
        sp_alloc_put(c->alloc, c->slots, c->size * sizeof *slots);
    }
    c->slots = slots;
    c->size = size;
    return 0;
}

static void list_push(struct sp_clients *c, uint32_t *list, uint32_t number) {
    c->slots[number].next = *list;
    *list = number;
}

static uint32_t list_pop(struct sp_clients *c, uint32_t *list) {
    uint32_t number = *list;
    if (number)
        *list = c->slots[number].next;
    return number;
}

int sp_clients_add(struct sp_clients *c, struct sp_member *member, uint32_t *ret_number) {
    uint32_t number = list_pop(c, &c->free);
    if (!number) {
        if (c->fresh >= SP_CLIENTS_MAX)
            return -EUSERS;
        if (c->fresh >= c->size) {
            int r = slots_grow(c);
            if (r < 0)
                return r;
        }
        number = c->fresh++;
    }
    c->slots[number].member = member;
    *ret_number = number;
    return 0;
}

void sp_clients_remove(struct sp_clients *c, uint32_t number) {
    c->slots[number].member = NULL;
    list_push(c, &c->resting, number);
}

bool sp_clients_sweep_start(struct sp_clients *c) {
    c->sweeping = c->resting;
    c->resting = 0;
    return c->sweeping != 0;
}

void sp_clients_sweep_end(struct sp_clients *c) {
    for (uint32_t number; (number = list_pop(c, &c->sweeping)) != 0;)
        list_push(c, &c->free, number);
}
