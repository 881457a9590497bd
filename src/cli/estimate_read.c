/* SPDX-License-Identifier: MIT */
/* `samepage estimate`: reads processes one after the other, and keeps account of those that it could not
 * read. */
#include <errno.h>
#include <string.h>

#include "cli/estimate.h"
#include "cli/output.h"

static const char *why_not(int error) {
    switch (error) {
    case -ESRCH:
        return "there is none, or it has ended";
    case -ENODATA:
        return "has no memory of its own: it is the kernel's, or has ended";
    case -EEXIST:
        return "has the same memory as another one";
    case -EACCES:
        return "permission denied: only root and its own user may read it";
    case -EPERM:
        return "permission denied: only root may read it, or who started it (kernel.yama.ptrace_scope)";
    default:
        return strerror(-error);
    }
}

void sp_estimate_complain(int pid, int error) {
    bool is_there = error == -ENODATA || error == -EEXIST;
    sp_complain(&sp_command_estimate, "process %d %s%s", pid,
                is_there ? "" : "cannot be read: ", why_not(error));
}

static void leave_out(struct sp_estimate_report *r, int pid, int error, bool named) {
    if (error == -EACCES || error == -EPERM)
        r->denied++;
    else if (error == -EEXIST)
        r->same++;
    else
        r->ended++;
    if (named)
        sp_estimate_complain(pid, error);
}

/* An estimate must not bring a machine down that is short of memory. */
static bool fits(uint64_t pages, uint32_t one_in) {
    uint64_t available, total;
    if (sp_proc_memory(&available, &total))
        return true;
    uint32_t least = sp_estimate_least_sample(pages, available);
    if (one_in < least)
        sp_complain(
            &sp_command_estimate, "to look at %s takes %s, and only %s are available: see --sample 1/%u",
            sp_text_bytes(pages * SP_PAGE_SIZE),
            sp_text_bytes(pages / one_in * sizeof(struct sp_census_page)), sp_text_bytes(available), least);
    return one_in >= least;
}

/* Only -ENOMEM ends it. */
static int read_targets(struct sp_estimate_report *r, const struct sp_targets *targets, uint64_t total_pages,
                        bool named) {
    struct sp_progress progress;
    struct sp_estimate_progress tell = {sp_progress_tell, &progress};
    uint64_t done = 0;
    int error = 0;
    sp_progress_init(&progress, total_pages, targets->n);
    for (size_t i = 0; i < targets->n && error != -ENOMEM; i++) {
        const struct sp_process *p = &targets->process[i];
        sp_progress_process(&progress, p->pid, done);
        error = sp_estimate_read(r->estimate, p->pid, &tell);
        done += p->resident_pages;
        if (error)
            sp_progress_end(&progress); /* a message has a line of its own */
        if (error && error != -ENOMEM)
            leave_out(r, p->pid, error, named);
    }
    sp_progress_end(&progress);
    return error == -ENOMEM ? error : 0;
}

int sp_estimate_targets(const struct sp_targets *targets, uint32_t one_in, bool named,
                        struct sp_estimate_report *ret_report) {
    struct sp_estimate_report r = {0};
    uint64_t pages = 0;
    for (size_t i = 0; i < targets->n; i++)
        pages += targets->process[i].resident_pages;
    int error = fits(pages, one_in) ? sp_estimate_new(one_in, &r.estimate) : -ENOMEM;
    if (!error)
        error = read_targets(&r, targets, pages, named);
    if (!error)
        error = sp_estimate_finish(r.estimate);
    if (sp_proc_max_map_count(&r.mappings_max))
        r.mappings_max = 0;
    if (error)
        sp_estimate_report_deinit(&r);
    else
        *ret_report = r;
    return error;
}

void sp_estimate_report_deinit(struct sp_estimate_report *r) {
    r->estimate = sp_estimate_free(r->estimate);
}
