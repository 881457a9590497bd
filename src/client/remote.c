/* SPDX-License-Identifier: MIT */
/*
 * The link to a domain that lives in a daemon.
 *
 * Threads: the worker's only. Memory: one mapping of our own, never malloc. Descriptors: in the table of the
 * thread that called open().
 *
 * Waiting. Nothing is sent with a blocking call, and every wait for a reply has a limit, so that a daemon
 * that hangs costs a pause and then the link, never the worker. Requests may be sent ahead: when the socket
 * is full, a reply is read before going on, which also means that the two ends never wait for each other.
 * Hints that arrive meanwhile are kept, merged by window. A link that broke answers -ENOTCONN until it is
 * opened again.
 *
 * The family's token (H6). While a session lasts, this process maps the token of the current epoch, and so
 * does every child forked in it. release() begins a new epoch: map the new token, tell the daemon, and drop
 * the old mapping only once the daemon has said that it has the new one; otherwise a child forked in between
 * would hold a token that nobody looks at. After a break or close() the last token stays mapped for as long
 * as the process lives, if any reference was ever got: this process and its children still map those pages.
 */
#include "client/remote.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "merge/engine.h"
#include "os/mapping.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"
#include "os/uffd.h"
#include "wire/hints.h"
#include "wire/message.h"

#define NS_PER_MS UINT64_C(1000000)
/* How long a daemon may take for an answer. */
#define REPLY_NS (10000 * NS_PER_MS)
/* Segments that can be open at a time: 64 TiB of store. */
#define SEGMENTS_MAX 65536
/* Longest request, the contents of a PUBLISH aside. */
#define REQUEST_BYTES (16 * 1024)
/* PUBLISH messages of one call. */
#define PARTS_MAX ((SP_WINDOW_PAGES + SP_WIRE_PUBLISH_MAX - 1) / SP_WIRE_PUBLISH_MAX)

struct remote {
    struct sp_link link;
    char path[108];
    struct sp_vouch vouch;
    int fd;            /* -1: not connected */
    int uffd_device;   /* from the daemon, -1: none */
    uint32_t sequence; /* of the request sent last */
    bool paused;       /* as last told */
    uid_t uid;         /* ours when it was opened, by which the daemon chose the domain */
    bool holds;        /* this session got at least one reference */
    void *token;       /* mapping of the current epoch's token; NULL: no session */
    uint64_t epoch;
    int reply_fd;        /* descriptor that came with the reply at hand; -1: none */
    int refusal;         /* why the daemon ended the session, as it said; 0: it did not say */
    size_t segments_end; /* segments from here on are not open */
    int segment_fd_plus_1[SEGMENTS_MAX];
    struct sp_hint_queue hints;
    uint32_t hints_received; /* messages */
    _Alignas(16) uint8_t request[REQUEST_BYTES];
    _Alignas(16) uint8_t reply[SP_WIRE_TO_CLIENT_MAX];
};

_Static_assert(REQUEST_BYTES >=
                   sizeof(struct sp_wire_queries) + SP_WIRE_QUERIES_MAX * sizeof(struct sp_wire_query),
               "room for ASK and FORGET");
_Static_assert(REQUEST_BYTES >=
                   sizeof(struct sp_wire_release) + SP_WIRE_RUNS_MAX * sizeof(struct sp_wire_run),
               "room for RELEASE");
_Static_assert(REQUEST_BYTES >= sizeof(struct sp_wire_report), "room for REPORT");
_Static_assert(REQUEST_BYTES >=
                   sizeof(struct sp_wire_publish) + SP_WIRE_PUBLISH_MAX * sizeof(struct sp_wire_item),
               "room for the head of PUBLISH");

static struct remote *remote_of(struct sp_link *l) {
    return (struct remote *)l;
}

static void close_fd(int *fd) {
    if (*fd >= 0)
        (void)sp_close(*fd);
    *fd = -1;
}

/* --- breaking and forgetting ------------------------------------------------------------------------- */

