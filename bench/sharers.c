/* SPDX-License-Identifier: MIT */
/*
 * What the kernel's operations on store pages cost, by how many processes map them (docs/scaling.md).
 *
 *   sharers [PROCESSES...]      (default 1 10 100 1000)
 *
 * The store is a memfd of 64 MiB, as a segment is one of 1 GiB. Each process maps the first half of it
 * privately, as one mapping, and has read it. Then one more process is timed, nanoseconds for each:
 *
 *   map      mapping 2 MiB of the first half, and unmapping it
 *   apart    the same of a memfd that nobody else maps
 *   fault    reading a page (MADV_POPULATE_READ of 512)
 *   copy     writing to a page
 *   punch    giving back a page that is in the page tables of all (never so: references, I2)
 *   beside   giving back a page in the half that nobody maps
 *   between  giving back a page that all have written to, within all their mappings: this happens
 *   range    giving back 32 of these as one range, for each page
 *   2 map    as map, while another process does the same: they meet at the inode's lock
 *   2 apart  as map, while another process does the same on the other memfd
 */
#include <fcntl.h>
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

#define PAGE_BYTES   ((size_t)4096)
#define WINDOW_BYTES ((size_t)2 << 20)
#define STORE_BYTES  ((size_t)64 << 20)
#define MAPPED_BYTES (STORE_BYTES / 2)
#define WRITTEN      64 /* pages at the beginning that every process has written to */
#define TIMES        400

static int store, other;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int file_new(void) {
    static char pages[WINDOW_BYTES];
    int fd = memfd_create("sharers", MFD_CLOEXEC);
    memset(pages, 1, sizeof pages);
    for (size_t at = 0; fd >= 0 && at < STORE_BYTES; at += sizeof pages)
        if (pwrite(fd, pages, sizeof pages, (off_t)at) != (ssize_t)sizeof pages)
            fail("writing the store");
    return fd;
}

static volatile char *map(int fd, size_t bytes, size_t at) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, (off_t)at);
    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

static void unmap(volatile char *p, size_t bytes) {
    union {
        volatile char *in;
        void *out;
    } u = {p};
    if (munmap(u.out, bytes))
        fail("munmap");
}

static void populate(volatile char *p, size_t bytes) {
    union {
        volatile char *in;
        void *out;
    } u = {p};
    if (madvise(u.out, bytes, MADV_POPULATE_READ))
        fail("MADV_POPULATE_READ");
}

static pid_t sharer(int ready) {
    pid_t pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    volatile char *p = map(store, MAPPED_BYTES, 0);
    populate(p, MAPPED_BYTES);
    for (size_t i = 0; i < WRITTEN; i++)
        p[i * PAGE_BYTES] = 2;
    if (write(ready, "", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

/* Each returns nanoseconds. */
static double time_map(int fd) {
    double start = now_ns();
    for (int i = 0; i < TIMES; i++)
        unmap(map(fd, WINDOW_BYTES, WINDOW_BYTES), WINDOW_BYTES);
    return (now_ns() - start) / TIMES;
}

static double time_map_beside(int fd, int others_fd) {
    pid_t pid = fork();
    if (!pid)
        for (prctl(PR_SET_PDEATHSIG, SIGKILL);;)
            (void)time_map(others_fd);
    usleep(20000);
    double ns = time_map(fd);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return ns;
}

static void time_faults(double *ret_read, double *ret_write) {
    volatile char *p = map(store, WINDOW_BYTES, WINDOW_BYTES);
    double start = now_ns();
    populate(p, WINDOW_BYTES);
    *ret_read = (now_ns() - start) / 512;
    start = now_ns();
    for (size_t i = 0; i < 512; i++)
        p[i * PAGE_BYTES] = 3;
    *ret_write = (now_ns() - start) / 512;
    unmap(p, WINDOW_BYTES);
}

/* `n` pages, `at_once` in one call. */
static double time_punch(size_t first, size_t n, size_t at_once) {
    double start = now_ns();
    for (size_t i = 0; i < n; i += at_once)
        if (fallocate(store, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)((first + i) * PAGE_BYTES),
                      (off_t)(at_once * PAGE_BYTES)))
            fail("punching");
    return (now_ns() - start) / (double)n;
}

static void measure(size_t processes) {
    int ready[2];
    char c;
    double fault, copy;
    pid_t *pids = calloc(processes, sizeof *pids);
    store = file_new();
    other = file_new();
    if (!pids || store < 0 || other < 0 || pipe(ready))
        fail("starting");
    for (size_t i = 0; i < processes; i++)
        if ((pids[i] = sharer(ready[1])) < 0)
            fail("fork");
    for (size_t i = 0; i < processes; i++)
        if (read(ready[0], &c, 1) != 1)
            fail("a process");
    time_faults(&fault, &copy);
    printf("%9zu | %7.0f %7.0f %7.0f %7.0f", processes, time_map(store), time_map(other), fault, copy);
    printf(" | %8.0f", time_punch(2048, 64, 1));
    printf(" %8.0f", time_punch(STORE_BYTES / PAGE_BYTES - 64, 64, 1));
    printf(" %8.0f", time_punch(0, WRITTEN / 2, 1));
    printf(" %8.0f", time_punch(WRITTEN / 2, WRITTEN / 2, WRITTEN / 2));
    printf(" | %7.0f %7.0f\n", time_map_beside(store, store), time_map_beside(store, other));
    (void)fflush(stdout);
    for (size_t i = 0; i < processes; i++)
        kill(pids[i], SIGKILL);
    while (waitpid(-1, NULL, 0) > 0)
        ;
    free(pids);
    close(ready[0]);
    close(ready[1]);
    close(store);
    close(other);
}

int main(int argc, char **argv) {
    printf("processes |     map   apart   fault    copy |    punch   beside  between    range |   2 map 2 "
           "apart\n");
    if (argc < 2)
        for (size_t n = 1; n <= 1000; n *= 10)
            measure(n);
    for (int i = 1; i < argc; i++) {
        char *end;
        unsigned long n = strtoul(argv[i], &end, 10);
        if (!n || *end) {
            fprintf(stderr, "usage: sharers [PROCESSES...]\n");
            return 2;
        }
        measure(n);
    }
    return 0;
}
