/* SPDX-License-Identifier: MIT */
/* See table.h. */
#include "core/table.h"

#include <errno.h>

/* In percent of the slots. A shard shrinks by one step, when it is no fuller than LOAD_SHRUNK afterwards; the
 * gap to the growing load keeps it from swinging. */
#define LOAD_MAX    87
#define LOAD_SHRUNK 55

/* Sizes are computed in 1/1024 of a slot, so that the offsets between shards survive rounding. */
#define SIZE_SCALE 1024
#define SIZE_FIRST 8
/* Below this many slots a shard grows by doubling: so small, moving entries costs more than slots do. */
#define SIZE_SMALL 64

static size_t shards_of(const struct sp_table *t) {
    return (size_t)1 << t->shard_bits;
}

static size_t shard_index(const struct sp_table *t, uint64_t key) {
    return t->shard_bits ? (size_t)(key >> (64 - t->shard_bits)) : 0;
}

static struct sp_table_shard *shard_of(const struct sp_table *t, sp_fp key) {
    return t->shards ? &t->shards[shard_index(t, key.v)] : NULL;
}

static uint64_t home_of(const struct sp_table *t, const struct sp_table_shard *s, uint64_t key) {
    return (uint64_t)(((unsigned __int128)(key << t->shard_bits) * s->size) >> 64);
}

static uint64_t next_of(const struct sp_table_shard *s, uint64_t pos) {
    return pos + 1 < s->size ? pos + 1 : 0;
}

static uint64_t previous_of(const struct sp_table_shard *s, uint64_t pos) {
    return pos > 0 ? pos - 1 : s->size - 1;
}

/* How far the entry at `pos` stands from its home. */
static uint64_t distance_at(const struct sp_table *t, const struct sp_table_shard *s, uint64_t pos) {
    uint64_t home = home_of(t, s, s->slots[pos].key);
    return pos >= home ? pos - home : pos + s->size - home;
}

static uint64_t size_at(const struct sp_table *t, size_t index, uint32_t step) {
    uint64_t scaled = SIZE_FIRST * SIZE_SCALE + ((SIZE_FIRST * SIZE_SCALE / 2 * index) >> t->shard_bits);
    for (uint32_t i = 0; i < step; i++)
        scaled += scaled < (uint64_t)SIZE_SMALL * SIZE_SCALE ? scaled : scaled / 2;
    return scaled / SIZE_SCALE;
}

/* Puts an entry into a shard that has room. -ENOMEM: it would take too long. */
static int shard_put(const struct sp_table *t, struct sp_table_shard *s, struct sp_table_slot entry) {
    uint64_t pos = home_of(t, s, entry.key), probes = 0;
    for (; s->slots[pos].key && distance_at(t, s, pos) >= probes; probes++) {
        if (probes > SP_TABLE_PROBES_MAX)
            return -ENOMEM;
        pos = next_of(s, pos);
    }
    uint64_t end = pos;
    for (; s->slots[end].key; probes++) {
        if (probes > SP_TABLE_PROBES_MAX)
            return -ENOMEM;
        end = next_of(s, end);
    }
    for (; end != pos; end = previous_of(s, end))
        s->slots[end] = s->slots[previous_of(s, end)];
    s->slots[pos] = entry;
    s->count++;
    return 0;
}

/* Goes round from a slot that nothing was moved across, so that the entries come in the order of their homes:
 * each goes to its home, or behind the last. */
static int shard_copy(const struct sp_table *t, const struct sp_table_shard *from,
                      struct sp_table_shard *to) {
    uint64_t start = 0;
    while (start < from->size && from->slots[start].key && distance_at(t, from, start) > 0)
        start++;
    if (start == from->size) /* no such slot: the array would have to be full */
        return -ENOMEM;
    uint64_t last = 0, behind = 0; /* the home of the last one, and the place after it */
    for (uint64_t i = 0, pos = start; i < from->size; i++, pos = next_of(from, pos)) {
        struct sp_table_slot entry = from->slots[pos];
        if (!entry.key)
            continue;
        uint64_t home = home_of(t, to, entry.key), place = home > behind ? home : behind;
        if (pos >= start && home >= last && place < to->size) {
            to->slots[place] = entry;
            to->count++;
            last = home;
            behind = place + 1;
            continue;
        }
        /* Those of one home come in the order of their arrival, and may part here; or the end of an array
         * lies between. */
        int r = shard_put(t, to, entry);
        if (r < 0)
            return r;
        behind += behind < to->size && to->slots[behind].key;
    }
    return 0;
}

