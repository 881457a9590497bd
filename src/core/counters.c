/* SPDX-License-Identifier: MIT */
/* See counters.h. */
#include "core/counters.h"
#include "core/types.h"

/* What the kernel keeps for a mapping: a vm_area_struct of 192 bytes and its share of a maple-tree node
 * (together about 5 % of a page). */
#define MAPPING_BYTES 208

const struct sp_counter_info sp_counter_info[SP_COUNTER_COUNT] = {
#define X(name, unit, owner, meaning) {#name, #unit, SP_COUNTER_##owner, meaning},
    SP_COUNTERS(X)
#undef X
};

bool sp_counter_is_total(enum sp_counter counter) {
    switch (counter) {
    case SP_COUNTER_pages_merged:
    case SP_COUNTER_pages_merged_huge:
    case SP_COUNTER_pages_broken:
    case SP_COUNTER_pages_differed:
    case SP_COUNTER_pages_pinned:
    case SP_COUNTER_pages_over_budget:
    case SP_COUNTER_pages_scanned:
    case SP_COUNTER_pages_skipped:
    case SP_COUNTER_full_scans:
    case SP_COUNTER_batches:
    case SP_COUNTER_errors:
    case SP_COUNTER_cpu_ns:
    case SP_COUNTER_pages_published:
    case SP_COUNTER_pages_punched:
        return true;
    default:
        return false;
    }
}

void sp_counters_add(struct sp_counters *into, const struct sp_counters *from) {
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        if (sp_counter_info[i].owner == SP_COUNTER_CLIENT)
            into->v[i] += from->v[i];
}

void sp_counters_subtract(struct sp_counters *from, const struct sp_counters *what) {
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        if (sp_counter_info[i].owner == SP_COUNTER_CLIENT)
            from->v[i] -= what->v[i];
}

uint64_t sp_counters_saved_bytes(const struct sp_counters *c) {
    return (c->v[SP_COUNTER_pages_sharing] + c->v[SP_COUNTER_ksm_zero_pages]) * SP_PAGE_SIZE;
}

uint64_t sp_counters_cost_bytes(const struct sp_counters *c) {
    return c->v[SP_COUNTER_own_bytes] + c->v[SP_COUNTER_index_bytes] +
           c->v[SP_COUNTER_mappings] * MAPPING_BYTES;
}

uint64_t sp_counters_general_profit(const struct sp_counters *c) {
    uint64_t saved = sp_counters_saved_bytes(c), cost = sp_counters_cost_bytes(c);
    return saved > cost ? saved - cost : 0;
}
