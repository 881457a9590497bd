/* SPDX-License-Identifier: MIT */
/*
 * What mappings are, for the engine, without reading /proc/self/smaps: that makes the kernel walk every
 * resident page of the process (12 ms for each GiB), while the program waits in madvise. All that the engine
 * registers was mapped through us, and what it must know beyond /proc/self/maps was set through us as well:
 * what fork, core dumps and huge pages are to do with it. Of all else that smaps would tell, locked memory
 * and protection keys can be on such memory; where either has ever been seen, and where mappings were moved,
 * smaps is read after all (`opaque`).
 */
#include <sys/mman.h>

#include "preload/shim.h"

static struct attribute {
    unsigned bit;
    struct ranges *set;
} attributes[] = {
    {SP_ATTR_DONTFORK, &shim.dontfork},
    {SP_ATTR_DONTDUMP, &shim.dontdump},
    {SP_ATTR_HUGEPAGE, &shim.hugepage},
    {SP_ATTR_NOHUGEPAGE, &shim.nohugepage},
};
#define ATTRIBUTES (sizeof(attributes) / sizeof(*attributes))

void shim_note_attributes_locked(uint64_t start, uint64_t end, unsigned set, unsigned clear) {
    for (size_t i = 0; i < ATTRIBUTES; i++) {
        const struct attribute *a = &attributes[i];
        struct sp_range part = {.end = start};
        if (clear & a->bit)
            ranges_cut(a->set, start, end);
        while (set & a->bit && ranges_first(&shim.tracked, part.end, end, &part)) {
            if (ranges_add(a->set, part.start, part.end))
                continue;
            shim.opaque = true;
            /* A child does not have this memory, and something else of its own may come to lie there: never
             * to be registered (again). What is merged in it stays known as such. */
            if (a->bit == SP_ATTR_DONTFORK && shim_retire_locked(part.start, part.end) >= 0)
                ranges_cut(&shim.tracked, part.start, part.end);
        }
    }
}

void shim_forget_attributes_locked(uint64_t start, uint64_t end) {
    for (size_t i = 0; i < ATTRIBUTES; i++)
        ranges_cut(attributes[i].set, start, end);
}

struct visitor {
    bool (*visit)(void *ctx, const struct sp_mapping *m);
    void *ctx;
};

/* The attributes at `start`, and where the stretch that has them ends. */
static unsigned attributes_at(uint64_t start, uint64_t *end) {
    unsigned found = 0;
    for (size_t i = 0; i < ATTRIBUTES; i++) {
        struct sp_range part;
        if (!ranges_first(attributes[i].set, start, *end, &part))
            continue;
        bool here = part.start == start;
        found |= here ? attributes[i].bit : 0;
        *end = here ? part.end : part.start;
    }
    return found;
}

/* One mapping as the kernel sees it may be several to us. */
static bool visit_known(void *ctx, const struct sp_mapping *m) {
    const struct visitor *v = ctx;
    for (uint64_t at = m->start; at < m->end;) {
        struct sp_mapping part = *m;
        part.start = at;
        part.attributes |= attributes_at(at, &part.end);
        at = part.end;
        if (!v->visit(v->ctx, &part))
            return false;
    }
    return true;
}

int shim_mappings(uint64_t start, uint64_t end, bool (*visit)(void *ctx, const struct sp_mapping *m),
                  void *ctx) {
    struct visitor v = {visit, ctx};
    bool locked;
    if (shim.opaque || sp_proc_locked(&locked) || locked)
        return sp_proc_mappings(start, end, visit, ctx);
    return sp_proc_maps(start, end, visit_known, &v);
}
