/* SPDX-License-Identifier: MIT */
/*
 * See census.h. One walk over the sorted pages: units (same high half of the content) of groups (same
 * content).
 *
 * Runs: pages that follow each other are one mapping of the store after merging when their store pages follow
 * each other, which lie as in the process that had them first (ARCHITECTURE.md). That one is taken to be the
 * first copy: a copy goes on with the run of the page before it when both are preceded by the same content,
 * and the first copy when any other is.
 */
#include "core/census.h"

#include <string.h>

/* --- Sorting ------------------------------------------------------------------------------------------- */

#define SMALL 48

static void sort_small(struct sp_census_page *p, size_t n) {
    for (size_t i = 1; i < n; i++) {
        struct sp_census_page x = p[i];
        size_t at = i;
        for (; at > 0 && p[at - 1].content > x.content; at--)
            p[at] = p[at - 1];
        p[at] = x;
    }
}

/* By bytes, the highest first, each page swapped to its bucket (the "American flag" sort): no memory besides.
 */
static void sort_from(struct sp_census_page *p, size_t n, unsigned shift) {
    size_t next[256], end[256] = {0}, at = 0;
    for (size_t i = 0; i < n; i++)
        end[p[i].content >> shift & 255]++;
    for (size_t b = 0; b < 256; b++) {
        next[b] = at;
        at += end[b];
        end[b] = at;
    }
    for (size_t b = 0; b < 256; b++) {
        while (next[b] < end[b]) {
            struct sp_census_page x = p[next[b]];
            for (size_t to; (to = x.content >> shift & 255) != b;) {
                struct sp_census_page other = p[next[to]];
                p[next[to]++] = x;
                x = other;
            }
            p[next[b]++] = x;
        }
    }
    for (size_t b = 0; shift && b < 256; b++) {
        size_t first = b ? end[b - 1] : 0, count = end[b] - first;
        if (count > SMALL)
            sort_from(p + first, count, shift - 8);
        else
            sort_small(p + first, count);
    }
}

void sp_census_sort(struct sp_census_page *pages, size_t n) {
    if (n <= SMALL)
        sort_small(pages, n);
    else
        sort_from(pages, n, 56);
}

/* --- Counting ------------------------------------------------------------------------------------------ */

/* Pages with the same content. */
struct group {
    const struct sp_census_page *page;
    size_t n, mergeable; /* pages */
};

static struct sp_census_mapping *mapping_of(const struct sp_census *c, const struct sp_census_page *page) {
    return &c->mappings[page->mapping & ~SP_CENSUS_HUGE];
}

/* The group that begins at `at`. */
static struct group group_at(const struct sp_census *c, size_t at) {
    struct group g = {.page = c->pages + at};
    while (at + g.n < c->n_pages && g.page[g.n].content == g.page->content) {
        g.mergeable += mapping_of(c, &g.page[g.n])->mergeable;
        g.n++;
    }
    return g;
}

static void sum_unit_end(struct sp_census_sum *sum) {
    sum->squares += sum->unit * sum->unit;
    if (sum->unit > sum->largest)
        sum->largest = sum->unit;
    sum->unit = 0;
}

static void cell_count(const struct sp_census_mapping *m, const struct sp_census_page *page, bool twin) {
    struct sp_census_cell *cell = &m->cells[(uint64_t)page->page * SP_CENSUS_CELLS / m->pages];
    cell->read++;
    cell->twin += twin;
}

/* The walk: numbers of the current group and unit, and the processes that were met in them. */
struct walk {
    uint64_t group, unit;
    uint32_t *in_group, *in_unit;
    size_t n_group, n_unit;
};

static void process_meet(struct sp_census *c, struct walk *w, uint32_t index) {
    struct sp_census_process *p = &c->processes[index];
    if (p->unit != w->unit) {
        p->unit = w->unit;
        w->in_unit[w->n_unit++] = index;
    }
    if (p->group != w->group) {
        p->group = w->group;
        p->distinct += c->one_in;
        w->in_group[w->n_group++] = index;
    }
}

static void count_page(struct sp_census *c, struct walk *w, const struct group *g,
                       const struct sp_census_page *page) {
    struct sp_census_mapping *m = mapping_of(c, page);
    size_t copies = m->mergeable ? g->mergeable : g->n;
    double part = (double)c->one_in / (double)copies;
    m->kept += part;
    if (m->cells)
        cell_count(m, page, copies > 1);
    if (!m->mergeable)
        return;
    process_meet(c, w, m->process);
    c->processes[m->process].sum.kept += part;
    c->processes[m->process].sum.unit += 1 / (double)copies;
    if (page->mapping & SP_CENSUS_HUGE)
        c->kept_huge += part;
}

