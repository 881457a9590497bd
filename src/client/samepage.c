/* SPDX-License-Identifier: MIT */
/*
 * libsamepage: domains, regions, merging. A thin coat over the engine (merge/engine.h): arguments are
 * checked here, handles are kept here, and what the application's own mapping calls would do under the shim
 * is done here in their place, under the engine's lock (H1, H5).
 *
 * The engine is given readable and writable memory only: unlike the shim we do not hear of mprotect.
 *
 * What the kernel's list of mappings says about memory that is no longer registered is the only record of
 * it: whether a page lies in a mapping of the store stays true through munmap, mremap and fork, which nobody
 * tells us of (samepage_discard).
 */
#include "samepage/samepage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client/registry.h"
#include "client/remote.h"
#include "merge/local.h"
#include "os/mapping.h"
#include "os/proc.h"
#include "os/thread.h"

#define CONNECT_DEFAULT_MS 5000
/* Mappings that are handled for each reading of smaps. */
#define MAPPINGS_MAX 128

/* ---- arguments ---- */

static int range_check(const void *addr, size_t bytes, uint64_t *ret_start, uint64_t *ret_end) {
    uint64_t start = (uintptr_t)addr, end;
    if (!bytes || (start | bytes) % SP_PAGE_SIZE || __builtin_add_overflow(start, (uint64_t)bytes, &end))
        return -EINVAL;
    *ret_start = start;
    *ret_end = end;
    return 0;
}

static uint64_t ns_of_ms(int ms) {
    return ms < 0 ? UINT64_MAX : (uint64_t)ms * 1000000;
}

/* ---- opening ---- */

/* The structure as it was at first. */
#define OPTIONS_LEAST offsetof(struct samepage_options, index)

static int index_read(const char *name, enum sp_index_kind *ret) {
    if (name && strcmp(name, "hash") != 0 && strcmp(name, "tree") != 0)
        return -EINVAL;
    *ret = name && !strcmp(name, "tree") ? SP_INDEX_TREE : SP_INDEX_HASH;
    return 0;
}

/* The part of the caller's structure that we know; what is beyond it must be zeros. */
static int options_read(const struct samepage_options *given, struct samepage_options *ret) {
    enum sp_index_kind index;
    memset(ret, 0, sizeof(*ret));
    if (!given)
        return 0;
    size_t size = given->size;
    if (size != OPTIONS_LEAST && size < sizeof(*ret))
        return -EINVAL;
    for (size_t i = sizeof(*ret); i < size; i++)
        if (((const unsigned char *)given)[i])
            return -EINVAL;
    memcpy(ret, given, size < sizeof(*ret) ? size : sizeof(*ret));
    if (index_read(ret->index, &index) || (index == SP_INDEX_TREE && ret->socket_path))
        return -EINVAL;
    if (ret->flags & ~SAMEPAGE_OPEN_CONNECT || (ret->socket_path && !*ret->socket_path))
        return -EINVAL;
    return 0;
}

static int settings_read(const struct samepage_options *o, struct sp_settings *ret) {
    sp_settings_init(ret);
    /* Whoever registers a region wants it merged, however small it is. */
    ret->v[SP_SETTING_worker_start_kbytes] = 0;
    if (!o->settings || !*o->settings)
        return 0;
    return sp_settings_parse(ret, o->settings, o->error, o->error ? o->error_bytes : 0);
}

static int engine_open(struct samepage_domain *d, const struct sp_settings *settings,
                       enum sp_index_kind index) {
    struct sp_link *link;
    int error = d->socket_path ? sp_remote_link_new(d->socket_path, &link)
                               : sp_local_link_new(settings, index, &link);
    if (error)
        return error;
    if (d->socket_path) {
        struct sp_vouch vouch = sp_vouch_parse(getenv("SAMEPAGE_VOUCH"));
        sp_remote_link_vouch(link, &vouch);
    }
    error = sp_engine_new(link, settings, &d->engine);
    if (!error && !d->socket_path)
        d->local = link;
    return error;
}

