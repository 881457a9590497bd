/* SPDX-License-Identifier: MIT */
/* The whole of an estimate as JSON, which is also what the page of --html draws. Amounts are bytes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/estimate.h"
#include "cli/output.h"

static json_t *bytes(double pages) {
    return json_integer((json_int_t)((pages > 0 ? pages : 0) * (double)SP_PAGE_SIZE + 0.5));
}

static json_t *json_figures(const struct sp_estimate_figures *f) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "resident", bytes((double)f->resident),
                     "shared", bytes((double)f->shared), "private", bytes((double)f->private), "swapped",
                     bytes((double)f->swapped), "huge", bytes((double)f->huge), "zero",
                     bytes((double)f->zero), "unread", bytes((double)f->unread), "saved", bytes(f->saved),
                     "left", bytes(f->left));
}

/* `more` is consumed. */
static json_t *with(json_t *object, json_t *more) {
    if (!object || !more || json_object_update(object, more)) {
        json_decref(object);
        object = NULL;
    }
    json_decref(more);
    return object;
}

static json_t *json_total(const struct sp_estimate *e) {
    return with(json_figures(&e->all),
                json_pack("{s:o, s:o, s:o, s:o, s:o}", "saved_zero", bytes(e->zero), "saved_within",
                          bytes(e->within), "saved_across", bytes(e->across), "saved_huge", bytes(e->huge),
                          "saved_error", bytes(e->error)));
}

static json_t *json_kinds(const struct sp_estimate *e) {
    json_t *kinds = json_array();
    for (size_t k = 0; k < SP_KIND_COUNT; k++)
        if (e->kind[k].resident)
            json_array_append_new(kinds, with(json_figures(&e->kind[k]),
                                              json_pack("{s:s, s:s}", "kind", sp_estimate_kind_name[k],
                                                        "meaning", sp_estimate_kind_meaning[k])));
    return kinds;
}

static json_t *json_process(const struct sp_estimate_process *p) {
    return with(json_figures(&p->figures),
                json_pack("{s:i, s:i, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "pid", p->pid, "parent",
                          p->parent, "name", sp_json_name(p->name), "mappings", (json_int_t)p->mappings,
                          "mappings_added", (json_int_t)(2 * p->runs), "saved_zero", bytes(p->zero), "within",
                          bytes(p->within), "elsewhere", bytes(p->elsewhere), "alone", bytes(p->alone),
                          "saved_error", bytes(p->error)));
}

static json_t *json_processes(const struct sp_estimate *e) {
    json_t *processes = json_array();
    for (size_t i = 0; i < e->n_processes; i++)
        json_array_append_new(processes, json_process(&e->process[i]));
    return processes;
}

static json_t *json_pairs(const struct sp_estimate *e) {
    json_t *pairs = json_array();
    for (size_t i = 0; i < e->pairs.n; i++)
        for (size_t j = i + 1; j < e->pairs.n; j++) {
            double common = e->pairs.common[i][j];
            if (common > 0)
                json_array_append_new(
                    pairs, json_pack("{s:i, s:i, s:o, s:o}", "a", e->process[e->pairs.shown[i]].pid, "b",
                                     e->process[e->pairs.shown[j]].pid, "common", bytes(common), "error",
                                     bytes(2 * sqrt(sp_census_variance_contents(&e->census, common)))));
        }
    return pairs;
}

static json_t *json_shown(const struct sp_estimate *e) {
    json_t *shown = json_array();
    for (size_t i = 0; i < e->pairs.n; i++)
        json_array_append_new(shown, json_integer(e->process[e->pairs.shown[i]].pid));
    return shown;
}

/* --- Mappings ------------------------------------------------------------------------------------------ */

struct place {
    uint64_t private;
    size_t index;
};

static int by_private(const void *a, const void *b) {
    const struct place *x = a, *y = b;
    if (x->private != y->private)
        return x->private < y->private ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

/* Pages, in address order: private, zeros, in the sample, of these with a copy. */
static json_t *json_cells(const struct sp_census_cell *cell) {
    json_t *cells = json_array();
    for (size_t i = 0; i < SP_CENSUS_CELLS; i++)
        json_array_append_new(cells,
                              json_pack("[I, I, I, I]", (json_int_t)cell[i].private, (json_int_t)cell[i].zero,
                                        (json_int_t)cell[i].read, (json_int_t)cell[i].twin));
    return cells;
}

static json_t *json_mapping(const struct sp_estimate *e, size_t i) {
    const struct sp_estimate_mapping *m = &e->mapping[i];
    return with(json_figures(&m->figures),
                json_pack("{s:i, s:I, s:I, s:s, s:o, s:b, s:s, s:o}", "pid",
                          e->process[e->counted[i].process].pid, "start", (json_int_t)m->start, "end",
                          (json_int_t)m->end, "kind", sp_estimate_kind_name[m->kind], "name",
                          sp_json_name(m->name ? m->name : ""), "mergeable", m->mergeable, "why",
                          m->mergeable ? "" : sp_eligible_text(m->why), "cells",
                          json_cells(e->counted[i].cells)));
}

static json_t *json_mappings(const struct sp_estimate *e, size_t most) {
    struct place *places = reallocarray(NULL, e->n_mappings + 1, sizeof *places);
    json_t *mappings = places ? json_array() : NULL;
    size_t n = 0;
    for (size_t i = 0; places && i < e->n_mappings; i++)
        if (e->counted[i].cells)
            places[n++] = (struct place){e->mapping[i].figures.private, i};
    if (n)
        qsort(places, n, sizeof *places, by_private);
    for (size_t i = 0; i < n && i < most; i++)
        json_array_append_new(mappings, json_mapping(e, places[i].index));
    free(places);
    return mappings;
}

json_t *sp_estimate_json(const struct sp_estimate_report *r, size_t mappings_max) {
    const struct sp_estimate *e = r->estimate;
    json_t *left_out = json_pack("{s:I, s:I, s:I}", "denied", (json_int_t)r->denied, "ended",
                                 (json_int_t)r->ended, "same_memory", (json_int_t)r->same);
    json_t *reading =
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "sample_one_in", (json_int_t)e->one_in, "took_ns",
                  (json_int_t)e->took_ns, "read", (json_int_t)e->bytes_read, "kept_pages",
                  (json_int_t)e->n_pages, "kept_units", (json_int_t)e->census.units);
    return json_pack("{s:o?, s:I, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "command",
                     r->command ? sp_json_name(r->command) : NULL, "after_ns", (json_int_t)r->after_ns,
                     "reading", reading, "left_out", left_out, "mappings_max", (json_int_t)r->mappings_max,
                     "total", json_total(e), "kinds", json_kinds(e), "processes", json_processes(e),
                     "pairs_of", json_shown(e), "pairs", json_pairs(e), "mappings",
                     json_mappings(e, mappings_max));
}
