/* SPDX-License-Identifier: MIT */
/*
 * Every setting, once: name, unit, default, range, who may change it, whether it is one of KSM's, meaning.
 * The daemon's options and its file, the command line (`--set`, `samepage get`, `samepage set`), the
 * environment (SAMEPAGE_SET="KEY=VALUE,..."), the messages, the manual page and the tests are fed from this
 * table.
 *
 *   X(name, unit, default, minimum, maximum, scope, origin, meaning)
 *   scope:  USER   - of a domain; whoever may use the domain may change it
 *           LIMIT  - of a domain; only who controls the daemon may change it
 *           DAEMON - of all domains together; only who controls the daemon may change it
 *   origin: KSM    - /sys/kernel/mm/ksm has a file of this name; range and meaning are that file's
 *           OWN    - ours
 *
 * KSM scans: its ksmd reads pages_to_scan pages, written or not, and sleeps for sleep_millisecs. We do not
 * scan: a pass asks the kernel what was written, and reads only that. So the two bound the same thing, pages
 * read in a time, by bounding the pages that one pass reads and the time between two passes; what a pass had
 * to leave is where the next one begins. Two of KSM's defaults would waste what we are for, and are not ours:
 * pages_to_scan (100 there, which makes 20 MB/s) and max_page_sharing (256 there, because a kernel thread
 * walks all sharers of a page) are unbounded unless set. run is 1 and use_zero_pages on: whoever starts us
 * wants them.
 *
 * max_pages_to_merge is that of the first KSM driver, which bounded what a round merges as well as what it
 * reads (merge/pace.c).
 *
 * advisor_max_cpu bounds with advisor_mode=scan-time, as KSM's does, and else only where somebody has chosen
 * another value than the default, which would waste what we are for like those two: core/budget.h. The
 * advisor itself is core/advisor.h. stable_node_chains_prune_millisecs acts on nothing: core/stable.h.
 *
 * merge_across_nodes can be changed only while nothing is shared, as there: core/node.h has what it does.
 *
 * worker_start_kbytes is H10's, exposure_max_percent H15's. worker_start_millisecs stands beside the former:
 * most programs that did not ask for it end before merging would be worth its CPU time.
 */
#ifndef SP_CORE_SETTINGS_H
#define SP_CORE_SETTINGS_H

#include "core/types.h"

#define SP_UNBOUNDED_PAGES   UINT32_MAX
#define SP_UNBOUNDED_SHARING INT32_MAX
#define SP_ADVISOR_MAX_CPU   70

/* Values that have names, from 0; all other settings are plain numbers. */
#define SP_ADVISOR_NONE      0
#define SP_ADVISOR_SCAN_TIME 1
#define SP_SETTING_NAMES(N)  N(advisor_mode, "none", "scan-time")

#define SP_SETTINGS(X)                                                                                       \
    X(run, mode, 1, 0, 2, USER, KSM,                                                                         \
      "1: merge; 0: merge nothing more; 2: make every page private again and merge nothing more")            \
    X(sleep_millisecs, ms, 20, 0, UINT32_MAX, USER, KSM,                                                     \
      "pause between two looks at what was written; a page must stay unwritten this long")                   \
    X(sleep_max_millisecs, ms, 1000, 1, 3600000, USER, OWN, "longest pause when nothing happens")            \
    X(pages_to_scan, pages, SP_UNBOUNDED_PAGES, 0, UINT32_MAX, USER, KSM,                                    \
      "most pages that a domain's programs read together between two pauses; 4294967295: no bound")          \
    X(max_pages_to_merge, pages, SP_UNBOUNDED_PAGES, 0, UINT32_MAX, USER, OWN,                               \
      "most pages that a domain's programs merge together in sleep_millisecs, on average; 4294967295: no "   \
      "bound")                                                                                               \
    X(freeze_micros, us, 150, 20, 100000, USER, OWN,                                                         \
      "time a batch of pages may be frozen; the size of batches follows it")                                 \
    X(map_percent, percent, 60, 0, 95, USER, OWN,                                                            \
      "share of vm.max_map_count that a process may use, its own mappings included")                         \
    X(huge_split_percent, percent, 50, 1, 101, USER, OWN,                                                    \
      "share of the pages of a huge page that must have twins for it to be split; 101: never")               \
    X(worker_start_kbytes, KiB, 1024, 0, 1073741824, USER, OWN,                                              \
      "advised memory below which a process gets no worker")                                                 \
    X(worker_start_millisecs, ms, 500, 0, 3600000, USER, OWN,                                                \
      "age below which a program that advised nothing is left alone; none with worker_start_kbytes=0")       \
    X(max_page_sharing, pages, SP_UNBOUNDED_SHARING, 2, INT32_MAX, USER, KSM,                                \
      "most pages that may share one page of the store; 2147483647: no bound")                               \
    X(merge_across_nodes, bool, 1, 0, 1, USER, KSM,                                                          \
      "0: only pages on the same NUMA node share; can be changed only while no page is shared")              \
    X(use_zero_pages, bool, 1, 0, 1, USER, KSM,                                                              \
      "give pages of zeros back to the kernel instead of sharing them")                                      \
    X(smart_scan, bool, 1, 0, 1, USER, KSM,                                                                  \
      "leave alone for longer and longer what failed to merge or is always written")                         \
    X(advisor_mode, name, 0, 0, 1, USER, KSM,                                                                \
      "scan-time: choose pages_to_scan so that all is read in advisor_target_scan_time; none: do not")       \
    X(advisor_max_cpu, percent, SP_ADVISOR_MAX_CPU, 0, UINT32_MAX, USER, KSM,                                \
      "most of one CPU that a domain's programs and the daemon use for it, together, over a minute; "        \
      "70: only with advisor_mode=scan-time")                                                                \
    X(advisor_target_scan_time, s, 200, 1, UINT32_MAX, USER, KSM,                                            \
      "time in which the advisor wants all that was written to be read once")                                \
    X(advisor_min_pages_to_scan, pages, 500, 0, UINT32_MAX, USER, KSM,                                       \
      "least pages_to_scan that the advisor chooses, and where it begins")                                   \
    X(advisor_max_pages_to_scan, pages, 30000, 0, UINT32_MAX, USER, KSM,                                     \
      "most pages_to_scan that the advisor chooses")                                                         \
    X(stable_node_chains_prune_millisecs, ms, 2000, 0, UINT32_MAX, USER, KSM,                                \
      "taken and shown for tools that set it; there are no chains to prune")                                 \
    X(lazy_max_cpu, percent, 0, 0, 100, USER, OWN,                                                           \
      "the same as advisor_max_cpu while memory is plentiful, until there is memory pressure; "              \
      "0: off, always keen")                                                                                 \
    X(store_max_mbytes, MiB, 0, 0, 1073741824, LIMIT, OWN,                                                   \
      "most memory the store of a domain may hold; 0: no limit")                                             \
    X(exposure_max_percent, percent, 0, 0, 10000, DAEMON, OWN,                                               \
      "stop merging when the exposure exceeds this share of the available memory; 0: never")

