/* SPDX-License-Identifier: MIT */
/* What `samepage estimate` prints for people: the answer first, then where it lies, then who has it in
 * common. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/estimate.h"
#include "cli/output.h"

#define PROCESSES_SHOWN 20
#define PAIRS_SHOWN     10

static const char *text_pages(double pages) {
    return sp_text_bytes((uint64_t)(pages > 0 ? pages + 0.5 : 0) * SP_PAGE_SIZE);
}

static double percent(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

static const char *plural(size_t n) {
    return n == 1 ? "" : "s";
}

static void print_reading(const struct sp_estimate_report *r) {
    const struct sp_estimate *e = r->estimate;
    double seconds = (double)e->took_ns / 1e9 + 1e-9;
    if (r->command)
        printf("%s, %.1f s after its start: ", r->command, (double)r->after_ns / 1e9);
    printf("%zu process%s, %s resident, %s of it private:\nlooked at in %.2f s, %.1f GB/s", e->n_processes,
           e->n_processes == 1 ? "" : "es", text_pages((double)e->all.resident),
           text_pages((double)e->all.private), seconds,
           (double)e->all.private * (double)SP_PAGE_SIZE / seconds / 1e9);
    if (e->one_in > 1)
        printf(", by a sample of 1/%u (%s read, %s of pages kept)", e->one_in, sp_text_bytes(e->bytes_read),
               text_pages((double)e->n_pages));
    printf("\n");
    if (r->denied)
        printf("%zu process%s not looked at: permission denied%s\n", r->denied, r->denied == 1 ? "" : "es",
               geteuid() ? " (root may)" : "");
    if (r->ended)
        printf("%zu process%s ended meanwhile, or had no memory\n", r->ended, r->ended == 1 ? "" : "es");
    if (e->all.swapped)
        printf("%s in swap not read\n", text_pages((double)e->all.swapped));
    if (e->all.unread)
        printf("%s gone before they were read\n", text_pages((double)e->all.unread));
}

static void print_part(double pages, const char *what) {
    printf("  %10s  %s\n", text_pages(pages), what);
}

static double most_runs(const struct sp_estimate *e) {
    double most = 0;
    for (size_t i = 0; i < e->n_processes; i++)
        if (e->process[i].runs > most)
            most = e->process[i].runs;
    return most;
}

static void print_answer(const struct sp_estimate_report *r) {
    const struct sp_estimate *e = r->estimate;
    char line[160];
    snprintf(line, sizeof line, "Merging would save %s (%.0f %% of what is private)",
             text_pages(e->all.saved), percent(e->all.saved, (double)e->all.private));
    printf("\n");
    sp_print_coloured(SP_BOLD, 0, line);
    if (e->one_in > 1)
        printf(", give or take %s", text_pages(e->error));
    printf(":\n");
    print_part(e->zero, "pages of zeros");
    print_part(e->within, "copies within a process");
    print_part(e->across, "copies in several processes");
    print_part(e->huge, "of all this in huge pages; merging splits those that are not shared as a whole");
    print_part(e->all.left, "more in copies where samepage does not merge (LEFT)");
    printf("Cost: about %s mappings more in a process", sp_text_number((uint64_t)(2 * most_runs(e))));
    if (r->mappings_max)
        printf(" (allowed: %s)", sp_text_number(r->mappings_max));
    printf(", several times that where\nmany begin to merge at once; and a page fault for each page that is "
           "written again\n");
}

static void print_kinds(const struct sp_estimate *e) {
    printf("\n%-10s %10s %10s %10s %10s %10s %10s %10s\n", "KIND", "RESIDENT", "SHARED", "PRIVATE", "HUGE",
           "ZEROS", "SAVED", "LEFT");
    for (size_t k = 0; k < SP_KIND_COUNT; k++) {
        const struct sp_estimate_figures *f = &e->kind[k];
        if (!f->resident)
            continue;
        printf("%-10s %10s", sp_estimate_kind_name[k], text_pages((double)f->resident));
        printf(" %10s %10s", text_pages((double)f->shared), text_pages((double)f->private));
        printf(" %10s %10s", text_pages((double)f->huge), text_pages((double)f->zero));
        printf(" %10s %10s\n", text_pages(f->saved), text_pages(f->left));
    }
}

/* --- Processes ---------------------------------------------------------------------------------------- */

