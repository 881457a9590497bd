/* SPDX-License-Identifier: MIT */
/*
 * Which probes are worth a closer look: for each trace (fingerprint.h) how many whole fingerprints with it
 * are in the index that cannot be found by their probes. A page whose probe has a trace that is in the sieve
 * may have a twin among them; a page whose trace is not there has none. It errs to one side only: different
 * probes can have one trace, and a count that has reached its end stays there, which costs the hash of a
 * whole page and nothing else. There are few such fingerprints as long as different pages have different
 * probes. Internal to core/.
 */
#ifndef SP_CORE_SIEVE_H
#define SP_CORE_SIEVE_H

#include "core/alloc.h"
#include "core/fingerprint.h"

struct sp_sieve {
    const struct sp_alloc *alloc;
    uint8_t *count; /* [1 << SP_TRACE_BITS]; NULL before the first */
};

void sp_sieve_init(struct sp_sieve *s, const struct sp_alloc *alloc);
void sp_sieve_deinit(struct sp_sieve *s);

/* One more, one fewer entry with this fingerprint; probes are none. -ENOMEM. */
SP_WARN_UNUSED int sp_sieve_add(struct sp_sieve *s, sp_fp fp);
void sp_sieve_remove(struct sp_sieve *s, sp_fp fp);

/* Whether an entry may belong to a page with this probe. */
bool sp_sieve_passes(const struct sp_sieve *s, sp_fp probe);

/* Loads the place of the fingerprint or probe into the cache. */
void sp_sieve_prefetch(const struct sp_sieve *s, sp_fp fp);

#endif
