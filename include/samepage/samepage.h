/* SPDX-License-Identifier: MIT */
/*
 * libsamepage: pages of identical content in your memory share one physical page, copied on write.
 *
 *     open a domain ─▶ register memory ─▶ (a worker thread merges what settles) ─▶ unregister ─▶ close
 *
 * A *domain* is a set of memory that may share: all regions of one in-process domain, or, through a daemon,
 * the memory of all processes of one user. A *region* is a range of private anonymous memory that may be
 * merged. Reading merged memory costs nothing; the first write to a merged page copies it, as after fork.
 *
 * What you must not do. Between samepage_register and samepage_unregister do not call munmap, mremap,
 * mprotect, mlock, mbind, madvise(MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_WIPEONFORK, MADV_DONTFORK,
 * MADV_GUARD_INSTALL) or mmap(MAP_FIXED) on the range: the worker remaps pages there, and would put its
 * mapping over yours. Use samepage_discard for MADV_DONTNEED; unregister first for the others. (A program
 * that runs under `samepage run` is exempt: there these calls are intercepted.)
 *
 * After samepage_unregister (without SAMEPAGE_QUIESCENT), samepage_unmerge or SAMEPAGE_KEEP_MERGED, pages
 * that had been merged hold private content but lie in a private mapping of a file of ours. All is as before
 * (reads, writes, munmap, mremap without growth, mprotect, fork), except: MADV_DONTNEED, MADV_FREE and
 * MADV_REMOVE must not be used on such memory even then, because it would show the old shared content
 * instead of zeros; samepage_discard does it properly, for as long as the mapping lives. With
 * SAMEPAGE_QUIESCENT the memory is ordinary anonymous memory again, and none of this applies.
 *
 * Threads. All functions may be called from any thread at any time, also for the same handle, except that
 * nothing may be called with a handle that another call is ending (samepage_unregister,
 * samepage_domain_close). None may be called in a signal handler. They may call malloc.
 *
 * fork. The library installs pthread_atfork handlers when the first domain is opened: fork waits for the
 * batch that is running (some 100 us). The child has the same handles, all valid; its memory is intact,
 * and merged pages stay shared. Its domains have no worker: one starts at samepage_merge,
 * samepage_wait_settled or samepage_register, or at any other call once the child is 0.2 s old; counters
 * start at 0. The child of an in-process domain has a domain of its own from then on. Children made
 * by vfork and posix_spawn are left alone. In children made by a raw clone or _Fork, which run no handlers,
 * do not call this library; their memory is intact where userfaultfd's fork events can be had (as root, with
 * CAP_SYS_PTRACE, or through a daemon) and not guaranteed otherwise.
 *
 * Errors. Functions returning int return 0 or a negative errno value, each one listed; samepage_strerror has
 * the text. Output parameters are untouched on failure. The library never prints and never ends the process.
 *
 * Structures begin with their size, so that they can grow: set `size` to sizeof of it and the rest to 0:
 *     struct samepage_options o = {.size = sizeof(o)};
 */
#ifndef SAMEPAGE_SAMEPAGE_H
#define SAMEPAGE_SAMEPAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SAMEPAGE_PUBLIC __attribute__((visibility("default")))
#define SAMEPAGE_CHECK  __attribute__((warn_unused_result))

typedef struct samepage_domain samepage_domain;
typedef struct samepage_region samepage_region;

/* Size in bytes of the unit of merging; addresses and lengths are multiples of it. */
#define SAMEPAGE_PAGE_SIZE ((size_t)4096)

/* ---- flags ---- */

/* samepage_domain_open: wait until the daemon was reached once. */
#define SAMEPAGE_OPEN_CONNECT 1u
/*
 * samepage_merge, samepage_unmerge, samepage_unregister, samepage_domain_close: the caller promises that
 * nobody reads or writes the range during the call: no thread, no system call, no I/O under way into it (a
 * range pinned by io_uring or a device counts as I/O under way).
 */
