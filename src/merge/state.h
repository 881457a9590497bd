/* SPDX-License-Identifier: MIT */
/*
 * The engine's inside, for the files of merge/ only: engine.c (the application's side), worker.c (the thread
 * and its loop), look.c (what was written), pass.c (what to merge), obey.c (what the domain's settings want).
 *
 * `struct sp_engine` is shared and guarded by its lock unless said otherwise; `struct sp_worker` belongs to
 * the worker's thread alone and lies in a mapping of its own that is never registered.
 */
#ifndef SP_MERGE_STATE_H
#define SP_MERGE_STATE_H

#include "core/worth.h"
#include "merge/batch.h"
#include "merge/debts.h"
#include "merge/engine.h"
#include "merge/region.h"
#include "merge/window.h"
#include "os/identity.h"
#include "os/memory.h"
#include "os/pagemap.h"
#include "os/thread.h"

/* A synchronous merge that somebody waits for; lies on the caller's stack. */
struct sp_request {
    struct sp_request *next;
    uint64_t start, end;
    bool quiescent;
    struct sp_merge_result result;
    int error;
    struct sp_event done; /* posted by the worker; from then on the request is the caller's again */
};

struct sp_engine {
    struct sp_lock lock;
    struct sp_memory *memory; /* regions, windows, debts */
    struct sp_alloc alloc;
    struct sp_settings settings;
    struct sp_link *link; /* used by the worker only, while there is one */
    struct sp_regions regions;
    struct sp_windows windows;
    struct sp_debts debts;
    struct sp_window *todo_first, *todo_last; /* windows with something to do, each once */
    uint64_t generation; /* counts changes of regions and contents by the application's side */
    struct sp_counters counters;
    struct sp_histogram freezes;
    struct sp_range *retired; /* whose userfaultfd registration the worker is to end */
    size_t n_retired, room_retired;
    struct sp_request *requests;

    enum sp_engine_state state; /* written under the lock, read anywhere */
    bool forked;                /* this process has children or is one: pages may be shared by fork */
    bool child;                 /* copied by fork, without a worker of its own yet */
    uint64_t child_since_ns;
    bool start_wanted; /* a worker is to be started when the lock is released */

    sp_mappings_reader *mappings; /* finds out what is to be registered; set before anything is */
    sp_nodes_reader *nodes;       /* finds out on which nodes pages lie, instead of the kernel; NULL: that */
    uint64_t begin_ns;            /* the worker does not join the domain before; set before it starts */
    void (*refresh)(void);        /* see sp_engine_refresh; NULL: none */
    bool bare_thread;             /* the worker is one the C library does not know of; set before it starts */
    bool identity_wanted;         /* and is to become: */
    struct sp_identity identity;

    struct sp_thread thread; /* valid while thread_started */
    bool thread_started;
    bool quit;                /* the worker is to end */
    int worker_tid;           /* 0: cannot be woken (yet, or any more) */
    struct sp_worker *worker; /* for a forked child only, to unmap the copy */

    struct sp_pace pace; /* read by the worker without the lock: a mixture lasts for one pause */

    /* What the last pass found. */
    bool settled;                /* nothing was left to do */
    uint64_t settled_generation; /* and this was the generation when it began */
    int stopped_by;              /* the errno behind a state that is not running, 0: none */
    struct sp_event pass_done;   /* posted after each pass and at each change of state */
};

/* What a pass holds about the window it works on. */
struct sp_work {
    size_t n;
    struct sp_query queries[SP_WINDOW_PAGES];
    struct sp_answer answers[SP_WINDOW_PAGES];
    int nodes[SP_WINDOW_PAGES]; /* of the pages asked about, where nodes are kept apart */
    size_t n_publish;
    struct sp_query publish[SP_WINDOW_PAGES];
    struct sp_answer published[SP_WINDOW_PAGES];
    const void *contents[SP_WINDOW_PAGES];
    bool huge;  /* the window is a huge page, to be merged as a whole */
    bool whole; /* it is none, and asked about as a whole (whole.c) */
    size_t n_sites;
    struct sp_site sites[SP_WINDOW_PAGES];
    struct sp_run runs[SP_WINDOW_PAGES];
    struct sp_batch_run batch_runs[SP_WINDOW_PAGES];
    struct sp_bits_pair {
        sp_bits zeros;    /* candidates that hold zeros */
        sp_bits nowhere;  /* candidates that lie on no node, where that matters */
        sp_bits guessed;  /* sites that the index found by their probes */
        sp_bits eligible; /* pages of the window that may be read and merged */
        sp_bits broken;   /* of those in mappings of the store the ones that may be, too (again.c) */
    } bits;
};

