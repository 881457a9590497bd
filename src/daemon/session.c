/* SPDX-License-Identifier: MIT */
/* See session.h. */
#include "daemon/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "daemon/ksmfs.h"
#include "daemon/log.h"
#include "daemon/policy.h"
#include "os/socket.h"
#include "os/thread.h"
#include "os/uffd.h"

/* Messages with contents that are taken from a client in a row. */
#define TURN_CONTENTS 8
/* Replies waiting for a client beyond which nothing more is read from it. More than a client may have
 * requests under way, so that one that reads is never stopped. */
#define QUEUE_MAX 64
/* Replies that wait for all clients of a user together. An honest one reads, so that hardly anything ever
 * waits; an answer to STATUS is long, but there are few who ask. */
#define USER_QUEUE_BYTES (UINT64_C(64) << 20)
#define USER_QUEUE_FDS   256

/* --- users ------------------------------------------------------------------------------------------ */

static struct user *user_find(const struct sessions *all, uid_t uid) {
    struct user *u = all->users;
    while (u && u->uid != uid)
        u = u->next;
    return u;
}

uint64_t sessions_of(const struct sessions *all, uid_t uid) {
    const struct user *u = user_find(all, uid);
    return u ? u->sessions : 0;
}

/* NULL: no memory. */
static struct user *user_enter(struct sessions *all, uid_t uid) {
    struct user *u = user_find(all, uid);
    if (!u) {
        u = calloc(1, sizeof *u);
        if (!u)
            return NULL;
        *u = (struct user){.next = all->users, .uid = uid};
        all->users = u;
    }
    u->sessions++;
    return u;
}

static void user_leave(struct sessions *all, struct user *u) {
    struct user **at = &all->users;
    if (--u->sessions)
        return;
    while (*at != u)
        at = &(*at)->next;
    *at = u->next;
    free(u);
}

/* --- replies that wait ------------------------------------------------------------------------------ */

static bool user_has_room(const struct user *u, size_t bytes, int fd) {
    return u->queued_bytes + bytes <= USER_QUEUE_BYTES && (fd < 0 || u->queued_fds < USER_QUEUE_FDS);
}

static void queue_drop_first(struct session *s) {
    struct output *o = s->queue;
    s->queue = o->next;
    if (!s->queue)
        s->queue_end = &s->queue;
    s->queued--;
    s->user->queued_bytes -= sizeof *o + o->bytes;
    s->user->queued_fds -= o->fd >= 0;
    if (o->fd >= 0)
        (void)sp_close(o->fd);
    free(o);
}

static void queue_clear(struct session *s) {
    while (s->queue)
        queue_drop_first(s);
}

static void events_update(struct session *s) {
    uint32_t events = (s->queue ? EPOLLOUT : 0u) | (s->queued < QUEUE_MAX ? EPOLLIN : 0u);
    if (s->ended || events == s->events)
        return;
    if (host_poll_change(s->all->poll_fd, &s->source, events))
        session_end(s, -ENOMEM, "waiting for its socket failed");
    else
        s->events = events;
}

static void fill_refused(struct sp_wire_refused *m, int error, const char *reason) {
    *m = (struct sp_wire_refused){.error = error};
    sp_wire_header_init(&m->header, SP_WIRE_REFUSED, sizeof *m, 0);
    snprintf(m->text, sizeof m->text, "%s", reason);
}

void session_refuse(int fd, int error, const char *reason) {
    struct sp_wire_refused m;
    fill_refused(&m, error, reason);
    struct iovec part = {.iov_base = &m, .iov_len = sizeof m};
    /* Best effort: the peer sees the end of the connection in any case. */
    (void)!sp_socket_send(fd, &part, 1, NULL, 0, false);
}

