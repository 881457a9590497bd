/* SPDX-License-Identifier: MIT */
/*
 * A session: one connection. It receives messages, has them checked, does what they ask and answers. What is
 * wrong with a message ends its session, with a line in the log, and nothing else.
 *
 * Nothing here waits for a client. What a socket does not take now is queued; while much is queued nothing
 * more is read from that client, so that a client that does not read costs a bounded amount of memory. What
 * waits for all clients of a user is bounded, too: whose reply would be too much loses the session. Hints are
 * not queued as messages but merged (wire/hints.h), and sent when the queue is empty.
 */
#ifndef SP_DAEMON_SESSION_H
#define SP_DAEMON_SESSION_H

#include <sys/types.h>

#include "daemon/host.h"
#include "daemon/service.h"

struct output {
    struct output *next;
    int fd; /* to go with it, owned; -1: none */
    size_t bytes;
    _Alignas(8) uint8_t message[];
};

/* What the sessions of one user take together. Freed with the last of them. */
struct user {
    struct user *next;
    uid_t uid;
    uint64_t sessions;
    uint64_t queued_bytes, queued_fds; /* of replies that wait */
};

/* What all sessions share. */
struct sessions {
    struct service *service;
    int poll_fd;
    int uffd_device; /* -1: none */
    uint64_t started_ns;
    struct session *first;
    struct session *ended; /* freed by sessions_collect */
    struct user *users;    /* those who have sessions */
    struct ksmfs *views;   /* see ksmfs.h */
    uint64_t n, n_max;
    uint8_t *buffer; /* SP_SOCKET_MESSAGE_MAX, for the message at hand */
};

struct session {
    struct source source;
    struct sessions *all;
    struct session *previous, *next;
    pid_t pid; /* the peer's, at connect time */
    uid_t uid;
    struct user *user;     /* NULL once it has ended */
    struct member *member; /* after HELLO */
    struct output *queue, **queue_end;
    size_t queued; /* messages */
    bool ended;
    bool has_view;   /* it has handed over its mount */
    uint32_t events; /* that the loop waits for */
};

/* How many sessions a user has. */
uint64_t sessions_of(const struct sessions *all, uid_t uid);
/* Takes over the socket, also on failure. */
SP_WARN_UNUSED int session_new(struct sessions *all, int fd, pid_t pid, uid_t uid);
/* Ends a session; freed later. With `error` the reason is sent, if possible, and logged. */
void session_end(struct session *s, int error, const char *reason);
/* Sends a message, now or later. `fd` (-1: none) stays the caller's. */
void session_send(struct session *s, const void *message, size_t bytes, int fd);
/* Sends the hints that wait, if nothing else does. */
void session_send_hints(struct session *s);
/* Tells every client whether merging is paused. */
void sessions_send_pause(struct sessions *all);
/* Frees what has ended. Not from within a source's ready(). */
void sessions_collect(struct sessions *all);
void sessions_deinit(struct sessions *all);

/* Tells a peer that it is refused, on a socket that is no session. */
void session_refuse(int fd, int error, const char *reason);

/* Whether it takes what it is sent; who does not is told later what can wait. */
bool session_reads(const struct session *s);

/* control.c */
/* Whether the user controls the daemon as a whole: root, and the one that it runs as. */
bool control_controls(uid_t uid);
/* Whether the user may see the domain. */
bool control_sees(uid_t uid, const struct domain *d);
/* Changes settings for a user: of that domain, or (NULL) of all that they control. 0, -EACCES (somebody
 * else's domain, or a setting that is not the user's to change), -ESRCH (no such domain), -EINVAL (a setting
 * of all domains together for one of them), -EBUSY (pages_to_scan while it is the advisor's,
 * merge_across_nodes while pages are shared), -ENOMEM. */
SP_WARN_UNUSED int control_change(struct sessions *all, uid_t uid, pid_t pid, const uid_t *domain,
                                  const struct sp_settings_change *c);
/* The same, as SET asks for it. */
SP_WARN_UNUSED int control_set(struct session *s, const struct sp_wire_set *m);
/* Answers GET. */
void control_get(struct session *s, uint32_t sequence);
/* The settings by which each client of the domain is to work. */
void control_settings(const struct domain *d, struct sp_settings *ret_settings);
/* The advisor has another advice for the domain: its clients are told. */
void control_advised(struct sessions *all, struct domain *d);
/* Tells the client if it has not been told the latest settings. */
void control_tell(struct session *s);
/* What is due. Returns when there will be more to do (UINT64_MAX: nothing). */
uint64_t control_work(struct sessions *all, uint64_t now_ns);

/* status.c: the series of replies to STATUS. */
void session_send_status(struct session *s, uint32_t sequence);

#endif