#define SP_RANGES_MAX 2048

/* A huge page that is not armed, when it was sampled last (look_huge.c). Places for 128 GiB; what is never
 * used of them is never touched. */
#define SP_HUGE_SAMPLES 65536
struct sp_huge_sample {
    uint64_t sample;
    uint32_t number_plus_1; /* of the window; 0: none */
    uint8_t round;          /* in which it was met last */
    uint8_t heat, skip;     /* samples in a row that differed; rounds to leave out because of that */
};

/* Windows that are noted by one message (whole.c). */
#define SP_NOTES_MAX 128

struct sp_worker {
    struct sp_engine *engine;
    int uffd, pagemap, wake;
    int maps;                                /* -1: this kernel cannot be asked about single mappings */
    bool fork_events;                        /* the userfaultfd delivers them */
    unsigned forks_failed;                   /* how often in a row reading them failed */
    bool linked;                             /* the link is open */
    bool paused;                             /* the domain wants nothing new merged (H15) */
    uint32_t settings_number, obeyed_number; /* of the settings taken over, and of those carried out */
    bool to_unmerge;                         /* run = 2 is still to be carried out */
    bool tell_settled;                       /* when that is so, at once */
    bool hinted;                             /* hints came since the last pass began */
    struct sp_key key;
    uint8_t *scratch;
    uint8_t *store_copy;  /* a window: the store pages of short runs, read before the freeze (copy.c) */
    bool copied;          /* it may hold some; atomic */
    uintptr_t view_place; /* where views are made, a window; 0: nowhere yet */
    bool views_move;      /* they may become mappings of the program */
    struct sp_batch batch;
    double cost; /* measured cost of a batch / predicted */
    struct sp_work work;
    const struct sp_request *request; /* the synchronous merge at hand; NULL: none */
    struct sp_range ranges[SP_RANGES_MAX];
    struct sp_query notes[SP_NOTES_MAX]; /* windows to be told to the index */
    size_t n_notes;
    uint64_t heat_due_ns;                 /* when the first of those is due that may settle soon; 0: none */
    uint64_t looked_ns, looked_before_ns; /* when the present look began, and the one before */
    struct sp_huge_sample huge_samples[SP_HUGE_SAMPLES];
    uint8_t huge_round;
    bool huge_again; /* some were sampled for the first time */
    uint64_t next_huge_ns;
    uint64_t search_next;     /* window to go on with in search of broken pages (look_broken.c); */
    uint64_t searched_ns;     /* when that was done last, */
    int64_t search_credit_ns; /* what it may cost, */
    double search_window_ns;  /* and what a window costs */
    struct sp_worth worth;    /* of passes, to tell the pause between them */
    uint64_t gained;          /* pages, when that was looked at last */
    uint64_t pending;         /* pages that the current pass leaves to be tried soon */
    bool misled;              /* the index guessed wrong of a page since this was reset */
    uint64_t done;            /* pages that the current pass merged or asked about, */
    uint64_t retried;         /* and tries that smart_scan would have spared: nobody waits for those */
    uint64_t mappings_left;   /* of the budget (H4) */
    uint64_t mappings_long;   /* the last of these, for long runs only */
    uint64_t counted_ns, count_took_ns, count_least_ns; /* see mappings.c; 0: not counted yet */
    uint64_t scan_left; /* pages that the current pass may still read (pages_to_scan) */
    bool scan_cut;      /* it had to leave some for that reason, the first of them here: */
    uint64_t cut_window;
    unsigned cut_slot;
    size_t round_left; /* windows that it has not come to since the last full scan */
    uint64_t interval_ns, last_pass_ns, next_pass_ns, next_link_ns, next_report_ns, next_safe_ns;
    uint64_t cpu_least_ns; /* CPU time that the pass at hand may reach in any case (budget.c) */
    uint64_t cpu_retry_ns; /* how long to wait for more of it, */
    uint64_t cpu_asked_ns; /* after this report, which brought none */
    uint64_t reported_ns;  /* when it reported last */
    struct sp_report report;
    uint64_t paced_scans, paced_merges; /* what the counters were when the last pass began (pace.c) */
};