#define SAMEPAGE_QUIESCENT 2u
/* samepage_domain_close: merged memory stays merged. */
#define SAMEPAGE_KEEP_MERGED 4u

/* ---- version and texts ---- */

/* The library's version, "MAJOR.MINOR.PATCH". Static text. Does not block. */
SAMEPAGE_PUBLIC const char *samepage_version(void);

/*
 * Plain English text, without a full stop, for a negative errno value that a function of this library
 * returned (a positive one is taken as negative; 0 is "success"). What it says about a value that this
 * library does not return is the C library's text. Static text. Does not block.
 */
SAMEPAGE_PUBLIC const char *samepage_strerror(int error);

/* ---- domains ---- */

struct samepage_options {
    size_t size;             /* bytes of this structure */
    unsigned flags;          /* SAMEPAGE_OPEN_* */
    int connect_timeout_ms;  /* for SAMEPAGE_OPEN_CONNECT; 0: 5000; negative: no limit */
    const char *socket_path; /* of the daemon; NULL: a domain within this process. Copied */
    /*
     * "KEY=VALUE[,KEY=VALUE...]", the settings that `samepage help run` lists; NULL or "": the
     * defaults. Through a daemon, the daemon's settings replace them once it was reached.
     */
    const char *settings;
    /* When not NULL: receives one line that says what is wrong with `settings`, cut to error_bytes. The only
     * output that is written on failure. */
    char *error;
    size_t error_bytes;
    /*
     * How pages with the same content are found in a domain within this process. NULL or "hash": by
     * fingerprints. "tree": by KSM's two red-black trees ordered by content, as its authors describe them; it
     * shares the same pages, and is there to be compared with: it reads and compares far more
     * (bench/RESULTS.md has figures). With a socket_path only NULL or "hash", because a daemon never reads
     * its clients' memory.
     */
    const char *index;
};

/*
 * Opens a domain: within this process (socket_path NULL, or options NULL), or through a daemon. Starts no
 * thread and opens nothing yet, unless SAMEPAGE_OPEN_CONNECT is given with a socket_path: then it starts the
 * worker, which connects, and waits for that. A daemon that cannot be reached is otherwise no error: the
 * worker tries again every second, also after a daemon has gone. Any number of domains may be open.
 *
 * Blocks: only with SAMEPAGE_OPEN_CONNECT, at most connect_timeout_ms.
 * -EINVAL: size is wrong, an unknown flag, an empty socket_path, an unknown index or one that cannot be had
 * through a daemon, or malformed settings. -ENOENT: unknown setting. -ERANGE: the value of a setting is out
 * of its range. -ENAMETOOLONG: socket_path. -ENOMEM. With SAMEPAGE_OPEN_CONNECT also: -ETIMEDOUT: the daemon
 * was not reached in time. -EPERM: no worker may run in this process, see samepage_domain_state for the
 * cases. -EAGAIN: no thread could be made.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_domain_open(const struct samepage_options *options,
                                                        samepage_domain **ret_domain);

/*
 * Closes the domain. First every region that is left is unregistered as by samepage_unregister, with
 * SAMEPAGE_QUIESCENT if that is given, and its handle freed: the memory is private and intact. Then the
 * worker ends. With SAMEPAGE_KEEP_MERGED nothing is unmerged: what is shared stays shared, copied on write,
 * for as long as its mapping lives (the store stays with it). NULL is allowed.
 *
 * Blocks: for the time that unmerging takes, and until the worker has ended (less than a second, or until a
 * daemon that hangs was given up, 10 s).
 * -EINVAL: unknown flag. -ENOMEM: the machine has not enough memory to unmerge everything: the domain and
 * the regions not yet unregistered stay as they are, their handles valid.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_domain_close(samepage_domain *domain, unsigned flags);

enum samepage_state {
    SAMEPAGE_STATE_IDLE,           /* no worker yet: nothing was registered */
    SAMEPAGE_STATE_STARTING,       /* the worker is about to run */
    SAMEPAGE_STATE_RUNNING,        /* merging */
    SAMEPAGE_STATE_CONNECTING,     /* no daemon at present: memory stays as it is, new merging waits */
    SAMEPAGE_STATE_NO_USERFAULTFD, /* only SAMEPAGE_QUIESCENT merging works; see `samepage doctor` */
    SAMEPAGE_STATE_SECCOMP,       /* the process runs under a system-call filter that could kill the worker */
    SAMEPAGE_STATE_LOCKED_MEMORY, /* the process locks memory (mlock), which unshares everything */
    SAMEPAGE_STATE_UNSAFE_KERNEL, /* UFFDIO_MOVE is not safe on this kernel while swap is on */
    SAMEPAGE_STATE_NO_THREAD,     /* the worker could not be started */
    SAMEPAGE_STATE_STOPPED        /* ended for good */
};

