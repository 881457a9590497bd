/* SPDX-License-Identifier: MIT */
/*
 * Counts what copies there are among pages of many processes: what `samepage estimate` knows when it has
 * read. Pure: the caller owns all memory, so nothing here can fail.
 *
 * The rule. After merging, n copies of a page cost one page of memory: each of them costs 1/n, as in the
 * kernel's proportional set size. What pages *keep* is the sum of these parts, and what they save is the
 * rest. The parts of everything add up to the number of different contents.
 *
 * Only copies in memory that can be merged count. A copy elsewhere keeps what it would keep if it could be
 * merged, too.
 *
 * Sampling (core/sample.h). The number of pages is known, only what they keep is estimated: the sum over the
 * sample, times N. That is what makes a small sample good enough: a content counts once, however many copies
 * it has, so there is no rare thing that means much. (Estimating the copies instead of what is left over
 * would miss the one page that has a million copies N - 1 times of N.) A unit with the sum y has the variance
 * N (N - 1) y^2 as estimated from the sample (Horvitz-Thompson); the largest unit seen is counted twice,
 * because one as large may have been missed. The error that is stated is two standard deviations: it holds in
 * 95 of 100 cases, provided that no unit outside the sample holds many more different pages than those in it.
 */
#ifndef SP_CORE_CENSUS_H
#define SP_CORE_CENSUS_H

#include "core/types.h"

/* A page that was read: 24 bytes. */
struct sp_census_page {
    uint64_t content; /* 64 bits that stand for it; pages of zeros are not here */
    uint64_t before;  /* likewise (any kind of it) for the page right before it, 0: none that would be merged
                         with it */
    uint32_t mapping; /* index; with SP_CENSUS_HUGE */
    uint32_t page;    /* of that mapping */
};
#define SP_CENSUS_HUGE UINT32_C(0x80000000)

/* A thirty-second of a mapping, for a picture. `read` and `twin` are counted here, the others by who reads.
 */
#define SP_CENSUS_CELLS 32
struct sp_census_cell {
    uint32_t private, zero; /* pages */
    uint32_t read;          /* pages of the sample */
    uint32_t twin;          /* those of which there is another copy */
};

/* What was counted: parts of pages kept, of all pages, and what the error is made of. */
struct sp_census_sum {
    double kept;    /* pages */
    double squares; /* of what each unit keeps */
    double largest; /* unit */
    double unit;    /* the current one's */
};

struct sp_census_mapping {
    uint32_t process; /* index */
    bool mergeable;
    uint64_t pages;               /* of address space */
    struct sp_census_cell *cells; /* SP_CENSUS_CELLS of them, or NULL */
    double kept;                  /* out: pages */
};

struct sp_census_process {
    struct sp_census_sum sum; /* out: kept by what can be merged */
    double distinct;          /* out: different contents in it */
    double elsewhere;         /* out: those of them that another process has too */
    double runs;              /* out: runs of pages that would each become a mapping, if one process had
                                 given all of them to the store */
    uint64_t group, unit;     /* the last ones in which it was met */
};

struct sp_census {
    uint32_t one_in;
    struct sp_census_page *pages; /* sorted by sp_census_sort */
    size_t n_pages;
    struct sp_census_mapping *mappings;
    struct sp_census_process *processes;
    size_t n_processes;
    uint32_t *met;            /* room for 2 * n_processes */
    struct sp_census_sum sum; /* out: of all that can be merged: `kept` is the number of different contents */
    double kept_huge;         /* out: by what can be merged and is in huge pages */
    uint64_t units;           /* out: in the sample */
};

/* Puts them in the order of their contents, in place. */
void sp_census_sort(struct sp_census_page *pages, size_t n);

/* Fills all that is called "out", which must be zero before; `pages` are sorted. */
void sp_census_count(struct sp_census *c);

/* The variance of a sum, in square pages: 0 when everything was read. The stated error is twice its root. */
double sp_census_variance(const struct sp_census *c, const struct sp_census_sum *sum);

/* Contents that two processes have in common: what they save by being merged with each other, beyond what
 * each saves by itself. For at most SP_CENSUS_PAIRS processes: shown[i] is an index. */
#define SP_CENSUS_PAIRS 64
struct sp_census_pairs {
    uint32_t shown[SP_CENSUS_PAIRS];
    size_t n;
    double common[SP_CENSUS_PAIRS][SP_CENSUS_PAIRS]; /* symmetric; the diagonal is 0 */
};

/* `p` has shown and n filled in. After sp_census_count. */
void sp_census_pairs(struct sp_census *c, struct sp_census_pairs *p);

/* Likewise of a number of contents. */
double sp_census_variance_contents(const struct sp_census *c, double contents);

#endif