static void domain_free(struct samepage_domain *d) {
    sp_engine_free(d->engine);
    free(d->socket_path);
    free(d);
}

/* Waits for the first connection. The engine's own wait starts the worker; it is over when the empty domain
 * has settled, or cannot. */
static int domain_connect(struct samepage_domain *d, int timeout_ms) {
    uint64_t limit_ns = ns_of_ms(timeout_ms ? timeout_ms : CONNECT_DEFAULT_MS), begin_ns = sp_now_ns();
    for (;;) {
        int error = sp_engine_wait_settled(d->engine, UINT64_C(10000000));
        enum sp_engine_state state = sp_engine_state(d->engine);
        if (!error || state == SP_ENGINE_RUNNING || state == SP_ENGINE_NO_USERFAULTFD)
            return 0;
        if (error != -ETIMEDOUT)
            return error;
        if (sp_now_ns() - begin_ns >= limit_ns)
            return -ETIMEDOUT;
    }
}

static int domain_new(const struct samepage_options *o, const struct sp_settings *settings,
                      struct samepage_domain **ret) {
    struct samepage_domain *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    enum sp_index_kind index;
    int error = index_read(o->index, &index);
    if (!error && o->socket_path && !(d->socket_path = strdup(o->socket_path)))
        error = -ENOMEM;
    if (!error)
        error = engine_open(d, settings, index);
    if (!error)
        error = sp_registry_domain_add(d);
    if (error) {
        domain_free(d);
        return error;
    }
    *ret = d;
    return 0;
}

int samepage_domain_open(const struct samepage_options *options, samepage_domain **ret_domain) {
    struct samepage_options o;
    struct sp_settings settings;
    struct samepage_domain *d;
    int error = options_read(options, &o);
    if (!error)
        error = settings_read(&o, &settings);
    if (!error)
        error = domain_new(&o, &settings, &d);
    if (error)
        return error;
    if (o.socket_path && o.flags & SAMEPAGE_OPEN_CONNECT) {
        error = domain_connect(d, o.connect_timeout_ms);
        if (error) {
            sp_registry_domain_remove(d);
            domain_free(d);
            return error;
        }
    }
    *ret_domain = d;
    return 0;
}

/* ---- what is eligible ---- */

struct survey {
    uint64_t start, end;
    uint64_t at; /* where the last mapping ended */
    uint64_t eligible_bytes;
    uint64_t reason_bytes[SP_UNTRACKED + 1], unmapped_bytes;
};

/* Our own store mappings may be registered again: what was never merged in between them can be merged, and
 * what was merged and written in a quiescent merge. Not if by now they are locked, or executable ... */
static bool mapping_eligible(const struct sp_mapping *m) {
    return m->eligible == SP_ELIGIBLE || (m->attributes & SP_ATTR_STORE && m->use == SP_ELIGIBLE);
}

static bool survey_mapping(void *ctx, const struct sp_mapping *m) {
    struct survey *s = ctx;
    uint64_t start = m->start > s->at ? m->start : s->at, end = m->end < s->end ? m->end : s->end;
    if (start >= end)
        return true;
    s->unmapped_bytes += start - s->at;
    s->at = end;
    if (mapping_eligible(m))
        s->eligible_bytes += end - start;
    else
        s->reason_bytes[m->eligible == SP_ELIGIBLE ? SP_PROTECTION : m->eligible] += end - start;
    return true;
}

static const char *survey_reason(const struct survey *s) {
    uint64_t most = s->unmapped_bytes;
    const char *reason = most ? "nothing is mapped there" : NULL;
    for (unsigned why = 0; why <= SP_UNTRACKED; why++)
        if (s->reason_bytes[why] > most) {
            most = s->reason_bytes[why];
            reason = sp_eligible_text((enum sp_eligible)why);
        }
    return reason;
}

