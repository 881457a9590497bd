/* SPDX-License-Identifier: MIT */
/* See server.h. */
#include "daemon/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "daemon/ksmfs.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/pressure.h"
#include "daemon/session.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/thread.h"

#define ACCEPT_TURN 64
/* Sessions beyond the limit for who controls the daemon: to see it, and set it, when it is full. */
#define SESSIONS_SPARE 16
/* Below so many clients it is worth saying. */
#define CLIENTS_FEW 1000
#define NS_PER_MS   UINT64_C(1000000)
/* How long nobody is let in when there are no descriptors left. */
#define LISTEN_PAUSE_NS (500 * NS_PER_MS)
/* How long hints are collected: those for one window come with many messages of whoever publishes it, and
 * each message wakes the one it is for. */
#define HINTS_NS (1 * NS_PER_MS)
/* How often to look whether anybody still needs us, once the owner has ended. */
#define ALIVE_NS (200 * NS_PER_MS)

struct server {
    const struct options *options;
    struct service service;
    struct sessions sessions;
    struct metrics *metrics; /* NULL: not served */
    struct pressure pressure;
    struct ksmfs *ksm_files;                /* NULL: not served */
    struct source listener, signals, owner; /* fd -1: none */
    struct host_file socket_file;
    uint64_t listen_again_ns; /* UINT64_MAX: listening */
    uint64_t hints_ns;        /* when the hints that wait are sent; UINT64_MAX: there are none */
    uint64_t unused_ns;       /* since when nobody has options->alive; UINT64_MAX: somebody has */
    bool owner_ended;
    bool end;
    const char *end_reason;
};

static struct server *server; /* for the sources' callbacks: there is one */

static bool everybody(const struct options *o) {
    return geteuid() == 0 && !o->only_uid_set && !o->owner_pid;
}

static bool uid_allowed(const struct options *o, uid_t uid) {
    if (everybody(o))
        return true;
    return uid == (o->only_uid_set ? o->only_uid : geteuid());
}

/* No user but root may take all the sessions there can be. */
static bool too_many_of(const struct server *v, uid_t uid) {
    return uid != 0 && everybody(v->options) && sessions_of(&v->sessions, uid) >= v->sessions.n_max / 2;
}

static bool full(const struct server *v, uid_t uid) {
    return v->sessions.n >= v->sessions.n_max + (control_controls(uid) ? SESSIONS_SPARE : 0);
}

static void admit(struct server *v, int fd) {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    int r = sp_socket_peer(fd, &pid, &uid, &gid);
    const char *reason = NULL;
    if (!r && !uid_allowed(v->options, uid)) {
        r = -EACCES;
        reason = "this daemon does not serve that user";
    } else if (!r && (full(v, uid) || too_many_of(v, uid))) {
        r = -EUSERS;
        reason = "too many clients for the daemon's limit on open descriptors (ulimit -n, LimitNOFILE)";
    }
    if (reason) {
        log_client("process %d of uid %u refused: %s", (int)pid, (unsigned)uid, reason);
        session_refuse(fd, r, reason);
    }
    if (r) {
        sp_socket_end(fd);
        return;
    }
    r = session_new(&v->sessions, fd, pid, uid);
    if (r)
        log_client("process %d of uid %u refused: %s", (int)pid, (unsigned)uid, strerror(-r));
}

static void listen_pause(struct server *v, int error) {
    log_line("no new clients for the moment: %s", strerror(-error));
    host_poll_remove(v->sessions.poll_fd, &v->listener);
    v->listen_again_ns = sp_now_ns() + LISTEN_PAUSE_NS;
}

static void listener_ready(struct source *s, uint32_t events) {
    for (int i = 0; i < ACCEPT_TURN; i++) {
        int fd, r = sp_socket_accept(s->fd, &fd);
        if (r == -EAGAIN)
            return;
        if (r) {
            listen_pause(server, r);
            return;
        }
        admit(server, fd);
    }
}

static void signals_ready(struct source *s, uint32_t events) {
    server->end = true;
    server->end_reason = "told to";
}

static void owner_ready(struct source *s, uint32_t events) {
    server->owner_ended = true;
    host_poll_remove(server->sessions.poll_fd, s);
}

/* A process that is becoming another program has the file mapped no more, and not yet again. */
#define UNUSED_NS (1000 * NS_PER_MS)

/* Whether no process is left that could still connect. Where the kernel cannot tell (a file system without
 * leases) those that are left do without us: otherwise we would never end. */
static bool unused(struct server *v, uint64_t now_ns) {
    int r = host_file_unused(v->options->alive);
    if (r == 0 || (r < 0 && r != -ENOENT && r != -EINVAL && r != -EOPNOTSUPP))
        v->unused_ns = UINT64_MAX;
    else if (v->unused_ns == UINT64_MAX)
        v->unused_ns = now_ns;
    return v->unused_ns != UINT64_MAX && now_ns - v->unused_ns >= UNUSED_NS;
}