static int by_saved(const void *a, const void *b) {
    const struct sp_estimate_process *x = *(struct sp_estimate_process *const *)a;
    const struct sp_estimate_process *y = *(struct sp_estimate_process *const *)b;
    if (x->figures.saved != y->figures.saved)
        return x->figures.saved < y->figures.saved ? 1 : -1;
    return x->pid - y->pid;
}

static void print_process(const struct sp_estimate_report *r, const struct sp_estimate_process *p) {
    const struct sp_estimate_figures *f = &p->figures;
    printf("%8d %-15s", p->pid, p->name);
    printf(" %10s %10s", text_pages((double)f->private), text_pages((double)f->zero));
    printf(" %10s %10s %10s", text_pages(p->within), text_pages(p->elsewhere), text_pages(f->saved));
    printf(" %10s%s\n", sp_text_number((uint64_t)(2 * p->runs)),
           r->mappings_max && 2 * p->runs + (double)p->mappings > (double)r->mappings_max ? " too many" : "");
}

static void print_processes(const struct sp_estimate_report *r) {
    const struct sp_estimate *e = r->estimate;
    const struct sp_estimate_process **order = reallocarray(NULL, e->n_processes, sizeof *order);
    if (!order)
        return;
    for (size_t i = 0; i < e->n_processes; i++)
        order[i] = &e->process[i];
    qsort(order, e->n_processes, sizeof *order, by_saved);
    printf("\n%8s %-15s %10s %10s %10s %10s %10s %10s\n", "PID", "NAME", "PRIVATE", "ZEROS", "WITHIN",
           "ELSEWHERE", "SAVED", "MAPPINGS");
    for (size_t i = 0; i < e->n_processes && i < PROCESSES_SHOWN; i++)
        print_process(r, order[i]);
    if (e->n_processes > PROCESSES_SHOWN)
        printf("%8s and %zu more process%s (--json has all)\n", "", e->n_processes - PROCESSES_SHOWN,
               e->n_processes == PROCESSES_SHOWN + 1 ? "" : "es");
    free(order);
}

/* --- Pairs --------------------------------------------------------------------------------------------- */

struct pair {
    size_t a, b;
    double common;
};

static int by_common(const void *a, const void *b) {
    const struct pair *x = a, *y = b;
    if (x->common != y->common)
        return x->common < y->common ? 1 : -1;
    return x->a != y->a ? (x->a < y->a ? -1 : 1) : (x->b > y->b) - (x->b < y->b);
}

static void print_pair(const struct sp_estimate *e, const struct pair *pair) {
    const struct sp_estimate_process *a = &e->process[e->pairs.shown[pair->a]];
    const struct sp_estimate_process *b = &e->process[e->pairs.shown[pair->b]];
    printf("%8d %-15s %8d %-15s %10s", a->pid, a->name, b->pid, b->name, text_pages(pair->common));
    if (e->one_in > 1)
        printf(" +- %s", text_pages(2 * sqrt(sp_census_variance_contents(&e->census, pair->common))));
    printf("\n");
}

static void print_pairs(const struct sp_estimate *e) {
    struct pair *pairs = reallocarray(NULL, SP_CENSUS_PAIRS * SP_CENSUS_PAIRS, sizeof *pairs);
    size_t n = 0;
    for (size_t i = 0; pairs && i < e->pairs.n; i++)
        for (size_t j = i + 1; j < e->pairs.n; j++)
            if (e->pairs.common[i][j] > 0)
                pairs[n++] = (struct pair){i, j, e->pairs.common[i][j]};
    if (n) {
        qsort(pairs, n, sizeof *pairs, by_common);
        printf("\n%8s %-15s %8s %-15s %10s\n", "PID", "NAME", "PID", "NAME", "IN COMMON");
        for (size_t i = 0; i < n && i < PAIRS_SHOWN; i++)
            print_pair(e, &pairs[i]);
        if (n > PAIRS_SHOWN)
            printf("%8s and %zu more pair%s (--json has them%s)\n", "", n - PAIRS_SHOWN,
                   plural(n - PAIRS_SHOWN),
                   e->n_processes > SP_CENSUS_PAIRS ? " of the 64 processes with most in common" : "");
    }
    free(pairs);
}

void sp_estimate_print(const struct sp_estimate_report *r) {
    print_reading(r);
    print_answer(r);
    print_kinds(r->estimate);
    print_processes(r);
    print_pairs(r->estimate);
}
