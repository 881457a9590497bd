/* SPDX-License-Identifier: MIT */
/* See remote.h. */
#include "os/remote.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/fault.h"
#include "os/smaps.h"
#include "os/syscall.h"

int sp_remote_read(int pid, const struct iovec *pieces, size_t n, void *to, size_t *ret_bytes) {
    int fault = sp_fault("remote_read");
    if (fault)
        return fault;
    struct iovec into = {.iov_base = to};
    for (size_t i = 0; i < n; i++)
        into.iov_len += pieces[i].iov_len;
    long r = sp_syscall(SYS_process_vm_readv, pid, &into, 1, pieces, n, 0);
    if (r < 0 && r != -EFAULT)
        return (int)r;
    *ret_bytes = r < 0 ? 0 : (size_t)r;
    return 0;
}

bool sp_remote_same(int pid, int other) {
    return !sp_fault("remote_same") && sp_syscall(SYS_kcmp, pid, other, KCMP_VM, 0, 0) == 0;
}

int sp_remote_mappings(int pid, bool (*visit)(void *ctx, const struct sp_mapping *m), void *ctx) {
    int fault = sp_fault("remote_mappings");
    if (fault)
        return fault;
    char path[64], piece[4096];
    struct sp_smaps parser;
    snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n;
    sp_smaps_init(&parser, visit, ctx);
    do
        n = read(fd, piece, sizeof(piece));
    while (n > 0 && sp_smaps_feed(&parser, piece, (size_t)n));
    int error = n < 0 ? -errno : 0;
    (void)close(fd);
    return error;
}

static long read_small(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, room - 1);
    long r = n < 0 ? -errno : n;
    (void)close(fd);
    if (r >= 0)
        text[r] = '\0';
    return r;
}

#define FLAG_KERNEL_THREAD 0x00200000u /* PF_KTHREAD, include/linux/sched.h */

/* Field number `n` (proc_pid_stat(5)); the third is the first behind the name, which may hold anything. */
static const char *stat_field(const char *text, int n) {
    const char *s = strrchr(text, ')');
    for (int at = 2; s && at < n; at++)
        s = strchr(s + 1, ' ');
    return s ? s + 1 : "";
}

int sp_process_read(int pid, struct sp_process *ret_process) {
    int fault = sp_fault("process_read");
    if (fault)
        return fault;
    char path[32], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    long r = read_small(path, text, sizeof(text));
    if (r <= 0)
        return r ? (int)r : -ESRCH;
    *ret_process = (struct sp_process){
        .pid = pid,
        .state = *stat_field(text, 3),
        .parent = (int)strtol(stat_field(text, 4), NULL, 10),
        .kernel_thread = strtoul(stat_field(text, 9), NULL, 10) & FLAG_KERNEL_THREAD,
        .resident_pages = strtoull(stat_field(text, 24), NULL, 10),
        .stack = strtoull(stat_field(text, 28), NULL, 10),
        .heap = strtoull(stat_field(text, 47), NULL, 10),
    };
    return 0;
}

int sp_process_each(bool (*visit)(void *ctx, int pid), void *ctx) {
    int fault = sp_fault("process_each");
    if (fault)
        return fault;
    DIR *all = opendir("/proc");
    if (!all)
        return -errno;
    bool more = true;
    for (struct dirent *d; more && (d = readdir(all));)
        if (d->d_name[0] >= '1' && d->d_name[0] <= '9')
            more = visit(ctx, (int)strtol(d->d_name, NULL, 10));
    (void)closedir(all);
    return 0;
}

static bool is_worker(int pid, const char *task) {
    char path[320], name[32];
    snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", pid, task);
    return read_small(path, name, sizeof(name)) > 0 && !strcmp(name, "samepage\n");
}

bool sp_process_has_worker(int pid) {
    char path[64];
    bool found = false;
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *d; tasks && !found && (d = readdir(tasks));)
        found = is_worker(pid, d->d_name);
    if (tasks)
        (void)closedir(tasks);
    return found;
}