/* What is known only for the length of a session, without system calls. */
static void session_forget(struct remote *r) {
    r->fd = r->uffd_device = r->reply_fd = -1;
    r->token = NULL;
    r->holds = r->paused = false;
    r->link.settings_number = r->hints_received = 0;
    r->link.cpu_bounded = false;
    r->epoch = 0;
    r->refusal = 0;
    sp_hint_queue_clear(&r->hints);
}

static void segments_close(struct remote *r) {
    for (size_t i = 0; i < r->segments_end; i++) {
        if (!r->segment_fd_plus_1[i])
            continue;
        (void)sp_close(r->segment_fd_plus_1[i] - 1);
        r->segment_fd_plus_1[i] = 0;
    }
    r->segments_end = 0;
}

static void session_close(struct remote *r) {
    close_fd(&r->fd);
    close_fd(&r->uffd_device);
    close_fd(&r->reply_fd);
    segments_close(r);
    if (r->token && !r->holds)
        (void)!sp_token_drop(r->token);
    session_forget(r);
}

/* The session is of no use any more. Segments stay open until close() or open(): their numbers mean nothing
 * to another session. */
static int broken(struct remote *r) {
    close_fd(&r->fd);
    sp_hint_queue_clear(&r->hints);
    return -ENOTCONN;
}

/* --- sending and receiving --------------------------------------------------------------------------- */

static void hints_keep(struct remote *r, const struct sp_wire_hints *m) {
    for (size_t i = 0; i < m->n; i++)
        sp_hint_queue_add(&r->hints, m->hint[i].window, &m->hint[i].pages);
}

static void settings_keep(struct remote *r, const struct sp_wire_settings *m) {
    memcpy(r->link.settings.v, m->settings, sizeof m->settings);
    r->link.settings_number = m->number;
}

/*
 * Receives one message without waiting. Unasked ones are dealt with here. 1: a reply lies in r->reply (its
 * descriptor in r->reply_fd); 0: something unasked was dealt with; -EAGAIN: nothing there;
 * -ENOTCONN: broken.
 */
static int receive_one(struct remote *r) {
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
    const char *reason;
    const struct sp_wire_header *h = (const struct sp_wire_header *)r->reply;
    ssize_t n = sp_socket_receive(r->fd, r->reply, sizeof r->reply, fds, &n_fds, 0);
    if (n == -EAGAIN)
        return -EAGAIN;
    if (n <= 0)
        return broken(r);
    int error = sp_wire_check(r->reply, (size_t)n, n_fds, SP_WIRE_TO_CLIENT, &reason);
    /* A valid message has at most one. */
    for (size_t i = error ? 0 : 1; i < n_fds; i++)
        (void)sp_close(fds[i]);
    if (error) {
        r->refusal = error == -EPROTONOSUPPORT ? -EPROTO : 0;
        return broken(r);
    }
    close_fd(&r->reply_fd);
    r->reply_fd = n_fds ? fds[0] : -1;
    switch (h->type) {
    case SP_WIRE_HINT:
        hints_keep(r, (const struct sp_wire_hints *)r->reply);
        r->hints_received++;
        return 0;
    case SP_WIRE_PAUSE:
        r->paused = ((const struct sp_wire_pause *)r->reply)->pause;
        return 0;
    case SP_WIRE_SETTINGS:
        settings_keep(r, (const struct sp_wire_settings *)r->reply);
        return 0;
    case SP_WIRE_REFUSED:
        r->refusal = ((const struct sp_wire_refused *)r->reply)->error;
        return broken(r);
    default:
        return 1;
    }
}

/* Waits until the daemon has something to say, or the time is over; what the worker wants watched meanwhile
 * is attended to (link.h). 0, or -ENOTCONN: broken. */
static int wait_readable(struct remote *r, uint64_t deadline_ns) {
    const struct sp_link *l = &r->link;
    int fds[] = {r->fd, l->idle_fd};
    for (uint64_t now_ns; (now_ns = sp_now_ns()) < deadline_ns;) {
        int ready = sp_wait_readable(fds, l->idle_fd >= 0 ? 2 : 1, deadline_ns - now_ns);
        if (ready < 0)
            return broken(r);
        if (ready & 2)
            l->idle(l->idle_ctx);
        if (ready & 1)
            break;
    }
    return 0;
}

