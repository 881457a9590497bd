/* SPDX-License-Identifier: MIT */
/* A sequence lock around a sorted array: see the header. */
#include "preload/ranges.h"

static uint64_t load(const uint64_t *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store(uint64_t *p, uint64_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static void item_set(struct sp_range *to, uint64_t start, uint64_t end) {
    store(&to->start, start);
    store(&to->end, end);
}

/* Index of the first of `n` items that ends after `address`. */
static uint32_t find(const struct ranges *r, uint32_t n, uint64_t address) {
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (load(&r->items[middle].end) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool ranges_overlap(const struct ranges *r, uint64_t start, uint64_t end) {
    /* Pairs with the release fence in change_begin: what left this set went into another before. */
    if (!__atomic_load_n(&r->n, __ATOMIC_ACQUIRE))
        return false;
    for (;;) {
        uint32_t before = __atomic_load_n(&r->sequence, __ATOMIC_ACQUIRE);
        uint32_t n = __atomic_load_n(&r->n, __ATOMIC_RELAXED);
        uint32_t i = find(r, n, start);
        bool yes = i < n && load(&r->items[i].start) < end;
        /* Pairs with the release fence in change_begin: what was read is older than the number read next. */
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && __atomic_load_n(&r->sequence, __ATOMIC_RELAXED) == before)
            return yes;
    }
}

static void change_begin(struct ranges *r) {
    __atomic_store_n(&r->sequence, r->sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

/* Pairs with the acquire load of the number in ranges_overlap. */
static void change_end(struct ranges *r) {
    __atomic_store_n(&r->sequence, r->sequence + 1, __ATOMIC_RELEASE);
}

/* Replaces items [first, last) by room for `count` new ones. */
static void splice(struct ranges *r, uint32_t first, uint32_t last, uint32_t count) {
    uint32_t tail = r->n - last, to = first + count;
    if (to < last)
        for (uint32_t i = 0; i < tail; i++)
            item_set(&r->items[to + i], r->items[last + i].start, r->items[last + i].end);
    else if (to > last)
        for (uint32_t i = tail; i-- > 0;)
            item_set(&r->items[to + i], r->items[last + i].start, r->items[last + i].end);
    __atomic_store_n(&r->n, to + tail, __ATOMIC_RELAXED);
}

bool ranges_add(struct ranges *r, uint64_t start, uint64_t end) {
    /* Those that touch it are swallowed: an item that ends at `start`, too. */
    uint32_t first = find(r, r->n, start ? start - 1 : 0), last = first;
    while (last < r->n && r->items[last].start <= end)
        last++;
    if (first == last && r->n >= r->room)
        return false;
    if (last > first) {
        if (r->items[first].start < start)
            start = r->items[first].start;
        if (r->items[last - 1].end > end)
            end = r->items[last - 1].end;
    }
    change_begin(r);
    splice(r, first, last, 1);
    item_set(&r->items[first], start, end);
    change_end(r);
    return true;
}

/* No room for the two ends of one item: leaves all of it or only its longer end. */
static void cut_full(struct ranges *r, struct sp_range *item, uint64_t start, uint64_t end) {
    if (r->keep)
        return;
    change_begin(r);
    if (start - item->start > item->end - end)
        item_set(item, item->start, start);
    else
        item_set(item, end, item->end);
    change_end(r);
}

void ranges_cut(struct ranges *r, uint64_t start, uint64_t end) {
    if (!r->n)
        return;
    uint32_t first = find(r, r->n, start), last = first;
    while (last < r->n && r->items[last].start < end)
        last++;
    if (first == last)
        return;
    struct sp_range lower = {r->items[first].start, start};
    struct sp_range upper = {end, r->items[last - 1].end};
    uint32_t count = (uint32_t)(lower.start < lower.end) + (uint32_t)(upper.start < upper.end);
    if (r->n - (last - first) + count > r->room) {
        cut_full(r, &r->items[first], start, end);
        return;
    }
    change_begin(r);
    splice(r, first, last, count);
    if (lower.start < lower.end)
        item_set(&r->items[first++], lower.start, lower.end);
    if (upper.start < upper.end)
        item_set(&r->items[first], upper.start, upper.end);
    change_end(r);
}

bool ranges_first(const struct ranges *r, uint64_t start, uint64_t end, struct sp_range *ret) {
    uint32_t i = find(r, r->n, start);
    if (start >= end || i == r->n || r->items[i].start >= end)
        return false;
    ret->start = r->items[i].start > start ? r->items[i].start : start;
    ret->end = r->items[i].end < end ? r->items[i].end : end;
    return true;
}

bool ranges_cover(const struct ranges *r, uint64_t start, uint64_t end) {
    struct sp_range part;
    return ranges_first(r, start, end, &part) && part.start == start && part.end == end;
}