int samepage_eligible(const void *addr, size_t bytes, size_t *ret_eligible_bytes, const char **ret_reason) {
    struct survey s = {0};
    int error = range_check(addr, bytes, &s.start, &s.end);
    if (error)
        return error;
    s.at = s.start;
    error = sp_proc_mappings(s.start, s.end, survey_mapping, &s);
    if (error)
        return error;
    s.unmapped_bytes += s.end - s.at;
    *ret_eligible_bytes = s.eligible_bytes;
    if (ret_reason)
        *ret_reason = survey_reason(&s);
    return 0;
}

/* ---- some mappings of a range, in batches ---- */

struct mappings {
    bool (*wanted)(const struct sp_mapping *m);
    bool alike; /* neighbours are one only when their attributes are the same */
    uint64_t start, end;
    size_t n;
    struct sp_mapping item[MAPPINGS_MAX]; /* clipped to the range, neighbours joined */
};

static bool mappings_visit(void *ctx, const struct sp_mapping *m) {
    struct mappings *list = ctx;
    if (!list->wanted(m))
        return true;
    struct sp_mapping part = *m;
    if (part.start < list->start)
        part.start = list->start;
    if (part.end > list->end)
        part.end = list->end;
    if (part.start >= part.end)
        return true;
    struct sp_mapping *last = list->n ? &list->item[list->n - 1] : NULL;
    bool equal = last && last->prot == part.prot && last->attributes == part.attributes;
    if (last && last->end == part.start && (equal || !list->alike)) {
        last->end = part.end;
        return true;
    }
    if (list->n == MAPPINGS_MAX)
        return false;
    list->item[list->n++] = part;
    return true;
}

/* Calls `act` for every wanted mapping of the range. The mappings may be changed by it. */
static int mappings_each(uint64_t start, uint64_t end, bool (*wanted)(const struct sp_mapping *m), bool alike,
                         int (*act)(void *ctx, const struct sp_mapping *m), void *ctx) {
    struct mappings list;
    do {
        list.wanted = wanted;
        list.alike = alike;
        list.start = start;
        list.end = end;
        list.n = 0;
        int error = sp_proc_mappings(start, end, mappings_visit, &list);
        for (size_t i = 0; i < list.n && !error; i++) {
            error = act(ctx, &list.item[i]);
            start = list.item[i].end;
        }
        if (error)
            return error;
    } while (list.n == MAPPINGS_MAX);
    return 0;
}

/* ---- registering ---- */

static int register_mapping(void *ctx, const struct sp_mapping *m) {
    struct samepage_region *r = ctx;
    int error = sp_engine_add_locked(r->domain->engine, m->start, m->end, true, NULL);
    if (!error)
        r->eligible_bytes += m->end - m->start;
    return error;
}

/* With the engine's lock held. */
static void domain_changed(struct samepage_domain *d) {
    __atomic_fetch_add(&d->changes, 1, __ATOMIC_RELEASE);
}

static int region_enter(struct samepage_region *r) {
    struct sp_engine *e = r->domain->engine;
    sp_engine_lock(e);
    domain_changed(r->domain);
    int error = mappings_each(r->start, r->end, mapping_eligible, false, register_mapping, r);
    if (!error && !r->eligible_bytes)
        error = -EOPNOTSUPP;
    if (error)
        sp_engine_remove_locked(e, r->start, r->end, false);
    sp_engine_unlock(e);
    return error;
}

int samepage_register(samepage_domain *domain, void *addr, size_t bytes, unsigned flags,
                      samepage_region **ret_region) {
    uint64_t start, end;
    int error = range_check(addr, bytes, &start, &end);
    if (error || flags)
        return -EINVAL;
    sp_engine_kick(domain->engine);
    struct samepage_region *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->domain = domain;
    r->start = start;
    r->end = end;
    if (!sp_registry_region_add(r)) {
        free(r);
        return -EINVAL;
    }
    error = region_enter(r);
    if (error) {
        sp_registry_region_remove(r);
        free(r);
        return error;
    }
    sp_registry_region_done(r);
    *ret_region = r;
    return 0;
}

size_t samepage_region_eligible_bytes(const samepage_region *region) {
    return region->eligible_bytes;
}

