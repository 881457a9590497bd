/* SPDX-License-Identifier: MIT */
/*
 * The shim for unmodified programs: a library that `samepage run` preloads. It stands in front of the C
 * library's mapping calls, so that the memory a program advises to be merged can be merged under it, and so
 * that no such call and no batch of the worker ever meet (H1).
 *
 * What it knows, all of it in `shim`, guarded by the engine's lock, in address ranges:
 *
 *     tracked   private anonymous memory that the program mapped through us: only this may be registered,
 *               since only its unmapping will come through us again. The C library's own mappings (malloc,
 *               thread stacks) never do. A subset of what is mapped, always.
 *     wanted    advised to be merged, and tracked: what is registered with the engine (once armed).
 *     former    was registered once and may still have mappings of the store in it, although private.
 *     refused   tracked, and advised not to be merged (MADV_UNMERGEABLE): not wanted although all is.
 *     wiped     mappings of the store whose program asked for WIPEONFORK, which the kernel refuses for them.
 *     dontfork  tracked memory that a child will not have; and likewise dontdump, hugepage, nohugepage: what
 *               madvise has set on tracked memory (known.c).
 *     locked    former memory that is locked.
 *
 * What is wanted is what the program advises, or all that is tracked (`all`, SAMEPAGE_SCOPE) from the moment
 * on in which that is enough to be worth a worker. What a program maps and unmaps is noted in a journal,
 * without a lock or a system call, and only whoever needs to know what is tracked takes the lock and empties
 * it (shim_lock; the worker before it looks). So memory that is gone again soon is never known to the sets,
 * nor registered; only calls on what is registered, or was, must take the lock.
 *
 * Until something is wanted (UNARMED) calls that neither map nor unmap are counted while they run
 * (`inflight`); whoever wants the first range seals the journal and waits for them before anything is
 * registered (state ARMING), and from then on (ARMED) such calls on tracked memory take the lock, and on any
 * memory while there are notes.
 *
 * Everything here may run in a signal handler, in a child of vfork, before the constructor and between
 * pthread_atfork handlers: no malloc, no stdio, no C library calls except where said. Functions named call_*
 * return what the kernel would, a negative errno included; names.c makes errno of it.
 */
#ifndef SP_PRELOAD_SHIM_H
#define SP_PRELOAD_SHIM_H

#include "merge/engine.h"
#include "os/syscall.h"
#include "preload/journal.h"
#include "preload/ranges.h"

/* Smaller mappings are not worth a place in the set, nor a merge. */
#define SHIM_TRACKED_MIN_BYTES ((uint64_t)64 * 1024)

enum shim_state { SHIM_UNARMED, SHIM_ARMING, SHIM_ARMED };

struct shim {
    struct sp_engine *engine; /* NULL: inactive, every call passes through. Set once, by the constructor */
    struct ranges tracked, wanted, former, refused, wiped, locked;
    struct ranges dontfork, dontdump, hugepage, nohugepage;
    struct journal journal; /* what is to be put into `tracked`; sealed while arming */
    uint64_t grown_bytes;   /* mapped since `tracked` was last measured, and */
    uint64_t allowed_bytes; /* how much may be before it is measured again */
    uint32_t state;         /* enum shim_state */
    int inflight;           /* calls that run without the lock although they touch tracked memory */
    int pid;                /* whose worker it is: a child of vfork must not start one */
    bool all;               /* SAMEPAGE_SCOPE=all: everything tracked is wanted, once there is enough of it */
    bool merge_any;         /* PR_SET_MEMORY_MERGE */
    bool stopped;           /* merging has ended for good: nothing new is tracked or registered */
    bool opaque;            /* something was done to memory of which these sets know nothing */
    bool forked;            /* this is a child: the engine wants to be kicked */
};
extern struct shim shim;

