/* SPDX-License-Identifier: MIT */
/*
 * The link: how a worker's questions reach the index of its domain. Two kinds exist, with the same core
 * behind both: merge/local.c (the domain lives in this process) and client/remote.c (the domain lives in a
 * daemon). The worker knows only this table of functions.
 *
 * All functions are called by the worker's thread only, never between freeze and thaw, and may block for the
 * daemon, but never for ever: a link that broke (-ENOTCONN from then on) is put aside by the worker, which
 * tries open() again later. What a broken link had promised is void, except that store pages the client maps
 * stay what they are (I7).
 */
#ifndef SP_MERGE_LINK_H
#define SP_MERGE_LINK_H

#include "core/budget.h"
#include "core/counters.h"
#include "core/domain.h"
#include "core/fingerprint.h"
#include "core/histogram.h"
#include "core/settings.h"

struct sp_link;

/* What the index tells without being asked: pages of window `window` that it is worth asking about again. */
#define SP_HINT_ALL                                                                                          \
    UINT64_MAX /* as a window: hints were lost, every page that has no twin yet is worth asking about */
struct sp_hint {
    uint64_t window;
    sp_bits pages;
};

/* What the worker tells from time to time. */
struct sp_report {
    unsigned state;              /* enum sp_engine_state */
    bool settled;                /* nothing is left to do for now */
    uint32_t settings_number;    /* of the settings that were carried out last; 0: none yet */
    struct sp_counters counters; /* the CLIENT ones, absolute values */
    struct sp_histogram freezes;
};

struct sp_welcome {
    struct sp_key key;
    struct sp_settings settings;
    uint32_t settings_number; /* 0: they never change */
    bool pause;               /* exposure guard: merge nothing for now */
};

struct sp_link_ops {
    /* Joins the domain, in the worker's descriptor table. Fills in the key and the settings. Also used to
     * join again after a break: as a new client that holds nothing. */
    int (*open)(struct sp_link *l, struct sp_welcome *ret_welcome);
    /* Leaves; references still held become the family's (H6). The link can be opened again. */
    void (*close)(struct sp_link *l);
    /* Frees the link itself. */
    void (*free)(struct sp_link *l);

    /* A userfaultfd for this process, enabled with SP_UFFD_NEEDED and, when *fork_events comes back true,
     * SP_UFFD_EVENT_FORK as well (H3). The link may have rights that we lack. */
    int (*userfaultfd)(struct sp_link *l, int *ret_fd, bool *ret_fork_events);

    /* Questions about pages of one window, by probes or fingerprints, at most SP_WINDOW_PAGES, ascending, or
     * notes of as many windows (SP_PROBE_WINDOW_NOTE); answers in the same order. References in the answers
     * are the caller's. */
    int (*ask)(struct sp_link *l, const struct sp_query *queries, size_t n, struct sp_answer *ret_answers);
    /*
     * Publishes the content of pages that were answered SP_ANSWER_SEND. contents[i] is the page in this
     * process's memory, or NULL to refuse (it changed). It is read while the application may write to it or
     * unmap it: whatever arrives is checked against its fingerprint by the owner of the store. Answers:
     * SP_ANSWER_SHARE, or SP_ANSWER_DECLINED (changed, limit).
     */
    int (*publish)(struct sp_link *l, const struct sp_query *queries, const void *const *contents, size_t n,
                   struct sp_answer *ret_answers);
    /* These pages changed or are no longer registered: not to be suggested as twins any more. */
    int (*forget)(struct sp_link *l, const struct sp_query *queries, size_t n);
    /* Everything written was looked through once, and its changes were told: a full scan in KSM's sense is
     * over. NULL: of no interest. */
    void (*scanned)(struct sp_link *l);
    /* Gives references back: `n` runs of store pages. Collected by the worker; the link sends the family's
     * token along and begins a new one (H6). */
    int (*release)(struct sp_link *l, const struct sp_store_run *runs, size_t n);

    /* A read-only descriptor of a segment of the store, in the worker's descriptor table; the link keeps it
     * and closes it. */
    int (*segment)(struct sp_link *l, uint64_t segment, int *ret_fd);

    int (*report)(struct sp_link *l, const struct sp_report *report, bool *ret_pause);

    /* The descriptor that becomes readable when hints are there, or -1; and reading them without blocking:
     * *ret_n <= max, 0 when there is none. */
    int (*hint_fd)(struct sp_link *l);
    int (*hints)(struct sp_link *l, struct sp_hint *ret_hints, size_t max, size_t *ret_n);

    /* In a child after fork: forgets everything without a system call that the parent would notice. The link
     * can be opened again. */
    void (*forked)(struct sp_link *l);
};

struct sp_link {
    const struct sp_link_ops *ops;
    /*
     * Set by the worker after the link was made. While a link waits for a reply it also watches `idle_fd`
     * (-1: nothing) and calls idle() when that is readable: the userfaultfd, whose fork events keep a forking
     * thread of the application waiting until they are read (H3).
     */
    int idle_fd;
    void (*idle)(void *ctx);
    void *idle_ctx;
    /* Set by whoever makes the link: its index takes questions about whole windows (core/domain.h). */
    bool windows;
    /* Likewise: its index keeps pages in the order of their contents. What may change unseen must not stay in
     * it. */
    bool ordered;
    /* Counted by the worker: pages that differed from the store page that their probe had led to. Goes to the
     * index with the next question, and starts again. */
    uint32_t guessed_wrong;
    /* Set by the worker for publish(): what is published is a whole window, which is a huge page; the store's
     * may be one, too. */
    bool whole;
    /* Set by the link when it has learned that the domain's settings are others than at open(); valid while
     * the number, which is another one each time, is not 0. */
    struct sp_settings settings;
    uint32_t settings_number;
    /* Set by the link with each report: whether the CPU time of the worker is bounded, and up to which it may
     * work, counted as in its reports (core/budget.h). */
    bool cpu_bounded;
    uint64_t cpu_until_ns;
};

#endif
