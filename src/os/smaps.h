/* SPDX-License-Identifier: MIT */
/*
 * A parser for /proc/PID/smaps (proc_pid_smaps(5)), or /proc/PID/maps, fed with pieces of text of any size.
 * Pure: no system call, no allocation; a line of any length is fine, of which the first bytes count.
 */
#ifndef SP_OS_SMAPS_H
#define SP_OS_SMAPS_H

#include "os/proc.h"

struct sp_smaps {
    bool (*visit)(void *ctx, const struct sp_mapping *m);
    void *ctx;
    struct sp_mapping mapping; /* what is known of the current one */
    enum sp_eligible named;    /* what its header line said */
    bool shared, pkey, inside; /* inside: a header was read, its VmFlags were not */
    bool headers_only;         /* the text is that of /proc/PID/maps; set after sp_smaps_init */
    bool stopped;              /* visit returned false */
    size_t n;                  /* bytes in `line` */
    char line[256];
    char name[256]; /* mapping.name */
};

void sp_smaps_init(struct sp_smaps *p, bool (*visit)(void *ctx, const struct sp_mapping *m), void *ctx);
/* Calls visit for each mapping whose last line is in the text so far. False: visit wants no more. NUMA
 * policies are not in smaps: sp_proc_mappings adds them. */
bool sp_smaps_feed(struct sp_smaps *p, const char *text, size_t bytes);

#endif