/*
 * What the domain's worker is doing, or why there is none. *ret_text (may be NULL) is a static English text.
 * Does not block. Cannot fail.
 */
SAMEPAGE_PUBLIC enum samepage_state samepage_domain_state(samepage_domain *domain, const char **ret_text);

/* ---- regions ---- */

/*
 * How many bytes of [addr, addr + bytes) can be registered at present, and, when not all can, why the largest
 * part of the rest cannot (*ret_reason, static English text, may be NULL; NULL is written when all can).
 * Eligible is private anonymous memory that is readable and writable and not: executable, locked, hugetlb,
 * a stack, with a protection key, a NUMA policy or a name of its own, wiped on fork, or watched by a
 * userfaultfd. From /proc/self/smaps (proc_pid_smaps(5)) and get_mempolicy(2).
 *
 * Blocks for the time of reading smaps (milliseconds for gigabytes).
 * -EINVAL: not a multiple of the page size, empty, or overflowing. The errno of opening or reading /proc.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_eligible(const void *addr, size_t bytes,
                                                     size_t *ret_eligible_bytes, const char **ret_reason);

/*
 * Registers [addr, addr + bytes) for merging. The parts that are eligible are taken in, the others passed
 * over (samepage_region_eligible_bytes says how much was). Starts the domain's worker if there is none yet.
 * `flags` must be 0.
 *
 * Blocks for the time of reading smaps.
 * -EINVAL: not a multiple of the page size, empty, overflowing, overlapping a region of any domain of this
 * process, or an unknown flag. -EOPNOTSUPP: nothing in the range is eligible (samepage_eligible says why).
 * -ENOMEM. The errno of opening or reading /proc.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_register(samepage_domain *domain, void *addr, size_t bytes,
                                                     unsigned flags, samepage_region **ret_region);

/* How many bytes of the region were eligible when it was registered. Does not block. */
SAMEPAGE_PUBLIC size_t samepage_region_eligible_bytes(const samepage_region *region);

/*
 * Ends the registration: makes every page private (as samepage_unmerge, with the same meaning of
 * SAMEPAGE_QUIESCENT), and frees the handle. NULL is allowed. On return the range may be registered again, in
 * this or another domain, or be given to another userfaultfd.
 *
 * Blocks for the time of copying what was merged, and for what the worker is doing.
 * -EINVAL: unknown flag. -ENOMEM: not enough memory for private copies: the region stays registered and the
 * handle valid; what was unmerged stays unmerged; nothing is lost.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_unregister(samepage_region *region, unsigned flags);

/* ---- merging, unmerging, discarding ---- */

struct samepage_merge_result {
    size_t size;            /* bytes of this structure */
    uint64_t merged_pages;  /* now shared that were not before */
    uint64_t zero_pages;    /* pages of zeros given back to the kernel */
    uint64_t shared_pages;  /* shared in the range when the call ended */
    uint64_t changed_pages; /* content changed meanwhile: left as they were */
    uint64_t
        refused_pages; /* pinned for I/O, shared with a forked child, or over a limit: left as they were */
};