/* The mapping that holds a struct sp_worker. */
/* Places for samples that are never used take no memory; one that is used is 16 bytes for 2 MiB. */
#define SP_WORKER_USED_BYTES (sizeof(struct sp_worker) - sizeof(((struct sp_worker *)0)->huge_samples))
#define SP_WORKER_BYTES      ((sizeof(struct sp_worker) + SP_PAGE_SIZE - 1) & ~(SP_PAGE_SIZE - 1))

/* worker.c */
void sp_worker_main(void *arg, int status);
/* Takes the lock while fork events keep being read: the holder may be forking, and its fork waits for us
 * (H3). */
void sp_worker_lock(struct sp_worker *w);
/* Reads fork events, without the lock. */
void sp_worker_forks(struct sp_worker *w);
/* The link failed: closes it; everything that rested on it is void. */
void sp_worker_unlink(struct sp_worker *w);

/* pace.c */
/* A pass begins. */
void sp_pace_begin(struct sp_worker *w);
/* What may be merged before the next one has been. */
bool sp_pace_is_used(const struct sp_worker *w);
/* The pause after it: `wanted_ns`, or longer where the pace of the process or the domain allows no shorter
 * one. */
uint64_t sp_pace_pause_ns(const struct sp_worker *w, uint64_t wanted_ns);

/* budget.c */
/* Whether the domain's budget lets the worker begin something. */
bool sp_cpu_may_begin(struct sp_worker *w);
/* It does not: sets the next pass to when it may. */
void sp_cpu_wait(struct sp_worker *w);
/* A pass has looked what was written, for which it took so long: it may use as much again in any case. */
void sp_cpu_looked(struct sp_worker *w, uint64_t began_ns);
/* Whether what was begun is to end as soon as it can. */
bool sp_cpu_is_used(const struct sp_worker *w);

/* mappings.c: all without the lock, and the counting waits for the mmap lock of the process. */
/* Counts the mappings that may still be added: w->mappings_left, and how many of them for long runs only. */
void sp_mappings_count(struct sp_worker *w);
/* A pass begins, or something is to be merged: counts them if that is due. */
void sp_mappings_before_pass(struct sp_worker *w);
void sp_mappings_before_merge(struct sp_worker *w);

/* look.c */
/* Registers ranges that are not yet armed with the userfaultfd. */
void sp_look_arm(struct sp_worker *w);
/* Ends the registration of ranges that left, and tells those who wait for it. */
void sp_look_disarm(struct sp_worker *w);
/* Finds what was written in [start, end) since the last look, marks it and queues the windows. */
void sp_look_written(struct sp_worker *w, uint64_t start, uint64_t end);
/* The end of the stretch from `at` on in which no window is to be passed over; or, when `at` lies in one, the
 * end of the last of those that follow one another in *ret_skip (else 0). Those that are hot are; and those
 * that lie in the store altogether, in which nothing is armed: where each page is a mapping of its own the
 * kernel takes 25 us to pass over a window. Looks through some thousand windows at most; with the lock held.
 */
uint64_t sp_look_stretch(const struct sp_worker *w, uint64_t at, uint64_t end, uint64_t *ret_skip);
/* Looks at huge pages, which the above leaves alone, when that is due. */
void sp_look_huge(struct sp_worker *w);
/* Queues every window in [start, end) with all its resident pages as fresh, settled or not. */
void sp_look_resident(struct sp_worker *w, uint64_t start, uint64_t end);

/* look_broken.c */
/* Goes on with the search for broken pages, and for mappings that are not those we know of. */
void sp_look_broken(struct sp_worker *w);
/* The same in every window that overlaps [start, end). */
void sp_look_broken_in(struct sp_worker *w, uint64_t start, uint64_t end);

