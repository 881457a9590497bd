/* SPDX-License-Identifier: MIT */
/*
 * H1, I8: a program that advises memory through the C library and then changes its mappings by instructions
 * of its own, which nobody can hear of, while they are being merged. It keeps its own record of every byte
 * and looks at all of it for several seconds.
 *
 * Each round has an area whose pages the index comes to know and nobody shares, and then its twin: from there
 * on the first one is merged without being read again. (The worker may be killed, and the program with it,
 * where memory is unmapped in the moment in which it is read for the first time: H22, not noticed.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "area.h"

#define SECONDS 5
#define BYTES   (32 * MIB)
#define PIECE   32 /* pages that are changed at a time */

static uint64_t numbers = 1; /* no content comes twice */
static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static int64_t milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static unsigned char *raw_map(unsigned char *at, size_t bytes, int flags) {
    long r = raw_call(SYS_mmap, (long)at, (long)bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | flags, -1);
    if (r < 0 && r > -4096)
        give_up("raw mmap");
    return (unsigned char *)r;
}

static void replace_by_mmap(unsigned char *p, size_t bytes) {
    raw_map(p, bytes, MAP_FIXED);
}

static void replace_by_munmap(unsigned char *p, size_t bytes) {
    if (raw_call(SYS_munmap, (long)p, (long)bytes, 0, 0, 0))
        give_up("raw munmap");
    raw_map(p, bytes, MAP_FIXED);
}

static void area_end(struct area *a) {
    munmap(a->p, a->pages * PAGE);
    free(a->number);
}

static struct area twin_of(const struct area *a) {
    struct area b = area_new(a->pages * PAGE, a->number[0], false);
    for (size_t i = 0; i < a->pages; i++)
        area_write(&b, i, a->number[i]);
    return b;
}

/* New memory in the place of a piece, and new content in it, while the area is being merged. */
static void change_pieces(struct area *a, void (*replace)(unsigned char *p, size_t bytes), int ms) {
    for (int64_t end = milliseconds() + ms; milliseconds() < end;) {
        size_t first = random_next() % (a->pages - PIECE);
        replace(a->p + first * PAGE, PIECE * PAGE);
        for (size_t i = first; i < first + PIECE; i++)
            area_write(a, i, numbers++);
    }
}

/* Waits to be told to end, so that others can look at it while it lives. */
static void wait_for_end(void) {
    char line[16];
    if (!fgets(line, sizeof(line), stdin))
        give_up("standard input");
}

/* Until some of it is merged; not for ever, since merging is to end. */
static void wait_for_some(const struct area *a) {
    for (int64_t end = milliseconds() + 150; !area_merged(a) && milliseconds() < end;)
        ;
}

static void play_changes(void (*replace)(unsigned char *p, size_t bytes)) {
    long bad = 0, rounds = 0;
    for (int64_t end = milliseconds() + SECONDS * 1000; milliseconds() < end; rounds++) {
        struct area a = area_new(BYTES, numbers, false);
        numbers += a.pages;
        area_advise(&a);
        usleep(150000); /* until the index knows it */
        struct area b = twin_of(&a);
        area_advise(&b);
        wait_for_some(&a);
        change_pieces(&a, replace, 20);
        bad += (long)(area_bad(&a) + area_bad(&b));
        usleep(20000);
        bad += (long)(area_bad(&a) + area_bad(&b));
        area_end(&a);
        area_end(&b);
    }
    struct area c = area_new(BYTES, numbers, true);
    area_advise(&c);
    usleep(300000);
    tell("bad", bad);
    tell("merged_after", (long)area_merged(&c));
    tell("threads", (long)threads_count());
    tell("rounds", rounds > 5);
    wait_for_end();
}

void scene_raw_replace(void) {
    play_changes(replace_by_mmap);
}

void scene_raw_unmap(void) {
    play_changes(replace_by_munmap);
}

/* The record goes along to where a part of the area is moved; the old place gets new memory and content. */
static struct area move_away(struct area *a, size_t first, size_t pages, unsigned char *to) {
    struct area moved = {.p = to, .pages = pages, .number = malloc(pages * sizeof(*moved.number))};
    unsigned char *from = a->p + first * PAGE;
    if (raw_call(SYS_mremap, (long)from, (long)(pages * PAGE), (long)(pages * PAGE),
                 MREMAP_MAYMOVE | MREMAP_FIXED, (long)to) != (long)to)
        give_up("raw mremap");
    memcpy(moved.number, a->number + first, pages * sizeof(*moved.number));
    raw_map(from, pages * PAGE, MAP_FIXED);
    for (size_t i = first; i < first + pages; i++)
        area_write(a, i, numbers++);
    return moved;
}

/* All of it is merged, and the mappings of the store are moved piece by piece. What they share with is
 * written by and by: theirs become the last references. */
void scene_raw_move(void) {
    struct area a = area_new(BYTES, numbers, true), moved[BYTES / (2 * MIB)];
    size_t half = a.pages / 2, step = 2 * MIB / PAGE, n = 0;
    long bad = 0;
    numbers += a.pages;
    area_advise(&a);
    area_wait_merged(&a);
    for (size_t i = half; i < a.pages; i++)
        area_write(&a, i, numbers++);
    usleep(500000); /* until these have given their references back */
    unsigned char *room = raw_map(NULL, BYTES, MAP_NORESERVE);
    for (size_t first = 0; first < half; first += step)
        moved[n++] = move_away(&a, first, step, room + first * PAGE);
    for (int64_t end = milliseconds() + SECONDS * 1000; milliseconds() < end; usleep(50000)) {
        bad += (long)area_bad(&a);
        for (size_t i = 0; i < n; i++)
            bad += (long)area_bad(&moved[i]);
    }
    struct area c = area_new(BYTES, numbers, true);
    area_advise(&c);
    usleep(300000);
    tell("bad", bad);
    tell("merged_after", (long)area_merged(&c));
    tell("threads", (long)threads_count());
    wait_for_end();
}
