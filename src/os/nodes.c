/* SPDX-License-Identifier: MIT */
/* See nodes.h. */
#include "os/nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <string.h>

#include "os/fault.h"
#include "os/syscall.h"

/* The kernel takes one off the number of bits that it is told. */
#define MASK_BITS (SP_NODES_WORDS * 64 + 1)

/* "0", or "0-3", or "0,2". */
static bool read_many(void) {
    char text[64];
    int fd = (int)sp_syscall(SYS_openat, AT_FDCWD, "/sys/devices/system/node/possible", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true;
    long n = sp_syscall(SYS_read, fd, text, sizeof text);
    sp_syscall(SYS_close, fd);
    return n <= 0 || memchr(text, '-', (size_t)n) || memchr(text, ',', (size_t)n);
}

bool sp_nodes_many(void) {
    enum { UNKNOWN, ONE, MANY };
    static int known;
    int state = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (state == UNKNOWN) {
        state = read_many() ? MANY : ONE;
        __atomic_store_n(&known, state, __ATOMIC_RELAXED);
    }
    return state == MANY;
}

int sp_nodes_of(const void *const *pages, size_t n, int *ret_nodes) {
    int fault = sp_fault("nodes_of");
    if (fault)
        return fault;
    int r = (int)sp_syscall(SYS_move_pages, 0, n, pages, 0, ret_nodes, 0);
    if (r == -ENOSYS) { /* a kernel without NUMA */
        memset(ret_nodes, 0, n * sizeof *ret_nodes);
        return 0;
    }
    return r < 0 ? r : 0;
}

int sp_nodes_prefer(int node, struct sp_nodes_policy *ret_before) {
    int fault = sp_fault("nodes_prefer");
    if (fault)
        return fault;
    if (node < 0 || node >= SP_NODES_WORDS * 64)
        return -EINVAL;
    struct sp_nodes_policy before = {0};
    uint64_t mask[SP_NODES_WORDS] = {0};
    mask[node / 64] = UINT64_C(1) << (node % 64);
    long r = sp_syscall(SYS_get_mempolicy, &before.mode, before.nodes, MASK_BITS, 0, 0);
    if (r == 0)
        r = sp_syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, MASK_BITS);
    if (r == 0)
        *ret_before = before;
    return (int)r;
}

void sp_nodes_restore(const struct sp_nodes_policy *before) {
    sp_syscall(SYS_set_mempolicy, before->mode, before->nodes, MASK_BITS);
}
