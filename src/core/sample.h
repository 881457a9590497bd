/* SPDX-License-Identifier: MIT */
/*
 * Which pages are read when not all of them are: a sample in which all copies of a page are, or none.
 *
 * A sample by place would be useless: of two copies it holds both once in N times N. So the content decides.
 * Two neighbouring cache lines of a page, at a place that the key chooses, are its *lines*; the page is in
 * the sample when the hash of its lines falls into the first 1/N of all values. All pages with the same
 * lines, the *unit* of sampling, are in it together, copies among them. Lines that are the same word over and
 * over (zeros, most of all) stand in so many different pages that they would make the sample a matter of
 * luck: such a page is read whole, and the hash of all of it decides.
 */
#ifndef SP_CORE_SAMPLE_H
#define SP_CORE_SAMPLE_H

#include "core/fingerprint.h"

#define SP_LINES_BYTES 128

struct sp_sample {
    const struct sp_key *key;
    uint32_t one_in;     /* N; 1: everything */
    uint64_t limit;      /* units below it are in the sample */
    size_t offset_bytes; /* of the lines in a page */
};

/* `key` must outlive it; `one_in` is at least 1. */
void sp_sample_init(struct sp_sample *s, const struct sp_key *key, uint32_t one_in);

/* Whether lines say nothing of their page. */
bool sp_lines_plain(const void *lines);

/* The unit of a page by its lines, and of one whose lines are plain by its fingerprint. */
uint64_t sp_sample_unit(const struct sp_sample *s, const void *lines);
uint64_t sp_sample_unit_whole(sp_fp whole);

static inline bool sp_sample_takes(const struct sp_sample *s, uint64_t unit) {
    return unit < s->limit || s->one_in == 1;
}

/* What stands for a content of the sample (core/census.h): the high half is the unit's, the low half the
 * page's own, so that contents of one unit are neighbours when sorted. Never 0. */
uint64_t sp_sample_content(const struct sp_sample *s, uint64_t unit, sp_fp whole);

#endif
