/* SPDX-License-Identifier: MIT */
/*
 * The worker's own memory: an arena on mappings of its own, because the worker lives inside somebody's
 * program, where malloc's memory may be frozen (H2), its locks may be held, and every allocation would be
 * visible to the program. Small blocks come from power-of-two free lists in 1 MiB chunks, large ones (64 KiB
 * and more) are mappings. Not copied by fork only when asked (`dontfork`). Not locked: one arena, one guard.
 */
#ifndef SP_OS_MEMORY_H
#define SP_OS_MEMORY_H

#include "core/alloc.h"
#include "core/types.h"

struct sp_memory;

SP_WARN_UNUSED int sp_memory_new(bool dontfork, struct sp_memory **ret_memory);
struct sp_memory *sp_memory_free(struct sp_memory *m);
/* An allocator on it (zeroed memory). */
struct sp_alloc sp_memory_alloc(struct sp_memory *m);
/* Bytes mapped. */
size_t sp_memory_bytes(const struct sp_memory *m);

#endif