/* ---- unmerging ---- */

struct restore {
    struct sp_engine *engine;
    uint8_t *copy; /* a window of our own */
    int error;
};

/* The memory is fresh: pages of zeros are left as holes. */
static void copy_back(uint8_t *to, const uint8_t *from, size_t bytes) {
    static const uint8_t zeros[SP_PAGE_SIZE];
    for (size_t at = 0; at < bytes; at += SP_PAGE_SIZE)
        if (memcmp(from + at, zeros, SP_PAGE_SIZE) != 0)
            memcpy(to + at, from + at, SP_PAGE_SIZE);
}

static bool restore_piece(void *ctx, uint64_t start, uint64_t end, bool store) {
    struct restore *r = ctx;
    for (uint64_t at = start, next; store && at < end && !r->error; at = next) {
        next = end - at > SP_WINDOW_SIZE ? at + SP_WINDOW_SIZE : end;
        uint8_t *memory = (uint8_t *)(uintptr_t)at;
        memcpy(r->copy, memory, next - at);
        r->error = sp_engine_discard_locked(r->engine, at, next);
        /* After a failure too: some of it may have been discarded, and the rest is given what it has. */
        copy_back(memory, r->copy, next - at);
    }
    return !r->error;
}

/* Turns mappings of the store into anonymous memory with the same content, while nobody touches them. The
 * copy is safe to make with the lock held: no batch runs, so nothing is frozen. */
static int restore_locked(struct sp_engine *e, uint64_t start, uint64_t end) {
    struct restore r = {.engine = e};
    void *copy;
    int error = sp_map_new(SP_WINDOW_SIZE, SP_PAGE_SIZE, &copy);
    if (error)
        return error;
    r.copy = copy;
    sp_engine_pieces_locked(e, start, end, restore_piece, &r);
    error = sp_unmap(copy, SP_WINDOW_SIZE);
    return r.error ? r.error : error;
}

static int unmerge_locked(struct sp_engine *e, uint64_t start, uint64_t end, bool quiescent) {
    return quiescent ? restore_locked(e, start, end) : sp_engine_unmerge_locked(e, start, end);
}

int samepage_unmerge(samepage_domain *domain, void *addr, size_t bytes, unsigned flags) {
    uint64_t start, end;
    int error = range_check(addr, bytes, &start, &end);
    if (error || flags & ~SAMEPAGE_QUIESCENT)
        return -EINVAL;
    struct sp_engine *e = domain->engine;
    sp_engine_kick(e);
    sp_engine_lock(e);
    error = sp_engine_overlaps(e, start, end) ? unmerge_locked(e, start, end, flags & SAMEPAGE_QUIESCENT)
                                              : -EINVAL;
    sp_engine_unlock(e);
    return error;
}

static int region_leave(struct samepage_region *r, unsigned flags) {
    struct sp_engine *e = r->domain->engine;
    int error = 0;
    sp_engine_lock(e);
    domain_changed(r->domain);
    if (!(flags & SAMEPAGE_KEEP_MERGED))
        error = unmerge_locked(e, r->start, r->end, flags & SAMEPAGE_QUIESCENT);
    if (!error)
        sp_engine_remove_locked(e, r->start, r->end, false);
    sp_engine_unlock(e);
    if (error)
        return error;
    sp_engine_wait_disarmed(e);
    sp_registry_region_remove(r);
    free(r);
    return 0;
}

int samepage_unregister(samepage_region *region, unsigned flags) {
    if (flags & ~SAMEPAGE_QUIESCENT)
        return -EINVAL;
    if (!region)
        return 0;
    sp_engine_kick(region->domain->engine);
    return region_leave(region, flags);
}

/*
 * The worker is stopped, after its batch, before the domain leaves the registry: from then on fork would no
 * longer wait for a batch (H3).
 */
