/* SPDX-License-Identifier: MIT */
/*
 * The engine: everything a process needs to have its memory merged. Regions, their windows, and one worker
 * thread that watches, asks, freezes, verifies, remaps and thaws.
 *
 * Threads and locks. One lock (H1) guards regions and windows. The worker holds it while it reads the
 * application's memory (H22) and for the length of a batch; it never holds it while it talks to the index.
 * The application's side (libsamepage, or the shim around the application's mapping calls) takes the same
 * lock around every call that changes mappings of registered memory, and tells the engine what changed while
 * it still holds it. Functions named _locked are called with the lock held.
 */
#ifndef SP_MERGE_ENGINE_H
#define SP_MERGE_ENGINE_H

#include "core/counters.h"
#include "core/histogram.h"
#include "core/settings.h"
#include "core/types.h"
#include "merge/link.h"
#include "os/lock.h"
#include "os/nodes.h"
#include "os/pagemap.h"
#include "os/proc.h"

struct sp_engine;

/* Why a process has no worker, or none any more. Texts are for people. */
#define SP_ENGINE_STATES(X)                                                                                  \
    X(IDLE, "no worker: not enough memory registered yet")                                                   \
    X(RUNNING, "running")                                                                                    \
    X(STARTING, "starting")                                                                                  \
    X(NO_LINK, "waiting for the daemon")                                                                     \
    X(NO_USERFAULTFD, "no access to userfaultfd: see samepage doctor")                                       \
    X(SECCOMP, "the program runs under a system-call filter that could kill the worker (H11)")               \
    X(LOCKED_MEMORY, "the program locks its memory (H21)")                                                   \
    X(UNSAFE_KERNEL, "UFFDIO_MOVE is not safe on this kernel while swap is on (H25)")                        \
    X(NO_THREAD, "the worker thread could not be started")                                                   \
    X(STOPPED, "stopped for good: the program did something merging cannot be reconciled with")              \
    X(RAW_CALLS,                                                                                             \
      "stopped for good: the program changes mappings by system calls that samepage does not see (H1)")      \
    X(SINGLE, "ended in this process, not in its children: the program counts its threads (H10)")

enum sp_engine_state {
#define X(name, text) SP_ENGINE_##name,
    SP_ENGINE_STATES(X)
#undef X
        SP_ENGINE_STATE_COUNT
};
const char *sp_engine_state_text(enum sp_engine_state s);
/* Whether a worker in this state has ended for a reason of the process's own, or is about to. */
static inline bool sp_engine_state_is_end(unsigned s) {
    return s >= SP_ENGINE_SECCOMP && s < SP_ENGINE_STATE_COUNT;
}

/* Makes an engine without a thread, descriptor or region. Takes over the link (freed with the engine; also on
 * failure). -ENOMEM. */
SP_WARN_UNUSED int sp_engine_new(struct sp_link *link, const struct sp_settings *settings,
                                 struct sp_engine **ret_engine);

/* Ends the worker after its batch, unmerges nothing: merged memory stays merged and intact, its references
 * stay the family's until the process ends. Frees the engine. Not with the lock held. Returns NULL. */
struct sp_engine *sp_engine_free(struct sp_engine *e);

/*
 * How fast this process merges by its own wish, beside the domain's settings: on average over time no more
 * than scan_pages are read, and no more than merge_pages merged, in sleep_ns. A pass may do more; the pause
 * after it is as much longer. sleep_ns 0: no bound. Held: nothing more is merged.
 */
struct sp_pace {
    bool held;
    uint64_t sleep_ns, scan_pages, merge_pages; /* the latter at least 1 */
};
void sp_engine_pace_locked(struct sp_engine *e, const struct sp_pace *pace);

/* The lock of H1: safe in signal handlers; while it is held the caller must not touch memory that may be
 * registered. Not recursive: see sp_engine_lock_mine. */
void sp_engine_lock(struct sp_engine *e);
void sp_engine_unlock(struct sp_engine *e);
bool sp_engine_lock_mine(const struct sp_engine *e);

/*
 * Registers [start, end) (page aligned) and starts the worker when enough is registered
 * (settings.worker_start_kbytes; `now` starts it at once). Parts that are already registered keep their
 * state. Which mappings in the range are eligible is found out here and again later; the others are passed
 * over (*ret_eligible_bytes, may be NULL). The range must be unmapped, remapped or protected only under the
 * lock, by the calls below. 0, -ENOMEM, or the errno of reading the mappings.
 */
