/* SPDX-License-Identifier: MIT */
/*
 * The files of /sys/kernel/mm/ksm that we have an equivalent of, with the kernel's formats: made of the
 * tables of settings and counters. Pure: who may read or write what, and how the files come to be, is the
 * caller's matter.
 *
 * All of Linux 6.18's are there, and do what they say; stable_node_chains_prune_millisecs has nothing to do,
 * as there are no chains (core/stable.h), and is there for tools that write it.
 */
#ifndef SP_CORE_KSM_FILES_H
#define SP_CORE_KSM_FILES_H

#include "core/counters.h"
#include "core/settings.h"

/* Longest text of a file, its end included. */
#define SP_KSM_TEXT_BYTES 32

struct sp_ksm_file {
    const char *name;
    int setting; /* enum sp_setting; -1: it is a counter, and can only be read */
    int counter; /* enum sp_counter; -1: general_profit, where it is no setting */
};

/* The i-th file, from 0; false beyond the last. In the order of the tables. */
bool sp_ksm_file(size_t i, struct sp_ksm_file *ret_file);

/* What reading the file gives: the number, or all names with the value's in brackets, and a line's end.
 * Returns the length. */
size_t sp_ksm_text(const struct sp_ksm_file *f, const struct sp_settings *s, const struct sp_counters *c,
                   char ret_text[SP_KSM_TEXT_BYTES]);

/*
 * What was written to the file of a setting, as mm/ksm.c takes it: a number as kstrtouint(9) reads it, or,
 * where the setting is a switch, what kstrtobool(9) makes of its first letters, or one of its names. -EINVAL:
 * none of them, or out of range; -ERANGE: max_page_sharing beyond an int, merge_across_nodes beyond a long.
 */
SP_WARN_UNUSED int sp_ksm_parse(const struct sp_ksm_file *f, const char *text, size_t bytes,
                                uint64_t *ret_value);

#endif