/*
 * Merges the registered part of [addr, addr + bytes) now: everything present counts as settled, and is
 * merged with what it equals within the range or elsewhere in the domain.
 *
 * With SAMEPAGE_QUIESCENT (see there) nothing is frozen and no userfaultfd is needed: works in any process
 * in which a worker may run. Without it, other threads may go on reading and writing.
 *
 * Only with SAMEPAGE_QUIESCENT memory is merged a second time that was unmerged, or written after it was
 * merged (pages_broken in struct samepage_region_counters): the worker by itself never does that, because it
 * cannot know that no I/O is under way into such a page. Whoever has moments in which nobody touches a range
 * may call this again and again in them, so that what is saved does not decay; it reads what was written
 * since, and nothing that is merged still. What has no twin then waits for one until the next such call: two
 * such pages of equal content are merged by the second call of whichever owner was first. (With the index
 * "tree" only pages whose twin is within the range, ordinary memory or merged already.) A page of zeros among
 * it becomes shared like any other, and counts in merged_pages.
 *
 * ret_result (may be NULL): counters, see above. Blocks until done, and for the worker's start and first
 * connection attempt.
 * -EINVAL: not a multiple of the page size, empty, overflowing, nothing of it registered in this domain,
 * result size wrong, or an unknown flag. -ENOTCONN: the daemon is not there at present. Without
 * userfaultfd (unless SAMEPAGE_QUIESCENT): the errno of opening it, -EPERM, -EACCES, -ENOSYS or -ENOENT.
 * -EPERM: no worker may run in this process (samepage_domain_state). -EAGAIN: no thread could be made.
 * -ECANCELED: merging has ended for good in this domain. -EBUSY: the setting `run` has stopped it. -ENOMEM.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_merge(samepage_domain *domain, void *addr, size_t bytes,
                                                  unsigned flags, struct samepage_merge_result *ret_result);

/*
 * Makes every merged page of the registered part of [addr, addr + bytes) private again; content unchanged.
 * It stays registered. Other threads may go on reading and writing; each page is copied by the kernel as if
 * it were written (madvise(2), MADV_POPULATE_WRITE). What was merged remains in a private mapping of our
 * file (see the top) and is not merged again, but by samepage_merge with SAMEPAGE_QUIESCENT.
 *
 * With SAMEPAGE_QUIESCENT the memory becomes ordinary anonymous memory, which may be discarded by
 * madvise and, because it is still registered, will be merged again. Needs up to 2 MiB for the time of
 * the call.
 *
 * Blocks for the time of copying. -EINVAL: not a multiple of the page size, empty, overflowing, nothing of
 * it registered in this domain, or an unknown flag. -ENOMEM: not enough memory; what was done stays done,
 * nothing is lost.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_unmerge(samepage_domain *domain, void *addr, size_t bytes,
                                                    unsigned flags);

/*
 * What madvise(MADV_DONTNEED) does for memory never merged: the content of [addr, addr + bytes) is thrown
 * away, it reads as zeros, its memory is free. For registered memory, and for any memory that was registered
 * once, in this domain or another (open or not), as long as no other domain has it registered now. Parts
 * that are neither get MADV_DONTNEED. The range stays registered where it is. `domain` may be NULL when
 * nothing of the range is registered.
 *
 * Blocks for the system calls; for memory no longer registered also for reading smaps.
 * -EINVAL: not a multiple of the page size, empty, overflowing, registered in another domain, or what
 * madvise refuses (locked memory). -ENOMEM: a part is not mapped, in which case the rest was discarded, or
 * the limit of mappings is reached, in which case some of it may not be. The errno of reading /proc.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_discard(samepage_domain *domain, void *addr, size_t bytes);

/*
 * Waits until everything registered in the domain in this process is settled: looked through, fingerprinted,
 * merged where there is something to merge with, nothing pending. Memory that is written all the time delays
 * this for as long. At once when nothing is registered. timeout_ms < 0: no limit.
 *
 * Blocks at most timeout_ms. -ETIMEDOUT: not yet (also while no daemon is there). -ECANCELED: merging has
 * ended for good. Otherwise as samepage_merge, when no worker can run or there is no userfaultfd.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_wait_settled(samepage_domain *domain, int timeout_ms);

/* ---- statistics ---- */