SP_WARN_UNUSED int sp_engine_add_locked(struct sp_engine *e, uint64_t start, uint64_t end, bool now,
                                        uint64_t *ret_eligible_bytes);

/* The same for ascending ranges, with one reading of the mappings. */
SP_WARN_UNUSED int sp_engine_add_ranges_locked(struct sp_engine *e, const struct sp_range *ranges, size_t n);

/*
 * The same for one mapping of private anonymous memory that the caller has made just now, and which is as the
 * kernel makes them: with this protection, and no attribute, policy, key or name. Nothing is read, and the
 * worker is not woken: there is nothing to merge yet. 0 or -ENOMEM.
 */
SP_WARN_UNUSED int sp_engine_add_fresh_locked(struct sp_engine *e, uint64_t start, uint64_t end, int prot);

/*
 * The range leaves the registration. References to the store are given back by the worker later, once (H6).
 *
 * `unmapped`: every mapping that was in the range has gone, by a system call that was made since the lock was
 * taken and succeeded. Never before the call: if it failed, the store would still be mapped without a
 * reference (I8). When false (no longer wished to be merged, or not known), content and mappings stay, and
 * pages still shared with the store keep their references for as long as the process lives;
 * sp_engine_unmerge_locked first avoids that. Never fails; where memory is short references are kept, never
 * given back too early.
 */
void sp_engine_remove_locked(struct sp_engine *e, uint64_t start, uint64_t end, bool unmapped);

/* What finds out which mappings there are, instead of sp_proc_mappings: for an owner who knows more than the
 * kernel tells at no cost. Before anything is registered. */
void sp_engine_mappings(struct sp_engine *e, sp_mappings_reader *reader);

/* What finds out on which NUMA nodes pages lie, instead of the kernel: the machines of tests have one node.
 * Before anything is registered. */
void sp_engine_nodes(struct sp_engine *e, sp_nodes_reader *reader);

/* No work begins before CLOCK_MONOTONIC says so: for programs that nobody has asked whether they want it,
 * most of which end before it would be worth their CPU time. Before anything is registered. */
void sp_engine_begin_at(struct sp_engine *e, uint64_t ns);

/* What the worker calls, with the lock held, before it looks what is registered: for an owner who registers
 * memory only when somebody needs to know. Before anything is registered. */
void sp_engine_refresh(struct sp_engine *e, void (*refresh)(void));

/* The worker will be a bare thread (os/thread.h), and the caller tells it of changes of identity. Before
 * anything is registered. */
void sp_engine_bare(struct sp_engine *e);
/* The calling thread, and with it the program, may be somebody else by now: the worker follows, or ends.
 * Returns when it has, or when it is too busy to do so soon. Without the lock held. */
void sp_engine_identity(struct sp_engine *e);

/* Waits until the kernel's userfaultfd registration of ranges that were removed has ended: then another
 * userfaultfd may have them. At once when there is no worker. Without the lock held. */
void sp_engine_wait_disarmed(struct sp_engine *e);

/*
 * Makes every page of the range private again, content unchanged, while other threads may read and write it
 * (MADV_POPULATE_WRITE breaks the sharing page by page; no freeze). The mappings stay store mappings with
 * nothing of the store left in them: see sp_engine_discard_locked. 0; -ENOMEM: the machine has not enough
 * memory (what was done stays done; nothing is lost).
 */
SP_WARN_UNUSED int sp_engine_unmerge_locked(struct sp_engine *e, uint64_t start, uint64_t end);

/* Likewise for pages of zeros that were given back to the kernel: each gets a page of its own. As long as the
 * range is registered they may be given back again. */
SP_WARN_UNUSED int sp_engine_refill_locked(struct sp_engine *e, uint64_t start, uint64_t end);

/*
 * Turns the parts of the range that are store mappings into fresh anonymous memory (zeros), with protection
 * and attributes kept, before a MADV_DONTNEED, MADV_FREE, MADV_REMOVE and the like, which on a store mapping
 * would show the store again (H5). The rest of the range is left alone. 0 or a negative errno (then nothing
 * was changed for the failing part: the caller must fail its call).
 */