/* Waits for the reply to `sequence`, which must be of that type. 0; anything else: broken. */
static int reply_wait(struct remote *r, enum sp_wire_type type, uint32_t sequence) {
    uint64_t deadline_ns = sp_now_ns() + REPLY_NS;
    const struct sp_wire_header *h = (const struct sp_wire_header *)r->reply;
    for (;;) {
        int e = receive_one(r);
        if (e == 1)
            return h->type == type && h->sequence == sequence ? 0 : broken(r);
        if (e == -EAGAIN)
            e = sp_now_ns() < deadline_ns ? wait_readable(r, deadline_ns) : broken(r);
        if (e)
            return e;
    }
}

static uint32_t sequence_next(struct remote *r) {
    if (!++r->sequence)
        r->sequence = 1;
    return r->sequence;
}

/* 0; -EAGAIN: the socket is full; -EFAULT: a part is not readable; -ENOTCONN: broken. */
static int send_parts(struct remote *r, const struct iovec *parts, size_t n, int fd) {
    int e = sp_socket_send(r->fd, parts, n, &fd, fd >= 0, false);
    return !e || e == -EAGAIN || e == -EFAULT ? e : broken(r);
}

/* Sends the message in r->request (header not filled in yet) when nothing else is under way, and waits for
 * the reply. */
static int call(struct remote *r, enum sp_wire_type type, size_t bytes, int fd, enum sp_wire_type reply) {
    if (r->fd < 0)
        return -ENOTCONN;
    /* A program that is somebody else by now leaves the domain and, with the segments, all that it could read
     * there (I4). */
    if (geteuid() != r->uid)
        return broken(r);
    uint32_t sequence = sequence_next(r);
    sp_wire_header_init((struct sp_wire_header *)r->request, type, bytes, sequence);
    struct iovec part = {.iov_base = r->request, .iov_len = bytes};
    int e = send_parts(r, &part, 1, fd);
    if (e) /* a socket with nothing under way takes a message: full means that the peer is not serving it */
        e = broken(r);
    return e ? e : reply_wait(r, reply, sequence);
}

/* --- joining and leaving ----------------------------------------------------------------------------- */

static int hello(struct remote *r, int token_fd) {
    struct sp_wire_hello *m = (struct sp_wire_hello *)r->request;
    *m = (struct sp_wire_hello){.state = SP_ENGINE_STARTING};
    /* sp_proc_name ends the name within SP_WIRE_NAME_BYTES. */
    sp_proc_name(getpid(), m->name);
    return call(r, SP_WIRE_HELLO, sizeof *m, token_fd, SP_WIRE_WELCOME);
}

static int join(struct remote *r, struct sp_welcome *ret_welcome) {
    int token_fd;
    int e = sp_vouch_connect(r->path, &r->vouch, &r->fd);
    if (e) {
        r->fd = -1;
        return e;
    }
    e = sp_token_new(&token_fd, &r->token);
    if (e) {
        r->token = NULL;
        return e;
    }
    r->uid = geteuid();
    r->epoch = 1;
    e = hello(r, token_fd);
    (void)sp_close(token_fd);
    if (e)
        return r->refusal ? r->refusal : e;
    const struct sp_wire_welcome *m = (const struct sp_wire_welcome *)r->reply;
    r->uffd_device = r->reply_fd;
    r->reply_fd = -1;
    r->paused = m->pause;
    *ret_welcome =
        (struct sp_welcome){.key = m->key, .settings_number = m->settings_number, .pause = m->pause};
    memcpy(ret_welcome->settings.v, m->settings, sizeof m->settings);
    return 0;
}

static int remote_open(struct sp_link *l, struct sp_welcome *ret_welcome) {
    struct remote *r = remote_of(l);
    session_close(r);
    int e = join(r, ret_welcome);
    if (e)
        session_close(r);
    return e;
}

static void remote_close(struct sp_link *l) {
    session_close(remote_of(l));
}

/* After close(), possibly by another thread than the one that opened it, where our numbers are those of the
 * program's descriptors (H9): nothing is closed here. */
static void remote_free(struct sp_link *l) {
    (void)!sp_unmap(remote_of(l), sizeof(struct remote));
}

