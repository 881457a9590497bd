/* SPDX-License-Identifier: MIT */
/*
 * NUMA nodes that are kept apart (merge_across_nodes=0): only pages on the same node share.
 *
 * KSM has a pair of trees for each node. Here the index needs to know nothing of nodes: where they are kept
 * apart a page's fingerprint and its probe carry the number of its node, in bits that the index takes as they
 * come. Pages of two nodes then have no fingerprint in common and never meet, like pages of two contents; all
 * that is kept by fingerprint (references, hints, places in the store) is as it was. Both kinds are changed
 * in the same bits, none of which is in the trace, so that a whole fingerprint still goes with its probe.
 *
 * Whoever has the content can tell from the fingerprint which node was meant: that is how the owner of the
 * store learns where to put the page, and whether the asker keeps nodes apart at all, which counts from 1.
 */
#ifndef SP_CORE_NODE_H
#define SP_CORE_NODE_H

#include "core/fingerprint.h"

/* Nodes have numbers from 0; the kernel has no more than 1,024 of them. */
#define SP_NODE_ANY -1 /* nodes are not kept apart */
#define SP_NODE_MAX 1023

#define SP_NODE_SHIFT 52

/* What a page on that node (or SP_NODE_ANY) is asked about by, made of its fingerprint or probe. Never
 * gives 0. */
static inline sp_fp sp_fp_on_node(sp_fp fp, int node) {
    uint64_t v = fp.v ^ (uint64_t)(node + 1) << SP_NODE_SHIFT;
    return (sp_fp){v ? v : 2};
}

/* The node that was meant by `asked`, of a page whose fingerprint or probe is `own`. False: by no node does
 * the one become the other. */
static inline bool sp_fp_node(sp_fp asked, sp_fp own, int *ret_node) {
    uint64_t difference = asked.v ^ own.v;
    if (difference >> SP_NODE_SHIFT > SP_NODE_MAX + 1 || difference << (64 - SP_NODE_SHIFT))
        return false;
    *ret_node = (int)(difference >> SP_NODE_SHIFT) - 1;
    return true;
}

#endif
