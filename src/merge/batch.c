/* SPDX-License-Identifier: MIT */
/*
 * The primitive. Order of the steps, and why:
 *
 *   look whether the runs are registered   or they are not what they were (H1)
 *   register MISSING on exactly the runs   or an access to a frozen page would find a hole and see zeros
 *   MOVE to scratch                        the freeze; refuses what is pinned or shared with a child
 *   compare with the store                 the decision (I1)
 *   look again                             the last moment at which nothing is lost yet
 *   map the store over the equal ones      from here it is what the application sees
 *   MOVE or COPY the others back
 *   unregister and register WP again       ends MISSING on what stays anonymous; wakes
 *   wake                                   whoever slept on one of them looks again
 *
 * A fork by another thread (H3) copies the page tables in one go under the kernel's mmap lock. If it came
 * while pages were in scratch, the child lacks them. With SP_UFFD_EVENT_FORK the forking thread waits until
 * the event is read here, and the kernel refuses every MOVE and COPY (EAGAIN) until then; so nothing can be
 * put back, or frozen anew, before the child was given what it lacks.
 *
 * The tripwire of H1: the lock keeps out every mapping call that goes through the C library, not one that the
 * program makes by an instruction of its own. Such a call leaves a mapping that is not registered with our
 * userfaultfd, or none, and PAGEMAP_SCAN tells: the program's new data would otherwise be replaced by the
 * old. What is left is the time between the second look and the mmap.
 */
#include "merge/batch.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/fingerprint.h"
#include "merge/window.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/pagemap.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/thread.h"
#include "os/uffd.h"

static uintptr_t slot_address(const struct sp_batch *b, unsigned slot) {
    return b->base + (uint64_t)slot * SP_PAGE_SIZE;
}

static uintptr_t slot_scratch(const struct sp_batch *b, unsigned slot) {
    return (uintptr_t)b->scratch + (uint64_t)slot * SP_PAGE_SIZE;
}

static void mark(struct sp_batch *b, unsigned first, unsigned last, enum sp_outcome outcome) {
    for (unsigned i = first; i < last; i++)
        b->outcome[i] = (uint8_t)outcome;
}

static unsigned forks_read(int uffd, const struct sp_batch *b, int *ret_error);

/*
 * Gives a child what it lacks of one page. The page is there already (EEXIST), or the mapping or the child is
 * not: all fine. EAGAIN: the child is itself in the middle of a fork, and its child lacks the same. There is
 * no other place for the content, so this goes on until it has succeeded.
 */
static void child_copy(int child, const struct sp_batch *b, uintptr_t address, const void *source) {
    for (;;) {
        int error = sp_uffd_copy(child, address, source, SP_PAGE_SIZE);
        if (error != -EAGAIN && error != -ENOMEM)
            return;
        int unused;
        if (error == -EAGAIN && forks_read(child, b, &unused))
            continue;
        sp_sleep_ns(UINT64_C(100000));
    }
}

/*
 * What a frozen page holds is in scratch, also when it was found equal to a store page. Scratch is read only
 * where a page is in it: a hole in it would put us to sleep for ever (H2). Pages of zeros need nothing: a
 * hole reads the same.
 */
static void child_repair(int child, const struct sp_batch *b) {
    for (size_t k = 0; k < b->n; k++) {
        const struct sp_batch_run *run = &b->runs[k];
        for (unsigned slot = run->slot; slot < run->slot + run->pages; slot++)
            if (b->outcome[slot] != SP_OUTCOME_ZEROED && sp_bits_get(&b->in_scratch, slot))
                child_copy(child, b, slot_address(b, slot), (const void *)slot_scratch(b, slot));
    }
}

static unsigned forks_read(int uffd, const struct sp_batch *b, int *ret_error) {
    unsigned children = 0;
    *ret_error = 0;
    for (;;) {
        int child = -1;
        int event = sp_uffd_read(uffd, &child);
        if (event <= 0) {
            *ret_error = event;
            return children;
        }
        if (event != SP_UFFD_FORKED)
            continue;
        children++;
        if (b)
            child_repair(child, b);
        /* Closing it ends the child's registration and wakes it. */
        int unused = sp_close(child);
        (void)unused;
    }
}

int sp_batch_forks(int uffd) {
    int error = 0;
    unsigned children = uffd < 0 ? 0 : forks_read(uffd, NULL, &error);
    return children ? (int)children : error;
}

