/* SPDX-License-Identifier: MIT */
/*
 * A multi-map from fingerprints to 64-bit values, for a hundred million entries: 16 bytes each, at a load of
 * 0.58 to 0.87, so between 22 and 23 bytes per entry. Internal to core/.
 *
 * The highest bits of the key choose a shard, an open-addressed array of its own. A shard grows alone, by
 * half, and its sizes are offset from those of the others: at any moment the shards are spread evenly over
 * the range of loads, and the memory in transit is that of one shard. (By a quarter, entries are moved twice
 * as often, for a byte and a half less.) The home of a key is its fraction of the array (key * size >> 64),
 * which needs no power of two.
 *
 * Invariants of a shard (Robin Hood hashing): entries stand in the order of their homes, and there is no
 * empty slot between an entry and its home. So a search ends at the first entry that is nearer to its home
 * than the wanted one would be, entries with the same key are met in the order in which they were inserted,
 * and taking one out moves the following ones back instead of leaving a tombstone.
 *
 * Keys come from clients, who might choose them badly on purpose: an insertion that would have to move more
 * than SP_TABLE_PROBES_MAX entries is refused like one for which there is no memory.
 */
#ifndef SP_CORE_TABLE_H
#define SP_CORE_TABLE_H

#include "core/alloc.h"
#include "core/types.h"

/* Far beyond what happens by chance (the longest cluster of 10^8 random keys at load 0.87 is about 2,000). */
#define SP_TABLE_PROBES_MAX 4096

struct sp_table_slot {
    uint64_t key; /* 0: empty */
    uint64_t value;
};

struct sp_table_shard {
    struct sp_table_slot *slots; /* NULL while empty */
    uint32_t size;               /* slots */
    uint32_t count;              /* entries */
    uint32_t step;               /* how often it has grown */
};

struct sp_table {
    const struct sp_alloc *alloc;
    struct sp_table_shard *shards; /* NULL until the first insertion */
    unsigned shard_bits;
    uint64_t count; /* entries */
};

/* A place in a walk over all entries that goes on while the table changes. Zeroed: the start. */
struct sp_table_place {
    size_t shard;
    uint64_t bucket; /* of a shard of `size` slots */
    uint64_t size;
    size_t skip; /* entries of the bucket that were seen already */
};

/* `alloc` must outlive the table. Gets no memory yet. */
void sp_table_init(struct sp_table *t, const struct sp_alloc *alloc, unsigned shard_bits);
void sp_table_deinit(struct sp_table *t);

/* -ENOMEM. The key is not 0. The same pair may be inserted several times. */
SP_WARN_UNUSED int sp_table_insert(struct sp_table *t, sp_fp key, uint64_t value);

/* The first value of the key; false: none. */
bool sp_table_find(const struct sp_table *t, sp_fp key, uint64_t *ret_value);

/* The values of the key, oldest first, at most `max`. Returns their number. */
size_t sp_table_collect(const struct sp_table *t, sp_fp key, uint64_t *ret_values, size_t max);

/* Takes one such pair out. False: there is none. */
bool sp_table_remove(struct sp_table *t, sp_fp key, uint64_t value);

/* Writes `to` in the place of `from`. False: there is no such pair. */
bool sp_table_replace(struct sp_table *t, sp_fp key, uint64_t from, uint64_t to);

/* Loads the home of the key into the cache. */
void sp_table_prefetch(const struct sp_table *t, sp_fp key);

/*
 * The next entry of a walk. False: the walk is over (sp_table_walked) or `*buckets`, which is counted down,
 * has become 0; it can be carried on. Every entry that is there from the first step to the last is met at
 * least once, whatever is inserted and removed in between, provided that sp_table_walk_changed is called
 * after changes and before the next step.
 */
bool sp_table_walk(const struct sp_table *t, struct sp_table_place *place, size_t *buckets, sp_fp *ret_key,
                   uint64_t *ret_value);
void sp_table_walk_changed(struct sp_table_place *place);
bool sp_table_walked(const struct sp_table *t, const struct sp_table_place *place);

#endif