void session_end(struct session *s, int error, const char *reason) {
    if (s->ended)
        return;
    s->ended = true;
    if (error) {
        log_client("session with process %d of uid %u ended: %s; its pages stay as they are", (int)s->pid,
                   (unsigned)s->uid, reason);
        session_refuse(s->source.fd, error, reason);
    }
    if (s->member)
        member_gone(s->member, sp_now_ns());
    s->member = NULL;
    queue_clear(s);
    user_leave(s->all, s->user);
    s->user = NULL;
    host_poll_remove(s->all->poll_fd, &s->source);
    sp_socket_end(s->source.fd);
    if (s->previous)
        s->previous->next = s->next;
    else
        s->all->first = s->next;
    if (s->next)
        s->next->previous = s->previous;
    s->previous = NULL;
    s->next = s->all->ended;
    s->all->ended = s;
    s->all->n--;
}

void sessions_collect(struct sessions *all) {
    while (all->ended) {
        struct session *s = all->ended;
        all->ended = s->next;
        free(s);
    }
}

void sessions_deinit(struct sessions *all) {
    while (all->first)
        session_end(all->first, 0, NULL);
    sessions_collect(all);
}

static int send_now(const struct session *s, const void *message, size_t bytes, int fd) {
    union {
        const void *in;
        void *out;
    } base = {.in = message};
    struct iovec part = {.iov_base = base.out, .iov_len = bytes};
    return sp_socket_send(s->source.fd, &part, 1, &fd, fd >= 0, false);
}

static int queue_add(struct session *s, const void *message, size_t bytes, int fd) {
    if (!user_has_room(s->user, sizeof(struct output) + bytes, fd))
        return -ENOBUFS;
    struct output *o = malloc(sizeof *o + bytes);
    if (!o)
        return -ENOMEM;
    *o = (struct output){.fd = -1, .bytes = bytes};
    memcpy(o->message, message, bytes);
    if (fd >= 0 && host_duplicate(fd, &o->fd)) {
        free(o);
        return -EMFILE;
    }
    *s->queue_end = o;
    s->queue_end = &o->next;
    s->queued++;
    s->user->queued_bytes += sizeof *o + bytes;
    s->user->queued_fds += o->fd >= 0;
    return 0;
}

void session_send(struct session *s, const void *message, size_t bytes, int fd) {
    if (s->ended)
        return;
    int r = s->queue ? -EAGAIN : send_now(s, message, bytes, fd);
    if (r == -EAGAIN) {
        r = queue_add(s, message, bytes, fd);
        if (r)
            session_end(s, r,
                        r == -ENOBUFS ? "its user leaves too many replies unread"
                                      : "no memory or no descriptor for a reply");
        else
            events_update(s);
    } else if (r) {
        session_end(s, 0, NULL);
    }
}

void session_send_hints(struct session *s) {
    struct member *m = s->member;
    _Alignas(8)
        uint8_t buffer[sizeof(struct sp_wire_hints) + SP_WIRE_HINTS_MAX * sizeof(struct sp_wire_hint)];
    struct sp_wire_hints *hints = (struct sp_wire_hints *)buffer;
    while (!s->ended && !s->queue && m && m->hints && !sp_hint_queue_empty(m->hints)) {
        size_t n = sp_hint_queue_take(m->hints, hints->hint, SP_WIRE_HINTS_MAX);
        size_t bytes = sizeof *hints + n * sizeof hints->hint[0];
        sp_wire_header_init(&hints->header, SP_WIRE_HINT, bytes, 0);
        hints->n = (uint32_t)n;
        hints->reserved = 0;
        m->hints_sent++;
        session_send(s, hints, bytes, -1);
    }
}

bool session_reads(const struct session *s) {
    return s->queued < QUEUE_MAX;
}

void sessions_send_pause(struct sessions *all) {
    struct sp_wire_pause m = {.pause = all->service->paused};
    sp_wire_header_init(&m.header, SP_WIRE_PAUSE, sizeof m, 0);
    for (struct session *s = all->first, *next; s; s = next) {
        next = s->next;
        /* Who does not read gets it with the next report. */
        if (s->member && session_reads(s))
            session_send(s, &m, sizeof m, -1);
    }
}

