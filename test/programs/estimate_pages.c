/* SPDX-License-Identifier: MIT */
/*
 * Usage: estimate_pages SEED WHAT:PAGES...
 * Has memory of which is known what is in it, says "ready", and waits for the end of its input. Each WHAT is
 * a mapping of its own: unique    no two pages alike, here or in a process with another seed common    no two
 * pages alike, but the same in every process twins     copies of one page, another one for each seed zero
 * written zeros read      only read, so that they are the kernel's page of zeros alike     as unique, but
 * mostly zeros, and the same in most cache lines scattered as common, every second page; between them unique
 * ones huge      as common, in huge pages where the kernel has them; PAGES is a multiple of 512 readonly  as
 * common, made read-only, which cannot be merged file      a private mapping of this program, written: as
 * common sparse    as common, every thousandth page of a large mapping forked    as common; a child has the
 * same pages (fork) vforked   as common; a child has the same memory (vfork) stack     as common, on the
 * stack
 */
#include <alloca.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define HUGE (2UL << 20)

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void fill(char *page, uint64_t seed, uint64_t i) {
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xbf58476d1ce4e5b9) + 1;
    for (size_t k = 0; k < PAGE / 8; k++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        memcpy(page + k * 8, &(uint64_t){x ^ x >> 29}, 8);
    }
}

static char *map(size_t bytes, int advice) {
    char *p = mmap(NULL, bytes + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    p = (char *)(((uintptr_t)p + HUGE) & ~(HUGE - 1)); /* something without access on both sides */
    if (mprotect(p, bytes, PROT_READ | PROT_WRITE))
        fail("mprotect");
    (void)madvise(p, bytes, advice);
    return p;
}

static void fill_all(char *p, size_t pages, uint64_t seed) {
    for (size_t i = 0; i < pages; i++)
        fill(p + i * PAGE, seed, i);
}

static char *map_file(size_t pages) {
    int fd = open("/proc/self/exe", O_RDONLY);
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        fail("mmap of a file");
    close(fd);
    return p;
}

static void child(int shares_memory) {
    pid_t parent = getpid();
    pid_t pid = shares_memory ? vfork() : fork();
    if (pid < 0)
        fail("fork");
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(0);
        for (;;)
            pause();
    }
}

/* A vfork holds its parent until the child has ended: another thread of the process would have to go on. So
 * the child of a child is it. */
static void vforked(void) {
    pid_t pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        child(1);
    }
}

static volatile char *on_stack;

static void wait_for_end(void) {
    char c;
    printf("ready\n");
    fflush(stdout);
    while (read(0, &c, 1) > 0)
        ;
}

static void use_stack(size_t pages) {
    char *p = alloca((pages + 1) * PAGE);
    p = (char *)(((uintptr_t)p + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    fill_all(p, pages, 0);
    on_stack = p;
    wait_for_end();
    exit(0);
}

static void make(const char *what, size_t n, uint64_t seed) {
    if (!strcmp(what, "unique")) {
        fill_all(map(n * PAGE, MADV_NOHUGEPAGE), n, seed);
    } else if (!strcmp(what, "common")) {
        fill_all(map(n * PAGE, MADV_NOHUGEPAGE), n, 0);
    } else if (!strcmp(what, "twins")) {
        char *p = map(n * PAGE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < n; i++)
            fill(p + i * PAGE, seed, UINT64_C(1) << 40);
    } else if (!strcmp(what, "zero")) {
        char *p = map(n * PAGE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < n; i++)
            *(volatile char *)(p + i * PAGE) = 0;
    } else if (!strcmp(what, "read")) {
        char *p = map(n * PAGE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < n; i++)
            (void)*(volatile char *)(p + i * PAGE);
    } else if (!strcmp(what, "alike")) {
        char *p = map(n * PAGE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < n; i++)
            memcpy(p + i * PAGE + i % 512 * 8, &(uint64_t){seed << 32 | (i + 1)}, 8);
    } else if (!strcmp(what, "scattered")) {
        char *p = map(n * 2 * PAGE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < 2 * n; i++)
            fill(p + i * PAGE, i % 2 ? seed : 0, i % 2 ? i + (UINT64_C(1) << 41) : i / 2);
    } else if (!strcmp(what, "huge")) {
        fill_all(map(n * PAGE, MADV_HUGEPAGE), n, 0);
    } else if (!strcmp(what, "readonly")) {
        char *p = map(n * PAGE, MADV_NOHUGEPAGE);
        fill_all(p, n, 0);
        mprotect(p, n * PAGE, PROT_READ);
    } else if (!strcmp(what, "file")) {
        fill_all(map_file(n), n, 0);
    } else if (!strcmp(what, "sparse")) {
        char *p = map(n * 1000 * PAGE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < n; i++)
            fill(p + i * 1000 * PAGE, 0, i);
    } else if (!strcmp(what, "forked")) {
        fill_all(map(n * PAGE, MADV_NOHUGEPAGE), n, 0);
        child(0);
    } else if (!strcmp(what, "vforked")) {
        fill_all(map(n * PAGE, MADV_NOHUGEPAGE), n, 0);
        vforked();
    } else if (!strcmp(what, "stack")) {
        use_stack(n);
    } else {
        fprintf(stderr, "estimate_pages: what is '%s'?\n", what);
        exit(2);
    }
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 2; i < argc; i++) {
        char *colon = strchr(argv[i], ':');
        if (!colon)
            return 2;
        *colon = 0;
        if (!strcmp(argv[i], "name"))
            prctl(PR_SET_NAME, colon + 1);
        else
            make(argv[i], strtoul(colon + 1, NULL, 10), strtoul(argv[1], NULL, 10) + 1);
    }
    wait_for_end();
    return 0;
}
