/* SPDX-License-Identifier: MIT */
/*
 * What /proc and a few calls tell about this process and this machine. Read through descriptors opened here,
 * with buffers on the stack or from the caller; no stdio, no malloc, so that it can be used in a worker and
 * in an interposed call.
 */
#ifndef SP_OS_PROC_H
#define SP_OS_PROC_H

#include "core/types.h"

/* Why a mapping is not eligible; SP_ELIGIBLE when it is. The texts are for `samepage status`. */
#define SP_INELIGIBLE(X)                                                                                     \
    X(ELIGIBLE, "eligible")                                                                                  \
    X(SHARED, "shared mapping")                                                                              \
    X(FILE, "file mapping")                                                                                  \
    X(SPECIAL, "device, stack, vdso or other special mapping")                                               \
    X(PROTECTION, "not both readable and writable")                                                          \
    X(EXECUTABLE, "executable anonymous memory")                                                             \
    X(LOCKED, "locked memory")                                                                               \
    X(HUGETLB, "hugetlb memory")                                                                             \
    X(PKEY, "memory with a protection key")                                                                  \
    X(USERFAULTFD, "the program has its own userfaultfd on it")                                              \
    X(WIPEONFORK, "wiped on fork")                                                                           \
    X(POLICY, "memory with a NUMA policy of its own")                                                        \
    X(NAMED, "named anonymous memory")                                                                       \
    X(UNTRACKED, "mapped behind our back: its unmapping cannot be serialised")

enum sp_eligible {
#define X(name, text) SP_##name,
    SP_INELIGIBLE(X)
#undef X
};
const char *sp_eligible_text(enum sp_eligible why);

/* Attributes that a remap must carry over (H7). */
#define SP_ATTR_DONTFORK   1u
#define SP_ATTR_DONTDUMP   2u
#define SP_ATTR_HUGEPAGE   4u
#define SP_ATTR_NOHUGEPAGE 8u
#define SP_ATTR_STORE                                                                                        \
    16u /* a mapping of a store of ours (memfd:samepage): merged earlier, here or in a parent */

struct sp_mapping {
    uint64_t start, end; /* bytes */
    int prot;            /* PROT_* */
    unsigned attributes; /* SP_ATTR_* */
    enum sp_eligible eligible;
    enum sp_eligible use; /* the same if what it is, a file mapping or a named one, did not matter */
    /* What smaps says besides; of /proc/PID/maps only the name is known. */
    const char
        *name; /* of the file, or "[heap]" and the like, or ""; long ones are cut; until visit returns */
    uint64_t resident_bytes, anonymous_bytes, huge_bytes, swap_bytes;
};

/*
 * Calls `visit` for every mapping of this process that overlaps [start, end), ascending, from
 * /proc/thread-self/smaps ("Rss" is not needed; use VmFlags) and get_mempolicy(2). `visit` returns true to go
 * on. 0, or a negative errno. Allocates nothing.
 */
SP_WARN_UNUSED int sp_proc_mappings(uint64_t start, uint64_t end,
                                    bool (*visit)(void *ctx, const struct sp_mapping *m), void *ctx);
typedef int sp_mappings_reader(uint64_t start, uint64_t end,
                               bool (*visit)(void *ctx, const struct sp_mapping *m), void *ctx);

/* The same from /proc/thread-self/maps, which costs no walk over the resident pages, and says nothing of
 * attributes (none are reported), locks, keys, userfaultfd and what is wiped on fork. */
SP_WARN_UNUSED int sp_proc_maps(uint64_t start, uint64_t end,
                                bool (*visit)(void *ctx, const struct sp_mapping *m), void *ctx);

/* Number of mappings this process has (lines of /proc/thread-self/maps), for the mapping budget (H4). */
SP_WARN_UNUSED int sp_proc_map_count(uint64_t *ret_count);
/* vm.max_map_count. */
SP_WARN_UNUSED int sp_proc_max_map_count(uint64_t *ret_count);
/* Number of threads of this process. */
SP_WARN_UNUSED int sp_proc_threads(uint64_t *ret_threads);
/* Seccomp mode of the calling thread: 0 none, 1 strict, 2 filter (H11); and its NoNewPrivs. */
SP_WARN_UNUSED int sp_proc_seccomp(int *ret_mode);
/* Whether a system-call filter is bound to the calling thread by now, by one call that a filter hardly ever
 * forbids (PR_GET_SECCOMP, prctl(2)); when it does, the answer is yes, or the thread ends here. */
bool sp_proc_filtered(void);
/* Adds bit 2 (private file mappings) to /proc/self/coredump_filter so that merged memory stays in core dumps
 * (H8). */
SP_WARN_UNUSED int sp_proc_dump_private_files(void);
/* MemAvailable and MemTotal of the machine, bytes. */
SP_WARN_UNUSED int sp_proc_memory(uint64_t *ret_available_bytes, uint64_t *ret_total_bytes);
#define SP_PROC_PRESSURE "/proc/pressure/memory"
/* How much of the last ten seconds some task had to wait for memory (Documentation/accounting/psi.rst:
 * "some", avg10), in hundredths of a percent. -ENOENT, -EOPNOTSUPP: this kernel does not tell; -EBADMSG: it
 * is another file. */
SP_WARN_UNUSED int sp_proc_pressure(const char *path, uint64_t *ret_share);
/* Kernel version as (major << 16 | minor << 8 | patch), and whether any swap is on (H25). */
SP_WARN_UNUSED int sp_proc_kernel(uint32_t *ret_version, bool *ret_swap_on);
/* Whether UFFDIO_MOVE can be trusted here (H25): false on kernels before the fix (mainline 6.16;
 * stable 6.15.3, 6.12.34 and later of these series) while swap is on. */
SP_WARN_UNUSED int sp_proc_move_is_safe(bool *ret_safe);
/* The rule behind it, for a version as above. */
bool sp_move_is_safe(uint32_t version, bool swap_on);
/* Whether mremap may move whole page tables with pages of a file. Kernels from 6.6 on could lose one to
 * somebody who makes huge pages of the file at that moment (CVE-2024-50066; mended in 6.12, 6.11.4
 * and 6.6.57). */
bool sp_remap_is_safe(uint32_t version);
/* Name of the program (comm), at most 16 bytes with the end. */
void sp_proc_name(int pid, char ret_name[16]);
/* Whether a pidfd stands for this process: "Pid:" in /proc/thread-self/fdinfo/N (pidfd_open(2)). False for
 * whatever is no pidfd. */
bool sp_proc_pidfd_is_self(int pidfd);
/* Whether the calling process has any locked memory or MCL_FUTURE (VmLck > 0) (H21). */
SP_WARN_UNUSED int sp_proc_locked(bool *ret_locked);
/* Resident memory of this process that no file is behind. */
SP_WARN_UNUSED int sp_proc_anonymous(uint64_t *ret_bytes);
/* 32 random bytes (getrandom(2)). */
SP_WARN_UNUSED int sp_random(uint8_t ret[32]);

#define SP_PROC_FD_PATH_BYTES 48
/* "/proc/thread-self/fd/N": the calling thread may have a descriptor table of its own. Returns its length. */
size_t sp_proc_fd_path(int fd, char ret_path[SP_PROC_FD_PATH_BYTES]);

#endif