/* A system call that is to be made a little later. */
struct call {
    long number;
    long a[6];
};
static inline long call_make(const struct call *c) {
    return sp_syscall6(c->number, c->a[0], c->a[1], c->a[2], c->a[3], c->a[4], c->a[5]);
}

static inline bool is_error(long r) {
    return (unsigned long)r >= (unsigned long)-4095L;
}

static inline uint64_t page_down(uint64_t v) {
    return v & ~(uint64_t)(SP_PAGE_SIZE - 1);
}

/* Wraps to 0 as the kernel's PAGE_ALIGN does. */
static inline uint64_t page_up(uint64_t v) {
    return page_down(v + SP_PAGE_SIZE - 1);
}

static inline bool is_aligned(uint64_t v) {
    return !(v & (SP_PAGE_SIZE - 1));
}

/* known.c: what mappings are -------------------------------------------------------------------------- */

/* SP_ATTR_* were set and cleared on the tracked memory in the range. */
void shim_note_attributes_locked(uint64_t start, uint64_t end, unsigned set, unsigned clear);
void shim_forget_attributes_locked(uint64_t start, uint64_t end);
/* As sp_proc_mappings, for tracked memory only. With the lock held. */
int shim_mappings(uint64_t start, uint64_t end, bool (*visit)(void *ctx, const struct sp_mapping *m),
                  void *ctx);

/* shim.c: locks and registration ---------------------------------------------------------------------- */

/* Whether a call on the range can matter to us. Without the lock. While unarmed, or while there are notes in
 * the journal, the answer is yes. */
bool shim_overlaps(uint64_t start, uint64_t end);

/* False in a child of vfork, which runs in the memory of its parent. */
bool shim_is_owner(void);

/* The lock, unless this thread has it already (a handler of pthread_atfork that maps memory). Returns whether
 * it was taken, to be given to shim_unlock. */
bool shim_lock(void);
void shim_unlock(bool taken);
/* What the journal says enters the sets; part of shim_lock. */
void shim_refresh_locked(void);

/* How a call that neither maps nor unmaps is to be made; ends with shim_leave. */
enum shim_path { SHIM_RAW, SHIM_COUNTED, SHIM_NESTED, SHIM_LOCKED };
enum shim_path shim_enter(uint64_t start, uint64_t end);
void shim_leave(enum shim_path path);
static inline bool shim_has_lock(enum shim_path path) {
    return path == SHIM_NESTED || path == SHIM_LOCKED;
}

/* Whether [start, end) has memory that is registered or was: everything else behaves as the kernel does. */
bool shim_special_locked(uint64_t start, uint64_t end);

/* New private anonymous memory with that protection, just mapped, and as such mappings are: no attributes, no
 * policy, no name. */
void shim_track(uint64_t start, uint64_t end, int prot);
/* The same for memory of which no more is known; with the lock. */
void shim_track_locked(uint64_t start, uint64_t end);
/* The range has been unmapped or replaced: forgets it in every set. */
void shim_forget_locked(uint64_t start, uint64_t end);

/* Registers what may be registered of the range, but for what is refused. */
void shim_want_locked(uint64_t start, uint64_t end);
/* The program wants the range merged; or it does not: then every page that it has there is its own on return,
 * and stays so also where all is merged. -ENOMEM. */
void shim_advise_locked(uint64_t start, uint64_t end);
SP_WARN_UNUSED int shim_unadvise_locked(uint64_t start, uint64_t end);
/* Takes the range out of the registration with its content made private: it behaves like ordinary memory
 * then, except for calls that mappings of the store answer differently (`former`). -ENOMEM. */
SP_WARN_UNUSED int shim_retire_locked(uint64_t start, uint64_t end);
/* The same, and pages of zeros that were given back have memory of their own again. -ENOMEM. */
SP_WARN_UNUSED int shim_unmerge_locked(uint64_t start, uint64_t end);
/* A system call has made the mappings in the range go away: everything is forgotten, and references are given
 * back, under the lock that was held since before the call. Or it has failed to. */
