/* SPDX-License-Identifier: MIT */
/*
 * The lists of domains and regions, and fork.
 *
 * Lock order: the registry's lock, then the engines' in the order of the list. Nothing else is done while it
 * is held; in particular no engine's lock is held when the registry is entered. All are os/lock.h locks: the
 * holder has its signals blocked, so a handler that forks cannot find the registry held by its own thread.
 *
 * fork takes all of them (H3) and gives them back in the reverse order, because each has saved the signal
 * mask that it found.
 */
#include "client/registry.h"

#include <errno.h>
#include <pthread.h>

#include "os/lock.h"

static struct registry {
    struct sp_lock lock;
    struct samepage_domain *domains;
    struct samepage_region *regions;
} registry;

/* ---- fork ---- */

static struct samepage_domain *last_domain(void) {
    struct samepage_domain *d = registry.domains;
    while (d && d->next)
        d = d->next;
    return d;
}

static void fork_prepare(void) {
    sp_lock_acquire(&registry.lock);
    for (struct samepage_domain *d = registry.domains; d; d = d->next)
        sp_engine_fork_prepare(d->engine);
}

static void fork_parent(void) {
    for (struct samepage_domain *d = last_domain(); d; d = d->previous)
        sp_engine_fork_parent(d->engine);
    sp_lock_release(&registry.lock);
}

static void region_unlink(struct samepage_region *r) {
    if (r->next)
        r->next->previous = r->previous;
    if (r->previous)
        r->previous->next = r->next;
    else
        registry.regions = r->next;
}

/* A region that another thread of the parent was about to register: nobody here will ever get its handle. */
static void child_drop_pending(void) {
    struct samepage_region *next;
    for (struct samepage_region *r = registry.regions; r; r = next) {
        next = r->next;
        if (r->pending)
            region_unlink(r);
    }
}

static void fork_child(void) {
    for (struct samepage_domain *d = last_domain(); d; d = d->previous)
        sp_engine_fork_child(d->engine);
    child_drop_pending();
    sp_lock_reset(&registry.lock);
}

static int fork_error; /* written once, before anybody reads it */

static void fork_install(void) {
    fork_error = -pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/* ---- domains ---- */

int sp_registry_domain_add(struct samepage_domain *d) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fork_install);
    if (fork_error)
        return fork_error;
    sp_lock_acquire(&registry.lock);
    d->previous = NULL;
    d->next = registry.domains;
    if (d->next)
        d->next->previous = d;
    registry.domains = d;
    sp_lock_release(&registry.lock);
    return 0;
}

void sp_registry_domain_remove(struct samepage_domain *d) {
    sp_lock_acquire(&registry.lock);
    if (d->next)
        d->next->previous = d->previous;
    if (d->previous)
        d->previous->next = d->next;
    else
        registry.domains = d->next;
    sp_lock_release(&registry.lock);
}

/* ---- regions ---- */

static bool overlaps(const struct samepage_region *r, uint64_t start, uint64_t end) {
    return r->start < end && start < r->end;
}

bool sp_registry_region_add(struct samepage_region *r) {
    bool free = true;
    sp_lock_acquire(&registry.lock);
    for (const struct samepage_region *o = registry.regions; o && free; o = o->next)
        free = !overlaps(o, r->start, r->end);
    if (free) {
        r->pending = true;
        r->previous = NULL;
        r->next = registry.regions;
        if (r->next)
            r->next->previous = r;
        registry.regions = r;
    }
    sp_lock_release(&registry.lock);
    return free;
}

void sp_registry_region_done(struct samepage_region *r) {
    sp_lock_acquire(&registry.lock);
    r->pending = false;
    sp_lock_release(&registry.lock);
}

void sp_registry_region_remove(struct samepage_region *r) {
    sp_lock_acquire(&registry.lock);
    region_unlink(r);
    sp_lock_release(&registry.lock);
}

struct samepage_region *sp_registry_region_of(const struct samepage_domain *d) {
    sp_lock_acquire(&registry.lock);
    struct samepage_region *r = registry.regions;
    while (r && r->domain != d)
        r = r->next;
    sp_lock_release(&registry.lock);
    return r;
}

bool sp_registry_foreign(const struct samepage_domain *d, uint64_t start, uint64_t end) {
    sp_lock_acquire(&registry.lock);
    const struct samepage_region *r = registry.regions;
    while (r && !(r->domain != d && overlaps(r, start, end)))
        r = r->next;
    sp_lock_release(&registry.lock);
    return r != NULL;
}