static const struct sp_census_page *first_copy(const struct sp_census *c, const struct group *g) {
    const struct sp_census_page *first = NULL;
    for (size_t i = 0; i < g->n; i++) {
        const struct sp_census_page *p = &g->page[i];
        uint32_t at = p->mapping & ~SP_CENSUS_HUGE;
        uint32_t best = first ? first->mapping & ~SP_CENSUS_HUGE : 0;
        if (mapping_of(c, p)->mergeable && (!first || at < best || (at == best && p->page < first->page)))
            first = p;
    }
    return first;
}

static void count_runs(struct sp_census *c, const struct group *g) {
    const struct sp_census_page *first = first_copy(c, g);
    bool first_goes_on = false;
    for (size_t i = 0; i < g->n; i++) {
        const struct sp_census_page *p = &g->page[i];
        if (p == first || !mapping_of(c, p)->mergeable)
            continue;
        bool goes_on = p->before && p->before == first->before;
        first_goes_on |= goes_on;
        c->processes[mapping_of(c, p)->process].runs += goes_on ? 0 : c->one_in;
    }
    c->processes[mapping_of(c, first)->process].runs += first_goes_on ? 0 : c->one_in;
}

static void count_group(struct sp_census *c, struct walk *w, const struct group *g) {
    w->group++;
    w->n_group = 0;
    for (size_t i = 0; i < g->n; i++)
        count_page(c, w, g, &g->page[i]);
    if (!g->mergeable)
        return;
    c->sum.kept += c->one_in;
    c->sum.unit += 1;
    if (g->mergeable > 1)
        count_runs(c, g);
    for (size_t i = 0; w->n_group > 1 && i < w->n_group; i++)
        c->processes[w->in_group[i]].elsewhere += c->one_in;
}

static void unit_end(struct sp_census *c, struct walk *w) {
    for (size_t i = 0; i < w->n_unit; i++)
        sum_unit_end(&c->processes[w->in_unit[i]].sum);
    sum_unit_end(&c->sum);
    w->n_unit = 0;
    w->unit++;
    c->units++;
}

void sp_census_count(struct sp_census *c) {
    struct walk w = {.unit = 1, .in_group = c->met, .in_unit = c->met + c->n_processes};
    for (size_t at = 0; at < c->n_pages;) {
        struct group g = group_at(c, at);
        count_group(c, &w, &g);
        at += g.n;
        if (at == c->n_pages || c->pages[at].content >> 32 != g.page->content >> 32)
            unit_end(c, &w);
    }
}

/* --- Errors -------------------------------------------------------------------------------------------- */

double sp_census_variance(const struct sp_census *c, const struct sp_census_sum *sum) {
    double n = c->one_in, largest = sum->largest > 1 ? sum->largest : 1;
    return n * (n - 1) * (sum->squares + largest * largest);
}

/* As if each were a unit of its own, which in such small numbers they are. */
double sp_census_variance_contents(const struct sp_census *c, double contents) {
    double n = c->one_in;
    return (n - 1) * (contents + n);
}

/* --- Pairs --------------------------------------------------------------------------------------------- */

static uint64_t shown_in(const struct sp_census *c, const struct group *g) {
    uint64_t mask = 0;
    for (size_t i = 0; i < g->n; i++) {
        const struct sp_census_mapping *m = mapping_of(c, &g->page[i]);
        uint64_t slot = c->processes[m->process].unit;
        if (m->mergeable && slot < SP_CENSUS_PAIRS)
            mask |= UINT64_C(1) << slot;
    }
    return mask;
}

void sp_census_pairs(struct sp_census *c, struct sp_census_pairs *p) {
    memset(p->common, 0, sizeof p->common);
    for (size_t i = 0; i < c->n_processes; i++)
        c->processes[i].unit = UINT64_MAX; /* from here on: its place among those shown */
    for (size_t i = 0; i < p->n; i++)
        c->processes[p->shown[i]].unit = i;
    for (size_t at = 0; at < c->n_pages;) {
        struct group g = group_at(c, at);
        at += g.n;
        uint64_t mask = g.mergeable > 1 ? shown_in(c, &g) : 0;
        for (uint64_t a = mask; a; a &= a - 1)
            for (uint64_t b = a & (a - 1); b; b &= b - 1)
                p->common[__builtin_ctzll(a)][__builtin_ctzll(b)] += c->one_in;
    }
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = 0; j < i; j++)
            p->common[i][j] = p->common[j][i];
}
