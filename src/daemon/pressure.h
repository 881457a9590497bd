/* SPDX-License-Identifier: MIT */
/*
 * Memory pressure, for domains that are lazy while there is none (lazy_max_cpu): by PSI, of the machine or of
 * whatever the file tells about (a memory cgroup's memory.pressure). The kernel tells by itself when some
 * task has waited for memory, where it lets us ask for that; else the file is read once a second. Once there
 * is pressure it lasts for ten seconds at least, and until tasks hardly wait any more. Where the file cannot
 * be read there is none.
 */
#ifndef SP_DAEMON_PRESSURE_H
#define SP_DAEMON_PRESSURE_H

#include "daemon/host.h"
#include "daemon/service.h"

struct pressure {
    struct source source; /* fd -1: nothing is told */
    const char *path;
    struct service *service;
    int poll_fd;
    bool wanted;
    bool unreadable;   /* said so in the log */
    uint64_t look_ns;  /* when the file is read next */
    uint64_t until_ns; /* pressure lasts at least as long */
};

void pressure_init(struct pressure *p, struct service *service, int poll_fd, const char *path);
void pressure_deinit(struct pressure *p);
/* What is due. Returns when there will be more to do (UINT64_MAX: nothing). */
uint64_t pressure_work(struct pressure *p, uint64_t now_ns);

#endif
