/* SPDX-License-Identifier: MIT */
/*
 * What the programs of this folder share: memory whose content is known page by page, and what the kernel
 * says about it. The oracle is a number for each page; a page with number t holds the words t * ODD + 0, 1,
 * ... Nothing here knows of samepage: these are the ordinary programs that it serves.
 */
#ifndef HAZARDS_AREA_H
#define HAZARDS_AREA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE  ((size_t)4096)
#define WORDS (PAGE / 8)
#define MIB   ((size_t)1 << 20)
#define ODD   UINT64_C(0x9e3779b97f4a7c15)

struct area {
    unsigned char *p;
    size_t pages;
    uint64_t *number; /* what each page must hold; malloc memory, never advised */
};

/* Fresh private anonymous memory; its second half holds the same as its first when `twins`. */
struct area area_new(size_t bytes, uint64_t first, bool twins);
void area_write(struct area *a, size_t page, uint64_t number);
void area_advise(const struct area *a);
/* Pages that do not hold what they must. Uses no C library: also for children of a raw clone. */
size_t area_bad(const struct area *a);
/* Pages that lie in a mapping of the store. */
size_t area_merged(const struct area *a);
/* Waits for all of it; ends the program when it never happens. */
void area_wait_merged(const struct area *a);
bool page_holds(const void *page, uint64_t number);

/* Tasks in /proc/self/task, lines of /proc/self/maps, descriptors in /proc/self/fd. */
size_t threads_count(void);
size_t mappings_count(void);
size_t descriptors_count(void);

/* System calls that nothing stands in front of; a sixth argument is 0. */
long raw_call(long number, long a, long b, long c, long d, long e);
/* fork by the system call alone: nobody in this process hears of it. */
int raw_clone(void);

/* Prints "KEY VALUE" as a line of its own, at once. */
void tell(const char *key, long value);
/* Says why and ends the program with status 3: the scene could not be set, nothing was found out. */
_Noreturn void give_up(const char *why);

/* The scenes; main.c has what each of them is for. */
void scene_dump(void);
void scene_filter(void);
void scene_holder(void);
void scene_refused(void);
void scene_closefrom(void);
void scene_threads(void);
void scene_scattered(void);
void scene_grandchild(void);
void scene_clones(void);
void scene_hold(void);
void scene_raw_replace(void);
void scene_raw_unmap(void);
void scene_raw_move(void);
void scene_direct(const char *directory);
void scene_fixed(const char *directory);

#endif
