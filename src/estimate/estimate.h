/* SPDX-License-Identifier: MIT */
/*
 * What merging would save in running processes, found out by reading them from outside: nothing of theirs is
 * changed or stopped. What is read is only what merging could free: pages that are present, of no file, and
 * used by one process alone. Pages that fork or KSM share already are counted as shared, and never as copies.
 *
 * A process is surveyed (survey.c: its mappings), read (reader.c, window.c: its pages, as 24-byte records),
 * and when all have been, copies are counted (core/census.h). One thread. Memory: 24 bytes for each page of
 * the sample, that is 0.6 % of what is read, the mappings, and a picture of 512 bytes for each mapping with 1
 * MiB or more.
 *
 * It is one look: what would not settle, and so never be merged, counts like the rest.
 */
#ifndef SP_ESTIMATE_ESTIMATE_H
#define SP_ESTIMATE_ESTIMATE_H

#include "core/census.h"
#include "core/fingerprint.h"
#include "core/sample.h"
#include "os/remote.h"

/* What a mapping is to its program. */
#define SP_ESTIMATE_KINDS(X)                                                                                 \
    X(HEAP, "heap", "[heap], which samepage merges by way of an allocator library")                          \
    X(ANONYMOUS, "anonymous", "other memory without a file")                                                 \
    X(STACK, "stack", "the main thread's stack")                                                             \
    X(FILE, "file", "files and shared memory: private are the pages that were written")                      \
    X(MERGED, "merged", "merged by samepage already: private are the pages that were written since")         \
    X(OTHER, "other", "devices and what the kernel maps by itself")

enum sp_estimate_kind {
#define X(name, text, meaning) SP_KIND_##name,
    SP_ESTIMATE_KINDS(X)
#undef X
        SP_KIND_COUNT
};
extern const char *const sp_estimate_kind_name[SP_KIND_COUNT], *const sp_estimate_kind_meaning[SP_KIND_COUNT];

/* Of a mapping, or of several. All in pages. */
struct sp_estimate_figures {
    uint64_t resident; /* as the kernel counts them (Rss) */
    uint64_t shared;   /* those of them that others use too */
    uint64_t private;  /* the others: they were looked at */
    uint64_t swapped;  /* not read */
    uint64_t huge;     /* of `private`: in huge pages */
    uint64_t zero;     /* of `private`: zeros */
    uint64_t unread;   /* of `private`: gone before they were read */
    double saved;      /* would be: pages of zeros and copies */
    double left;       /* would be, if samepage merged such memory */
};

struct sp_estimate_mapping {
    uint64_t start, end; /* bytes */
    enum sp_estimate_kind kind;
    enum sp_eligible why; /* it can be merged, or not */
    bool mergeable;
    char *name; /* NULL: none */
    struct sp_estimate_figures figures;
};

struct sp_estimate_process {
    int pid, parent;
    char name[16];
    uint64_t stack, heap;   /* as struct sp_process has them */
    size_t first, mappings; /* mappings with something in them: which; and how many it has in all */
    size_t listed;
    struct sp_estimate_figures figures;
    /* Of what can be merged, in pages. */
    double zero;      /* pages of zeros */
    double within;    /* second and further copies in the process itself */
    double elsewhere; /* different contents that another process has, too */
    double alone;     /* different contents that no other has */
    double runs;      /* each becomes a mapping, and so may what is left behind it */
    double error;     /* of figures.saved */
};

struct sp_estimate {
    uint32_t one_in;
    struct sp_key key;
    struct sp_sample sample;
    struct sp_estimate_process *process;
    size_t n_processes;
    struct sp_estimate_mapping *mapping;
    struct sp_census_mapping *counted; /* of each mapping, for the census */
    size_t n_mappings, room_mappings;
    struct sp_census_page *pages;
    size_t n_pages, room_pages;
    uint64_t bytes_read, took_ns;

    /* After sp_estimate_finish. */
    struct sp_census census;
    struct sp_census_pairs pairs;
    struct sp_estimate_figures all, kind[SP_KIND_COUNT];
    double within, across; /* pages: copies inside processes; what is common to several */
    double zero;           /* pages: of zeros in what can be merged */
    double huge;           /* pages saved that are in huge pages */
    double error;          /* of all.saved; 0 when everything was read */
};

/* `one_in`: N of the sample, 1: read everything. -ENOMEM, or what sp_random fails with. */
SP_WARN_UNUSED int sp_estimate_new(uint32_t one_in, struct sp_estimate **ret_estimate);
struct sp_estimate *sp_estimate_free(struct sp_estimate *e);

/* Called now and then while a process is read: how many of its resident pages are done. */
struct sp_estimate_progress {
    void (*tell)(void *ctx, uint64_t pages);
    void *ctx;
};

/*
 * Reads a process. On failure nothing of it is kept: -ESRCH: it has ended, or become another program;
 * -ENODATA: it has no memory of its own (a kernel thread, or ended and not yet waited for); -EEXIST: another
 * one that was read has the same memory (vfork(2)); -EACCES, -EPERM: not allowed; -ENOMEM.
 */
SP_WARN_UNUSED int sp_estimate_read(struct sp_estimate *e, int pid,
                                    const struct sp_estimate_progress *progress);

/* Counts. -ENOMEM. Nothing can be read after it. */
SP_WARN_UNUSED int sp_estimate_finish(struct sp_estimate *e);

/* The least N with which so many pages need no more than half of that memory for their records. */
uint32_t sp_estimate_least_sample(uint64_t pages, uint64_t available_bytes);

/* For the parts: room for one mapping more, for `n` pages more. */
SP_WARN_UNUSED int sp_estimate_reserve_mapping(struct sp_estimate *e);
SP_WARN_UNUSED int sp_estimate_reserve_pages(struct sp_estimate *e, size_t n);
/* survey.c: appends the mappings of the last process. */
SP_WARN_UNUSED int sp_estimate_survey(struct sp_estimate *e);
/* reader.c: reads the pages of its mappings. */
SP_WARN_UNUSED int sp_estimate_read_pages(struct sp_estimate *e, const struct sp_estimate_progress *progress);

#endif
