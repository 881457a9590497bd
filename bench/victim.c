/* SPDX-License-Identifier: MIT */
/*
 * A program that does one thing as fast as it can, for bench/price.py, which looks at what merging costs it.
 * It knows nothing of samepage.
 *
 *   victim malloc|mmap|churn|settled|sequential|random MIB SECONDS
 *
 * malloc:  half a megabyte of live blocks of 16 to 2,048 bytes, one of which is freed, allocated anew and
 *          written in each step.
 * mmap:    maps 256 KiB, writes to every fourth page, gives half of it back, and unmaps it.
 * churn:   the same beside the memory of settled.
 * settled: MIB of memory with contents that every such process has; each step reads a word of 32 pages at
 *          random places of it, and writes one of a private megabyte.
 *
 * sequential, random: the same memory; each step writes a word of the next, or of a random, page of its first
 * half, always to the same place and with the value that it has, so that twins remain twins.
 *
 * It says "ready ADDRESS PAGES" (malloc and mmap have none), and for each line on standard input works for
 * SECONDS and answers "steps N" with the steps done in a second; for sequential and random, of which each
 * step is timed, "steps N COUNT P50_NS P99_NS MAX_NS". "check" is answered by "ok", or "bad N" (N words
 * differ).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "latency.h"

#define PAGE_BYTES ((size_t)4096)
#define BLOCKS     512
#define HOT_WORDS  ((size_t)1 << 17)
#define READS      32
/* Steps between two looks at the clock. */
#define BURST 256

struct victim {
    uint64_t random;
    char *block[BLOCKS];
    uint64_t *memory, *hot;
    size_t pages, next_page;
    struct sp_histogram took;
    uint64_t sum; /* of what was read, so that it must be */
};

static uint64_t next(struct victim *v) {
    v->random ^= v->random << 13;
    v->random ^= v->random >> 7;
    v->random ^= v->random << 17;
    return v->random;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *mapped(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

static void step_malloc(struct victim *v) {
    char **block = &v->block[next(v) % BLOCKS];
    size_t bytes = 16 + next(v) % 2033;
    free(*block);
    *block = malloc(bytes);
    if (!*block)
        fail("malloc");
    memset(*block, 1, bytes);
}

static void step_mmap(struct victim *v) {
    size_t bytes = 64 * PAGE_BYTES;
    char *p = mapped(bytes);
    for (size_t i = 0; i < bytes; i += 4 * PAGE_BYTES)
        p[i] = 1;
    if (munmap(p + bytes / 2, bytes / 2) || munmap(p, bytes / 2))
        fail("munmap");
    v->sum++;
}

static void step_settled(struct victim *v) {
    const size_t words = PAGE_BYTES / sizeof *v->memory;
    for (int i = 0; i < READS; i++) {
        uint64_t r = next(v);
        v->sum += v->memory[r % v->pages * words + (r >> 32) % words];
    }
    v->hot[next(v) % HOT_WORDS] = v->sum;
}

static uint64_t value_of(size_t word) {
    return (word + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static void write_page(struct victim *v, size_t page) {
    size_t word = page * (PAGE_BYTES / sizeof *v->memory);
    uint64_t begin = latency_now();
    *(volatile uint64_t *)&v->memory[word] = value_of(word);
    sp_histogram_add(&v->took, latency_now() - begin);
}

static void step_sequential(struct victim *v) {
    write_page(v, v->next_page);
    v->next_page = v->next_page + 1 < v->pages / 2 ? v->next_page + 1 : 0;
}

static void step_random(struct victim *v) {
    write_page(v, next(v) % (v->pages / 2));
}

static void fill(struct victim *v, size_t mib) {
    size_t bytes = mib << 20;
    v->pages = bytes / PAGE_BYTES;
    v->memory = mapped(bytes);
    v->hot = mapped(HOT_WORDS * sizeof *v->hot);
    memset(v->hot, 1, HOT_WORDS * sizeof *v->hot);
    for (size_t i = 0; i < bytes / sizeof *v->memory; i++)
        v->memory[i] = value_of(i);
}

static void check(const struct victim *v) {
    size_t bad = 0;
    for (size_t i = 0; i < v->pages * PAGE_BYTES / sizeof *v->memory; i++)
        bad += v->memory[i] != value_of(i);
    if (bad)
        printf("bad %zu\n", bad);
    else
        puts("ok");
}

static double now(void) {
    return (double)latency_now() * 1e-9;
}

static double steps_per_second(struct victim *v, void (*step)(struct victim *), double seconds) {
    double begin = now(), end = begin;
    uint64_t n = 0;
    for (; end - begin < seconds; end = now(), n += BURST)
        for (int i = 0; i < BURST; i++)
            step(v);
    return (double)n / (end - begin);
}

static void work(struct victim *v, void (*step)(struct victim *), double seconds) {
    memset(&v->took, 0, sizeof v->took);
    printf("steps %.1f", steps_per_second(v, step, seconds));
    if (!sp_histogram_total(&v->took)) {
        puts("");
        return;
    }
    printf(" ");
    latency_print(&v->took);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*step)(struct victim *);
        bool fills;
    } modes[] = {{"malloc", step_malloc, false},
                 {"mmap", step_mmap, false},
                 {"churn", step_mmap, true},
                 {"settled", step_settled, true},
                 {"sequential", step_sequential, true},
                 {"random", step_random, true}};
    struct victim v = {.random = 88172645463325252u};
    void (*step)(struct victim *) = NULL;
    bool fills = false;
    for (size_t i = 0; argc == 4 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(argv[1], modes[i].name))
            step = modes[i].step, fills = modes[i].fills;
    if (!step) {
        fprintf(stderr, "usage: victim malloc|mmap|churn|settled|sequential|random MIB SECONDS\n");
        return 2;
    }
    if (fills)
        fill(&v, strtoul(argv[2], NULL, 10));
    double seconds = strtod(argv[3], NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready %p %zu\n", (void *)v.memory, v.pages);
    for (char line[16]; fgets(line, sizeof line, stdin);)
        if (!strcmp(line, "check\n"))
            check(&v);
        else
            work(&v, step, seconds);
    return v.sum == 1; /* never: the sum is used */
}
