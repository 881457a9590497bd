/* SPDX-License-Identifier: MIT */
/*
 * The worker's arena. Blocks are powers of two from 16 bytes to 64 KiB, and from 48 bytes on what lies in the
 * middle between two, taken from the free list of their class or cut from the current chunk; what is left of
 * a chunk when it ends goes to the free lists. A block
 * of 64 KiB and more is a mapping with a header in front. Memory goes back to the kernel when a large block
 * is put back or the whole arena is freed.
 *
 * The arena's own structure lies in its first chunk. Its memory is named "[anon:samepage]", where the kernel
 * can do that, for whoever reads /proc/PID/maps; no worker of ours merges named memory.
 */
#include "os/memory.h"

#include <string.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/syscall.h"

#define CHUNK_BYTES ((size_t)1 << 20)
#define LARGE_BYTES ((size_t)64 * 1024)
#define CLASSES     24

/* In front of every chunk and every large block; 32 bytes keep what follows aligned. */
struct area {
    struct area *next, *prev;
    size_t bytes; /* mapped, this header included */
    size_t unused;
};

struct block {
    struct block *next;
};

struct sp_memory {
    struct area areas;           /* all mappings but the first chunk, a ring */
    struct block *free[CLASSES]; /* blocks that were used before: not zeroed */
    char *cut, *cut_end;         /* rest of the current chunk: zeroed */
    size_t bytes;                /* mapped */
    bool dontfork;
};

/* 16; 32, 48; 64, 96; 128, 192; ... */
static size_t class_bytes(unsigned class) {
    return class ? (size_t)(class % 2 ? 32 : 24) << class / 2 : 16;
}

static unsigned class_of(size_t bytes) {
    if (bytes <= class_bytes(1))
        return bytes > class_bytes(0);
    unsigned class = (unsigned)(63 - __builtin_clzll(bytes - 1) - 4) * 2;
    return class + (bytes > class_bytes(class));
}

static int area_map(size_t bytes, bool dontfork, struct area **ret_area) {
    void *got;
    int r = sp_map_own(bytes, SP_PAGE_SIZE, &got);
    if (r < 0)
        return r;
    if (dontfork)
        r = sp_advise((uintptr_t)got, bytes, MADV_DONTFORK);
    if (r < 0) {
        sp_syscall(SYS_munmap, got, bytes);
        return r;
    }
    *ret_area = got;
    (*ret_area)->bytes = bytes;
    return 0;
}

int sp_memory_new(bool dontfork, struct sp_memory **ret_memory) {
    struct area *first;
    int r = area_map(CHUNK_BYTES, dontfork, &first);
    if (r < 0)
        return r;
    struct sp_memory *m = (struct sp_memory *)(first + 1);
    m->areas.next = m->areas.prev = &m->areas;
    m->cut = (char *)m + ((sizeof(*m) + 15) & ~(size_t)15);
    m->cut_end = (char *)first + CHUNK_BYTES;
    m->bytes = CHUNK_BYTES;
    m->dontfork = dontfork;
    *ret_memory = m;
    return 0;
}

static struct area *area_add(struct sp_memory *m, size_t bytes) {
    struct area *a;
    if (area_map(bytes, m->dontfork, &a) < 0)
        return NULL;
    a->next = m->areas.next;
    a->prev = &m->areas;
    a->next->prev = a->prev->next = a;
    m->bytes += bytes;
    return a;
}

static void area_drop(struct sp_memory *m, struct area *a) {
    a->next->prev = a->prev;
    a->prev->next = a->next;
    m->bytes -= a->bytes;
    sp_syscall(SYS_munmap, a, a->bytes);
}

struct sp_memory *sp_memory_free(struct sp_memory *m) {
    if (!m)
        return NULL;
    while (m->areas.next != &m->areas)
        area_drop(m, m->areas.next);
    sp_syscall(SYS_munmap, (struct area *)m - 1, CHUNK_BYTES);
    return NULL;
}

static void free_push(struct sp_memory *m, void *memory, unsigned class) {
    struct block *b = memory;
    b->next = m->free[class];
    m->free[class] = b;
}

/* What is left of the current chunk becomes free blocks, the largest first. */
static void cut_finish(struct sp_memory *m) {
    while ((size_t)(m->cut_end - m->cut) >= class_bytes(0)) {
        unsigned class = CLASSES - 1;
        while (class_bytes(class) > (size_t)(m->cut_end - m->cut))
            class --;
        free_push(m, m->cut, class);
        m->cut += class_bytes(class);
    }
}

static void *cut(struct sp_memory *m, size_t bytes) {
    if ((size_t)(m->cut_end - m->cut) < bytes) {
        struct area *chunk = area_add(m, CHUNK_BYTES);
        if (!chunk)
            return NULL;
        cut_finish(m);
        m->cut = (char *)(chunk + 1);
        m->cut_end = (char *)chunk + CHUNK_BYTES;
    }
    void *got = m->cut;
    m->cut += bytes;
    return got;
}

static void *small_get(struct sp_memory *m, size_t bytes) {
    unsigned class = class_of(bytes);
    struct block *b = m->free[class];
    if (!b)
        return cut(m, class_bytes(class));
    m->free[class] = b->next;
    return memset(b, 0, class_bytes(class));
}

static void *large_get(struct sp_memory *m, size_t bytes) {
    if (bytes > SIZE_MAX - sizeof(struct area) - SP_PAGE_SIZE)
        return NULL;
    size_t mapped = (bytes + sizeof(struct area) + SP_PAGE_SIZE - 1) & ~(SP_PAGE_SIZE - 1);
    struct area *a = area_add(m, mapped);
    return a ? a + 1 : NULL;
}

static void *get(void *ctx, size_t bytes) {
    if (sp_fault("memory"))
        return NULL;
    return bytes < LARGE_BYTES ? small_get(ctx, bytes) : large_get(ctx, bytes);
}

static void put(void *ctx, void *memory, size_t bytes) {
    if (!memory)
        return;
    if (bytes < LARGE_BYTES)
        free_push(ctx, memory, class_of(bytes));
    else
        area_drop(ctx, (struct area *)memory - 1);
}

struct sp_alloc sp_memory_alloc(struct sp_memory *m) {
    return (struct sp_alloc){.get = get, .put = put, .ctx = m};
}

size_t sp_memory_bytes(const struct sp_memory *m) {
    return m->bytes;
}
