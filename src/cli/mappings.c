/* SPDX-License-Identifier: MIT */
/*
 * Reads /proc/PID/smaps and judges each mapping by the engine's own code (os/smaps.h). What a worker has
 * registered shows there: it is write-protected through a userfaultfd, and merged memory is a private mapping
 * of a store. Whether a userfaultfd is ours is told by the worker, a thread named "samepage". Not to be seen
 * from outside are NUMA policies and what the shim knows: memory that is eligible and not registered was
 * mapped behind its back, is too small, or is not wanted by the program.
 */
#include "cli/mappings.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "os/remote.h"
#include "os/smaps.h"

enum verdict { MERGED, REGISTERED, LEFT };

struct view {
    bool served;      /* there is a worker */
    json_t *mappings; /* NULL: a table is printed */
    uint64_t bytes[LEFT + 1];
    uint64_t shared_pages;
};

bool sp_pid_parse(const char *text, int *ret_pid) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || v < 1 || v > INT32_MAX)
        return false;
    *ret_pid = (int)v;
    return true;
}

static enum verdict judge(const struct view *v, const struct sp_mapping *m) {
    if (m->attributes & SP_ATTR_STORE)
        return MERGED;
    return v->served && m->eligible == SP_USERFAULTFD ? REGISTERED : LEFT;
}

static const char *why(const struct view *v, const struct sp_mapping *m, enum verdict verdict) {
    if (verdict == MERGED)
        return "merged: a mapping of the store";
    if (verdict == REGISTERED)
        return "registered";
    if (m->eligible != SP_ELIGIBLE)
        return sp_eligible_text(m->eligible);
    return v->served ? sp_eligible_text(SP_UNTRACKED) : "eligible, but the process has no worker";
}

static bool visit(void *ctx, const struct sp_mapping *m) {
    struct view *v = ctx;
    enum verdict verdict = judge(v, m);
    char protection[4] = {m->prot & PROT_READ ? 'r' : '-', m->prot & PROT_WRITE ? 'w' : '-',
                          m->prot & PROT_EXEC ? 'x' : '-', 0};
    uint64_t shared = sp_mapping_shared_pages(m);
    v->bytes[verdict] += m->end - m->start;
    v->shared_pages += shared;
    if (v->mappings) {
        json_array_append_new(v->mappings,
                              json_pack("{s:I, s:I, s:s, s:b, s:b, s:I, s:s}", "start", (json_int_t)m->start,
                                        "end", (json_int_t)m->end, "protection", protection, "registered",
                                        verdict == REGISTERED || (verdict == MERGED && v->served), "merged",
                                        verdict == MERGED, "ksm_bytes", (json_int_t)(shared * SP_PAGE_SIZE),
                                        "why", why(v, m, verdict)));
        return true;
    }
    printf("%012llx-%012llx %10s  %s  %s", (unsigned long long)m->start, (unsigned long long)m->end,
           sp_text_bytes(m->end - m->start), protection, why(v, m, verdict));
    if (verdict == MERGED)
        printf(", KSM: %llu kB", (unsigned long long)shared * (SP_PAGE_SIZE / 1024));
    printf("\n");
    return true;
}

static void print_sum(const struct view *v) {
    printf("%s merged (%s of it not written since), %s registered besides, %s left alone%s\n",
           sp_text_bytes(v->bytes[MERGED]), sp_text_bytes(v->shared_pages * SP_PAGE_SIZE),
           sp_text_bytes(v->bytes[REGISTERED]), sp_text_bytes(v->bytes[LEFT]),
           v->served ? "" : "; the process has no worker");
}

int sp_mappings_main(const char *text, bool json) {
    int pid;
    if (!sp_pid_parse(text, &pid))
        return sp_usage_error(&sp_command_status, "option '--mappings': '%s' is no process number", text);
    struct view v = {.served = sp_process_has_worker(pid), .mappings = json ? json_array() : NULL};
    int error = sp_remote_mappings(pid, visit, &v);
    if (!error && json) {
        json_t *root = json_pack("{s:i, s:b, s:I, s:O}", "pid", pid, "worker", v.served, "ksm_bytes",
                                 (json_int_t)(v.shared_pages * SP_PAGE_SIZE), "mappings", v.mappings);
        if (!root || json_dumpf(root, stdout, JSON_INDENT(2)))
            error = -ENOMEM;
        printf("\n");
        json_decref(root);
    } else if (!error) {
        print_sum(&v);
    }
    json_decref(v.mappings);
    if (!error)
        return sp_output_finish(SP_EXIT_OK);
    sp_complain(&sp_command_status, "process %d: %s", pid,
                error == -ENOENT || error == -ESRCH ? "there is none" : strerror(-error));
    return SP_EXIT_FAILURE;
}
