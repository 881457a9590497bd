/* SPDX-License-Identifier: MIT */
/*
 * A crowd: many clients of one daemon, held by one process, each with a connection, a token and a place in
 * the domain of its own, as the real thing has (src/client/remote.c). They have no memory to merge: what they
 * ask about is made up, and what they publish is made for it. All of them are waited for at once, so that a
 * thousand can have a question under way, and the time of each answer is taken.
 *
 * Anything unexpected ends the process with a message: it is a benchmark.
 */
#ifndef SP_BENCH_CROWD_H
#define SP_BENCH_CROWD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/fingerprint.h"
#include "core/histogram.h"
#include "wire/message.h"

/* Requests of one client that may be under way. */
#define CROWD_AHEAD 64

struct crowd_client {
    int fd;
    uint32_t sequence;             /* of the request sent last */
    uint64_t sent_ns[CROWD_AHEAD]; /* ring, by sequence */
    unsigned under_way;
    uint64_t hints; /* messages */
    void *token;
    uint64_t epoch;
};

struct crowd {
    const char *socket;
    pid_t daemon;
    int poll_fd;
    struct sp_key key;
    struct crowd_client *clients;
    size_t n;
    unsigned users;   /* that they belong to in turn: 1 is this process's own */
    size_t under_way; /* requests of all */
    uint64_t answered;
    struct sp_histogram latency; /* of the answers since it was cleared */
    /* Called for each answer; NULL: nothing to do. */
    void (*on_answer)(struct crowd *c, struct crowd_client *client, const void *message);
    size_t n_apart; /* answers of so many clients, the first ones, do not count in either */
};

/* Connects `n` clients and waits until all are welcome. */
void crowd_join(struct crowd *c, const char *socket, size_t n);
/* Hangs up, and waits until the daemon has seen it: until it welcomes one more client. */
void crowd_leave(struct crowd *c);

/* Sends a request whose header is not filled in yet. False: the socket is full. `more` (NULL: nothing)
 * follows it. */
bool crowd_send(struct crowd *c, struct crowd_client *client, enum sp_wire_type type, void *message,
                size_t bytes, const void *more, size_t more_bytes, int fd);
/* Takes what has come; waits for it until `until_ns` at most when there is nothing. */
void crowd_take(struct crowd *c, uint64_t until_ns);
/* Takes answers until none is under way. */
void crowd_wait(struct crowd *c);

/* CPU time of the daemon so far. */
uint64_t crowd_daemon_ns(const struct crowd *c);
/* Its memory. */
double crowd_daemon_rss_mib(const struct crowd *c);
/* A field of /proc/meminfo, KiB. */
uint64_t crowd_meminfo_kib(const char *field);

__attribute__((noreturn, format(printf, 1, 2))) void crowd_fail(const char *format, ...);

#endif