enum sp_setting {
#define X(name, ...) SP_SETTING_##name,
    SP_SETTINGS(X)
#undef X
        SP_SETTING_COUNT
};

enum sp_setting_scope { SP_SETTING_OF_USER, SP_SETTING_OF_LIMIT, SP_SETTING_OF_DAEMON };
enum sp_setting_origin { SP_ORIGIN_KSM, SP_ORIGIN_OWN };

struct sp_setting_info {
    const char *name;
    const char *unit;
    uint64_t value_default, value_min, value_max;
    enum sp_setting_scope scope;
    enum sp_setting_origin origin;
    const char *meaning;
};

extern const struct sp_setting_info sp_setting_info[SP_SETTING_COUNT];

/* The names of its values, ended by NULL; NULL for a plain number. */
const char *const *sp_setting_names(size_t setting);

/* A value, and what is allowed ("0 to 2", or the names), as people and files have them. */
struct sp_setting_text {
    char text[48];
};
struct sp_setting_text sp_setting_text(size_t setting, uint64_t value);
struct sp_setting_text sp_setting_allowed(size_t setting);

struct sp_settings {
    uint64_t v[SP_SETTING_COUNT];
};

/* Values for some of the settings. */
struct sp_settings_change {
    bool given[SP_SETTING_COUNT];
    struct sp_settings values; /* of those given; the others are 0 */
};

/* Fills in the defaults. */
void sp_settings_init(struct sp_settings *s);

/* The setting of that name (enum sp_setting), or -ENOENT. */
SP_WARN_UNUSED int sp_setting_find(const char *name);

/*
 * Parses "KEY=VALUE[,KEY=VALUE...]" into *s; of several values for one key the last counts, so that lists can
 * be appended to each other. 0, or -EINVAL (malformed), -ENOENT (unknown key), -EROFS (a counter), -ERANGE
 * (value out of range; allowed range in the error text); on failure *s is untouched and, when `error` is not
 * NULL, a one-line English text that says what is wrong and what is allowed is written there (at most
 * `error_bytes`, always terminated).
 */
SP_WARN_UNUSED int sp_settings_parse(struct sp_settings *s, const char *text, char *error,
                                     size_t error_bytes);

/* Adds one "KEY=VALUE" to a change. As sp_settings_parse, and -EEXIST: the key is given already. */
SP_WARN_UNUSED int sp_settings_change_add(struct sp_settings_change *c, const char *text, char *error,
                                          size_t error_bytes);

/*
 * Adds the lines of a file to a change: KEY=VALUE with blanks around either, empty lines, and lines that
 * begin with '#'. What `samepage get` prints is such a file. A line is what `--set` takes, so that no second
 * syntax needs a parser, ours or a library's. As sp_settings_change_add; on failure *ret_line is the line,
 * from 1.
 */
SP_WARN_UNUSED int sp_settings_change_lines(struct sp_settings_change *c, const char *text,
                                            unsigned *ret_line, char *error, size_t error_bytes);

void sp_settings_apply(struct sp_settings *s, const struct sp_settings_change *c);

/* 0 when every value is in its range, else -ERANGE: for values that came over the wire. */
SP_WARN_UNUSED int sp_settings_check(const struct sp_settings *s);

#endif
