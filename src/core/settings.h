/* SPDX-License-Identifier: MIT */
/*
 * Every setting, once: name, unit, default, range, meaning. KSM's names where KSM has one.
 * The command line (--set KEY=VALUE), the environment (SAMEPAGE_SET="KEY=VALUE,..."), the welcome message of
 * the daemon, the manual page and the tests are fed from this table. X(name, unit, default, minimum, maximum,
 * meaning). worker_start_kbytes is H10's, exposure_max_percent H15's.
 */
#ifndef SP_CORE_SETTINGS_H
#define SP_CORE_SETTINGS_H

#include "core/types.h"

#define SP_SETTINGS(X)                                                                                       \
    X(sleep_millisecs, ms, 20, 1, 3600000,                                                                   \
      "pause between two looks at what was written; a page must stay unwritten this long")                   \
    X(sleep_max_millisecs, ms, 1000, 1, 3600000, "longest pause when nothing happens")                       \
    X(freeze_micros, us, 150, 20, 100000,                                                                    \
      "time a batch of pages may be frozen; the size of batches follows it")                                 \
    X(map_percent, percent, 60, 0, 95,                                                                       \
      "share of vm.max_map_count that a process may use, its own mappings included")                         \
    X(worker_start_kbytes, KiB, 1024, 0, 1073741824, "advised memory below which a process gets no worker")  \
    X(store_max_mbytes, MiB, 0, 0, 1073741824, "most memory the store of a domain may hold; 0: no limit")    \
    X(exposure_max_percent, percent, 0, 0, 10000,                                                            \
      "stop merging when the exposure exceeds this share of the available memory; 0: never")                 \
    X(use_zero_pages, bool, 1, 0, 1, "give pages of zeros back to the kernel instead of sharing them")

enum sp_setting {
#define X(name, unit, def, min, max, meaning) SP_SETTING_##name,
    SP_SETTINGS(X)
#undef X
        SP_SETTING_COUNT
};

struct sp_setting_info {
    const char *name;
    const char *unit;
    uint64_t value_default, value_min, value_max;
    const char *meaning;
};

extern const struct sp_setting_info sp_setting_info[SP_SETTING_COUNT];

struct sp_settings {
    uint64_t v[SP_SETTING_COUNT];
};

/* Fills in the defaults. */
void sp_settings_init(struct sp_settings *s);

/*
 * Parses "KEY=VALUE[,KEY=VALUE...]" into *s. 0, or -EINVAL (malformed), -ENOENT (unknown key), -ERANGE (value
 * out of range; allowed range in the error text); on failure *s is untouched and, when `error` is not NULL, a
 * one-line English text that says what is wrong and what is allowed is written there (at most `error_bytes`,
 * always terminated).
 */
SP_WARN_UNUSED int sp_settings_parse(struct sp_settings *s, const char *text, char *error,
                                     size_t error_bytes);

/* 0 when every value is in its range, else -ERANGE: for values that came over the wire. */
SP_WARN_UNUSED int sp_settings_check(const struct sp_settings *s);

#endif