/* Private mode: the owner has ended, nobody is connected, no family holds on, and no process is left that
 * could still connect. */
static bool nobody_needs_us(struct server *v, uint64_t now_ns) {
    if (!v->options->owner_pid || !v->owner_ended || v->sessions.n || service_waiting(&v->service)) {
        v->unused_ns = UINT64_MAX;
        return false;
    }
    return !v->options->alive || unused(v, now_ns);
}

/* Returns when it is to be called again at the latest. */
static uint64_t send_hints(struct server *v, uint64_t now_ns) {
    struct service *s = &v->service;
    if (s->hinted && v->hints_ns == UINT64_MAX)
        v->hints_ns = now_ns + HINTS_NS;
    if (now_ns < v->hints_ns)
        return v->hints_ns;
    v->hints_ns = UINT64_MAX;
    while (s->hinted) {
        struct member *m = s->hinted;
        s->hinted = m->hinted_next;
        m->hinted = false;
        session_send_hints(m->session);
    }
    return UINT64_MAX;
}

static uint64_t listen_again(struct server *v, uint64_t now_ns) {
    if (now_ns >= v->listen_again_ns) {
        v->listen_again_ns = UINT64_MAX;
        if (host_poll_add(v->sessions.poll_fd, &v->listener, EPOLLIN))
            v->listen_again_ns = now_ns + LISTEN_PAUSE_NS;
    }
    return v->listen_again_ns;
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* What is to be done between two waits. Returns when the next wait ends at the latest. */
static uint64_t work(struct server *v) {
    uint64_t now_ns = sp_now_ns();
    uint64_t next_ns = earlier(service_work(&v->service, now_ns), listen_again(v, now_ns));
    if (v->service.pause_changed) {
        v->service.pause_changed = false;
        sessions_send_pause(&v->sessions);
    }
    next_ns = earlier(next_ns, control_work(&v->sessions, now_ns));
    next_ns = earlier(next_ns, pressure_work(&v->pressure, now_ns));
    next_ns = earlier(next_ns, send_hints(v, now_ns));
    next_ns = earlier(next_ns, metrics_work(v->metrics, now_ns));
    sessions_collect(&v->sessions);
    ksmfs_views_collect(&v->sessions);
    if (!v->end && nobody_needs_us(v, now_ns)) {
        v->end = true;
        v->end_reason = "nobody needs it any more";
    }
    return v->owner_ended ? earlier(next_ns, now_ns + ALIVE_NS) : next_ns;
}

static int loop(struct server *v) {
    while (!v->end) {
        uint64_t next_ns = work(v), now_ns = sp_now_ns();
        if (v->end)
            break;
        uint64_t timeout_ns = next_ns == UINT64_MAX ? UINT64_MAX : next_ns > now_ns ? next_ns - now_ns : 0;
        int r = host_poll_run(v->sessions.poll_fd, timeout_ns);
        if (r) {
            log_line("waiting for clients failed: %s; ending, their pages stay as they are", strerror(-r));
            return 1;
        }
    }
    log_line("ending: %s", v->end_reason);
    return 0;
}

static int fail(const char *what, int error) {
    log_line("%s: %s", what, strerror(-error));
    return error;
}

static int open_socket(struct server *v) {
    const struct options *o = v->options;
    bool open_to_all = everybody(o) || (o->only_uid_set && o->only_uid != geteuid());
    int r = host_make_directory(o->socket, open_to_all ? 0755 : 0700);
    if (r)
        return fail(o->socket, r);
    r = sp_socket_listen(o->socket, open_to_all, &v->listener.fd);
    if (r == -EADDRINUSE) {
        log_line("%s: another daemon listens there already (or it is a file that is no socket)", o->socket);
        return r;
    }
    if (!r)
        r = host_file_identify(o->socket, &v->socket_file);
    return r ? fail(o->socket, r) : 0;
}

/* A file that was named must be one; what the machine does not tell is no error. */
static int check_pressure(const struct options *o) {
    uint64_t share;
    int r = o->pressure_file ? sp_proc_pressure(o->pressure_file, &share) : 0;
    if (r)
        log_line("--pressure-file %s: %s", o->pressure_file,
                 r == -EBADMSG ? "does not tell about pressure; name one such as a cgroup's memory.pressure"
                               : strerror(-r));
    return r;
}

static int watch_owner(struct server *v) {
    if (!v->options->owner_pid)
        return 0;
    int r = host_process(v->options->owner_pid, &v->owner.fd);
    if (r == -ESRCH) {
        v->owner_ended = true;
        return 0;
    }
    if (!r)
        r = host_poll_add(v->sessions.poll_fd, &v->owner, EPOLLIN);
    return r ? fail("waiting for the owner's end", r) : 0;
}

static int serve_ksm_files(struct server *v) {
    const char *directory = v->options->ksm_files;
    int r = directory ? ksmfs_new(&v->sessions, directory, &v->ksm_files) : 0;
    if (r)
        log_line("--ksm-files %s: %s", directory, strerror(-r));
    return r;
}

static int serve_metrics(struct server *v) {
    const char *address = v->options->metrics;
    int r = address ? metrics_new(&v->sessions, address, &v->metrics) : 0;
    if (r)
        log_line("--metrics %s: %s", address, strerror(-r));
    return r;
}

static int say_ready(const struct options *o) {
    if (o->ready_fd < 0)
        return 0;
    int r = write(o->ready_fd, "", 1) == 1 ? 0 : -errno;
    (void)sp_close(o->ready_fd);
    return r ? fail("--ready-fd", r) : 0;
}

static int start(struct server *v) {
    host_raise_file_size();
    v->sessions.buffer = malloc(SP_SOCKET_MESSAGE_MAX);
    if (!v->sessions.buffer)
        return fail("start", -ENOMEM);
    int r = host_signals(&v->signals.fd);
    if (!r)
        r = host_poll_new(&v->sessions.poll_fd);
    if (!r)
        r = host_poll_add(v->sessions.poll_fd, &v->signals, EPOLLIN);
    if (r)
        return fail("start", r);
    pressure_init(&v->pressure, &v->service, v->sessions.poll_fd, v->options->pressure_file);
    r = check_pressure(v->options);
    if (!r)
        r = open_socket(v);
    if (r)
        return r;
    r = host_poll_add(v->sessions.poll_fd, &v->listener, EPOLLIN);
    if (r)
        return fail("start", r);
    r = watch_owner(v);
    if (r)
        return r;
    r = serve_ksm_files(v);
    if (!r)
        r = serve_metrics(v);
    if (r)
        return r;
    if (host_uffd_device(&v->sessions.uffd_device))
        v->sessions.uffd_device = -1; /* clients may have access of their own */
    log_line("listening at %s for %s", v->options->socket,
             everybody(v->options) ? "every user, each with a domain of their own" : "one user");
    return say_ready(v->options);
}

static void close_if_open(int fd) {
    if (fd >= 0)
        (void)sp_close(fd);
}

static void remove_files(const struct server *v) {
    const struct options *o = v->options;
    if (v->listener.fd < 0)
        return;
    host_file_remove(o->socket, &v->socket_file);
    if (!o->owner_pid || !o->alive)
        return;
    (void)unlink(o->alive);
    char directory[sizeof o->socket];
    strcpy(directory, o->socket);
    char *slash = strrchr(directory, '/');
    if (slash && slash != directory) {
        *slash = '\0';
        (void)rmdir(directory);
    }
}

static void stop(struct server *v) {
    /* The files first: whoever finds no socket need not wait for an answer. */
    remove_files(v);
    metrics_free(v->metrics);
    ksmfs_free(v->ksm_files);
    ksmfs_views_deinit(&v->sessions);
    sessions_deinit(&v->sessions);
    service_deinit(&v->service);
    pressure_deinit(&v->pressure);
    /* Not the listener: who waits to be accepted may have sent anything. The end of the process, which waits
     * for nobody, closes it. */
    close_if_open(v->signals.fd);
    close_if_open(v->owner.fd);
    close_if_open(v->sessions.uffd_device);
    close_if_open(v->sessions.poll_fd);
    free(v->sessions.buffer);
}

/*
 * A client takes a connection and a token, its family more tokens, and the store two descriptors for each
 * GiB. A quarter is left for that and for what is on its way: where a descriptor that comes with a message
 * finds no room, the message is lost.
 */
static void set_limits(struct server *v, uint64_t descriptors) {
    v->sessions.n_max = descriptors * 3 / 8;
    uint64_t of_user = everybody(v->options) ? descriptors / 4 : v->sessions.n_max;
    service_init(&v->service, &v->options->settings, of_user);
    if (of_user < CLIENTS_FEW)
        log_line(
            "room for %llu clients of a user: the limit on open descriptors is %llu (ulimit -n, LimitNOFILE)",
            (unsigned long long)of_user, (unsigned long long)descriptors);
}

int server_run(const struct options *o) {
    static struct server v;
    v = (struct server){
        .options = o,
        .sessions = {.service = &v.service, .poll_fd = -1, .uffd_device = -1, .started_ns = sp_now_ns()},
        .pressure = {.source.fd = -1},
        .listener = {.fd = -1, .ready = listener_ready},
        .signals = {.fd = -1, .ready = signals_ready},
        .owner = {.fd = -1, .ready = owner_ready},
        .listen_again_ns = UINT64_MAX,
        .hints_ns = UINT64_MAX,
        .unused_ns = UINT64_MAX};
    server = &v;
    sp_socket_close_hook = host_close_foreign;
    set_limits(&v, host_raise_descriptors());
    int status = start(&v) ? 1 : loop(&v);
    stop(&v);
    return status;
}
