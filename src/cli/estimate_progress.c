/* SPDX-License-Identifier: MIT */
/* The line of `samepage estimate` that shows how far it is: drawn again and again in its place, and wiped out
 * in the end. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/estimate.h"
#include "cli/output.h"
#include "os/thread.h"

#define REDRAW_NS UINT64_C(100000000)
#define BAR       24

void sp_progress_init(struct sp_progress *p, uint64_t total_pages, size_t processes) {
    *p = (struct sp_progress){
        .shown = isatty(STDERR_FILENO),
        .start_ns = sp_now_ns(),
        .total_pages = total_pages,
        .processes = processes,
    };
}

static void draw(struct sp_progress *p, uint64_t pages) {
    if (!p->shown)
        return;
    uint64_t now_ns = sp_now_ns(), done = p->done_pages + pages;
    if (now_ns < p->next_ns)
        return;
    p->next_ns = now_ns + REDRAW_NS;
    if (done > p->total_pages)
        done = p->total_pages;
    unsigned part = p->total_pages ? (unsigned)(done * BAR / p->total_pages) : 0;
    double seconds = (double)(now_ns - p->start_ns + 1) / 1e9;
    char line[128];
    snprintf(line, sizeof line, "\r\033[K[%-*.*s] %s of %s, %.1f GB/s, process %zu of %zu: %s", BAR,
             (int)part, "########################", sp_text_bytes(done * SP_PAGE_SIZE),
             sp_text_bytes(p->total_pages * SP_PAGE_SIZE), (double)(done * SP_PAGE_SIZE) / seconds / 1e9,
             p->process, p->processes, p->name);
    fputs(line, stderr);
    (void)fflush(stderr);
}

void sp_progress_process(struct sp_progress *p, int pid, uint64_t done_pages) {
    p->process++;
    p->done_pages = done_pages;
    if (!p->shown)
        return;
    sp_proc_name(pid, p->name);
    /* It may be named anything. */
    for (char *c = p->name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    draw(p, 0);
}

void sp_progress_tell(void *ctx, uint64_t pages) {
    draw(ctx, pages);
}

void sp_progress_end(struct sp_progress *p) {
    if (p->shown && p->next_ns)
        fputs("\r\033[K", stderr);
    (void)fflush(stderr);
    p->next_ns = 0;
}