static void queue_flush(struct session *s) {
    while (s->queue) {
        struct output *o = s->queue;
        int r = send_now(s, o->message, o->bytes, o->fd);
        if (r == -EAGAIN)
            break;
        if (r) {
            session_end(s, 0, NULL);
            return;
        }
        queue_drop_first(s);
    }
    session_send_hints(s);
    events_update(s);
}

/* --- what messages ask for -------------------------------------------------------------------------- */

/* A message at hand: checked, with the descriptor that came along (-1: none). A handler that keeps the
 * descriptor sets it to -1; else it is closed as foreign. */
struct request {
    const void *message;
    int fd;
};

static uint32_t sequence_of(const struct request *q) {
    return ((const struct sp_wire_header *)q->message)->sequence;
}

static void send_result(struct session *s, const struct request *q, int result) {
    struct sp_wire_result m = {.result = result};
    sp_wire_header_init(&m.header, SP_WIRE_RESULT, sizeof m, sequence_of(q));
    session_send(s, &m, sizeof m, -1);
}

static void send_welcome(struct session *s, const struct request *q) {
    struct domain *d = s->member->domain;
    struct sp_settings settings;
    struct sp_wire_welcome m = {.client = s->member->client,
                                .pause = s->all->service->paused,
                                .key = d->key,
                                .settings_number = d->settings_number};
    sp_wire_header_init(&m.header, SP_WIRE_WELCOME, sizeof m, sequence_of(q));
    control_settings(d, &settings);
    memcpy(m.settings, settings.v, sizeof m.settings);
    s->member->settings_told = d->settings_number;
    session_send(s, &m, sizeof m, s->all->uffd_device);
    explicit_bzero(&m, sizeof m);
}

static void on_hello(struct session *s, struct request *q) {
    struct domain *d;
    if (s->member) {
        session_end(s, -EPROTO, "a second HELLO");
        return;
    }
    int r = service_domain(s->all->service, s->uid, &d);
    if (!r)
        r = member_new(d, q->message, s->pid, q->fd, s, &s->member);
    if (r) {
        session_end(
            s, r,
            r == -EINVAL  ? "what came as its token is none"
            : r == -ESRCH ? "nobody maps its token: it has ended already"
            : r == -EUSERS
                ? "too many clients of its user, or families of ended ones, for the limit on descriptors"
                : strerror(-r));
        return;
    }
    q->fd = -1;
    send_welcome(s, q);
}

/* ANSWERS to as many questions as a message can have; the answers are filled in by the caller. */
union answers {
    struct sp_wire_answers message;
    _Alignas(
        8) uint8_t room[sizeof(struct sp_wire_answers) + SP_WIRE_QUERIES_MAX * sizeof(struct sp_wire_answer)];
};

static void send_answers(struct session *s, const struct request *q, union answers *a, uint32_t n) {
    size_t bytes = sizeof a->message + n * sizeof a->message.answer[0];
    sp_wire_header_init(&a->message.header, SP_WIRE_ANSWERS, bytes, sequence_of(q));
    a->message.n = n;
    a->message.reserved = 0;
    /* Its own hints first: whoever merges a range now asks again until there are none when the answer is. */
    session_send_hints(s);
    session_send(s, a, bytes, -1);
}

static void on_ask(struct session *s, struct request *q) {
    union answers a;
    const struct sp_wire_queries *m = q->message;
    member_ask(s->member, m, a.message.answer);
    send_answers(s, q, &a, m->n);
}

static void on_publish(struct session *s, struct request *q) {
    union answers a;
    const struct sp_wire_publish *m = q->message;
    member_publish(s->member, m, a.message.answer);
    send_answers(s, q, &a, m->n);
}

static void on_forget(struct session *s, struct request *q) {
    member_forget(s->member, q->message);
    send_result(s, q, 0);
}

