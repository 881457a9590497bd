/* SPDX-License-Identifier: MIT */
/* See area.h. */
#include "area.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAIT_MS 60000 /* for what will happen; nothing here is about how long it takes */

void tell(const char *key, long value) {
    printf("%s %ld\n", key, value);
    fflush(stdout);
}

void give_up(const char *why) {
    perror(why);
    exit(3);
}

static void page_fill(void *page, uint64_t number) {
    uint64_t *words = page;
    for (size_t i = 0; i < WORDS; i++)
        words[i] = number * ODD + i;
}

bool page_holds(const void *page, uint64_t number) {
    const uint64_t *words = page;
    uint64_t differs = 0;
    for (size_t i = 0; i < WORDS; i++)
        differs |= words[i] ^ (number * ODD + i);
    return !differs;
}

struct area area_new(size_t bytes, uint64_t first, bool twins) {
    struct area a = {.pages = bytes / PAGE};
    a.p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    a.number = malloc(a.pages * sizeof(*a.number));
    if (a.p == MAP_FAILED || !a.number)
        give_up("memory");
    for (size_t i = 0; i < a.pages; i++)
        area_write(&a, i, first + (twins ? i % (a.pages / 2) : i));
    return a;
}

void area_write(struct area *a, size_t page, uint64_t number) {
    page_fill(a->p + page * PAGE, number);
    a->number[page] = number;
}

void area_advise(const struct area *a) {
    if (madvise(a->p, a->pages * PAGE, MADV_MERGEABLE))
        give_up("madvise");
}

size_t area_bad(const struct area *a) {
    size_t bad = 0;
    for (size_t i = 0; i < a->pages; i++)
        bad += !page_holds(a->p + i * PAGE, a->number[i]);
    return bad;
}

/* Bytes of [from, to) in lines of /proc/self/maps that have the text; with NULL all lines are counted. */
static size_t maps_count(const char *text, uint64_t from, uint64_t to) {
    char line[4096];
    size_t found = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    if (!f)
        give_up("/proc/self/maps");
    while (fgets(line, sizeof(line), f)) {
        uint64_t start, end;
        if (!text)
            found++;
        else if (strstr(line, text) && sscanf(line, "%lx-%lx", &start, &end) == 2 && start < to && end > from)
            found += (end < to ? end : to) - (start > from ? start : from);
    }
    fclose(f);
    return found;
}

size_t mappings_count(void) {
    return maps_count(NULL, 0, 0);
}

size_t area_merged(const struct area *a) {
    uint64_t start = (uintptr_t)a->p;
    return maps_count("/memfd:samepage (", start, start + a->pages * PAGE) / PAGE;
}

void area_wait_merged(const struct area *a) {
    for (int ms = 0; ms < WAIT_MS; ms += 5) {
        if (area_merged(a) == a->pages)
            return;
        usleep(5000);
    }
    fprintf(stderr, "only %zu of %zu pages are merged\n", area_merged(a), a->pages);
    exit(3);
}

/* Not by opendir: the shim makes room for whoever counts threads so. */
static size_t entries_count(const char *directory) {
    size_t n = 0;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d)
        give_up(directory);
    for (const struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

size_t threads_count(void) {
    return entries_count("/proc/self/task");
}

/* The one that reads the directory is not counted. */
size_t descriptors_count(void) {
    return entries_count("/proc/self/fd") - 1;
}

long raw_call(long number, long a, long b, long c, long d, long e) {
    long r;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = 0;
    __asm__ volatile("syscall"
                     : "=a"(r)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return r;
}

int raw_clone(void) {
    return (int)raw_call(SYS_clone, 17 /* SIGCHLD */, 0, 0, 0, 0);
}
