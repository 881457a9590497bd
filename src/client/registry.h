/* SPDX-License-Identifier: MIT */
/*
 * What libsamepage knows of the whole process: the open domains, for fork, and the registered regions of all
 * of them, so that no two overlap. Private to the library.
 */
#ifndef SP_CLIENT_REGISTRY_H
#define SP_CLIENT_REGISTRY_H

#include "merge/engine.h"
#include "samepage/samepage.h"

struct samepage_domain {
    struct samepage_domain *next, *previous; /* all open ones; guarded by the registry's lock */
    struct sp_engine *engine;
    struct sp_link *local; /* the in-process domain's link, for its counters; NULL: through a daemon */
    char *socket_path;     /* NULL: in-process */
    uint64_t changes; /* regions that came or went so far; written under the engine's lock, read anywhere */
};

/* Constant from registration on, apart from the list. */
struct samepage_region {
    struct samepage_region *next, *previous; /* all of the process; guarded by the registry's lock */
    struct samepage_domain *domain;
    uint64_t start, end; /* bytes, page aligned */
    uint64_t eligible_bytes;
    bool pending; /* samepage_register has not returned it yet; guarded by the registry's lock */
};

/* Enters a domain, from now on attended to in fork. -ENOMEM: no fork handlers could be installed. */
SP_WARN_UNUSED int sp_registry_domain_add(struct samepage_domain *d);
void sp_registry_domain_remove(struct samepage_domain *d);

/* Enters a region as pending. False: it overlaps another. */
SP_WARN_UNUSED bool sp_registry_region_add(struct samepage_region *r);
/* The region has a handle now. */
void sp_registry_region_done(struct samepage_region *r);
void sp_registry_region_remove(struct samepage_region *r);
/* Some region of the domain; NULL: it has none. */
struct samepage_region *sp_registry_region_of(const struct samepage_domain *d);
/* Whether a region of a domain other than `d` (NULL: of any) overlaps [start, end). */
bool sp_registry_foreign(const struct samepage_domain *d, uint64_t start, uint64_t end);

#endif