/*
 * A call was refused because a fork is under way: serves its event if it is there, or gives it a moment. The
 * kernel goes on refusing after the event was read, until the forking thread has run again, so there is
 * nothing to wait for but time; likewise where an event is there and cannot be read for want of descriptors
 * or memory. False: it is no use to ask again.
 */
static bool fork_pending(struct sp_batch *b) {
    if (!b->fork_events)
        return false;
    int error;
    unsigned children = forks_read(b->uffd, b, &error);
    b->forks += children;
    if (children)
        return true;
    if (error) { /* it keeps the descriptor readable: waiting for that would be no wait */
        b->errors++;
        sp_sleep_ns(UINT64_C(1000000));
        return true;
    }
    return sp_wait_readable(&b->uffd, 1, UINT64_C(1000000)) >= 0;
}

/* In scratch, and to be put back. */
static bool goes_back(const struct sp_batch *b, unsigned slot) {
    return b->outcome[slot] == SP_OUTCOME_CHANGED || b->outcome[slot] == SP_OUTCOME_KEPT;
}

static enum sp_outcome move_refusal(int error) {
    switch (error) {
    case -EBUSY:
    case -EAGAIN:
        return SP_OUTCOME_BUSY;
    case -ENOENT:
        return SP_OUTCOME_GONE;
    default:
        return SP_OUTCOME_REFUSED;
    }
}

/* ---- still ours? (H1) ---- */

/* Those of `pages` that are no longer mapped, or in a mapping that is not registered. */
static int pages_gone(const struct sp_batch *b, const sp_bits *pages, sp_bits *ret_gone) {
    const struct sp_batch_run *first = &b->runs[0], *last = &b->runs[b->n - 1];
    sp_bits watched;
    int error = sp_pagemap_window(b->pagemap, SP_PAGEMAP_WATCHED, b->base / SP_WINDOW_SIZE, first->slot,
                                  last->slot + last->pages, &watched);
    if (error)
        return error;
    *ret_gone = *pages;
    sp_bits_minus(ret_gone, &watched);
    return 0;
}

/* Before anything is touched. Without an answer nothing is. */
static bool batch_is_ours(struct sp_batch *b) {
    sp_bits pages = {0}, gone;
    for (size_t k = 0; k < b->n; k++)
        sp_bits_range(&pages, b->runs[k].slot, b->runs[k].slot + b->runs[k].pages);
    int error = pages_gone(b, &pages, &gone);
    if (!error && !sp_bits_any(&gone))
        return true;
    b->errors += error != 0;
    b->replaced = !error;
    SP_BITS_EACH(&pages, slot) {
        b->outcome[slot] = !error && sp_bits_get(&gone, slot) ? SP_OUTCOME_GONE : SP_OUTCOME_REFUSED;
    }
    return false;
}

/*
 * Before the remap; what is frozen is registered, holes included. If anything of it has gone nothing is
 * remapped at all: what is still ours goes back. Of what has gone the copies in scratch are of no use to
 * anybody, and there is nothing to thaw.
 */
static void batch_look_again(struct sp_batch *b) {
    sp_bits gone = {0};
    int error = pages_gone(b, &b->missing, &gone);
    if (!error && !sp_bits_any(&gone))
        return;
    b->errors += error != 0;
    b->replaced = !error;
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++)
        if (b->outcome[slot] == SP_OUTCOME_MERGED)
            b->outcome[slot] = SP_OUTCOME_CHANGED;
    SP_BITS_EACH(&gone, slot) {
        b->outcome[slot] = SP_OUTCOME_GONE;
    }
    sp_bits_minus(&b->missing, &gone);
}

/* ---- freeze ---- */

/* Registers pages for tracking again, after an UNREGISTER. */
static void rearm(struct sp_batch *b, unsigned first, unsigned last) {
    if (!sp_uffd_register(b->uffd, slot_address(b, first), (last - first) * SP_PAGE_SIZE, SP_UFFD_MODE_WP))
        return;
    b->errors++;
    sp_bits_range(&b->unarmed, first, last);
}

/*
 * Registers MISSING on a run. Where a run crosses mappings the kernel goes from one to the next, and fails
 * with -ENOMEM at one that it cannot split (H4): those before it stay registered. They are whole mappings by
 * then, so that taking them back gets as far as that one again. All other refusals come before the first
 * change.
 */
