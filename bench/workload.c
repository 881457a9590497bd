/* SPDX-License-Identifier: MIT */
/*
 * A program with memory to share, for the benchmark. It knows nothing of samepage or of how it is merged: it
 * fills its memory, asks for merging by madvise(MADV_MERGEABLE) when told to, and later looks at every byte.
 * The same binary serves the kernel's KSM and samepage.
 *
 *   workload same|tenth|scattered MIB SEED
 *
 * same:  page i holds content i, in every process: everything is duplicate, in the same order.
 * tenth: the first tenth of the memory is so; all other pages are found nowhere else.
 * scattered: as tenth, but the pages of each process are shuffled (SEED), so that the common ones lie one by
 *        one at places that differ from process to process.
 *
 * Contents are pseudo random, so that no page resembles another before its first word and none is zero.
 * They are recomputed for the check, never stored: the check does not depend on memory that is being merged.
 *
 * On stdin and stdout, a line at a time: it says "ready PID ADDRESS PAGES"; "go" is answered by "advised",
 * "check" by "ok" or "bad N" (N pages differ), "quit" ends it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)4096)
#define WORDS      (PAGE_BYTES / sizeof(uint64_t))
/* Separates the contents that are found once from those that every process has. */
#define UNIQUE ((uint64_t)1 << 63)

struct workload {
    uint64_t *memory;
    uint64_t pages;
    uint64_t *content; /* which content each page holds; never advised */
};

/* splitmix64: every word is a bijection of a counter, so two different contents differ in every word. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t word_of(uint64_t content_key, size_t i) {
    return mix(content_key + (i + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

static void page_fill(uint64_t *page, uint64_t content) {
    uint64_t key = mix(content);
    for (size_t i = 0; i < WORDS; i++)
        page[i] = word_of(key, i);
}

static int page_holds(const uint64_t *page, uint64_t content) {
    uint64_t key = mix(content), differs = 0;
    for (size_t i = 0; i < WORDS; i++)
        differs |= page[i] ^ word_of(key, i);
    return !differs;
}

static void shuffle(uint64_t *v, uint64_t n, uint64_t seed) {
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = mix(seed * UINT64_C(0x9e3779b97f4a7c15) + i) % i;
        uint64_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

static void contents_choose(struct workload *w, const char *pattern, uint64_t seed) {
    uint64_t common = strcmp(pattern, "same") == 0 ? w->pages : w->pages / 10;
    for (uint64_t i = 0; i < w->pages; i++)
        w->content[i] = i < common ? i : UNIQUE | seed << 40 | i;
    if (strcmp(pattern, "scattered") == 0)
        shuffle(w->content, w->pages, seed);
}

static int workload_init(struct workload *w, const char *pattern, uint64_t mib, uint64_t seed) {
    w->pages = (mib << 20) / PAGE_BYTES;
    size_t bytes = w->pages * PAGE_BYTES;
    w->content = malloc(w->pages * sizeof(*w->content));
    w->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!w->content || w->memory == MAP_FAILED)
        return -1;
    /* A kernel without huge pages refuses this: just as well. */
    (void)madvise(w->memory, bytes, MADV_NOHUGEPAGE);
    contents_choose(w, pattern, seed);
    for (uint64_t i = 0; i < w->pages; i++)
        page_fill(w->memory + i * WORDS, w->content[i]);
    return 0;
}

static uint64_t workload_bad_pages(const struct workload *w) {
    uint64_t bad = 0;
    for (uint64_t i = 0; i < w->pages; i++)
        bad += !page_holds(w->memory + i * WORDS, w->content[i]);
    return bad;
}

static int workload_serve(const struct workload *w) {
    char line[64];
    printf("ready %d %llu %llu\n", (int)getpid(), (unsigned long long)(uintptr_t)w->memory,
           (unsigned long long)w->pages);
    while (fgets(line, sizeof(line), stdin)) {
        if (strcmp(line, "go\n") == 0) {
            if (madvise(w->memory, w->pages * PAGE_BYTES, MADV_MERGEABLE) < 0) {
                perror("workload: madvise(MADV_MERGEABLE)");
                return 1;
            }
            puts("advised");
        } else if (strcmp(line, "check\n") == 0) {
            uint64_t bad = workload_bad_pages(w);
            if (bad)
                printf("bad %llu\n", (unsigned long long)bad);
            else
                puts("ok");
        } else if (strcmp(line, "quit\n") == 0) {
            return 0;
        } else {
            fprintf(stderr, "workload: not understood: %s", line);
            return 2;
        }
    }
    return 0;
}

static bool pattern_known(const char *pattern) {
    return !strcmp(pattern, "same") || !strcmp(pattern, "tenth") || !strcmp(pattern, "scattered");
}

int main(int argc, char **argv) {
    struct workload w;
    if (argc != 4 || !pattern_known(argv[1]) || atoll(argv[2]) <= 0) {
        fprintf(stderr, "usage: workload same|tenth|scattered MIB SEED\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (workload_init(&w, argv[1], strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10)) < 0) {
        perror("workload: memory");
        return 1;
    }
    return workload_serve(&w);
}