/* The child has none of the descriptors, and keeps the mapping of the token: it holds the parent's references
 * for as long as the child may map those pages. */
static void remote_forked(struct sp_link *l) {
    struct remote *r = remote_of(l);
    memset(r->segment_fd_plus_1, 0, r->segments_end * sizeof r->segment_fd_plus_1[0]);
    r->segments_end = 0;
    session_forget(r);
}

/* --- userfaultfd ------------------------------------------------------------------------------------- */

/* A new userfaultfd, enabled by `enable`; none is left over when that fails, because it is of no use then. */
static int uffd_enabled(struct remote *r, int (*enable)(struct remote *r, int fd), int *ret_fd) {
    int fd, e = sp_uffd_new(r->uffd_device, &fd);
    if (e)
        return e;
    e = enable(r, fd);
    if (e) {
        (void)sp_close(fd);
        return e;
    }
    *ret_fd = fd;
    return 0;
}

static int enable_with_forks(struct remote *r, int fd) {
    return sp_uffd_enable(fd, SP_UFFD_NEEDED | SP_UFFD_EVENT_FORK);
}

static int enable_by_daemon(struct remote *r, int fd) {
    int e = call(r, SP_WIRE_UFFD_ENABLE, sizeof(struct sp_wire_empty), fd, SP_WIRE_RESULT);
    return e ? e : ((const struct sp_wire_result *)r->reply)->result;
}

static int enable_without_forks(struct remote *r, int fd) {
    return sp_uffd_enable(fd, SP_UFFD_NEEDED);
}

static int remote_userfaultfd(struct sp_link *l, int *ret_fd, bool *ret_fork_events) {
    struct remote *r = remote_of(l);
    int fd;
    int e = uffd_enabled(r, enable_with_forks, &fd);
    if (e == -EPERM && r->fd >= 0)
        e = uffd_enabled(r, enable_by_daemon, &fd);
    bool forks = e == 0;
    if (e)
        e = uffd_enabled(r, enable_without_forks, &fd);
    if (e)
        return e;
    *ret_fd = fd;
    *ret_fork_events = forks;
    return 0;
}

/* --- questions and answers --------------------------------------------------------------------------- */

static size_t queries_fill(struct remote *r, const struct sp_query *queries, size_t n,
                           uint32_t guessed_wrong) {
    struct sp_wire_queries *m = (struct sp_wire_queries *)r->request;
    m->n = (uint32_t)n;
    m->guessed_wrong = guessed_wrong;
    for (size_t i = 0; i < n; i++)
        m->query[i] = (struct sp_wire_query){
            .page = queries[i].page.v, .fp = queries[i].fp.v, .probe = queries[i].probe.v};
    return sizeof *m + n * sizeof m->query[0];
}

/* The answers at hand must be `n`. */
static int answers_take(struct remote *r, size_t n, struct sp_answer *ret_answers) {
    const struct sp_wire_answers *m = (const struct sp_wire_answers *)r->reply;
    if (m->n != n)
        return broken(r);
    for (size_t i = 0; i < n; i++) {
        ret_answers[i] = (struct sp_answer){(enum sp_answer_kind)m->answer[i].kind, {m->answer[i].store}};
        r->holds |= ret_answers[i].kind == SP_ANSWER_SHARE;
    }
    return 0;
}

static int remote_ask(struct sp_link *l, const struct sp_query *queries, size_t n,
                      struct sp_answer *ret_answers) {
    struct remote *r = remote_of(l);
    if (!n)
        return 0;
    if (n > SP_WIRE_QUERIES_MAX)
        return -EINVAL;
    int e = call(r, SP_WIRE_ASK, queries_fill(r, queries, n, l->guessed_wrong), -1, SP_WIRE_ANSWERS);
    l->guessed_wrong = 0;
    return e ? e : answers_take(r, n, ret_answers);
}

static int remote_forget(struct sp_link *l, const struct sp_query *queries, size_t n) {
    struct remote *r = remote_of(l);
    int e = 0;
    while (n && !e) {
        size_t part = n < SP_WIRE_QUERIES_MAX ? n : SP_WIRE_QUERIES_MAX;
        e = call(r, SP_WIRE_FORGET, queries_fill(r, queries, part, 0), -1, SP_WIRE_RESULT);
        queries += part;
        n -= part;
    }
    return e;
}

