/* SPDX-License-Identifier: MIT */
/*
 * What programs share that make calls with the shim and without it, to be compared: memory whose content is
 * known, and a line for each call that says what it returned, errno, and what memory looks like, never an
 * address. A program is a list of cases; without an argument it prints their names.
 */
#ifndef SP_TEST_CALLS_H
#define SP_TEST_CALLS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#define PAGE  ((size_t)4096)
#define PAGES ((size_t)512)
#define AREA  (PAGES * PAGE)

/* Whether this is run with the shim, which must then have merged what is advised before a case goes on. */
static bool with_shim;

/* ---- what is printed ---- */

static inline void say(const char *what, long result) {
    int error = errno;
    if (result == -1)
        printf("%s: %s\n", what, strerrorname_np(error));
    else
        printf("%s: %ld\n", what, result);
    errno = 0;
}

#define CALL(...) (errno = 0, say(#__VA_ARGS__, (long)(__VA_ARGS__)))
/* For calls that return an address: only whether it is the expected one. */
#define CALL_AT(expected, ...) (errno = 0, say_address(#__VA_ARGS__, (__VA_ARGS__), (expected)))

static inline void say_address(const char *what, const void *got, const void *expected) {
    int error = errno;
    if (got == MAP_FAILED)
        printf("%s: %s\n", what, strerrorname_np(error));
    else
        printf("%s: %s\n", what, got == expected ? "there" : "elsewhere");
    errno = 0;
}

/* ---- memory ---- */

static inline void fill(unsigned char *p, size_t pages) {
    for (size_t i = 0; i < pages; i++) {
        uint64_t *w = (uint64_t *)(p + i * PAGE);
        for (size_t k = 0; k < PAGE / 8; k++)
            w[k] = (i % 64 + 1) * 1000003 + k;
    }
}

static inline bool is_filled(const unsigned char *p, size_t index) {
    const uint64_t *w = (const uint64_t *)p;
    for (size_t k = 0; k < PAGE / 8; k++)
        if (w[k] != (index % 64 + 1) * 1000003 + k)
            return false;
    return true;
}

static inline bool is_zero(const unsigned char *p) {
    for (size_t k = 0; k < PAGE; k++)
        if (p[k])
            return false;
    return true;
}

/* What the pages look like, as runs: "200 filled, 3 zero, ..."; page k of [p) was filled as `first` + k. */
static inline void show(const char *what, const unsigned char *p, size_t pages, size_t first) {
    static const char *const names[] = {"filled", "zero", "other"};
    size_t run = 0;
    int last = -1;
    printf("%s:", what);
    for (size_t i = 0; i <= pages; i++) {
        int now = i == pages ? -1 : is_filled(p + i * PAGE, first + i) ? 0 : is_zero(p + i * PAGE) ? 1 : 2;
        if (now != last && run) {
            printf(" %zu %s", run, names[last]);
            run = 0;
        }
        last = now;
        run++;
    }
    printf("\n");
}

static inline size_t mapped_from_store(const unsigned char *p, size_t bytes) {
    char line[512];
    size_t sum = 0;
    uintptr_t from = (uintptr_t)p, to = from + bytes;
    FILE *f = fopen("/proc/thread-self/maps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long start, end;
        if (!strstr(line, "/memfd:samepage") || sscanf(line, "%lx-%lx", &start, &end) != 2)
            continue;
        start = start < from ? from : start;
        end = end > to ? to : end;
        if (start < end)
            sum += end - start;
    }
    if (f)
        fclose(f);
    return sum;
}

static inline void wait_merged(const unsigned char *p, size_t bytes) {
    if (!with_shim)
        return;
    for (int i = 0; i < 3000; i++) {
        if (mapped_from_store(p, bytes) == bytes)
            return;
        usleep(10000);
    }
    fprintf(stderr, "only %zu of %zu bytes are merged\n", mapped_from_store(p, bytes), bytes);
    exit(3);
}

/* An area in the middle of unusable memory, so that nothing lies beside it by chance. */
static inline unsigned char *area_new(void) {
    unsigned char *p = mmap(NULL, 5 * AREA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    unsigned char *middle = p + 2 * AREA;
    if (p == MAP_FAILED ||
        mmap(middle, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != middle)
        exit(4);
    fill(middle, PAGES);
    return middle;
}

/* Pages are alike within an area (64 contents, 8 times each), so one process finds its own twins. */
static inline unsigned char *area_merged(void) {
    unsigned char *p = area_new();
    if (madvise(p, AREA, MADV_MERGEABLE))
        exit(5);
    wait_merged(p, AREA);
    return p;
}

static inline bool is_mapped(const void *p, size_t bytes) {
    return msync((void *)(uintptr_t)p, bytes, MS_ASYNC) == 0;
}

/* The exit status of a child, or -signal. */
static inline int reap(pid_t pid) {
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1000;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline int count_filled(const unsigned char *p, size_t pages) {
    int n = 0;
    for (size_t i = 0; i < pages; i++)
        n += is_filled(p + i * PAGE, i);
    return n;
}

/* Of the mappings in the range, how many bytes have this flag in VmFlags. */
static inline size_t flagged(const unsigned char *p, size_t bytes, const char *flag) {
    char line[512], wanted[8];
    size_t sum = 0;
    unsigned long start = 0, end = 0;
    uintptr_t from = (uintptr_t)p, to = from + bytes;
    snprintf(wanted, sizeof(wanted), " %s ", flag);
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long a, b;
        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            start = a < from ? from : a;
            end = b > to ? to : b;
        } else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, wanted) && start < end) {
            sum += end - start;
        }
    }
    if (f)
        fclose(f);
    return sum;
}

#define PM_PRESENT   (UINT64_C(1) << 63)
#define PM_FILE      (UINT64_C(1) << 61) /* shared with a file, or a page of shared memory */
#define PM_EXCLUSIVE (UINT64_C(1) << 56)

/* How many pages have these bits of pagemap set and no other of them. */
static inline size_t pages_with(const unsigned char *p, size_t pages, uint64_t set, uint64_t of) {
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    for (size_t i = 0; i < pages; i++) {
        uint64_t entry = 0;
        if (pread(fd, &entry, 8, (off_t)(((uintptr_t)p / PAGE + i) * 8)) == 8)
            n += (entry & of) == set;
    }
    close(fd);
    return n;
}

/* Pages that nobody else has: what UNMERGEABLE promises of all. */
static inline size_t private_pages(const unsigned char *p, size_t pages) {
    return pages_with(p, pages, PM_PRESENT | PM_EXCLUSIVE, PM_PRESENT | PM_EXCLUSIVE | PM_FILE);
}

/* Pages that are shared by way of the store. */
static inline size_t shared_pages(const unsigned char *p, size_t pages) {
    size_t n = 0;
    for (size_t i = 0; i < pages; i++)
        if (mapped_from_store(p + i * PAGE, PAGE) && *(volatile const unsigned char *)(p + i * PAGE) != 255)
            n += pages_with(p + i * PAGE, 1, PM_PRESENT | PM_FILE, PM_PRESENT | PM_FILE);
    return n;
}

/* ---- cases ---- */

struct call_case {
    const char *name;
    void (*run)(void);
};

static inline int cases_main(int argc, char **argv, const struct call_case *cases, size_t n) {
    with_shim = getenv("SAMEPAGE_SOCKET") != NULL;
    for (size_t i = 0; i < n; i++) {
        if (argc < 2)
            puts(cases[i].name);
        else if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].run();
            return fflush(stdout) ? 1 : 0;
        }
    }
    return argc < 2 ? 0 : 2;
}

#endif