void shim_unmapped_locked(uint64_t start, uint64_t end);
void shim_unmap_failed_locked(uint64_t start, uint64_t end);
/* Makes a system call that replaces or removes all mappings in [start, end). */
long shim_replace(uint64_t start, uint64_t end, const struct call *c);
/* Makes fresh anonymous memory of the mappings of the store in the range (H5). */
SP_WARN_UNUSED int shim_discard_locked(uint64_t start, uint64_t end);
/* Makes the call, whose first two of `at` arguments are a start and a length, on the parts of [start, end)
 * that are no mappings of the store; optionally collects the others in `ret_store`. */
SP_WARN_UNUSED long shim_apply_locked(const struct call *c, unsigned at, uint64_t start, uint64_t end,
                                      struct ranges *ret_store);
/* Sets SP_ATTR_* on a mapping that was made anew. */
void shim_attributes_set(uint64_t start, uint64_t end, unsigned attributes);

/* Ends merging for good, and the worker with it. Not with the lock held. */
void shim_stop(enum sp_engine_state why);
/* Ends the worker of this process, which has no other thread: what is tracked and wanted stays so, and
 * children merge again. Not with the lock held. */
void shim_rest(void);

/* Whether [start, end) is mapped without a hole. */
bool shim_mapped(uint64_t start, uint64_t end);

/* The calls ------------------------------------------------------------------------------------------- */

long call_mmap(uint64_t address, uint64_t bytes, int prot, int flags, int fd, long offset);
long call_munmap(uint64_t start, uint64_t bytes);
long call_mprotect(uint64_t start, uint64_t bytes, int prot, int pkey, bool with_pkey);
long call_mlock(uint64_t start, uint64_t bytes, int flags, bool with_flags);
long call_munlock(uint64_t start, uint64_t bytes);
long call_mlockall(int flags);
long call_munlockall(void);
long call_mbind(const long a[6]);
long call_shmat(int id, uint64_t address, int flags);
long call_mremap(uint64_t old, uint64_t old_bytes, uint64_t new_bytes, int flags, uint64_t target);
long call_madvise(uint64_t start, uint64_t bytes, int advice);
long call_process_madvise(const long a[6]);
long call_prctl(const long a[6]);
long call_seccomp(const long a[6]);
/* unshare and setns. */
long call_single(const struct call *c);

/* single.c -------------------------------------------------------------------------------------------- */

/* Whether there is a worker at all, for next to nothing. */
bool single_is_near(void);
/* Where the worker is the only thread besides the caller: ends it, waits until the kernel no longer counts
 * it, true. */
bool single_make_room(void);

/* fork.c ---------------------------------------------------------------------------------------------- */

/* From the constructor, in every process: what its names go on to. */
void fork_init(void);
/* And where there is an engine: pthread_atfork. */
void fork_watch(void);
/* A raw fork, clone or clone3 whose child has a copy of this stack. */
long fork_call(const struct call *c);

/* counted.c ------------------------------------------------------------------------------------------- */

/* From the constructor, in every process: what its names go on to. */
void counted_init(void);

/* identity.c ------------------------------------------------------------------------------------------ */

/* Likewise. */
void identity_init(void);

/* inherit.c ------------------------------------------------------------------------------------------- */

/* From the constructor: what PR_SET_MEMORY_MERGE was set to when this program was executed. */
bool inherit_read(char **environment);
/* What programs are to find that are executed from here. */
void inherit_write(bool merge_any);

/* names_device.c -------------------------------------------------------------------------------------- */

/* From the constructor, in every process: what its names go on to. */
void device_init(void);

/* leave.c --------------------------------------------------------------------------------------------- */

/* From the constructor, before all else: does not return where the program is better off without us. */
void leave_if_sanitized(char **argv, char **environment);

/* loader.c -------------------------------------------------------------------------------------------- */

/* From the constructor, in every process: dlopen is ours from now on. */
void loader_init(bool all);

#endif