static void on_release(struct session *s, struct request *q) {
    bool taken;
    int r = member_release(s->member, q->message, q->fd, sp_now_ns(), &taken);
    /* A client that died meanwhile is no news. */
    if (r && r != -ESRCH)
        log_client("process %d of uid %u gave back references in a way that cannot be: %s; they are kept",
                   (int)s->pid, (unsigned)s->uid, strerror(-r));
    if (taken)
        q->fd = -1;
    struct sp_wire_released m = {.result = r, .epoch_end = taken};
    sp_wire_header_init(&m.header, SP_WIRE_RELEASED, sizeof m, sequence_of(q));
    session_send(s, &m, sizeof m, -1);
}

/* A client reaches the segments of its own domain only (I4). */
static void on_segment(struct session *s, struct request *q) {
    const struct sp_wire_segment *request = q->message;
    int fd = -1;
    int r = store_descriptor(&s->member->domain->store, request->segment, &fd);
    struct sp_wire_segment_fd m = {.segment = request->segment, .result = r};
    sp_wire_header_init(&m.header, SP_WIRE_SEGMENT_FD, sizeof m, sequence_of(q));
    session_send(s, &m, sizeof m, r ? -1 : fd);
}

static void on_report(struct session *s, struct request *q) {
    uint64_t now_ns = sp_now_ns();
    member_report(s->member, q->message, now_ns);
    if (policy_reported(s->member, now_ns))
        control_advised(s->all, s->member->domain);
    if (!s->ended)
        control_tell(s);
    if (s->ended)
        return;
    struct sp_wire_reported m = {.pause = s->all->service->paused,
                                 .cpu_until_ns = s->member->allowance.until_ns};
    sp_wire_header_init(&m.header, SP_WIRE_REPORTED, sizeof m, sequence_of(q));
    session_send(s, &m, sizeof m, -1);
}

/* Fork events need a privilege at this one ioctl only (H3). What events there are to read, and who may read
 * them, does not change: the descriptor belongs to the client. The feature set is fixed. */
static void on_uffd_enable(struct session *s, struct request *q) {
    if (!host_is_userfaultfd(q->fd)) {
        session_end(s, -EPROTO, "a descriptor that is no userfaultfd");
        return;
    }
    send_result(s, q, sp_uffd_enable(q->fd, SP_UFFD_NEEDED | SP_UFFD_EVENT_FORK));
    /* Closed as foreign: the last close(2) of it takes the lock of its program's memory, which the program
     * may hold for as long as it likes. */
}

static void on_status(struct session *s, struct request *q) {
    session_send_status(s, sequence_of(q));
}

static void on_set(struct session *s, struct request *q) {
    send_result(s, q, control_set(s, q->message));
}

static void on_get(struct session *s, struct request *q) {
    control_get(s, sequence_of(q));
}

static int view_new(struct session *s, int fuse_fd) {
    if (s->has_view)
        return -EBUSY;
    /* Root's view believes the numbers in its requests: those of another user namespace are others'. */
    if (s->uid == 0 && !host_peer_has_our_users(s->source.fd, s->pid))
        return -EPERM;
    int r = ksmfs_view_new(s->all, fuse_fd, s->uid);
    s->has_view = !r;
    return r;
}

static void on_files(struct session *s, struct request *q) {
    send_result(s, q, view_new(s, q->fd));
}

static const struct {
    void (*handle)(struct session *s, struct request *q);
    bool anybody; /* also before HELLO */
} handlers[] = {
    [SP_WIRE_HELLO] = {on_hello, true},      [SP_WIRE_ASK] = {on_ask, false},
    [SP_WIRE_PUBLISH] = {on_publish, false}, [SP_WIRE_FORGET] = {on_forget, false},
    [SP_WIRE_RELEASE] = {on_release, false}, [SP_WIRE_SEGMENT] = {on_segment, false},
    [SP_WIRE_REPORT] = {on_report, false},   [SP_WIRE_UFFD_ENABLE] = {on_uffd_enable, false},
    [SP_WIRE_STATUS] = {on_status, true},    [SP_WIRE_SET] = {on_set, true},
    [SP_WIRE_FILES] = {on_files, true},      [SP_WIRE_GET] = {on_get, true},
};

