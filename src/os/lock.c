/* SPDX-License-Identifier: MIT */
/*
 * A futex lock of three states (free, held, held and waited for; Drepper, "Futexes are tricky") whose holder
 * has all signals blocked.
 *
 * Signals are blocked before the word is taken: between the two a handler could run, find the lock held by
 * its own thread, and wait for ever. The mask is kept in a local until the lock is ours, because the field
 * belongs to the holder. The C library's own signals (set*id, cancellation) are blocked too; they wait for as
 * long as a batch takes.
 *
 * Pairs: the release store in sp_lock_release with the acquire exchange in take.
 */
#include "os/lock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <time.h>

#include "os/syscall.h"
#include "os/thread.h"

enum { FREE, HELD, WAITED };

#define ALL_SIGNALS UINT64_MAX
/* These two cannot be blocked: the kernel leaves them out of every mask. */
#define UNBLOCKABLE (UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1))

static uint64_t mask_swap(uint64_t mask) {
    uint64_t old = 0;
    sp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, sizeof(mask));
    return old;
}

static uint32_t thread_id(void) {
    return (uint32_t)sp_syscall(SYS_gettid);
}

/* Sleeps while *word == value, at most until `deadline_ns` (UINT64_MAX: none). False: the time is over. */
static bool futex_wait(uint32_t *word, uint32_t value, uint64_t deadline_ns) {
    struct timespec timeout, *limit = NULL;

    if (deadline_ns != UINT64_MAX) {
        uint64_t now_ns = sp_now_ns();
        if (now_ns >= deadline_ns)
            return false;
        uint64_t left_ns = deadline_ns - now_ns;
        timeout.tv_sec = (time_t)(left_ns / 1000000000);
        timeout.tv_nsec = (long)(left_ns % 1000000000);
        limit = &timeout;
    }
    sp_syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, limit);
    return true;
}

static void futex_wake(uint32_t *word, int how_many) {
    sp_syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, how_many);
}

static uint64_t deadline_after(uint64_t timeout_ns) {
    uint64_t now_ns = sp_now_ns();
    return timeout_ns > UINT64_MAX - 1 - now_ns ? UINT64_MAX : now_ns + timeout_ns;
}

static bool take_free(struct sp_lock *l) {
    uint32_t expected = FREE;
    return __atomic_compare_exchange_n(&l->word, &expected, HELD, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* How long a holder may take before we ask whether it still lives. */
#define OWNER_CHECK_NS UINT64_C(200000000)

/* A single thread can be killed while it holds the lock, by a system-call filter (H19). Nobody else can then
 * let go of it. */
static bool owner_is_dead(uint32_t owner) {
    /* tkill, because a child of vfork, which shares this memory, has another process id. */
    return owner && sp_syscall(SYS_tkill, owner, 0) == -ESRCH;
}

/*
 * Whoever has slept takes the lock as WAITED: it cannot know whether others still sleep. From a dead holder
 * the lock is taken over as it is; who of several takes it is settled by the owner field, which only one can
 * change.
 */
static bool take(struct sp_lock *l, uint64_t deadline_ns) {
    if (take_free(l))
        return true;
    uint64_t check_ns = deadline_after(OWNER_CHECK_NS);
    while (__atomic_exchange_n(&l->word, WAITED, __ATOMIC_ACQUIRE) != FREE) {
        if (futex_wait(&l->word, WAITED, check_ns < deadline_ns ? check_ns : deadline_ns))
            continue;
        uint32_t owner = __atomic_load_n(&l->owner, __ATOMIC_RELAXED);
        if (owner_is_dead(owner) && __atomic_compare_exchange_n(&l->owner, &owner, thread_id(), false,
                                                                __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return true;
        if (sp_now_ns() >= deadline_ns)
            return false;
        check_ns = deadline_after(OWNER_CHECK_NS);
    }
    return true;
}

static void own(struct sp_lock *l, uint64_t mask) {
    l->saved_mask = mask;
    __atomic_store_n(&l->owner, thread_id(), __ATOMIC_RELAXED);
}

void sp_lock_acquire(struct sp_lock *l) {
    uint64_t mask = mask_swap(ALL_SIGNALS);
    take(l, UINT64_MAX);
    own(l, mask);
}

bool sp_lock_try(struct sp_lock *l) {
    uint64_t mask = mask_swap(ALL_SIGNALS);
    if (!take_free(l)) {
        mask_swap(mask);
        return false;
    }
    own(l, mask);
    return true;
}

bool sp_lock_timed(struct sp_lock *l, uint64_t timeout_ns) {
    uint64_t deadline_ns = deadline_after(timeout_ns);
    uint64_t mask = mask_swap(ALL_SIGNALS);
    if (!take(l, deadline_ns)) {
        mask_swap(mask);
        return false;
    }
    own(l, mask);
    return true;
}

void sp_lock_release(struct sp_lock *l) {
    uint64_t mask = l->saved_mask;
    __atomic_store_n(&l->owner, 0, __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&l->word, FREE, __ATOMIC_RELEASE) == WAITED)
        futex_wake(&l->word, 1);
    mask_swap(mask);
}

/*
 * The child has another thread id than the holder had in the parent, so it cannot ask sp_lock_mine. Whoever
 * holds the lock has every signal blocked, and so has its copy; a child of any other thread has not, and must
 * not be given the holder's mask.
 */
void sp_lock_reset(struct sp_lock *l) {
    bool held = __atomic_load_n(&l->owner, __ATOMIC_RELAXED) != 0;
    uint64_t restore = l->saved_mask;

    *l = (struct sp_lock)SP_LOCK_INIT;
    uint64_t mine = 0;
    sp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mine, sizeof(mine));
    if (held && (mine | UNBLOCKABLE) == ALL_SIGNALS)
        mask_swap(restore);
}

bool sp_lock_mine(const struct sp_lock *l) {
    uint32_t owner = __atomic_load_n(&l->owner, __ATOMIC_RELAXED);
    return owner && owner == thread_id();
}

/* The release increment pairs with the acquire loads in sp_event_wait: what was written before the post is
 * seen after the wait. */
void sp_event_post(struct sp_event *e) {
    __atomic_fetch_add(&e->word, 1, __ATOMIC_RELEASE);
    futex_wake(&e->word, INT_MAX);
}

uint32_t sp_event_wait(struct sp_event *e, uint32_t seen, uint64_t timeout_ns) {
    uint64_t deadline_ns = timeout_ns == UINT64_MAX ? UINT64_MAX : deadline_after(timeout_ns);
    while (__atomic_load_n(&e->word, __ATOMIC_ACQUIRE) == seen)
        if (!futex_wait(&e->word, seen, deadline_ns))
            break;
    return __atomic_load_n(&e->word, __ATOMIC_ACQUIRE);
}
