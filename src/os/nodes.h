/* SPDX-License-Identifier: MIT */
/*
 * NUMA nodes as the kernel has them: on which one a page lies, and on which the next ones are to lie. A
 * kernel without NUMA has one node, number 0.
 */
#ifndef SP_OS_NODES_H
#define SP_OS_NODES_H

#include "core/types.h"

/* Whether this machine may ever have more than one node (/sys/devices/system/node/possible; where that cannot
 * be read, it may). Read once. */
bool sp_nodes_many(void);

/*
 * The node of each page of this process, negative for one that is not there: never touched, swapped out,
 * unmapped, or the kernel's page of zeros. One system call (move_pages(2), which moves nothing when it is not
 * told where to). Pages need not be mapped. On failure nothing is known.
 */
SP_WARN_UNUSED int sp_nodes_of(const void *const *pages, size_t n, int *ret_nodes);
typedef int sp_nodes_reader(const void *const *pages, size_t n, int *ret_nodes);

/* The memory policy of a thread, in the kernel's terms. */
#define SP_NODES_WORDS (1024 / 64)
struct sp_nodes_policy {
    int mode;
    uint64_t nodes[SP_NODES_WORDS];
};

/*
 * Memory that the calling thread takes from here on comes from that node, as long as it has some; also pages
 * of a memfd, which have no policy of their own. Between the two calls only what is to lie there. Failing
 * changes nothing: no such node, or a cpuset forbids it.
 */
SP_WARN_UNUSED int sp_nodes_prefer(int node, struct sp_nodes_policy *ret_before);
void sp_nodes_restore(const struct sp_nodes_policy *before);

#endif