/* --- publishing -------------------------------------------------------------------------------------- */

/* One call of publish(): parts that were sent and not answered yet, oldest first. */
struct publishing {
    const struct sp_query *queries;
    const void *const *contents;
    struct sp_answer *answers;
    struct publish_part {
        uint32_t sequence;
        size_t first, n;
    } part[PARTS_MAX];
    size_t parts, answered;
};

/* The contents as parts of a message; neighbours in memory become one. Returns how many parts. */
static size_t contents_fill(const void *const *contents, size_t n, struct iovec *ret_parts) {
    size_t parts = 0;
    for (size_t i = 0; i < n; i++) {
        if (!contents[i])
            continue;
        struct iovec *last = parts ? &ret_parts[parts - 1] : NULL;
        if (last && (const char *)last->iov_base + last->iov_len == contents[i]) {
            last->iov_len += SP_PAGE_SIZE;
            continue;
        }
        union {
            const void *in;
            void *out;
        } base = {.in = contents[i]}; /* struct iovec is for reading into, too, and has no const */
        ret_parts[parts++] = (struct iovec){.iov_base = base.out, .iov_len = SP_PAGE_SIZE};
    }
    return parts;
}

/* Sends pages first ... first + n - 1, or refuses them all, as one message. */
static int publish_send(struct remote *r, const struct publishing *p, size_t first, size_t n, bool refuse,
                        uint32_t sequence) {
    static const void *const none[SP_WIRE_PUBLISH_MAX];
    const void *const *contents = refuse ? none : p->contents + first;
    struct sp_wire_publish *m = (struct sp_wire_publish *)r->request;
    struct iovec parts[1 + SP_WIRE_PUBLISH_MAX];
    size_t head = sizeof *m + n * sizeof m->item[0], n_contents = 0;
    uint32_t whole = r->link.whole ? SP_WIRE_ITEM_WHOLE : 0;
    for (size_t i = 0; i < n; i++) {
        const struct sp_query *q = &p->queries[first + i];
        m->item[i] = (struct sp_wire_item){.page = q->page.v, .fp = q->fp.v, .flags = whole};
        m->item[i].flags |= contents[i] ? SP_WIRE_ITEM_CONTENT : 0;
        n_contents += contents[i] != NULL;
    }
    m->n = (uint32_t)n;
    m->contents = (uint32_t)n_contents;
    sp_wire_header_init(&m->header, SP_WIRE_PUBLISH, head + n_contents * SP_PAGE_SIZE, sequence);
    parts[0] = (struct iovec){.iov_base = m, .iov_len = head};
    return send_parts(r, parts, 1 + contents_fill(contents, n, parts + 1), -1);
}

static int publish_reply(struct remote *r, struct publishing *p) {
    const struct publish_part *part = &p->part[p->answered];
    int e = reply_wait(r, SP_WIRE_ANSWERS, part->sequence);
    if (!e)
        e = answers_take(r, part->n, p->answers + part->first);
    p->answered++;
    return e;
}

/* Reads all replies that are under way. */
static int publish_drain(struct remote *r, struct publishing *p) {
    int e = 0;
    while (!e && p->answered < p->parts)
        e = publish_reply(r, p);
    p->parts = p->answered = 0;
    return e;
}

/* -EFAULT: a page is not readable. Makes room by reading replies; with none under way the socket has room. */
static int publish_part(struct remote *r, struct publishing *p, size_t first, size_t n, bool refuse) {
    uint32_t sequence = sequence_next(r);
    int e;
    while ((e = publish_send(r, p, first, n, refuse, sequence)) == -EAGAIN) {
        if (p->answered == p->parts)
            return broken(r);
        e = publish_reply(r, p);
        if (e)
            return e;
    }
    if (!e)
        p->part[p->parts++] = (struct publish_part){.sequence = sequence, .first = first, .n = n};
    return e;
}

