/* SPDX-License-Identifier: MIT */
/*
 * The fields of Linux 6.18 (fs/proc/base.c), each from whoever knows it: the kernel, by smaps, how many pages
 * lie in the store and are mapped; the daemon, by the client's last report, pages of zeros and what the
 * bookkeeping takes; the process's environment whether it has set PR_SET_MEMORY_MERGE (preload/inherit.c
 * keeps it there).
 */
#include "cli/ksm_stat.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/mappings.h"
#include "cli/output.h"
#include "cli/places.h"
#include "cli/target.h"
#include "os/remote.h"
#include "wire/control.h"

#define MERGE_ANY "SAMEPAGE_MERGE_ANY=1"

struct ksm_stat {
    uint64_t merging_pages, zero_pages, rmap_items;
    int64_t profit;
    bool merge_any, mergeable;
};

struct search {
    int pid;
    bool found;
    struct sp_counters counters; /* of the client */
};

/* --- From where ---------------------------------------------------------------------------------------- */

static bool visit(void *ctx, const struct sp_mapping *m) {
    struct ksm_stat *s = ctx;
    s->merging_pages += sp_mapping_shared_pages(m);
    s->mergeable |= m->attributes & SP_ATTR_STORE || m->eligible == SP_USERFAULTFD;
    return true;
}

static void search_daemon(struct search *s, const char *socket) {
    struct sp_status *status;
    if (s->found || sp_control_status(socket, SP_ANSWER_MS, &status))
        return;
    for (size_t i = 0; i < status->n_domains; i++) {
        const struct sp_status_domain *d = &status->domains[i];
        for (size_t k = 0; k < d->n_clients && !s->found; k++) {
            if (d->clients[k].pid != s->pid || d->clients[k].state == UINT32_MAX)
                continue;
            s->found = true;
            s->counters = d->clients[k].counters;
        }
    }
    sp_status_free(status);
}

static int search_all(struct search *s) {
    struct sp_sockets sockets;
    int error = sp_sockets_all(&sockets);
    if (error)
        return error;
    for (size_t i = 0; i < sockets.n; i++)
        search_daemon(s, sockets.place[i].path);
    sp_sockets_deinit(&sockets);
    return 0;
}

/* One that cannot be read, or has no such variable, has not set it. */
static bool has_merge_any(int pid) {
    char path[32], *word = NULL;
    size_t room = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    FILE *f = fopen(path, "re");
    while (f && !found && getdelim(&word, &room, '\0', f) >= 0)
        found = !strcmp(word, MERGE_ANY);
    if (f)
        fclose(f);
    free(word);
    return found;
}

static int gather(int pid, const char *socket, struct ksm_stat *ret) {
    struct ksm_stat s = {0};
    struct search search = {.pid = pid};
    int error = sp_remote_mappings(pid, visit, &s);
    if (error)
        return error;
    bool worker = sp_process_has_worker(pid);
    if (socket)
        search_daemon(&search, socket);
    else
        error = worker ? search_all(&search) : 0;
    if (error || (worker && !search.found))
        return error ? error : -ENOLINK;
    if (worker)
        s.merge_any = has_merge_any(pid);
    s.mergeable &= worker;
    s.zero_pages = search.counters.v[SP_COUNTER_ksm_zero_pages];
    s.rmap_items = s.merging_pages + search.counters.v[SP_COUNTER_pages_unshared];
    s.profit = (int64_t)((s.merging_pages + s.zero_pages) * SP_PAGE_SIZE) -
               (int64_t)sp_counters_cost_bytes(&search.counters);
    *ret = s;
    return 0;
}

/* --- What is printed ----------------------------------------------------------------------------------- */

static int print_json(const struct ksm_stat *s) {
    json_t *root = json_pack("{s:I, s:I, s:I, s:I, s:b, s:b}", "ksm_rmap_items", (json_int_t)s->rmap_items,
                             "ksm_zero_pages", (json_int_t)s->zero_pages, "ksm_merging_pages",
                             (json_int_t)s->merging_pages, "ksm_process_profit", (json_int_t)s->profit,
                             "ksm_merge_any", s->merge_any, "ksm_mergeable", s->mergeable);
    int r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
    json_decref(root);
    printf("\n");
    return sp_output_finish(r ? SP_EXIT_FAILURE : SP_EXIT_OK);
}

static int print_text(const struct ksm_stat *s) {
    printf("ksm_rmap_items %" PRIu64 "\nksm_zero_pages %" PRIu64 "\nksm_merging_pages %" PRIu64
           "\nksm_process_profit %" PRId64 "\nksm_merge_any: %s\nksm_mergeable: %s\n",
           s->rmap_items, s->zero_pages, s->merging_pages, s->profit, s->merge_any ? "yes" : "no",
           s->mergeable ? "yes" : "no");
    return sp_output_finish(SP_EXIT_OK);
}

int sp_ksm_stat_main(const char *text, const char *socket, bool json) {
    struct ksm_stat s;
    int pid;
    const char *inherited = getenv("SAMEPAGE_SOCKET");
    if (!socket && inherited && *inherited)
        socket = inherited;
    if (!sp_pid_parse(text, &pid))
        return sp_usage_error(&sp_command_status, "option '--ksm-stat': '%s' is no process number", text);
    int error = gather(pid, socket, &s);
    if (!error)
        return json ? print_json(&s) : print_text(&s);
    sp_complain(&sp_command_status, "process %d: %s", pid,
                error == -ENOLINK ? "no daemon that was asked knows it (yet); name its daemon with --socket"
                : error == -ENOENT || error == -ESRCH ? "there is none"
                                                      : strerror(-error));
    return SP_EXIT_FAILURE;
}