static void shard_deinit(const struct sp_table *t, struct sp_table_shard *s) {
    sp_alloc_put(t->alloc, s->slots, s->size * sizeof *s->slots);
    *s = (struct sp_table_shard){0};
}

static int shard_resize(const struct sp_table *t, struct sp_table_shard *s, uint32_t step) {
    uint64_t size = size_at(t, (size_t)(s - t->shards), step);
    if (size > UINT32_MAX)
        return -ENOMEM;
    struct sp_table_shard fresh = {sp_alloc_get(t->alloc, size * sizeof *s->slots), (uint32_t)size, 0, step};
    if (!fresh.slots)
        return -ENOMEM;
    if (s->slots) {
        int r = shard_copy(t, s, &fresh);
        if (r < 0) {
            shard_deinit(t, &fresh);
            return r;
        }
        shard_deinit(t, s);
    }
    *s = fresh;
    return 0;
}

static int shard_reserve(const struct sp_table *t, struct sp_table_shard *s) {
    if (!s->slots)
        return shard_resize(t, s, 0);
    if (((uint64_t)s->count + 1) * 100 <= (uint64_t)s->size * LOAD_MAX)
        return 0;
    return shard_resize(t, s, s->step + 1);
}

/* No memory for the smaller array: the large one stays. */
static void shard_trim(const struct sp_table *t, struct sp_table_shard *s) {
    if (s->count == 0)
        shard_deinit(t, s);
    else if (s->step > 0 &&
             (uint64_t)s->count * 100 < size_at(t, (size_t)(s - t->shards), s->step - 1) * LOAD_SHRUNK)
        (void)shard_resize(t, s, s->step - 1);
}

/* A place of the key's chain. */
struct chain {
    const struct sp_table_shard *shard; /* NULL: empty */
    uint64_t pos;
    uint64_t probes;
};

static struct chain chain_start(const struct sp_table *t, sp_fp key) {
    const struct sp_table_shard *s = shard_of(t, key);
    if (!s || !s->slots)
        return (struct chain){0};
    return (struct chain){s, home_of(t, s, key.v), 0};
}

/* The next entry of this key, or NULL; the chain then stands behind it. */
static struct sp_table_slot *chain_next(const struct sp_table *t, struct chain *c, sp_fp key) {
    if (!c->shard)
        return NULL;
    for (;;) {
        uint64_t pos = c->pos;
        struct sp_table_slot *slot = &c->shard->slots[pos];
        if (slot->key == 0 || (slot->key != key.v && distance_at(t, c->shard, pos) < c->probes))
            return NULL;
        c->pos = next_of(c->shard, pos);
        c->probes++;
        if (slot->key == key.v)
            return slot;
    }
}

static struct sp_table_slot *pair_find(const struct sp_table *t, sp_fp key, uint64_t value) {
    struct chain c = chain_start(t, key);
    struct sp_table_slot *slot = chain_next(t, &c, key);
    while (slot && slot->value != value)
        slot = chain_next(t, &c, key);
    return slot;
}

void sp_table_init(struct sp_table *t, const struct sp_alloc *alloc, unsigned shard_bits) {
    *t = (struct sp_table){.alloc = alloc, .shard_bits = shard_bits};
}

void sp_table_deinit(struct sp_table *t) {
    if (!t->shards)
        return;
    for (size_t i = 0; i < shards_of(t); i++)
        shard_deinit(t, &t->shards[i]);
    sp_alloc_put(t->alloc, t->shards, shards_of(t) * sizeof *t->shards);
    t->shards = NULL;
    t->count = 0;
}

int sp_table_insert(struct sp_table *t, sp_fp key, uint64_t value) {
    if (!t->shards) {
        t->shards = sp_alloc_get(t->alloc, shards_of(t) * sizeof *t->shards);
        if (!t->shards)
            return -ENOMEM;
    }
    struct sp_table_shard *s = shard_of(t, key);
    int r = shard_reserve(t, s);
    if (r < 0)
        return r;
    r = shard_put(t, s, (struct sp_table_slot){key.v, value});
    if (r < 0)
        return r;
    t->count++;
    return 0;
}