/* Some page of the part is not readable: each on its own, and those that are not are refused. */
static int publish_one_by_one(struct remote *r, struct publishing *p, size_t first, size_t n) {
    int e = publish_drain(r, p);
    for (size_t i = 0; !e && i < n; i++) {
        e = publish_part(r, p, first + i, 1, false);
        if (e == -EFAULT)
            e = publish_part(r, p, first + i, 1, true);
        if (!e)
            e = publish_drain(r, p);
    }
    return e;
}

static int remote_publish(struct sp_link *l, const struct sp_query *queries, const void *const *contents,
                          size_t n, struct sp_answer *ret_answers) {
    struct remote *r = remote_of(l);
    struct publishing p = {.queries = queries, .contents = contents, .answers = ret_answers};
    int e = r->fd < 0 ? -ENOTCONN : n > SP_WINDOW_PAGES ? -EINVAL : 0;
    for (size_t first = 0; !e && first < n; first += SP_WIRE_PUBLISH_MAX) {
        size_t part = n - first < SP_WIRE_PUBLISH_MAX ? n - first : SP_WIRE_PUBLISH_MAX;
        e = publish_part(r, &p, first, part, false);
        if (e == -EFAULT)
            e = publish_one_by_one(r, &p, first, part);
    }
    return e ? e : publish_drain(r, &p);
}

/* --- giving back ------------------------------------------------------------------------------------- */

/* One message. *ret_epoch_end: the daemon has taken over the new token. */
static int release_send(struct remote *r, const struct sp_store_run *runs, size_t n, int token_fd,
                        bool *ret_epoch_end) {
    struct sp_wire_release *m = (struct sp_wire_release *)r->request;
    m->epoch = r->epoch;
    m->n = (uint32_t)n;
    m->reserved = 0;
    for (size_t i = 0; i < n; i++)
        m->run[i] = (struct sp_wire_run){.first = runs[i].first.v, .pages = runs[i].pages};
    int e = call(r, SP_WIRE_RELEASE, sizeof *m + n * sizeof m->run[0], token_fd, SP_WIRE_RELEASED);
    if (e)
        return e;
    const struct sp_wire_released *reply = (const struct sp_wire_released *)r->reply;
    *ret_epoch_end = reply->epoch_end;
    return reply->result;
}

/* The last message of a release ends the epoch. Without a new token (no memory, no descriptor) the epoch goes
 * on, and what was given back in it takes effect after a later release. */
static int release_last(struct remote *r, const struct sp_store_run *runs, size_t n) {
    void *token;
    int token_fd;
    bool epoch_end = false;
    if (sp_token_new(&token_fd, &token))
        return release_send(r, runs, n, -1, &epoch_end);
    int e = release_send(r, runs, n, token_fd, &epoch_end);
    (void)sp_close(token_fd);
    if (epoch_end) {
        (void)!sp_token_drop(r->token);
        r->token = token;
        r->epoch++;
    } else if (r->fd >= 0) {
        /* The daemon has said that it does not have it: nobody will ever look at it. */
        (void)!sp_token_drop(token);
    }
    /* Otherwise the link broke and nobody knows: both stay mapped. */
    return e;
}

static int remote_release(struct sp_link *l, const struct sp_store_run *runs, size_t n) {
    struct remote *r = remote_of(l);
    int error = r->fd < 0 ? -ENOTCONN : 0;
    bool ignored;
    for (; n > SP_WIRE_RUNS_MAX && r->fd >= 0; runs += SP_WIRE_RUNS_MAX, n -= SP_WIRE_RUNS_MAX) {
        int e = release_send(r, runs, SP_WIRE_RUNS_MAX, -1, &ignored);
        error = error ? error : e;
    }
    if (!n || r->fd < 0)
        return error;
    int e = release_last(r, runs, n);
    return error ? error : e;
}

/* --- the rest ---------------------------------------------------------------------------------------- */

