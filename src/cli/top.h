/* SPDX-License-Identifier: MIT */
/*
 * What the parts of `samepage top` share: rows made from what a daemon says, in one table of columns, which
 * feeds the screen, the text, --sort and the keys. cli/top.c is the command, top_rows.c makes and sorts the
 * rows, top_text.c writes them as lines and as JSON, top_screen.c shows them on the terminal that
 * top_terminal.c begins and puts back; these two alone know of ncurses.
 */
#ifndef SP_CLI_TOP_H
#define SP_CLI_TOP_H

#include <jansson.h>
#include <sys/types.h>

#include "cli/target.h"

/* X(id, name for --sort, title, title for domains, key, width, meaning) */
#define SP_TOP_COLUMNS(X)                                                                                    \
    X(PID, "pid", "PID", "CLIENTS", "p", 7, "process; of a domain: how many take part")                      \
    X(NAME, "name", "NAME", "DOMAIN OF", "n", 15, "of the process; of a domain: its user")                   \
    X(RESIDENT, "resident", "RESIDENT", "RESIDENT", "r", 9, "resident memory registered for merging")        \
    X(SHARED, "shared", "SHARED", "SHARED", "s", 8, "of that, what lies in the store")                       \
    X(SAVED, "saved", "SAVED", "SAVED", "v", 8, "its part of what merging saves now")                        \
    X(BROKEN, "broken", "BROKEN/S", "BROKEN/S", "b", 9, "merged pages that are private again, per second")   \
    X(P99, "p99", "FRZ-P99", "FRZ-P99", "f", 8, "99 of 100 freezes took no longer")                          \
    X(MAX, "max", "FRZ-MAX", "FRZ-MAX", "m", 8, "no freeze took longer")                                     \
    X(CPU, "cpu", "CPU%", "CPU%", "c", 6, "CPU time of our worker in it, of one CPU")

enum sp_top_column {
#define X(id, ...) SP_TOP_##id,
    SP_TOP_COLUMNS(X)
#undef X
        SP_TOP_N_COLUMNS
};

struct sp_top_column_info {
    const char *name, *title, *domain_title;
    const char *key; /* one letter */
    int width;
    const char *meaning;
};

extern const struct sp_top_column_info sp_top_columns[SP_TOP_N_COLUMNS];

/* A domain or a client. */
struct sp_top_row {
    bool is_domain;
    uid_t uid;
    uint32_t client;   /* its number within the domain */
    uint64_t pid;      /* of a domain: how many clients it has */
    char name[32];     /* of a domain: its user */
    char user[32];     /* of a domain: empty */
    const char *state; /* a static text; of a domain NULL */
    uint64_t resident_bytes, shared_bytes, saved_bytes;
    uint64_t p99_ns, max_ns;
    double broken_per_s, cpu_percent; /* NAN: not known yet, they need two reports */
    /* As of the report that the next rates are counted from. */
    uint64_t broken, cpu_ns, reported_ns;
};

struct sp_top_rows {
    struct sp_top_row *row;
    size_t n;
};

/* Zeroed before the first use. */
struct sp_top {
    pid_t daemon_pid;
    uint64_t uptime_ns, rss_bytes, cpu_ns;
    double cpu_percent; /* of the daemon; NAN: not known yet */
    uint64_t saved_bytes;
    struct sp_top_rows domains, clients;
};

/* top_rows.c */
/* Takes in what the daemon says now; rates are those since it was asked before. 0 or -ENOMEM. */
SP_WARN_UNUSED int sp_top_update(struct sp_top *t, const struct sp_target *target, const struct sp_status *s);
/* Figures: largest first, names and process numbers: smallest first; `reversed`: the other way round. */
void sp_top_sort(struct sp_top *t, enum sp_top_column by, bool reversed);
void sp_top_deinit(struct sp_top *t);

/* top_text.c */
#define SP_TOP_LINE_BYTES 256
/* The titles of the rows, and a row. */
void sp_top_title(bool of_domains, char ret_line[SP_TOP_LINE_BYTES]);
void sp_top_line(const struct sp_top_row *row, char ret_line[SP_TOP_LINE_BYTES]);
/* Where a column begins in these lines. */
int sp_top_column_start(enum sp_top_column column);
/* What there is to say of the daemon. */
void sp_top_daemon(const struct sp_top *t, char ret_line[SP_TOP_LINE_BYTES]);
void sp_top_print(const struct sp_top *t, const char *socket);
json_t *sp_top_json(const struct sp_top *t, const char *socket);

/* top_terminal.c */
/* Whether it can be shown; says why not. 0 or an exit status. */
SP_WARN_UNUSED int sp_top_terminal_check(const struct sp_command *command);
/* Makes the terminal a screen of ours. 0, or an exit status after saying why not. */
SP_WARN_UNUSED int sp_top_terminal_begin(const struct sp_command *command);
void sp_top_terminal_end(void);

/* top_screen.c */
struct sp_top_choice {
    struct sp_target target;
    uint64_t delay_ns;
    enum sp_top_column sort;
};
/* Shows it until the user has had enough, beginning with the rows that are there. An exit status. */
SP_WARN_UNUSED int sp_top_screen(struct sp_top *t, const struct sp_top_choice *choice);

#endif
