/* SPDX-License-Identifier: MIT */
/*
 * Mappings of this process. Each function is one system call, made directly (not through libc, whose
 * functions a shim may interpose), without allocation, stdio or locks: all may be called between freeze and
 * thaw (H2).
 */
#ifndef SP_OS_MAPPING_H
#define SP_OS_MAPPING_H

#include "core/types.h"

/* New private anonymous memory, readable and writable, of `bytes` (page multiple) at an address that is a
 * multiple of `align` (power of two >= page). */
SP_WARN_UNUSED int sp_map_new(size_t bytes, size_t align, void **ret_address);

/* The same for memory of the worker's own, marked as such: never eligible for merging (H2). */
SP_WARN_UNUSED int sp_map_own(size_t bytes, size_t align, void **ret_address);
/* Marks memory of our own: by MADV_RANDOM, which means nothing for anonymous memory but is kept, shown in
 * smaps ("rr"), copied by fork, and keeps the kernel from joining it with a mapping of the program; and by a
 * name, which shows people whose it is where the kernel has names (CONFIG_ANON_VMA_NAME). */
SP_WARN_UNUSED int sp_map_mark(void *address, size_t bytes);

/* Replaces [address, +bytes) by a private mapping of the store (MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE,
 * readable and writable): the remap of the primitive. */
SP_WARN_UNUSED int sp_map_store(uintptr_t address, size_t bytes, int fd, uint64_t offset_bytes);

/* Replaces [address, +bytes) by fresh anonymous private memory with protection `prot` (PROT_*). Content is
 * gone. */
SP_WARN_UNUSED int sp_map_fresh(uintptr_t address, size_t bytes, int prot);

/* A new shared mapping of `bytes` of a file: read-only, or also writable. */
SP_WARN_UNUSED int sp_map_file(int fd, uint64_t offset_bytes, size_t bytes, bool writable,
                               void **ret_address);

/* A view of the store at [address, +bytes), where nothing is mapped (-EEXIST otherwise): a mapping like that
 * of sp_map_store, for reading only, of which a child gets no copy. Pages that are in memory are mapped at
 * once where the kernel can be asked for that cheaply (Linux 6.14); who needs all of them looks, and asks for
 * the rest. On failure there is nothing. */
SP_WARN_UNUSED int sp_map_view(uintptr_t address, size_t bytes, int fd, uint64_t offset_bytes);
/* Replaces [target, +bytes) by what the view there shows, with its filled page tables: otherwise as
 * sp_map_store. There is nothing where the view was then. Whether a child gets a copy goes along, too
 * (MADV_DOFORK). On failure the view is still there, and `target` as it was, or, where the kernel had no
 * memory for itself, nothing at `target`. (mremap(2). MREMAP_DONTUNMAP would count the mapping twice, which
 * limits of the process may forbid when `target` has been unmapped.) */
SP_WARN_UNUSED int sp_map_from_view(uintptr_t view, size_t bytes, uintptr_t target);

SP_WARN_UNUSED int sp_unmap(void *address, size_t bytes);

/* madvise(2). MADV_POPULATE_READ/WRITE are there whatever the C library's headers say: see os/kernel.h. */
SP_WARN_UNUSED int sp_advise(uintptr_t address, size_t bytes, int advice);

/* Gives a mapping that was made anew the SP_ATTR_* (os/proc.h) of the one before. Sets all that it can;
 * returns the first error. */
SP_WARN_UNUSED int sp_map_attributes(uintptr_t address, size_t bytes, unsigned attributes);

/* Copies from this process's memory as the kernel would: memory that is not there, or not readable, is an
 * answer (-EFAULT), not a crash (H22). */
SP_WARN_UNUSED int sp_peek(void *to, uintptr_t from, size_t bytes);

SP_WARN_UNUSED int sp_protect(uintptr_t address, size_t bytes, int prot);

/* Moves a mapping with its pages to `target`, replacing what is there (mremap MAYMOVE|FIXED). */
SP_WARN_UNUSED int sp_remap(uintptr_t source, size_t bytes, uintptr_t target);

/* /proc/self/maps, to be asked about single mappings; close-on-exec. */
SP_WARN_UNUSED int sp_maps_open(int *ret_fd);

/* A mapping of a file. */
struct sp_file_mapping {
    uint64_t start, end;   /* bytes */
    uint64_t offset_bytes; /* of `start` in the file */
    bool shared;
};

/* The file's mapping at an address (PROCMAP_QUERY, Linux 6.11; under a quarter of a microsecond). -ENOENT:
 * there is none, or it is none of a file; -ENOTTY: this kernel cannot be asked. */
SP_WARN_UNUSED int sp_maps_file(int fd, uintptr_t address, struct sp_file_mapping *ret_mapping);

#endif
