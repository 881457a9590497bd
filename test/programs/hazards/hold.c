/* SPDX-License-Identifier: MIT */
/*
 * A program that does what standard input says and answers each line with one, so that things can be done to
 * its daemon at any moment of its life:
 *
 *     twins FIRST MIB    new memory whose halves are alike, advised   -> its number
 *     unique FIRST MIB   new memory with no two pages alike, advised  -> its number
 *     merged N           pages of it that are merged
 *     write N FIRST      writes every second page of it               -> 0
 *     bad                pages of all memory that do not hold what was written last
 */
#include <stdio.h>
#include <string.h>

#include "area.h"

#define AREAS_MAX 64

static struct area areas[AREAS_MAX];
static size_t n_areas;

static long make(uint64_t first, size_t mib, bool twins) {
    if (n_areas == AREAS_MAX)
        give_up("too many areas");
    areas[n_areas] = area_new(mib * MIB, first, twins);
    area_advise(&areas[n_areas]);
    return (long)n_areas++;
}

static long rewrite(struct area *a, uint64_t first) {
    for (size_t i = 0; i < a->pages; i += 2)
        area_write(a, i, first + i);
    return 0;
}

static long obey(const char *word, uint64_t x, uint64_t y) {
    if (strcmp(word, "twins") == 0 || strcmp(word, "unique") == 0)
        return make(x, y, word[0] == 't');
    if (strcmp(word, "merged") == 0 && x < n_areas)
        return (long)area_merged(&areas[x]);
    if (strcmp(word, "write") == 0 && x < n_areas)
        return rewrite(&areas[x], y);
    if (strcmp(word, "bad") != 0)
        give_up(word);
    long bad = 0;
    for (size_t i = 0; i < n_areas; i++)
        bad += (long)area_bad(&areas[i]);
    return bad;
}

void scene_hold(void) {
    char line[128], word[32];
    while (fgets(line, sizeof(line), stdin)) {
        uint64_t x = 0, y = 0;
        if (sscanf(line, "%31s %lu %lu", word, &x, &y) < 1)
            continue;
        tell(word, obey(word, x, y));
    }
}
