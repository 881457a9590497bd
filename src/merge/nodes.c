/* SPDX-License-Identifier: MIT */
/*
 * merge_across_nodes=0: pages are asked about by node (core/node.h).
 *
 * The kernel is asked once for a window, when its pages have been read and before the index is asked: it
 * moves pages whenever it likes (NUMA balancing, compaction, migratepages(8)), so what it says is never kept.
 * Known pages that are asked about again are read again for the same reason (known_fp in pass.c). A page that
 * moves afterwards is merged as what it was: all that this costs is that memory lies far away, as for a page
 * of KSM's.
 *
 * A page that is found on no node has gone, or is out at the moment. It is tried again later, like one that
 * has changed. Pages of zeros that are given back have no node.
 */
#include <string.h>

#include "core/node.h"
#include "merge/state.h"

bool sp_nodes_apart(const struct sp_worker *w) {
    return !w->engine->settings.v[SP_SETTING_merge_across_nodes];
}

int sp_nodes_asked(const struct sp_worker *w, size_t i) {
    return sp_nodes_apart(w) ? w->work.nodes[i] : SP_NODE_ANY;
}

/* Where there is but one node nobody needs to be asked. */
static int read_nodes(const struct sp_worker *w, const void *const *pages, size_t n, int *ret_nodes) {
    sp_nodes_reader *reader = w->engine->nodes;
    if (!reader && sp_nodes_many())
        reader = sp_nodes_of;
    if (reader)
        return reader(pages, n, ret_nodes);
    memset(ret_nodes, 0, n * sizeof(*ret_nodes));
    return 0;
}

static void count_error(struct sp_worker *w) {
    sp_worker_lock(w);
    w->engine->counters.v[SP_COUNTER_errors]++;
    sp_engine_unlock(w->engine);
}

static struct sp_query on_node(struct sp_query q, int node) {
    q.fp = sp_fp_on_node(q.fp, node);
    if (sp_fp_whole(q.fp))
        q.probe = sp_fp_on_node(q.probe, node);
    return q;
}

void sp_nodes_ask(struct sp_worker *w) {
    struct sp_work *work = &w->work;
    size_t n = work->n;
    if (!sp_nodes_apart(w) || !n)
        return;
    for (size_t i = 0; i < n; i++)
        work->contents[i] = (const void *)(uintptr_t)(work->queries[i].page.v << SP_PAGE_SHIFT);
    int error = read_nodes(w, work->contents, n, work->nodes);
    if (error)
        count_error(w);
    work->n = 0;
    for (size_t i = 0; i < n; i++) {
        int node = error ? -1 : work->nodes[i];
        if (node < 0 || node > SP_NODE_MAX) {
            sp_bits_set(&work->bits.nowhere, sp_page_slot(work->queries[i].page));
            continue;
        }
        work->queries[work->n] = on_node(work->queries[i], node);
        work->nodes[work->n++] = node;
    }
}
