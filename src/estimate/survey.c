/* SPDX-License-Identifier: MIT */
/*
 * The mappings of a process: what each is, and whether it can be merged, judged by the engine's own code
 * (os/smaps.h). A userfaultfd on it is no obstacle where a worker of ours runs, whose it is.
 */
#include "estimate/estimate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PICTURE_BYTES ((uint64_t)1 << 20) /* of resident memory: smaller mappings get no cells */

struct survey {
    struct sp_estimate *e;
    bool served;
    int error;
};

static bool starts(const char *text, const char *with) {
    return !strncmp(text, with, strlen(with));
}

static enum sp_estimate_kind kind_of(const struct sp_mapping *m) {
    if (m->attributes & SP_ATTR_STORE)
        return SP_KIND_MERGED;
    if (!*m->name || starts(m->name, "[anon:"))
        return SP_KIND_ANONYMOUS;
    if (!strcmp(m->name, "[heap]"))
        return SP_KIND_HEAP;
    if (starts(m->name, "[stack"))
        return SP_KIND_STACK;
    return *m->name == '[' || m->eligible == SP_SPECIAL ? SP_KIND_OTHER : SP_KIND_FILE;
}

static int add(struct survey *s, const struct sp_mapping *m) {
    struct sp_estimate *e = s->e;
    int error = sp_estimate_reserve_mapping(e);
    if (error)
        return error;
    bool mergeable = m->eligible == SP_ELIGIBLE || (m->eligible == SP_USERFAULTFD && s->served);
    struct sp_estimate_mapping mapping = {
        .start = m->start,
        .end = m->end,
        .kind = kind_of(m),
        .why = m->eligible,
        .mergeable = mergeable,
        .name = *m->name ? strdup(m->name) : NULL,
        .figures = {.resident = m->resident_bytes / SP_PAGE_SIZE, .swapped = m->swap_bytes / SP_PAGE_SIZE},
    };
    /* Until it is read: what there is to read, and whether to look for huge pages. */
    mapping.figures.private = m->prot & PROT_READ ? m->anonymous_bytes / SP_PAGE_SIZE : 0;
    mapping.figures.huge = m->huge_bytes / SP_PAGE_SIZE;
    struct sp_census_mapping counted = {
        .process = (uint32_t)e->n_processes - 1,
        .mergeable = mergeable,
        .pages = (m->end - m->start) / SP_PAGE_SIZE,
    };
    if (m->anonymous_bytes >= PICTURE_BYTES)
        counted.cells = calloc(SP_CENSUS_CELLS, sizeof *counted.cells);
    if ((*m->name && !mapping.name) || (m->anonymous_bytes >= PICTURE_BYTES && !counted.cells)) {
        free(mapping.name);
        free(counted.cells);
        return -ENOMEM;
    }
    e->mapping[e->n_mappings] = mapping;
    e->counted[e->n_mappings++] = counted;
    return 0;
}

static bool visit(void *ctx, const struct sp_mapping *m) {
    struct survey *s = ctx;
    struct sp_estimate_process *p = &s->e->process[s->e->n_processes - 1];
    p->mappings++;
    if (m->resident_bytes || m->swap_bytes)
        s->error = add(s, m);
    return !s->error;
}

int sp_estimate_survey(struct sp_estimate *e) {
    struct sp_estimate_process *p = &e->process[e->n_processes - 1];
    struct survey s = {.e = e, .served = sp_process_has_worker(p->pid)};
    p->first = e->n_mappings;
    int error = sp_remote_mappings(p->pid, visit, &s);
    if (!error)
        error = s.error;
    if (!error && !p->mappings)
        error = -ENODATA;
    p->listed = e->n_mappings - p->first;
    return error == -ENOENT ? -ESRCH : error;
}
