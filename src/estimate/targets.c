/* SPDX-License-Identifier: MIT */
/* See targets.h. Processes come and go while the list is made: who has ended meanwhile is no error here. */
#include "estimate/targets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int append(struct sp_targets *t, const struct sp_process *p) {
    struct sp_process *all = reallocarray(t->process, t->n + 1, sizeof *all);
    if (!all)
        return -ENOMEM;
    t->process = all;
    all[t->n++] = *p;
    return 0;
}

struct listing {
    struct sp_targets *to;
    int error;
};

static bool visit(void *ctx, int pid) {
    struct listing *l = ctx;
    struct sp_process p;
    if (pid != getpid() && !sp_process_read(pid, &p) && !p.kernel_thread && p.state != 'Z' && p.state != 'X')
        l->error = append(l->to, &p);
    return !l->error;
}

static int by_pid(const void *a, const void *b) {
    const struct sp_process *x = a, *y = b;
    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

int sp_targets_all(struct sp_targets *ret_targets) {
    struct sp_targets t = {0};
    struct listing l = {.to = &t};
    int error = sp_process_each(visit, &l);
    if (!error)
        error = l.error;
    if (error) {
        sp_targets_deinit(&t);
        return error;
    }
    if (t.n)
        qsort(t.process, t.n, sizeof *t.process, by_pid);
    *ret_targets = t;
    return 0;
}

static int find(const struct sp_targets *t, int pid) {
    for (size_t i = 0; i < t->n; i++)
        if (t->process[i].pid == pid)
            return (int)i;
    return -1;
}

/* Whether the chain of parents leads to the ancestor; a chain that changes meanwhile may lead round in a
 * circle. */
static bool descends(const struct sp_targets *all, const struct sp_process *p, int ancestor) {
    size_t steps = 0;
    while (p && p->parent != ancestor && steps++ <= all->n) {
        struct sp_process parent = {.pid = p->parent};
        p = bsearch(&parent, all->process, all->n, sizeof parent, by_pid);
    }
    return p && p->parent == ancestor;
}

int sp_targets_descendants(int ancestor, struct sp_targets *ret_targets) {
    struct sp_targets all, family = {0};
    int error = sp_targets_all(&all);
    if (error)
        return error;
    for (size_t i = 0; i < all.n && !error; i++)
        if (descends(&all, &all.process[i], ancestor))
            error = append(&family, &all.process[i]);
    sp_targets_deinit(&all);
    if (error)
        sp_targets_deinit(&family);
    else
        *ret_targets = family;
    return error;
}

int sp_targets_add(struct sp_targets *t, int pid) {
    struct sp_process p;
    if (find(t, pid) >= 0)
        return 0;
    int error = sp_process_read(pid, &p);
    if (error)
        return error == -ENOENT ? -ESRCH : error;
    return append(t, &p);
}

void sp_targets_deinit(struct sp_targets *t) {
    free(t->process);
    *t = (struct sp_targets){0};
}
