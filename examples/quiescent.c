/* SPDX-License-Identifier: MIT */
/*
 * Merging at a moment of the program's own choice: when it knows that nobody touches the memory, say between
 * loading a model and serving it. Nothing is frozen, and no access to userfaultfd is needed.
 *
 *     cc quiescent.c $(pkg-config --cflags --libs samepage) && ./a.out
 */
#include <samepage/samepage.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define COPIES     4
#define COPY_BYTES ((size_t)8 << 20)

static void check(int error, const char *what) {
    if (!error)
        return;
    fprintf(stderr, "%s: %s\n", what, samepage_strerror(error));
    exit(1);
}

int main(void) {
    char *memory =
        mmap(NULL, COPIES * COPY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    for (size_t i = 0; i < COPIES * COPY_BYTES; i += SAMEPAGE_PAGE_SIZE)
        snprintf(memory + i, SAMEPAGE_PAGE_SIZE, "weight %zu", i % COPY_BYTES);

    samepage_domain *domain;
    samepage_region *region;
    struct samepage_merge_result result = {.size = sizeof(result)};
    check(samepage_domain_open(NULL, &domain), "samepage_domain_open");
    check(samepage_register(domain, memory, COPIES * COPY_BYTES, 0, &region), "samepage_register");
    check(samepage_merge(domain, memory, COPIES * COPY_BYTES, SAMEPAGE_QUIESCENT, &result), "samepage_merge");
    printf("%llu pages merged, %llu refused\n", (unsigned long long)result.merged_pages,
           (unsigned long long)result.refused_pages);

    /* A page that is written has its own copy, until the next call that says that nobody touches it. */
    for (size_t i = 0; i < COPY_BYTES; i += 10 * SAMEPAGE_PAGE_SIZE)
        memory[i] ^= 1;
    for (size_t i = 0; i < COPY_BYTES; i += 10 * SAMEPAGE_PAGE_SIZE)
        memory[i] ^= 1;
    check(samepage_merge(domain, memory, COPIES * COPY_BYTES, SAMEPAGE_QUIESCENT, &result), "samepage_merge");
    printf("%llu pages merged again\n", (unsigned long long)result.merged_pages);

    int intact = 1;
    for (size_t i = 0; i < COPIES; i++)
        intact = intact && !memcmp(memory, memory + i * COPY_BYTES, COPY_BYTES);
    puts(intact ? "memory intact" : "memory damaged");

    /* What is shared stays shared, until it is written or unmapped. */
    check(samepage_domain_close(domain, SAMEPAGE_KEEP_MERGED), "samepage_domain_close");
    return intact && result.merged_pages ? 0 : 1;
}
