/* SPDX-License-Identifier: MIT */
/* See estimate.h: what is kept of each process, and the sums in the end. */
#include "estimate/estimate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "os/thread.h"

const char *const sp_estimate_kind_name[SP_KIND_COUNT] = {
#define X(name, text, meaning) text,
    SP_ESTIMATE_KINDS(X)
#undef X
};
const char *const sp_estimate_kind_meaning[SP_KIND_COUNT] = {
#define X(name, text, meaning) meaning,
    SP_ESTIMATE_KINDS(X)
#undef X
};

int sp_estimate_new(uint32_t one_in, struct sp_estimate **ret_estimate) {
    uint8_t random[32];
    struct sp_estimate *e = calloc(1, sizeof *e);
    int error = e ? sp_random(random) : -ENOMEM;
    if (error) {
        free(e);
        return error;
    }
    e->one_in = one_in;
    sp_key_init(&e->key, random);
    sp_sample_init(&e->sample, &e->key, one_in);
    *ret_estimate = e;
    return 0;
}

uint32_t sp_estimate_least_sample(uint64_t pages, uint64_t available_bytes) {
    uint64_t room = available_bytes / 2 / sizeof(struct sp_census_page) + 1;
    uint64_t least = pages / room + 1;
    return least < UINT32_MAX ? (uint32_t)least : UINT32_MAX;
}

static void forget_mappings(struct sp_estimate *e, size_t from) {
    for (size_t i = from; i < e->n_mappings; i++) {
        free(e->mapping[i].name);
        free(e->counted[i].cells);
    }
    e->n_mappings = from;
}

struct sp_estimate *sp_estimate_free(struct sp_estimate *e) {
    if (!e)
        return NULL;
    forget_mappings(e, 0);
    free(e->mapping);
    free(e->counted);
    free(e->process);
    free(e->pages);
    free(e->census.processes);
    free(e->census.met);
    free(e);
    return NULL;
}

int sp_estimate_reserve_mapping(struct sp_estimate *e) {
    if (e->n_mappings < e->room_mappings)
        return 0;
    if (e->n_mappings >= SP_CENSUS_HUGE)
        return -ENOMEM;
    size_t room = e->room_mappings * 2 + 64;
    struct sp_estimate_mapping *mapping = reallocarray(e->mapping, room, sizeof *mapping);
    if (mapping)
        e->mapping = mapping;
    struct sp_census_mapping *counted = reallocarray(e->counted, room, sizeof *counted);
    if (counted)
        e->counted = counted;
    if (!mapping || !counted)
        return -ENOMEM;
    e->room_mappings = room;
    return 0;
}

/* By a quarter: so large a block is moved by the kernel without a copy, and what is not used of it is no
 * memory. */
int sp_estimate_reserve_pages(struct sp_estimate *e, size_t n) {
    if (e->room_pages - e->n_pages >= n)
        return 0;
    size_t room = e->room_pages + e->room_pages / 4 + n + 65536;
    struct sp_census_page *pages = reallocarray(e->pages, room, sizeof *pages);
    if (!pages)
        return -ENOMEM;
    e->pages = pages;
    e->room_pages = room;
    return 0;
}

/* --- Reading ------------------------------------------------------------------------------------------- */

/* The kernel is asked only of those that may be the same. */
static bool same_memory(const struct sp_estimate *e, const struct sp_process *facts) {
    for (size_t i = 0; i < e->n_processes; i++) {
        const struct sp_estimate_process *p = &e->process[i];
        if (p->pid == facts->pid)
            return true;
        if (p->stack == facts->stack && p->heap == facts->heap && sp_remote_same(p->pid, facts->pid))
            return true;
    }
    return false;
}

static int add_process(struct sp_estimate *e, int pid) {
    struct sp_process facts;
    int error = sp_process_read(pid, &facts);
    if (error)
        return error == -ENOENT ? -ESRCH : error;
    if (facts.kernel_thread || facts.state == 'Z' || facts.state == 'X')
        return -ENODATA;
    if (same_memory(e, &facts))
        return -EEXIST;
    struct sp_estimate_process *all = reallocarray(e->process, e->n_processes + 1, sizeof *all);
    if (!all)
        return -ENOMEM;
    e->process = all;
    all[e->n_processes] = (struct sp_estimate_process){
        .pid = pid, .parent = facts.parent, .stack = facts.stack, .heap = facts.heap};
    sp_proc_name(pid, all[e->n_processes++].name);
    return 0;
}

int sp_estimate_read(struct sp_estimate *e, int pid, const struct sp_estimate_progress *progress) {
    size_t mappings = e->n_mappings, pages = e->n_pages;
    uint64_t start_ns = sp_now_ns();
    int error = add_process(e, pid);
    if (error)
        return error;
    error = sp_estimate_survey(e);
    if (!error)
        error = sp_estimate_read_pages(e, progress);
    if (error) {
        forget_mappings(e, mappings);
        e->n_pages = pages;
        e->n_processes--;
    }
    e->took_ns += sp_now_ns() - start_ns;
    return error;
}

/* --- Sums ---------------------------------------------------------------------------------------------- */