static int remote_segment(struct sp_link *l, uint64_t segment, int *ret_fd) {
    struct remote *r = remote_of(l);
    if (segment >= SEGMENTS_MAX)
        return -ENFILE;
    if (!r->segment_fd_plus_1[segment]) {
        struct sp_wire_segment *m = (struct sp_wire_segment *)r->request;
        m->segment = segment;
        int e = call(r, SP_WIRE_SEGMENT, sizeof *m, -1, SP_WIRE_SEGMENT_FD);
        if (e)
            return e;
        const struct sp_wire_segment_fd *reply = (const struct sp_wire_segment_fd *)r->reply;
        if (reply->segment != segment)
            return broken(r);
        if (reply->result)
            return reply->result;
        r->segment_fd_plus_1[segment] = r->reply_fd + 1;
        if (segment >= r->segments_end)
            r->segments_end = segment + 1;
        r->reply_fd = -1;
    }
    *ret_fd = r->segment_fd_plus_1[segment] - 1;
    return 0;
}

static int remote_report(struct sp_link *l, const struct sp_report *report, bool *ret_pause) {
    struct remote *r = remote_of(l);
    struct sp_wire_report *m = (struct sp_wire_report *)r->request;
    m->state = report->state;
    m->settled = report->settled && sp_hint_queue_empty(&r->hints);
    m->hints = r->hints_received;
    m->settings_number = report->settings_number;
    /* The last one: the token stays, by which the daemon sees for how long there is a process to say it of.
     */
    r->holds |= sp_engine_state_is_end(report->state);
    m->counters = report->counters;
    m->freezes = report->freezes;
    int e = call(r, SP_WIRE_REPORT, sizeof *m, -1, SP_WIRE_REPORTED);
    if (e)
        return e;
    const struct sp_wire_reported *reply = (const struct sp_wire_reported *)r->reply;
    r->paused = reply->pause;
    *ret_pause = r->paused;
    l->cpu_until_ns = reply->cpu_until_ns;
    l->cpu_bounded = l->cpu_until_ns != SP_BUDGET_NONE;
    return 0;
}

static int remote_hint_fd(struct sp_link *l) {
    return remote_of(l)->fd;
}

_Static_assert(sizeof(struct sp_hint) == sizeof(struct sp_wire_hint), "the same two fields");
_Static_assert(SP_HINT_ALL == SP_WIRE_HINT_ALL, "a hint goes on as it came");

/* What waits here comes first, so that a caller who asks until there is none has them all. */
static int remote_hints(struct sp_link *l, struct sp_hint *ret_hints, size_t max, size_t *ret_n) {
    struct remote *r = remote_of(l);
    size_t n = 0;
    int e = 0;
    while (r->fd >= 0 && e >= 0) {
        e = receive_one(r);
        if (e == 1) /* a reply that nobody waits for */
            e = broken(r);
    }
    if (r->fd < 0)
        return -ENOTCONN;
    while (n < max) {
        struct sp_wire_hint hint;
        if (!sp_hint_queue_take(&r->hints, &hint, 1))
            break;
        ret_hints[n++] = (struct sp_hint){.window = hint.window, .pages = hint.pages};
    }
    *ret_n = n;
    return 0;
}

static const struct sp_link_ops remote_ops = {
    .open = remote_open,
    .close = remote_close,
    .free = remote_free,
    .userfaultfd = remote_userfaultfd,
    .ask = remote_ask,
    .publish = remote_publish,
    .forget = remote_forget,
    .release = remote_release,
    .segment = remote_segment,
    .report = remote_report,
    .hint_fd = remote_hint_fd,
    .hints = remote_hints,
    .forked = remote_forked,
};

int sp_remote_link_new(const char *socket_path, struct sp_link **ret_link) {
    void *memory;
    size_t bytes = strlen(socket_path);
    if (bytes >= sizeof((struct remote *)0)->path)
        return -ENAMETOOLONG;
    int e = sp_map_new(sizeof(struct remote), SP_PAGE_SIZE, &memory);
    if (e)
        return e;
    struct remote *r = memory;
    r->link.ops = &remote_ops;
    r->link.idle_fd = -1;
    r->link.windows = true;
    memcpy(r->path, socket_path, bytes + 1);
    session_forget(r);
    *ret_link = &r->link;
    return 0;
}

const char *sp_remote_link_path(const struct sp_link *link) {
    return ((const struct remote *)link)->path;
}

void sp_remote_link_vouch(struct sp_link *link, const struct sp_vouch *vouch) {
    remote_of(link)->vouch = *vouch;
}