int samepage_domain_close(samepage_domain *domain, unsigned flags) {
    if (flags & ~(SAMEPAGE_QUIESCENT | SAMEPAGE_KEEP_MERGED))
        return -EINVAL;
    if (!domain)
        return 0;
    for (struct samepage_region *r; (r = sp_registry_region_of(domain));) {
        int error = region_leave(r, flags);
        if (error)
            return error;
    }
    sp_engine_stop(domain->engine, SP_ENGINE_STOPPED);
    sp_registry_domain_remove(domain);
    domain_free(domain);
    return 0;
}

/* ---- discarding ---- */

static bool mapping_store(const struct sp_mapping *m) {
    return m->attributes & SP_ATTR_STORE;
}

static int discard_mapping(void *unused, const struct sp_mapping *m) {
    int error = sp_map_fresh(m->start, m->end - m->start, m->prot);
    return error ? error : sp_map_attributes(m->start, m->end - m->start, m->attributes);
}

/* Whatever of the range still maps a store, ours or that of a domain long closed, and is not in the care of
 * an engine. */
static int discard_leftovers(uint64_t start, uint64_t end) {
    return mappings_each(start, end, mapping_store, true, discard_mapping, NULL);
}

static bool all_registered(struct sp_engine *e, uint64_t start, uint64_t end) {
    struct sp_counters now;
    sp_engine_range_counters(e, start, end, &now);
    return now.v[SP_COUNTER_registered_bytes] == end - start;
}

static int discard_in(struct samepage_domain *d, uint64_t start, uint64_t end) {
    struct sp_engine *e = d->engine;
    sp_engine_kick(e);
    uint64_t changes = __atomic_load_n(&d->changes, __ATOMIC_ACQUIRE);
    bool known = all_registered(e, start, end);
    sp_engine_lock(e);
    int error = sp_engine_discard_locked(e, start, end), advised = 0;
    if (!error)
        advised = sp_advise(start, end - start, MADV_DONTNEED);
    sp_engine_unlock(e);
    if (error)
        return error;
    /* Asked again afterwards: an engine may give up a range on its own, though it never takes one back. */
    if (known && all_registered(e, start, end) && changes == __atomic_load_n(&d->changes, __ATOMIC_ACQUIRE))
        return advised;
    sp_engine_lock(e);
    error = sp_engine_discard_locked(e, start, end);
    if (!error)
        error = discard_leftovers(start, end);
    sp_engine_unlock(e);
    return error ? error : advised;
}

int samepage_discard(samepage_domain *domain, void *addr, size_t bytes) {
    uint64_t start, end;
    int error = range_check(addr, bytes, &start, &end);
    if (error || sp_registry_foreign(domain, start, end))
        return -EINVAL;
    if (domain)
        return discard_in(domain, start, end);
    error = discard_leftovers(start, end);
    return error ? error : sp_advise(start, end - start, MADV_DONTNEED);
}

/* ---- merging ---- */

int samepage_merge(samepage_domain *domain, void *addr, size_t bytes, unsigned flags,
                   struct samepage_merge_result *ret_result) {
    uint64_t start, end;
    struct sp_merge_result r = {0};
    int error = range_check(addr, bytes, &start, &end);
    if (error || flags & ~SAMEPAGE_QUIESCENT || (ret_result && ret_result->size < sizeof(*ret_result)))
        return -EINVAL;
    error = sp_engine_merge(domain->engine, start, end, flags & SAMEPAGE_QUIESCENT, &r);
    if (error || !ret_result)
        return error;
    size_t size = ret_result->size;
    memset(ret_result, 0, size);
    *ret_result = (struct samepage_merge_result){
        .size = size,
        .merged_pages = r.merged_pages,
        .zero_pages = r.zero_pages,
        .shared_pages = r.shared_pages,
        .changed_pages = r.changed_pages,
        .refused_pages = r.refused_pages,
    };
    return 0;
}

int samepage_wait_settled(samepage_domain *domain, int timeout_ms) {
    if (!sp_registry_region_of(domain))
        return 0;
    return sp_engine_wait_settled(domain->engine, ns_of_ms(timeout_ms));
}
