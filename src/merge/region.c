/* SPDX-License-Identifier: MIT */
#include "merge/region.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

void sp_regions_init(struct sp_regions *r, const struct sp_alloc *alloc) {
    *r = (struct sp_regions){.alloc = alloc};
}

void sp_regions_deinit(struct sp_regions *r) {
    sp_alloc_put(r->alloc, r->items, r->room * sizeof(*r->items));
    r->items = NULL;
    r->n = r->room = 0;
    r->bytes = 0;
}

/* Room for one more item. */
static bool regions_reserve(struct sp_regions *r) {
    if (r->n < r->room)
        return true;
    size_t room = r->room ? r->room * 2 : 16;
    struct sp_region *items = sp_alloc_get(r->alloc, room * sizeof(*items));
    if (!items)
        return false;
    if (r->n)
        memcpy(items, r->items, r->n * sizeof(*items));
    sp_alloc_put(r->alloc, r->items, r->room * sizeof(*items));
    r->items = items;
    r->room = room;
    return true;
}

static void regions_insert_at(struct sp_regions *r, size_t at, const struct sp_region *region) {
    memmove(&r->items[at + 1], &r->items[at], (r->n - at) * sizeof(*r->items));
    r->items[at] = *region;
    r->n++;
}

static void regions_erase(struct sp_regions *r, size_t first, size_t last) {
    memmove(&r->items[first], &r->items[last], (r->n - last) * sizeof(*r->items));
    r->n -= last - first;
}

size_t sp_regions_find(const struct sp_regions *r, uint64_t address) {
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (r->items[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool sp_regions_overlap(const struct sp_regions *r, uint64_t start, uint64_t end) {
    size_t i = sp_regions_find(r, start);
    return i < r->n && r->items[i].start < end;
}

static bool regions_joinable(const struct sp_region *a, const struct sp_region *b) {
    return a->end == b->start && a->prot == b->prot && a->attributes == b->attributes && a->armed == b->armed;
}

int sp_regions_add(struct sp_regions *r, const struct sp_region *region) {
    size_t at = sp_regions_find(r, region->start);
    if (at > 0 && regions_joinable(&r->items[at - 1], region)) {
        r->items[at - 1].end = region->end;
    } else {
        if (!regions_reserve(r))
            return -ENOMEM;
        regions_insert_at(r, at, region);
        at++;
    }
    if (at < r->n && regions_joinable(&r->items[at - 1], &r->items[at])) {
        r->items[at - 1].end = r->items[at].end;
        regions_erase(r, at, at + 1);
    }
    r->bytes += region->end - region->start;
    return 0;
}

int sp_regions_cut(struct sp_regions *r, uint64_t address) {
    size_t i = sp_regions_find(r, address);
    if (i == r->n || r->items[i].start >= address)
        return 0;
    if (!regions_reserve(r))
        return -ENOMEM;
    struct sp_region upper = r->items[i];
    upper.start = address;
    r->items[i].end = address;
    regions_insert_at(r, i + 1, &upper);
    return 0;
}

void sp_regions_join(struct sp_regions *r, uint64_t start, uint64_t end) {
    size_t i = sp_regions_find(r, start), to, from;
    if (i > 0)
        i--;
    for (to = i, from = i + 1; from < r->n && r->items[from].start <= end; from++) {
        if (regions_joinable(&r->items[to], &r->items[from]))
            r->items[to].end = r->items[from].end;
        else
            r->items[++to] = r->items[from];
    }
    if (from > to + 1 && to < r->n)
        regions_erase(r, to + 1, from);
}

int sp_regions_remove(struct sp_regions *r, uint64_t start, uint64_t end) {
    size_t i = sp_regions_find(r, start);
    int result = 0;
    if (i < r->n && r->items[i].start < start) {
        struct sp_region *lower = &r->items[i];
        if (lower->end > end) {
            result = sp_regions_cut(r, end);
            if (result) {
                r->bytes -= lower->end - start;
                lower->end = start;
                return result;
            }
            lower = &r->items[i];
        }
        r->bytes -= lower->end - start;
        lower->end = start;
        i++;
    }
    size_t last = i;
    while (last < r->n && r->items[last].end <= end) {
        r->bytes -= r->items[last].end - r->items[last].start;
        last++;
    }
    if (last < r->n && r->items[last].start < end) {
        r->bytes -= end - r->items[last].start;
        r->items[last].start = end;
    }
    if (last > i)
        regions_erase(r, i, last);
    return result;
}

/* The pages of a window that lie in a region. */
static void region_bits(const struct sp_region *region, uint64_t base, sp_bits *bits) {
    uint64_t end = base + SP_WINDOW_SIZE;
    uint64_t from = region->start > base ? region->start : base, to = region->end < end ? region->end : end;
    sp_bits_range(bits, (unsigned)((from - base) >> SP_PAGE_SHIFT), (unsigned)((to - base) >> SP_PAGE_SHIFT));
}

void sp_regions_window(const struct sp_regions *r, uint64_t window, sp_bits *ret_bits) {
    uint64_t base = window * SP_WINDOW_SIZE, end = base + SP_WINDOW_SIZE;
    const int both = PROT_READ | PROT_WRITE;
    memset(ret_bits, 0, sizeof(*ret_bits));
    for (size_t i = sp_regions_find(r, base); i < r->n && r->items[i].start < end; i++)
        if ((r->items[i].prot & both) == both)
            region_bits(&r->items[i], base, ret_bits);
}

void sp_regions_armed(const struct sp_regions *r, uint64_t window, sp_bits *ret_bits) {
    uint64_t base = window * SP_WINDOW_SIZE, end = base + SP_WINDOW_SIZE;
    memset(ret_bits, 0, sizeof(*ret_bits));
    for (size_t i = sp_regions_find(r, base); i < r->n && r->items[i].start < end; i++)
        if (r->items[i].armed)
            region_bits(&r->items[i], base, ret_bits);
}

void sp_regions_unarm(struct sp_regions *r, uint64_t start, uint64_t end) {
    for (size_t i = sp_regions_find(r, start); i < r->n && r->items[i].start < end; i++)
        r->items[i].armed = false;
}