static int run_register(struct sp_batch *b, const struct sp_batch_run *run) {
    uintptr_t address = slot_address(b, run->slot);
    size_t bytes = run->pages * SP_PAGE_SIZE;
    int error = sp_uffd_register(b->uffd, address, bytes, SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    if (error != -ENOMEM)
        return error;
    b->errors++;
    int unused = sp_uffd_unregister(b->uffd, address, bytes);
    (void)unused;
    rearm(b, run->slot, run->slot + run->pages);
    return error;
}

/* Moves a run to scratch. Pages that went are marked CHANGED until the comparison says otherwise. */
static void run_freeze(struct sp_batch *b, const struct sp_batch_run *run) {
    if (run_register(b, run)) {
        mark(b, run->slot, run->slot + run->pages, SP_OUTCOME_REFUSED);
        return;
    }
    for (unsigned i = 0; i < run->pages; i++)
        sp_bits_set(&b->missing, run->slot + i);
    unsigned slot = run->slot, end = run->slot + run->pages, most = run->pages, retries = 0;
    while (slot < end) {
        size_t moved = 0;
        unsigned wanted = end - slot < most ? end - slot : most;
        int error = sp_uffd_move(b->uffd, b->pagemap, slot_scratch(b, slot), slot_address(b, slot),
                                 wanted * SP_PAGE_SIZE, &moved);
        unsigned pages = (unsigned)(moved / SP_PAGE_SIZE);
        mark(b, slot, slot + pages, SP_OUTCOME_CHANGED);
        for (unsigned i = slot; i < slot + pages; i++)
            sp_bits_set(&b->in_scratch, i);
        slot += pages;
        if (pages) { /* stopped early: asked again, the kernel says why */
            most = run->pages;
            continue;
        }
        /* A MOVE must not cross from one mapping into the next. */
        if (error == -EINVAL && wanted > 1 && !b->whole) {
            most = wanted / 2;
            continue;
        }
        if (error == -EAGAIN && retries++ < 64 && (fork_pending(b) || !b->fork_events))
            continue;
        if (b->whole && slot == run->slot) { /* a part of it would split it */
            mark(b, slot, end, move_refusal(error));
            return;
        }
        b->outcome[slot++] = (uint8_t)move_refusal(error);
    }
}

/* Where the content to be compared is. */
static const uint8_t *page_content(const struct sp_batch *b, unsigned slot) {
    return (const uint8_t *)(b->uffd >= 0 ? slot_scratch(b, slot) : slot_address(b, slot));
}

/* The processor's own prefetching ends with the page. */
static void page_prefetch(const uint8_t *page) {
    for (size_t line = 0; line < 4; line++)
        __builtin_prefetch(page + line * 64);
}

static void run_verify(struct sp_batch *b, const struct sp_batch_run *run) {
    for (unsigned i = 0; i < run->pages; i++) {
        unsigned slot = run->slot + i;
        if (b->outcome[slot] != SP_OUTCOME_CHANGED)
            continue;
        page_prefetch(page_content(b, slot) + SP_PAGE_SIZE);
        if (run->expected)
            page_prefetch(run->expected + (i + 1) * SP_PAGE_SIZE);
        const uint8_t *content = page_content(b, slot);
        if (!run->expected)
            b->outcome[slot] = sp_page_is_zero(content) ? SP_OUTCOME_ZEROED : SP_OUTCOME_CHANGED;
        else if (sp_page_equal(content, run->expected + i * SP_PAGE_SIZE))
            b->outcome[slot] = SP_OUTCOME_MERGED;
    }
}

/* A page of a huge page that differs keeps the others: they go back as they came, in one piece. */
static void run_keep_whole(struct sp_batch *b, const struct sp_batch_run *run) {
    enum sp_outcome good = run->expected ? SP_OUTCOME_MERGED : SP_OUTCOME_ZEROED;
    unsigned equal = 0, end = run->slot + run->pages;
    for (unsigned i = run->slot; i < end; i++)
        equal += b->outcome[i] == good;
    for (unsigned i = run->slot; i < end && equal < run->pages; i++)
        if (b->outcome[i] == good)
            b->outcome[i] = SP_OUTCOME_KEPT;
}

/* Attributes that a fresh mapping does not have. A failure leaves the attribute off: a child gets a mapping
 * more, or a dump some pages more; no content is at stake. */
static void carry_attributes(struct sp_batch *b, uintptr_t address, size_t bytes, unsigned attributes) {
    if ((attributes & SP_ATTR_DONTFORK) && sp_advise(address, bytes, MADV_DONTFORK))
        b->errors++;
    if ((attributes & SP_ATTR_DONTDUMP) && sp_advise(address, bytes, MADV_DONTDUMP))
        b->errors++;
}

/* From this length on moving a view costs less than another mapping and the faults in it. */
#define VIEW_MOVE_PAGES 64

/* Whether nothing of the stretch is there any more: what is frozen is registered, and what is quiescent has
 * its pages. Without an answer it is there. */
static bool stretch_gone(const struct sp_batch *b, unsigned first, unsigned last) {
    sp_bits there;
    return !sp_pagemap_window(b->pagemap, b->uffd < 0 ? SP_PAGEMAP_PRESENT : SP_PAGEMAP_WATCHED,
                              b->base / SP_WINDOW_SIZE, first, last, &there) &&
           !sp_bits_any(&there);
}

/*
 * The view becomes the mapping, page tables and all: nobody takes a fault for these pages, and nothing is
 * left to be unmapped. A plain mremap needs nothing of what a process may be short of by its limits. It
 * begins by unmapping what is there, so that a failure of the kernel to get memory for itself may leave a
 * hole; there is no way back then, and it is tried until it succeeds (I6).
 */
static int view_move(struct sp_batch *b, const struct sp_batch_run *run, unsigned first, unsigned last) {
    uintptr_t view = (uintptr_t)run->expected + (first - run->slot) * SP_PAGE_SIZE;
    for (;;) {
        int error = sp_map_from_view(view, (last - first) * SP_PAGE_SIZE, slot_address(b, first));
        if (!error)
            sp_bits_range(&b->view_moved, first, last);
        if (!error || !stretch_gone(b, first, last))
            return error;
        b->errors++;
        sp_sleep_ns(UINT64_C(100000));
    }
}

static int stretch_map(struct sp_batch *b, const struct sp_batch_run *run, unsigned first, unsigned last) {
    if (run->view_moves && last - first >= VIEW_MOVE_PAGES && !view_move(b, run, first, last))
        return 0;
    return sp_map_store(slot_address(b, first), (last - first) * SP_PAGE_SIZE, run->fd,
                        run->offset + (first - run->slot) * SP_PAGE_SIZE);
}

/* Children get no copy of a view, but they must of what becomes memory of the program. A child that is forked
 * from here on until the batch is over has what is left of the view until it executes something. */
static void views_inherited(struct sp_batch *b) {
    for (size_t k = 0; k < b->n; k++) {
        struct sp_batch_run *run = &b->runs[k];
        if (!run->view_moves || !sp_advise((uintptr_t)run->expected, run->pages * SP_PAGE_SIZE, MADV_DOFORK))
            continue;
        run->view_moves = false;
        b->errors++;
    }
}

/* Maps the store over the equal stretches of a run. Where no mapping is left the pages count as refused and
 * go back. */
static void run_remap(struct sp_batch *b, const struct sp_batch_run *run) {
    if (!run->expected)
        return;
    unsigned end = run->slot + run->pages;
    for (unsigned first = run->slot; first < end;) {
        if (b->outcome[first] != SP_OUTCOME_MERGED) {
            first++;
            continue;
        }
        unsigned last = first;
        while (last < end && b->outcome[last] == SP_OUTCOME_MERGED)
            last++;
        uintptr_t address = slot_address(b, first);
        size_t bytes = (last - first) * SP_PAGE_SIZE;
        if (stretch_map(b, run, first, last)) {
            b->errors++;
            mark(b, first, last, SP_OUTCOME_CHANGED);
        } else {
            carry_attributes(b, address, bytes, run->attributes);
        }
        first = last;
    }
}

/*
 * Puts one page back. MOVE keeps the very page; where the kernel refuses it (the destination was locked, or
 * copied by a raw clone meanwhile) a copy will do. There is no other place for its content, so this goes on
 * until it has succeeded or the process has gone (I1, I6).
 */
static void page_back(struct sp_batch *b, unsigned slot) {
    for (;;) {
        size_t moved;
        int error = sp_uffd_move(b->uffd, b->pagemap, slot_address(b, slot), slot_scratch(b, slot),
                                 SP_PAGE_SIZE, &moved);
        if (error == -ENOENT && !sp_pagemap_there(b->pagemap, slot_scratch(b, slot)))
            break; /* it is back, and has been discarded there: reading scratch would put us to sleep (H2) */
        if (error && error != -EAGAIN && error != -EEXIST)
            error = sp_uffd_copy(b->uffd, slot_address(b, slot), (const void *)slot_scratch(b, slot),
                                 SP_PAGE_SIZE);
        if (!error || error == -EEXIST)
            break;
        if (error == -ENOENT || error == -ESRCH) { /* no mapping, or no process, to put it back into */
            b->outcome[slot] = SP_OUTCOME_GONE;
            b->replaced = true;
            break;
        }
        if (error != -EAGAIN || !fork_pending(b)) {
            b->errors++;
            sp_sleep_ns(UINT64_C(100000));
        }
    }
    sp_bits_clear(&b->in_scratch, slot);
}

static void run_back(struct sp_batch *b, const struct sp_batch_run *run) {
    unsigned end = run->slot + run->pages;
    for (unsigned first = run->slot; first < end;) {
        if (!goes_back(b, first)) {
            first++;
            continue;
        }
        unsigned last = first;
        while (last < end && goes_back(b, last))
            last++;
        size_t moved = 0;
        int error = sp_uffd_move(b->uffd, b->pagemap, slot_address(b, first), slot_scratch(b, first),
                                 (last - first) * SP_PAGE_SIZE, &moved);
        unsigned back = first + (error ? (unsigned)(moved / SP_PAGE_SIZE) : last - first);
        for (unsigned i = first; i < back; i++)
            sp_bits_clear(&b->in_scratch, i);
        for (unsigned i = back; i < last; i++)
            page_back(b, i);
        first = last;
    }
}

/* A call that must not be left undone: repeated until it succeeds or the process has gone. False: there is no
 * mapping of that kind any more. */
static bool until_done(struct sp_batch *b, int (*call)(int fd, uintptr_t start, size_t bytes),
                       uintptr_t start, size_t bytes) {
    for (;;) {
        int error = call(b->uffd, start, bytes);
        if (!error || error == -ESRCH)
            return true;
        b->errors++;
        if (error == -EAGAIN && fork_pending(b))
            continue;
        sp_sleep_ns(UINT64_C(100000));
        if (error == -EINVAL && b->errors > 64)
            return false;
    }
}

/* One stretch. Where somebody has put something into it since we looked the kernel may refuse to end the
 * registration of the whole: the rest of it must not stay frozen. */
static void stretch_thaw(struct sp_batch *b, unsigned first, unsigned last) {
    uintptr_t address = slot_address(b, first);
    size_t bytes = (last - first) * SP_PAGE_SIZE;
    int error = sp_uffd_unregister(b->uffd, address, bytes);
    if (error == -EINVAL && last - first > 1) {
        b->errors++;
        for (unsigned slot = first; slot < last; slot++)
            stretch_thaw(b, slot, slot + 1);
    } else if (!error || until_done(b, sp_uffd_unregister, address, bytes)) {
        rearm(b, first, last);
    } else {
        b->replaced = true;
    }
}

/*
 * Ends MISSING on what is still anonymous, so that the kernel fills its holes again. Until then the next
 * reader of a hole would sleep for ever (I6). Neighbouring runs are one mapping of the kernel's, so stretches
 * go across runs: exactly whole mappings, which need no splitting and cannot fail where a process has no
 * mapping left (H4).
 */
static void batch_thaw(struct sp_batch *b) {
    for (unsigned first = 0; first < SP_WINDOW_PAGES;) {
        if (!sp_bits_get(&b->missing, first) || b->outcome[first] == SP_OUTCOME_MERGED) {
            first++;
            continue;
        }
        unsigned last = first;
        while (last < SP_WINDOW_PAGES && sp_bits_get(&b->missing, last) &&
               b->outcome[last] != SP_OUTCOME_MERGED)
            last++;
        stretch_thaw(b, first, last);
        first = last;
    }
}

/* Drops what the application no longer needs from scratch: the copies of merged pages and the zeros. Also
 * where the program has locked all of its memory. */
static void scratch_empty(struct sp_batch *b, unsigned first, unsigned last) {
    b->scratch_stale =
        sp_advise(slot_scratch(b, first), (last - first) * SP_PAGE_SIZE, MADV_DONTNEED_LOCKED) != 0;
    b->errors += b->scratch_stale;
    memset(&b->in_scratch, 0, sizeof(b->in_scratch));
}

/*
 * Serves the children whose fork overlapped with this batch, so that none is left when the batch is
 * forgotten. Whether one is still on its way the kernel tells by refusing any UFFDIO_COPY with EAGAIN, before
 * it looks at the arguments (mmap_changing): an empty one is otherwise refused with EINVAL. A fork that
 * begins after the remap copies complete page tables.
 *
 * For as long as the kernel refuses: what such a child lacks is nowhere but here, and the forking thread may
 * be kept from running for long (by its priority or a quota), or its event from being read (no descriptor, no
 * memory). Nothing is frozen any more.
 */
static void forks_settle(struct sp_batch *b) {
    while (b->fork_events && sp_uffd_copy(b->uffd, 0, NULL, 0) == -EAGAIN)
        if (!fork_pending(b))
            sp_sleep_ns(UINT64_C(1000000));
}

/* Nobody touches the pages (the caller's promise): no freeze, and zeros are dropped in place. */
static void batch_quiescent(struct sp_batch *b) {
    views_inherited(b);
    for (size_t k = 0; k < b->n; k++) {
        const struct sp_batch_run *run = &b->runs[k];
        mark(b, run->slot, run->slot + run->pages, SP_OUTCOME_CHANGED);
        run_verify(b, run);
        run_remap(b, run);
        for (unsigned i = run->slot; i < run->slot + run->pages; i++)
            if (b->outcome[i] == SP_OUTCOME_ZEROED &&
                sp_advise(slot_address(b, i), SP_PAGE_SIZE, MADV_DONTNEED)) {
                b->errors++;
                b->outcome[i] = SP_OUTCOME_CHANGED;
            }
    }
}

/* What was mapped by a huge entry is again, without the program's having to fault it in. A view that was
 * moved has brought it along. */
static void whole_populate(struct sp_batch *b, const struct sp_batch_run *run) {
    if (b->outcome[run->slot] == SP_OUTCOME_MERGED && !sp_bits_get(&b->view_moved, run->slot) &&
        sp_advise(slot_address(b, run->slot), run->pages * SP_PAGE_SIZE, MADV_POPULATE_READ))
        b->errors++;
}

void sp_batch_run(struct sp_batch *b) {
    memset(b->outcome, SP_OUTCOME_NONE, sizeof(b->outcome));
    memset(&b->in_scratch, 0, sizeof(b->in_scratch));
    memset(&b->missing, 0, sizeof(b->missing));
    memset(&b->unarmed, 0, sizeof(b->unarmed));
    b->frozen_ns = b->errors = b->forks = 0;
    b->replaced = false;
    if (!b->n)
        return;
    if (b->uffd < 0) {
        batch_quiescent(b);
        return;
    }
    /* A page table in the place of a huge page would split it. Emptied as a whole, scratch has none. */
    if (b->scratch_stale || (b->whole && b->scratch_small))
        scratch_empty(b, 0, SP_WINDOW_PAGES);
    b->scratch_small = !b->whole;
    if (b->scratch_stale) { /* what is left there would be taken for pages of the program */
        for (size_t k = 0; k < b->n; k++)
            mark(b, b->runs[k].slot, b->runs[k].slot + b->runs[k].pages, SP_OUTCOME_REFUSED);
        return;
    }
    if (!batch_is_ours(b))
        return;
    views_inherited(b);
    uint64_t begin = sp_now_ns();
    for (size_t k = 0; k < b->n; k++)
        run_freeze(b, &b->runs[k]);
    for (size_t k = 0; k < b->n; k++)
        run_verify(b, &b->runs[k]);
    if (b->whole)
        run_keep_whole(b, &b->runs[0]);
    batch_look_again(b);
    for (size_t k = 0; k < b->n; k++)
        run_remap(b, &b->runs[k]);
    for (size_t k = 0; k < b->n; k++)
        run_back(b, &b->runs[k]);
    batch_thaw(b);
    const struct sp_batch_run *first = &b->runs[0], *last = &b->runs[b->n - 1];
    (void)until_done(b, sp_uffd_wake, slot_address(b, first->slot),
                     (last->slot + last->pages - first->slot) * SP_PAGE_SIZE);
    b->frozen_ns = sp_now_ns() - begin;
    forks_settle(b);
    scratch_empty(b, first->slot, last->slot + last->pages);
    if (b->whole)
        whole_populate(b, first);
}