/* pass.c */
enum sp_pass_mode { SP_PASS_BACKGROUND, SP_PASS_HINTED, SP_PASS_NOW, SP_PASS_QUIESCENT };
/* Works through one window of the list. */
void sp_pass_window(struct sp_worker *w, uint64_t number, enum sp_pass_mode mode,
                    struct sp_merge_result *result);

/* Whether these pages of the window may be read now (H1, H22). With the lock held. */
bool sp_pass_may_read(struct sp_worker *w, const struct sp_window *win, const sp_bits *pages);
/* Pages whose samples are loaded ahead of the one that is read: far enough to hide the memory's delay. */
#define SP_PROBE_AHEAD 8

/* heat.c */
/* With the lock held: the look has been at the window, and its pages that were not written may be tried. */
bool sp_heat_settles(struct sp_worker *w, struct sp_window *win);
/* The present look leaves it out, and so does the pass. */
static inline bool sp_heat_skips(const struct sp_worker *w, const struct sp_window *win) {
    return win->heat.until_ns > w->looked_ns;
}
/* A pass is over: when the first of those that are left out, and that are waited for, is due. */
void sp_heat_wait(struct sp_worker *w);

/* again.c */
/* A synchronous merge begins: what was broken since the last look is found. */
void sp_again_begin(struct sp_worker *w, const struct sp_request *r);
/* These with the lock held. Which pages of the window a quiescent merge may take besides: work.bits.broken.
 */
void sp_again_find(struct sp_worker *w, const struct sp_window *win);
/* The other pages in mappings of the store may not be merged, and are nothing to come back for: neither those
 * that a synchronous merge has taken for written, because they are present, nor those that were hinted at. */
void sp_again_pass_over(struct sp_worker *w, struct sp_window *win);
/* The synchronous merge is over in this window: what it could not merge is not tried before the next one. */
void sp_again_end(struct sp_worker *w, struct sp_window *win);

/* copy.c */
/* The run's store pages, in memory: run->expected. False: they cannot be read. */
bool sp_copy_read(struct sp_worker *w, struct sp_batch_run *run);
/* Gives the memory for such copies back. Not within a batch. */
void sp_copy_drop(struct sp_worker *w);
/* What it may have, at most. By any thread. */
size_t sp_copy_bytes(const struct sp_worker *w);

/* view.c */
/* A view of the run's store pages, all of them in memory: run->expected. False: none could be had. */
bool sp_view_make(struct sp_worker *w, struct sp_batch_run *run);
/* Drops what is left of a batch's views. With the lock held. */
void sp_views_drop(struct sp_worker *w, const struct sp_batch *b);

/* huge.c */
/*
 * Both with the lock held and work.bits.eligible filled in. If the window is a huge page: false while not all
 * of it can be asked about, so that none of it is to be; else work.huge is set, with which everything that is
 * known of it is asked about again. True also for every other window.
 *
 * sp_huge_choose: `candidates` have settled. Of the pages that the pass may read a huge page takes 512, or
 * what is left of them: a bound (pages_to_scan) may be passed by one huge page. sp_huge_hinted: there was no
 * look since; *candidates, empty before, are to be asked about besides.
 */
bool sp_huge_choose(struct sp_worker *w, struct sp_window *win, sp_bits *candidates);
bool sp_huge_hinted(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates);
/* Whether the window is mapped by one huge entry, with pages of its own that may all be merged. */
bool sp_huge_is(struct sp_worker *w, const struct sp_window *win);
enum sp_huge_verdict {
    SP_HUGE_WHOLE, /* its sites are a whole chunk in order */
    SP_HUGE_SPLIT, /* enough of it is shared to be worth it */
    SP_HUGE_LEAVE, /* not (yet) */
};
/*
 * Asks about a window by one question. SP_HUGE_ANSWERED: work.answers are filled in, as if each page had
 * been asked about (the window's pages are shared, or to be sent); SP_HUGE_LATER: nobody is to be asked for
 * now, the pages are to stay fresh (`may_wait` only); SP_HUGE_PAGES: they are to be asked about one by one.
 * Or a negative errno. Without the lock.
 */
