/* SPDX-License-Identifier: MIT */
/*
 * Segments of the store: memfds, 1 GiB each, sparse. The owner holds the writable descriptor and gives out
 * read-only ones (mode 0400, reopened through /proc): clients can map them privately and read them, nothing
 * else. Written by pwrite and not mapped here, but for a moment in sp_segment_huge, so that the store is not
 * charged to the owner's resident set (H14); punched, never truncated (I3).
 *
 * Tokens of a family (H6): an empty memfd that a client maps shared; children inherit the mapping. While
 * anybody maps it, it cannot be sealed against writing (F_SEAL_WRITE gives EBUSY, fcntl(2)), which is how its
 * holder learns that a family has gone. It can never hold a page: one that is pinned for I/O would make the
 * kernel wait for a third of a second in each attempt to seal (mm/memfd.c).
 */
#ifndef SP_OS_STORE_H
#define SP_OS_STORE_H

#include "core/types.h"

struct sp_segment {
    int fd;        /* read-write, the owner's */
    int fd_shared; /* read-only, to hand out */
};

SP_WARN_UNUSED int sp_segment_init(struct sp_segment *s);
/* Closes both descriptors; mappings elsewhere stay valid. */
void sp_segment_deinit(struct sp_segment *s);
/* Writes one page at page `index` of the segment. -ENOSPC/-ENOMEM: no memory for it; nothing was published.
 */
SP_WARN_UNUSED int sp_segment_write(const struct sp_segment *s, uint64_t index, const void *page);
/* Writes `n` pages from consecutive memory. All or an error (then the caller must punch). */
SP_WARN_UNUSED int sp_segment_write_many(const struct sp_segment *s, uint64_t index, const void *pages,
                                         size_t n);
/* The same, to lie on that NUMA node if it has memory left; a negative one: anywhere. Pages that were made
 * before (sp_segment_huge) stay where they are. */
SP_WARN_UNUSED int sp_segment_write_on(const struct sp_segment *s, uint64_t index, const void *pages,
                                       size_t n, int node);
/*
 * Makes the chunk of SP_WINDOW_PAGES pages from page `index` on (a multiple) one huge page, its holes zeros,
 * before all of it is written: with a huge page in the store, a mapping of all of it is a huge mapping. At
 * least one page must be in it (-EINVAL). Takes 2 MiB of memory whatever was there, at no other cost than the
 * pages themselves would have been; whoever does not fill it must punch the rest. -EINVAL: the machine has no
 * huge pages for shared memory (shmem_enabled is "deny"); -EAGAIN, -EBUSY, -ENOMEM: not now. Nothing is
 * changed then.
 */
SP_WARN_UNUSED int sp_segment_huge(const struct sp_segment *s, uint64_t index);
/* Reads one page back. */
SP_WARN_UNUSED int sp_segment_read(const struct sp_segment *s, uint64_t index, void *ret_page);
/* Reads `n` pages from page `index` on through either descriptor, for those who only have the shared one. */
SP_WARN_UNUSED int sp_store_read(int fd, uint64_t index, void *ret_pages, size_t n);
/* Gives the memory of `n` pages back (FALLOC_FL_PUNCH_HOLE); they read as zeros for ever. */
SP_WARN_UNUSED int sp_segment_punch(const struct sp_segment *s, uint64_t index, uint64_t n);
/* Bytes of memory the segment holds (st_blocks). */
SP_WARN_UNUSED int sp_segment_memory(const struct sp_segment *s, uint64_t *ret_bytes);

/* A new token: its descriptor and its mapping (one page, MAP_SHARED, without access, inherited by fork, gone
 * with exec and exit). */
SP_WARN_UNUSED int sp_token_new(int *ret_fd, void **ret_mapping);
/* Unmaps this process's mapping of it. */
SP_WARN_UNUSED int sp_token_drop(void *mapping);
/* For one that comes from somebody else. 0: a token that somebody maps, which is empty and will be for ever;
 * -ESRCH: nobody maps it; -EINVAL: anything else. */
SP_WARN_UNUSED int sp_token_check(int fd);
/* 1: nobody maps the token any more (and nobody ever will: it is sealed now); 0: somebody does; negative
 * errno when it cannot be known (keep). */
SP_WARN_UNUSED int sp_token_gone(int fd);

#endif
