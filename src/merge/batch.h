/* SPDX-License-Identifier: MIT */
/*
 * The primitive: freeze, verify, remap, thaw, for some runs of one window (mechanism.md).
 *
 * The caller holds the lock of H1, so that no mapping call of the application comes in between. Between
 * freeze and thaw only memory of the worker is touched and only the system calls of the primitive are made
 * (I5, H2); every page that was frozen is thawed before sp_batch_run returns, on every path (I6).
 */
#ifndef SP_MERGE_BATCH_H
#define SP_MERGE_BATCH_H

#include "core/plan.h"
#include "core/types.h"

/* What became of a page of the batch. */
enum sp_outcome {
    SP_OUTCOME_NONE = 0, /* not part of it */
    SP_OUTCOME_MERGED,   /* maps the store now */
    SP_OUTCOME_ZEROED,   /* was zeros, is a hole now */
    SP_OUTCOME_CHANGED,  /* differs from the store page: put back as it was */
    SP_OUTCOME_KEPT,     /* equal, but put back with the huge page that it is a part of */
    SP_OUTCOME_BUSY,     /* the kernel refused to move it: pinned for I/O, or shared with a forked child */
    SP_OUTCOME_GONE,     /* there is no page any more */
    SP_OUTCOME_REFUSED,  /* not movable (protected, locked, guard page), or no mapping was left: as it was */
};

/* One run with what is needed to verify and remap it. */
struct sp_batch_run {
    unsigned slot, pages;
    const uint8_t *expected; /* a copy of the store pages; NULL for a run of zeros */
    bool view, view_moves;   /* `expected` is a view (sp_map_view), and may become the mapping */
    int fd;                  /* the segment */
    uint64_t offset;         /* of the first page in the segment, bytes */
    unsigned attributes;     /* SP_ATTR_* to carry over (H7) */
};

struct sp_batch {
    int uffd;         /* -1: nobody touches the pages (quiescent), so nothing is frozen */
    int pagemap;      /* tells whether the runs are still what was registered */
    bool fork_events; /* uffd delivers them (H3) */
    uint8_t *scratch; /* a window of our own, aligned like one, registered MISSING, not copied by fork */
    uint64_t base;    /* address of the window */
    struct sp_batch_run *runs;
    size_t n;
    bool whole;         /* one run, of a whole window that is a huge page: all of it or nothing */
    sp_bits in_scratch; /* pages that are in scratch at this moment */
    sp_bits missing;    /* pages that this batch registered MISSING */
    bool scratch_stale; /* kept from batch to batch: something is left in it that could not be dropped */
    bool scratch_small; /* kept likewise: pages were moved there one by one since it was emptied as a whole */
    /* Results. */
    uint8_t outcome[512]; /* enum sp_outcome for each slot */
    sp_bits view_moved;   /* pages whose view was moved, and is no longer ours; empty before */
    bool replaced;        /* a range of it has gone, or another is in its place (H1) */
    sp_bits unarmed;      /* pages that the kernel refused to register WP again: nobody watches them now */
    uint64_t frozen_ns;   /* from the first freeze to the last thaw */
    uint64_t errors;      /* system calls that failed in a way that is not an outcome */
    uint64_t forks;       /* children that had to be given frozen pages */
};

/*
 * The runs lie in anonymous mappings that are registered with `uffd` in WP mode (unless it is -1). Where that
 * does not hold somebody has changed the mappings by a system call that nobody saw: nothing is mapped over
 * what is there now, what was frozen goes back where that is still possible, and `replaced` is set.
 */
void sp_batch_run(struct sp_batch *b);

/*
 * Reads the userfaultfd's fork events while nothing is frozen. Fork calls of the application wait in the
 * kernel until this is done, so call it often. Returns how many children were seen, or the errno with which
 * an event that waits cannot be read: -EMFILE, -ENFILE, -ENOMEM.
 */
int sp_batch_forks(int uffd);

#endif
