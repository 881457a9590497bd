/* SPDX-License-Identifier: MIT */
/*
 * Every counter, once: name, unit, how values of several clients combine, meaning. The command line, the
 * status message, --json, the manual page and the tests are all fed from this table.
 *
 * The first block has KSM's names and KSM's meaning (Documentation/admin-guide/mm/ksm.rst): all of its files
 * that are no settings, but general_profit, which is made of the others (sp_counters_general_profit). Where
 * KSM has chains of duplicates, for pages that are shared max_page_sharing times, we have none
 * (core/stable.h): stable_node_chains and stable_node_dups are 0 by design, and pages_full counts such pages.
 *   X(name, unit, owner, meaning)
 *   unit:  pages, bytes, count, ns
 *   owner: CLIENT: kept by each worker and reported; a domain's value is the sum over its clients,
 *          but for full_scans: how often all of them have come round (daemon/scans.h)
 *          DOMAIN: kept by the domain's index
 *
 * pages_deferred is H6's, exposure_bytes H15's.
 */
#ifndef SP_CORE_COUNTERS_H
#define SP_CORE_COUNTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_COUNTERS(X)                                                                                       \
    X(pages_shared, pages, DOMAIN, "store pages in use")                                                     \
    X(pages_sharing, pages, DOMAIN, "sites that share them beyond the first: what is saved")                 \
    X(pages_unshared, pages, CLIENT, "pages fingerprinted and known to the index, without a twin")           \
    X(pages_volatile, pages, CLIENT, "pages that changed too lately to be tried")                            \
    X(pages_skipped, pages, CLIENT, "pages passed over because earlier tries failed (backing off)")          \
    X(pages_scanned, pages, CLIENT, "pages fingerprinted so far")                                            \
    X(full_scans, count, CLIENT, "how often all registered memory was looked through")                       \
    X(ksm_zero_pages, pages, CLIENT, "pages of zeros given back to the kernel and not written since")        \
    X(stable_node_chains, count, DOMAIN, "always 0: no page of the store has duplicates in a chain")         \
    X(stable_node_dups, count, DOMAIN, "always 0, see pages_full")                                           \
    X(resident_pages, pages, CLIENT, "resident pages of registered memory, shared ones included")            \
    X(registered_bytes, bytes, CLIENT, "address space registered for merging")                               \
    X(pages_merged, pages, CLIENT, "pages remapped onto the store so far")                                   \
    X(pages_merged_huge, pages, CLIENT, "of these, as whole huge pages")                                     \
    X(pages_broken, pages, CLIENT, "merged pages written since and private again, so far")                   \
    X(pages_differed, pages, CLIENT, "pages put back because their content had changed, so far")             \
    X(pages_pinned, pages, CLIENT, "refusals by the kernel: pinned for I/O or shared by fork, so far")       \
    X(pages_over_budget, pages, CLIENT, "pages left alone because the mapping budget was spent, so far")     \
    X(mappings, count, CLIENT, "mappings our merging adds to the process (estimate, upper bound)")           \
    X(batches, count, CLIENT, "freezes done so far")                                                         \
    X(errors, count, CLIENT, "failed system calls of the worker so far; the memory stayed intact")           \
    X(cpu_ns, ns, CLIENT, "CPU time of the workers")                                                         \
    X(own_bytes, bytes, CLIENT, "memory the workers use for themselves")                                     \
    X(pages_full, pages, DOMAIN, "store pages that were shared max_page_sharing times: offered no more")     \
    X(pages_published, pages, DOMAIN, "pages written into the store so far")                                 \
    X(pages_punched, pages, DOMAIN, "store pages given back to the kernel so far")                           \
    X(pages_deferred, pages, DOMAIN, "given-back references kept until forked children have gone")           \
    X(exposure_bytes, bytes, DOMAIN, "memory needed if every sharer wrote everything now")                   \
    X(index_bytes, bytes, DOMAIN, "memory of the index")

enum sp_counter {
#define X(name, unit, owner, meaning) SP_COUNTER_##name,
    SP_COUNTERS(X)
#undef X
        SP_COUNTER_COUNT
};

enum sp_counter_owner { SP_COUNTER_CLIENT, SP_COUNTER_DOMAIN };

struct sp_counter_info {
    const char *name;
    const char *unit;
    enum sp_counter_owner owner;
    const char *meaning;
};

extern const struct sp_counter_info sp_counter_info[SP_COUNTER_COUNT];

/* A value for each counter, indexed by enum sp_counter. */
struct sp_counters {
    uint64_t v[SP_COUNTER_COUNT];
};

/* Whether it is a total, which only grows, and outlives the client that it tells of. Other counters describe
 * a state. */
bool sp_counter_is_total(enum sp_counter counter);

/* Adds the CLIENT counters of `from` to `into`; DOMAIN counters are left alone. */
void sp_counters_add(struct sp_counters *into, const struct sp_counters *from);
/* Takes them off again. */
void sp_counters_subtract(struct sp_counters *from, const struct sp_counters *what);

/* Bytes saved now: (pages_sharing + ksm_zero_pages) pages. */
uint64_t sp_counters_saved_bytes(const struct sp_counters *c);

/* What our bookkeeping costs; of a client, its own part of it. */
uint64_t sp_counters_cost_bytes(const struct sp_counters *c);

/* KSM's general_profit: saved bytes minus what our bookkeeping costs; never negative here (a negative value
 * makes node_exporter fail), 0 instead. */
uint64_t sp_counters_general_profit(const struct sp_counters *c);

#endif