enum sp_huge_asked { SP_HUGE_ANSWERED, SP_HUGE_LATER, SP_HUGE_PAGES };
SP_WARN_UNUSED int sp_huge_ask(struct sp_worker *w, uint64_t number, bool may_wait);
/* What was to be sent as a whole has been: where the chunk has not become whole the index is told. */
void sp_huge_sent(struct sp_worker *w, uint64_t number);
/* The index has hinted at its first page. With the lock held. */
void sp_huge_reask(struct sp_engine *e, struct sp_window *win);
/* The index has forgotten the window as a whole, like all else. With the lock held. */
void sp_huge_forgotten(struct sp_window *win);
/* It is to forget it: the window has changed, or is shared. With the lock held. */
void sp_huge_unask(struct sp_engine *e, struct sp_window *win);
/* What to do with the sites found; `now`: it will not be asked about again. With the lock held. */
enum sp_huge_verdict sp_huge_judge(struct sp_worker *w, struct sp_window *win, bool now);
void sp_huge_split(uint64_t window);

/* whole.c */
/* All of the window may have become fresh in this look: notes it. With the lock held. */
void sp_whole_note(struct sp_worker *w, struct sp_window *win);
/* Tells the index what was noted: at the end of the pass, before it is told what to forget. Without the lock.
 * A negative errno: the link failed. */
SP_WARN_UNUSED int sp_whole_tell(struct sp_worker *w);
/* As sp_huge_choose and sp_huge_hinted, for windows that are no huge pages: work.whole is set where they are
 * to be asked about as a whole. */
bool sp_whole_choose(struct sp_worker *w, struct sp_window *win, const sp_bits *candidates);
void sp_whole_hinted(struct sp_worker *w, const struct sp_window *win, sp_bits *candidates);

/* nodes.c */
/* Whether only pages on the same node are to share. */
bool sp_nodes_apart(const struct sp_worker *w);
/* If so, finds out on which nodes the pages lie that are to be asked about, so that they are asked about by
 * node. Those that lie on none are not to be asked about: work.bits.nowhere. Without the lock. */
void sp_nodes_ask(struct sp_worker *w);
/* The node of the i-th of these pages, or SP_NODE_ANY. */
int sp_nodes_asked(const struct sp_worker *w, size_t i);

/* obey.c */
/* Takes over the settings that came with the welcome, or through the link since. */
void sp_obey_welcome(struct sp_worker *w, const struct sp_welcome *welcome);
void sp_obey(struct sp_worker *w);
/* Does what they ask for at once (run = 2), or goes on with it. */
void sp_obey_carry_out(struct sp_worker *w);
/* They want no page read. */
bool sp_obey_stopped(const struct sp_worker *w);

/* Both with the lock held; the worker reads them without it. */
static inline void sp_engine_changed(struct sp_engine *e) {
    __atomic_store_n(&e->generation, e->generation + 1, __ATOMIC_RELEASE);
}
static inline void sp_engine_quit(struct sp_engine *e) {
    __atomic_store_n(&e->quit, true, __ATOMIC_RELEASE);
}

/* engine.c: changes of a window's page that several places make, with counters and debts. All with the lock
 * held. */
void sp_engine_queue(struct sp_engine *e, struct sp_window *w);
/* The page is no longer known to the index. */
void sp_page_unknow(struct sp_engine *e, struct sp_window *w, unsigned slot);
/* The page no longer maps the store (or its reference is no longer needed): gives it back. */
void sp_page_unshare(struct sp_engine *e, struct sp_window *w, unsigned slot);
void sp_page_unzero(struct sp_engine *e, struct sp_window *w, unsigned slot);
void sp_engine_set_state(struct sp_engine *e, enum sp_engine_state state, int error);
/* A mapping of registered memory was changed by a call that nobody saw (H1): merging ends here, for good,
 * with memory as it is. */
void sp_engine_raw_call(struct sp_engine *e);
uint64_t sp_engine_own_bytes(const struct sp_engine *e);

#endif
