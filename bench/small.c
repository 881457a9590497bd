/* SPDX-License-Identifier: MIT */
/*
 * Many small programs that share everything, each a process of its own with its own worker (libsamepage).
 *
 *   small SOCKET PROCESSES MIB [WRITERS RATE]
 *
 * Each fills MIB of memory with the same contents and registers it. The first WRITERS write, from "go" on,
 * RATE pages in a second each, one in 10 ms at the least. Says "ready" when all have registered; "go" on its
 * input lets them write, "stop" stops that; the end of its input ends them all. Before they end each compares
 * its memory with what it must be, and the exit status tells.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "samepage/samepage.h"

#define PAGE_BYTES ((size_t)4096)
#define WORDS      (PAGE_BYTES / sizeof(uint64_t))
#define TICK_NS    10000000

/* Shared by all: what they are to do. */
struct orders {
    bool write, end;
    int ready;
};

static volatile struct orders *orders;
static size_t pages;

static uint64_t word_of(uint64_t page, size_t word) {
    uint64_t x = (page * WORDS + word + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static void page_fill(uint64_t *memory, uint64_t page) {
    for (size_t i = 0; i < WORDS; i++)
        memory[page * WORDS + i] = word_of(page, i);
}

static bool all_good(const uint64_t *memory) {
    for (uint64_t page = 0; page < pages; page++)
        for (size_t i = 1; i < WORDS; i++)
            if (memory[page * WORDS + i] != word_of(page, i))
                return false;
    return true;
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
}

/* Only the first word of a page changes. */
static void write_some(uint64_t *memory, unsigned rate, uint64_t *seed) {
    for (unsigned i = 0; i < (rate + 99) / 100; i++) {
        *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        memory[(*seed >> 33) % pages * WORDS]++;
    }
}

static int program(const char *socket, bool writes, unsigned rate) {
    struct samepage_options options = {.size = sizeof options, .socket_path = socket};
    samepage_domain *domain;
    samepage_region *region;
    uint64_t seed = (uint64_t)getpid();
    uint64_t *memory =
        mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 2;
    for (uint64_t page = 0; page < pages; page++)
        page_fill(memory, page);
    if (samepage_domain_open(&options, &domain) ||
        samepage_register(domain, memory, pages * PAGE_BYTES, 0, &region))
        return 2;
    __atomic_fetch_add(&orders->ready, 1, __ATOMIC_SEQ_CST);
    while (!orders->end && writes) {
        if (orders->write)
            write_some(memory, rate, &seed);
        nap();
    }
    while (!orders->end) /* woken by a signal, and otherwise not at all */
        pause();
    return all_good(memory) ? 0 : 3;
}

static void wake(int unused) {
}

static pid_t *start_all(const char *socket, size_t n, size_t writers, unsigned rate) {
    pid_t *pids = calloc(n, sizeof *pids);
    for (size_t i = 0; pids && i < n; i++) {
        pids[i] = fork();
        if (pids[i] < 0) {
            perror("small: fork");
            exit(1);
        }
        if (!pids[i]) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(program(socket, i < writers, rate));
        }
    }
    return pids;
}

static int end_all(const pid_t *pids, size_t n) {
    int status, bad = 0;
    orders->end = true;
    for (size_t i = 0; i < n; i++) {
        pid_t ended;
        while ((ended = waitpid(pids[i], &status, WNOHANG)) == 0) {
            kill(pids[i], SIGUSR1); /* again: it may just have been about to sleep */
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        bad += ended != pids[i] || status != 0;
    }
    if (bad)
        fprintf(stderr, "small: %d processes failed, or have found their memory changed\n", bad);
    return bad != 0;
}

int main(int argc, char **argv) {
    char line[16];
    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: small SOCKET PROCESSES MIB [WRITERS RATE]\n");
        return 2;
    }
    size_t n = strtoul(argv[2], NULL, 10);
    pages = strtoul(argv[3], NULL, 10) << 8;
    orders = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sigaction act = {.sa_handler = wake};
    if (!n || !pages || orders == MAP_FAILED || sigaction(SIGUSR1, &act, NULL))
        return 2;
    pid_t *pids = start_all(argv[1], n, argc > 5 ? strtoul(argv[4], NULL, 10) : 0,
                            argc > 5 ? (unsigned)strtoul(argv[5], NULL, 10) : 0);
    while (orders->ready < (int)n && waitpid(-1, NULL, WNOHANG) == 0)
        nap();
    if (orders->ready < (int)n) {
        fprintf(stderr, "small: a process has ended\n");
        return 1;
    }
    puts("ready");
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        orders->write = line[0] == 'g';
    return end_all(pids, n);
}