/* Pages are SAMEPAGE_PAGE_SIZE bytes. KSM's names have KSM's meaning (Documentation/admin-guide/mm/ksm.rst).
 */
struct samepage_region_counters {
    size_t size;                /* bytes of this structure */
    uint64_t registered_bytes;  /* of the region, at present under the care of the worker */
    uint64_t eligible_bytes;    /* of the region, when it was registered */
    uint64_t ksm_merging_pages; /* pages that are shared now (KSM: /proc/PID/ksm_stat) */
    uint64_t ksm_zero_pages;    /* pages of zeros given back to the kernel and not written since */
    uint64_t pages_unshared;    /* known to the index, without a twin */
    uint64_t pages_volatile;    /* changed too lately to be tried */
    uint64_t pages_broken;      /* lie in our mapping but are private: written since, or unmerged */
    uint64_t resident_pages;    /* seen present by the worker */
};

/*
 * Counters of the region. Set ret_counters->size; what a newer library knows beyond it is left out, what an
 * older one does not know is 0. A worker counts when it looks, so figures follow reality by up to
 * sleep_max_millisecs. In a forked child ksm_merging_pages counts what was merged after the fork.
 * Blocks for a running batch. -EINVAL: size is smaller than the first version of the structure.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_region_stats(samepage_region *region,
                                                         struct samepage_region_counters *ret_counters);

struct samepage_domain_counters {
    size_t size; /* bytes of this structure */

    /* Of the domain as a whole, all its processes. Through a daemon these are asked of it. */
    uint64_t domain_known;   /* 1; 0: the daemon could not be asked, the others of this block are 0 */
    uint64_t pages_shared;   /* store pages in use */
    uint64_t pages_sharing;  /* pages that share them beyond the first: what is saved */
    uint64_t saved_bytes;    /* (pages_sharing + zero pages) in bytes */
    uint64_t exposure_bytes; /* memory needed if every sharer wrote everything now */

    /* Of this process. */
    uint64_t pages_unshared;   /* known to the index, without a twin */
    uint64_t pages_volatile;   /* changed too lately to be tried */
    uint64_t pages_skipped;    /* passed over because earlier tries failed (backing off) */
    uint64_t pages_scanned;    /* fingerprinted so far */
    uint64_t full_scans;       /* how often all registered memory was looked through */
    uint64_t ksm_zero_pages;   /* pages of zeros given back to the kernel and not written since */
    uint64_t pages_merged;     /* remapped onto the store so far */
    uint64_t pages_broken;     /* merged pages written since and private again, so far */
    uint64_t pages_differed;   /* put back because their content had changed, so far */
    uint64_t pages_pinned;     /* refused by the kernel: pinned for I/O or shared by fork, so far */
    uint64_t registered_bytes; /* address space registered */
    uint64_t resident_pages;   /* seen present in it */
    uint64_t freezes;          /* batches of pages frozen so far */
    uint64_t freeze_p50_ns;    /* how long a batch of pages was frozen: half of them no longer than this */
    uint64_t freeze_p99_ns;    /* 99 of 100 no longer than this */
    uint64_t freeze_max_ns;    /* none longer than this */
    uint64_t cpu_ns;           /* CPU time of the worker */
    uint64_t own_bytes;        /* memory the worker uses for itself */
    uint64_t errors;           /* system calls of the worker that failed; memory stayed intact */
};

/*
 * Counters of the domain, as samepage_region_stats. Blocks for a running batch; through a daemon also for
 * its answer, at most 1 s. -EINVAL: size is smaller than the first version of the structure.
 */
SAMEPAGE_PUBLIC SAMEPAGE_CHECK int samepage_domain_stats(samepage_domain *domain,
                                                         struct samepage_domain_counters *ret_counters);

#ifdef __cplusplus
}
#endif

#endif