bool sp_table_find(const struct sp_table *t, sp_fp key, uint64_t *ret_value) {
    struct chain c = chain_start(t, key);
    const struct sp_table_slot *slot = chain_next(t, &c, key);
    if (slot)
        *ret_value = slot->value;
    return slot != NULL;
}

size_t sp_table_collect(const struct sp_table *t, sp_fp key, uint64_t *ret_values, size_t max) {
    struct chain c = chain_start(t, key);
    size_t n = 0;
    while (n < max) {
        const struct sp_table_slot *slot = chain_next(t, &c, key);
        if (!slot)
            break;
        ret_values[n++] = slot->value;
    }
    return n;
}

bool sp_table_remove(struct sp_table *t, sp_fp key, uint64_t value) {
    struct sp_table_slot *slot = pair_find(t, key, value);
    if (!slot)
        return false;
    struct sp_table_shard *s = shard_of(t, key);
    uint64_t pos = (uint64_t)(slot - s->slots);
    for (;;) {
        uint64_t next = next_of(s, pos);
        if (s->slots[next].key == 0 || distance_at(t, s, next) == 0)
            break;
        s->slots[pos] = s->slots[next];
        pos = next;
    }
    s->slots[pos] = (struct sp_table_slot){0};
    s->count--;
    t->count--;
    shard_trim(t, s);
    return true;
}

bool sp_table_replace(struct sp_table *t, sp_fp key, uint64_t from, uint64_t to) {
    struct sp_table_slot *slot = pair_find(t, key, from);
    if (slot)
        slot->value = to;
    return slot != NULL;
}

void sp_table_prefetch(const struct sp_table *t, sp_fp key) {
    const struct sp_table_shard *s = shard_of(t, key);
    if (!s || !s->slots)
        return;
    const struct sp_table_slot *home = &s->slots[home_of(t, s, key.v)];
    __builtin_prefetch(home);
    __builtin_prefetch(home + 4); /* the next cache line: chains are that long */
}

/* The entry number `skip` of those whose home is `bucket`, or NULL. */
static const struct sp_table_slot *bucket_entry(const struct sp_table *t, const struct sp_table_shard *s,
                                                uint64_t bucket, size_t skip) {
    uint64_t pos = bucket;
    for (uint64_t probes = 0; s->slots[pos].key; probes++, pos = next_of(s, pos)) {
        uint64_t distance = distance_at(t, s, pos);
        if (distance < probes)
            return NULL;
        if (distance == probes && skip-- == 0)
            return &s->slots[pos];
    }
    return NULL;
}

/* After the shard was resized: an entry whose home was not below the old bucket is not below the new one. */
static void place_rescale(struct sp_table_place *place, const struct sp_table_shard *s) {
    if (place->size != 0 && place->size != s->size) {
        place->bucket = (uint64_t)((unsigned __int128)place->bucket * s->size / place->size);
        place->skip = 0;
    }
    place->size = s->size;
}

static void place_advance(struct sp_table_place *place, const struct sp_table_shard *s) {
    place->skip = 0;
    if (++place->bucket < s->size)
        return;
    place->shard++;
    place->bucket = 0;
    place->size = 0;
}

bool sp_table_walk(const struct sp_table *t, struct sp_table_place *place, size_t *buckets, sp_fp *ret_key,
                   uint64_t *ret_value) {
    while (!sp_table_walked(t, place) && *buckets > 0) {
        const struct sp_table_shard *s = &t->shards[place->shard];
        const struct sp_table_slot *slot = NULL;
        if (s->slots) {
            place_rescale(place, s);
            slot = bucket_entry(t, s, place->bucket, place->skip);
        }
        if (slot) {
            place->skip++;
            *ret_key = (sp_fp){slot->key};
            *ret_value = slot->value;
            return true;
        }
        place_advance(place, s);
        (*buckets)--;
    }
    return false;
}

void sp_table_walk_changed(struct sp_table_place *place) {
    place->skip = 0;
}

bool sp_table_walked(const struct sp_table *t, const struct sp_table_place *place) {
    return !t->shards || place->shard >= shards_of(t);
}