/* A message of `bytes` lies in the shared buffer. */
static void handle(struct session *s, size_t bytes, int *fds, size_t n_fds) {
    const char *reason;
    const struct sp_wire_header *h = (const struct sp_wire_header *)s->all->buffer;
    struct request q = {.message = h, .fd = n_fds == 1 ? fds[0] : -1};
    int r = sp_wire_check(h, bytes, n_fds, SP_WIRE_TO_DAEMON, &reason);
    if (r)
        session_end(s, r, reason);
    else if (!s->member && !handlers[h->type].anybody)
        session_end(s, -EPROTO, "a request before HELLO");
    else
        handlers[h->type].handle(s, &q);
    if (n_fds == 1)
        fds[0] = q.fd;
    for (size_t i = 0; i < n_fds; i++)
        if (fds[i] >= 0)
            host_close_foreign(&fds[i], 1);
}

/* True: it brought contents, and more of them may follow at once. */
static bool receive_one(struct session *s) {
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
    ssize_t n = sp_socket_receive(s->source.fd, s->all->buffer, SP_SOCKET_MESSAGE_MAX, fds, &n_fds, 0);
    if (n == -EAGAIN)
        return false;
    if (n == -EMSGSIZE)
        session_end(s, -EMSGSIZE, "a message or its descriptors do not fit, or no descriptor is left");
    else if (n <= 0)
        session_end(s, 0, NULL);
    else
        handle(s, (size_t)n, fds, n_fds);
    return n > 0 && !s->ended && ((const struct sp_wire_header *)s->all->buffer)->type == SP_WIRE_PUBLISH;
}

static void session_work(struct session *s, uint32_t events) {
    if (!s->ended && events & EPOLLOUT)
        queue_flush(s);
    /* One message, then the others have their turn: the loop comes back for the next. Contents come in a row,
     * and go faster so: those of several clients by turns displace each other in the processor's caches. */
    bool more = !s->ended && events & EPOLLIN;
    for (int i = 0; more && i < TURN_CONTENTS && s->queued < QUEUE_MAX; i++)
        more = receive_one(s);
    /* The peer has gone. What it sent before is read first, unless it never took our replies. */
    if (!s->ended && events & (EPOLLHUP | EPOLLERR) && (!(events & EPOLLIN) || s->queued >= QUEUE_MAX))
        session_end(s, 0, NULL);
}

static void session_ready(struct source *source, uint32_t events) {
    struct session *s = (struct session *)source;
    struct service *service = s->all->service;
    struct domain *d = s->member ? s->member->domain : NULL;
    uint64_t begun_ns = policy_serve(service);
    session_work(s, events);
    policy_served(service, d, begun_ns);
}

int session_new(struct sessions *all, int fd, pid_t pid, uid_t uid) {
    struct session *s = calloc(1, sizeof *s);
    if (!s) {
        sp_socket_end(fd);
        return -ENOMEM;
    }
    *s = (struct session){
        .source = {.fd = fd, .ready = session_ready}, .all = all, .pid = pid, .uid = uid, .events = EPOLLIN};
    s->queue_end = &s->queue;
    s->user = user_enter(all, uid);
    int r = s->user ? host_poll_add(all->poll_fd, &s->source, s->events) : -ENOMEM;
    if (r) {
        if (s->user)
            user_leave(all, s->user);
        sp_socket_end(fd);
        free(s);
        return r;
    }
    s->next = all->first;
    if (s->next)
        s->next->previous = s;
    all->first = s;
    all->n++;
    return 0;
}