static void add_figures(struct sp_estimate_figures *to, const struct sp_estimate_figures *f) {
    to->resident += f->resident;
    to->shared += f->shared;
    to->private += f->private;
    to->swapped += f->swapped;
    to->huge += f->huge;
    to->zero += f->zero;
    to->unread += f->unread;
    to->saved += f->saved;
    to->left += f->left;
}

/* Pages that are neither zeros nor gone. */
static double content_pages(const struct sp_estimate_figures *f) {
    return (double)(f->private - f->zero - f->unread);
}

/* A sample may say a little less than nothing. */
static double at_least_0(double v) {
    return v > 0 ? v : 0;
}

/* Sums are made of what the sample says, before anything is rounded up to 0. */
static void sum_mapping(struct sp_estimate *e, size_t i) {
    struct sp_estimate_mapping *m = &e->mapping[i];
    struct sp_estimate_process *p = &e->process[e->counted[i].process];
    double saved = (double)m->figures.zero + content_pages(&m->figures) - e->counted[i].kept;
    *(m->mergeable ? &m->figures.saved : &m->figures.left) = saved;
    add_figures(&e->all, &m->figures);
    add_figures(&e->kind[m->kind], &m->figures);
    add_figures(&p->figures, &m->figures);
    m->figures.saved = at_least_0(m->figures.saved);
    m->figures.left = at_least_0(m->figures.left);
    if (!m->mergeable)
        return;
    p->within += content_pages(&m->figures);
    p->zero += (double)m->figures.zero;
    e->zero += (double)m->figures.zero;
    e->huge += (double)m->figures.huge; /* less what is kept there: see sum_all */
}

static void round_up(struct sp_estimate_figures *f) {
    f->saved = at_least_0(f->saved);
    f->left = at_least_0(f->left);
}

static void sum_process(struct sp_estimate *e, size_t i) {
    struct sp_estimate_process *p = &e->process[i];
    const struct sp_census_process *c = &e->census.processes[i];
    p->within -= c->distinct;
    e->within += p->within;
    e->across += c->distinct;
    p->within = at_least_0(p->within);
    p->elsewhere = c->elsewhere;
    p->alone = c->distinct - c->elsewhere;
    p->runs = c->runs;
    p->error = 2 * sqrt(sp_census_variance(&e->census, &c->sum));
    round_up(&p->figures);
}

static void sum_all(struct sp_estimate *e) {
    for (size_t i = 0; i < e->n_mappings; i++)
        sum_mapping(e, i);
    for (size_t i = 0; i < e->n_processes; i++)
        sum_process(e, i);
    e->within = at_least_0(e->within);
    e->across = at_least_0(e->across - e->census.sum.kept);
    e->huge = at_least_0(e->huge - e->census.kept_huge);
    e->error = 2 * sqrt(sp_census_variance(&e->census, &e->census.sum));
    round_up(&e->all);
    for (size_t k = 0; k < SP_KIND_COUNT; k++)
        round_up(&e->kind[k]);
}

/* --- Pairs --------------------------------------------------------------------------------------------- */

struct rank {
    double elsewhere;
    uint32_t index;
};

static int by_elsewhere(const void *a, const void *b) {
    const struct rank *x = a, *y = b;
    if (x->elsewhere != y->elsewhere)
        return x->elsewhere < y->elsewhere ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

static int by_index(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Those that have most in common with others, in the order in which they were read. */
static int choose_shown(struct sp_estimate *e) {
    struct rank *ranks = reallocarray(NULL, e->n_processes + 1, sizeof *ranks);
    if (!ranks)
        return -ENOMEM;
    for (size_t i = 0; i < e->n_processes; i++)
        ranks[i] = (struct rank){e->process[i].elsewhere, (uint32_t)i};
    qsort(ranks, e->n_processes, sizeof *ranks, by_elsewhere);
    e->pairs.n = e->n_processes < SP_CENSUS_PAIRS ? e->n_processes : SP_CENSUS_PAIRS;
    for (size_t i = 0; i < e->pairs.n; i++)
        e->pairs.shown[i] = ranks[i].index;
    qsort(e->pairs.shown, e->pairs.n, sizeof *e->pairs.shown, by_index);
    free(ranks);
    return 0;
}

int sp_estimate_finish(struct sp_estimate *e) {
    uint64_t start_ns = sp_now_ns();
    e->census = (struct sp_census){
        .one_in = e->one_in,
        .pages = e->pages,
        .n_pages = e->n_pages,
        .mappings = e->counted,
        .processes = calloc(e->n_processes + 1, sizeof *e->census.processes),
        .n_processes = e->n_processes,
        .met = calloc(e->n_processes + 1, 2 * sizeof *e->census.met),
    };
    if (!e->census.processes || !e->census.met)
        return -ENOMEM;
    sp_census_sort(e->pages, e->n_pages);
    sp_census_count(&e->census);
    sum_all(e);
    int error = choose_shown(e);
    if (!error)
        sp_census_pairs(&e->census, &e->pairs);
    e->took_ns += sp_now_ns() - start_ns;
    return error;
}