SP_WARN_UNUSED int sp_engine_discard_locked(struct sp_engine *e, uint64_t start, uint64_t end);

/* Calls visit() for every maximal part of [start, end) that is (store == true) or is not (store == false) a
 * mapping of the store, ascending. For callers that must pass a call on piecewise (mbind, mremap). */
void sp_engine_pieces_locked(struct sp_engine *e, uint64_t start, uint64_t end,
                             bool (*visit)(void *ctx, uint64_t start, uint64_t end, bool store), void *ctx);

/* Attributes of the range changed (SP_ATTR_*, by madvise): later remaps carry the new ones (H7). */
void sp_engine_attributes_locked(struct sp_engine *e, uint64_t start, uint64_t end, unsigned set,
                                 unsigned clear);

/* The mapping was moved (mremap with MREMAP_MAYMOVE of unmerged memory): registration follows. Call
 * sp_engine_remove_locked for the old range and sp_engine_add_locked for the new one instead where it had to
 * be unmerged. */

/* The protection of the range changed (mprotect succeeded): only memory that is both readable and writable is
 * read and merged (H22). -ENOMEM: the range was taken out of the registration instead. */
SP_WARN_UNUSED int sp_engine_protection_locked(struct sp_engine *e, uint64_t start, uint64_t end, int prot);

/* Whether any part of the range is registered. Cheap when nothing is registered at all. May be called without
 * the lock as a first look. */
bool sp_engine_overlaps(const struct sp_engine *e, uint64_t start, uint64_t end);

/* Ends merging in this process for good, after the running batch (e.g. the program installs a system-call
 * filter, locks its memory, makes a child in a way that cannot be serialised). Memory stays as it is. Takes
 * the lock; not with it held. Does not wait for the thread's end, but on return no batch is running and none
 * will start. */
void sp_engine_stop(struct sp_engine *e, enum sp_engine_state why);

/* Around fork: prepare takes the lock (waits for the batch), parent releases it, child makes the copied
 * engine usable again: no worker, nothing of it; what is mapped from the store belongs to the family and is
 * left alone, the registered ranges stay registered and a worker starts when sp_engine_kick finds it worth
 * it. */
void sp_engine_fork_prepare(struct sp_engine *e);
void sp_engine_fork_parent(struct sp_engine *e);
void sp_engine_fork_child(struct sp_engine *e);

/* Cheap, from interposed calls without the lock: starts a worker in a forked child that has lived for a
 * while. */
void sp_engine_kick(struct sp_engine *e);

/* What happened to a range in a synchronous merge. */
struct sp_merge_result {
    uint64_t merged_pages;  /* now shared that were not before */
    uint64_t zero_pages;    /* given back as holes */
    uint64_t shared_pages;  /* shared in the range when the call ended */
    uint64_t changed_pages; /* content changed meanwhile: put back */
    uint64_t refused_pages; /* pinned, shared with a child, over the mapping budget or another limit */
};

/*
 * Merges a registered range now: everything present counts as settled. With `quiescent` the caller promises
 * that nobody touches the range during the call; then no userfaultfd is needed and nothing is frozen. Blocks;
 * several threads may call it. Without the lock held. 0; -EINVAL: nothing of it registered; -ENOTCONN: no
 * index; -EPERM etc: the state tells (no userfaultfd); -ENOMEM.
 */
SP_WARN_UNUSED int sp_engine_merge(struct sp_engine *e, uint64_t start, uint64_t end, bool quiescent,
                                   struct sp_merge_result *ret_result);

/* Waits until everything registered is settled: looked through, asked about, merged where possible, nothing
 * pending. 0, -ETIMEDOUT, or the errno that stopped the worker. Without the lock held. */
SP_WARN_UNUSED int sp_engine_wait_settled(struct sp_engine *e, uint64_t timeout_ns);

enum sp_engine_state sp_engine_state(const struct sp_engine *e);
/* Counters of the whole engine and the freeze times; takes the lock. */
void sp_engine_report(struct sp_engine *e, struct sp_report *ret_report);
/* Per range: pages shared, zero pages, resident, known without twin (fields of sp_counters that make sense
 * for a range). Takes the lock. */
void sp_engine_range_counters(struct sp_engine *e, uint64_t start, uint64_t end,
                              struct sp_counters *ret_counters);

#endif
