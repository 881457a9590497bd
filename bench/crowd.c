/* SPDX-License-Identifier: MIT */
/* See crowd.h. */
#include "crowd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"

#define EVENTS_MAX 256
#define GIVE_UP_NS UINT64_C(60000000000)
#define FIRST_USER 100000

void crowd_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "clients: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static void check(const char *what, int r) {
    if (r < 0)
        crowd_fail("%s: %s", what, strerror(-r));
}

bool crowd_send(struct crowd *c, struct crowd_client *client, enum sp_wire_type type, void *message,
                size_t bytes, const void *more, size_t more_bytes, int fd) {
    union {
        const void *in;
        void *out;
    } base = {.in = more};
    struct iovec parts[2] = {{message, bytes}, {base.out, more_bytes}};
    uint32_t sequence = client->sequence + 1 ? client->sequence + 1 : 1;
    if (client->under_way == CROWD_AHEAD)
        return false;
    sp_wire_header_init(message, type, bytes + more_bytes, sequence);
    uint64_t now_ns = sp_now_ns();
    int r = sp_socket_send(client->fd, parts, more ? 2 : 1, &fd, fd >= 0, false);
    if (r == -EAGAIN)
        return false;
    check("sending", r);
    client->sent_ns[sequence % CROWD_AHEAD] = now_ns;
    client->sequence = sequence;
    client->under_way++;
    c->under_way++;
    return true;
}

static void answered(struct crowd *c, struct crowd_client *client, const struct sp_wire_header *h) {
    bool counts = (size_t)(client - c->clients) >= c->n_apart;
    if (counts)
        sp_histogram_add(&c->latency, sp_now_ns() - client->sent_ns[h->sequence % CROWD_AHEAD]);
    client->under_way--;
    c->under_way--;
    c->answered += counts;
    if (c->on_answer)
        c->on_answer(c, client, h);
}

/* False: nothing there. */
static bool take_one(struct crowd *c, struct crowd_client *client) {
    static _Alignas(16) uint8_t buffer[SP_WIRE_TO_CLIENT_MAX];
    const struct sp_wire_header *h = (const struct sp_wire_header *)buffer;
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
    const char *reason;
    ssize_t n = sp_socket_receive(client->fd, buffer, sizeof buffer, fds, &n_fds, 0);
    if (n == -EAGAIN)
        return false;
    if (n <= 0)
        crowd_fail("the daemon hung up on client %zu", (size_t)(client - c->clients));
    for (size_t i = 0; i < n_fds; i++)
        (void)sp_close(fds[i]);
    if (sp_wire_check(buffer, (size_t)n, n_fds, SP_WIRE_TO_CLIENT, &reason))
        crowd_fail("the daemon sent a bad message: %s", reason);
    if (h->type == SP_WIRE_REFUSED)
        crowd_fail("client %zu was refused: %s", (size_t)(client - c->clients),
                   ((const struct sp_wire_refused *)buffer)->text);
    if (h->type == SP_WIRE_WELCOME)
        c->key = ((const struct sp_wire_welcome *)buffer)->key;
    client->hints += h->type == SP_WIRE_HINT;
    if (h->sequence)
        answered(c, client, h);
    return true;
}

void crowd_take(struct crowd *c, uint64_t until_ns) {
    struct epoll_event events[EVENTS_MAX];
    uint64_t now_ns = sp_now_ns();
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left_ns / 1000000000),
                               .tv_nsec = (long)(left_ns % 1000000000)};
    int n = epoll_pwait2(c->poll_fd, events, EVENTS_MAX, &timeout, NULL);
    if (n < 0 && errno != EINTR)
        crowd_fail("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < n; i++)
        while (take_one(c, events[i].data.ptr))
            ;
}

void crowd_wait(struct crowd *c) {
    uint64_t until_ns = sp_now_ns() + GIVE_UP_NS;
    while (c->under_way) {
        crowd_take(c, until_ns);
        if (sp_now_ns() >= until_ns)
            crowd_fail("no answer for a minute");
    }
}

/* Who connects is who they are when they do. */
static void user_become(uid_t uid) {
    if (seteuid(uid))
        crowd_fail("becoming user %u: %s", (unsigned)uid, strerror(errno));
}

static void client_connect(struct crowd *c, struct crowd_client *client) {
    gid_t gid;
    uid_t uid;
    size_t number = (size_t)(client - c->clients);
    *client = (struct crowd_client){.epoch = 1};
    if (c->users > 1)
        user_become(FIRST_USER + (uid_t)(number % c->users));
    check("connecting", sp_socket_connect(c->socket, &client->fd));
    if (c->users > 1)
        user_become(0);
    check("the daemon's process", sp_socket_peer(client->fd, &c->daemon, &uid, &gid));
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, client->fd, &e))
        crowd_fail("epoll_ctl: %s", strerror(errno));
}

static void client_hello(struct crowd *c, struct crowd_client *client) {
    struct sp_wire_hello m = {.state = 0, .name = "crowd"};
    int token;
    check("a token", sp_token_new(&token, &client->token));
    if (!crowd_send(c, client, SP_WIRE_HELLO, &m, sizeof m, NULL, 0, token))
        crowd_fail("no room for HELLO");
    (void)sp_close(token);
}

void crowd_join(struct crowd *c, const char *socket, size_t n) {
    c->socket = socket;
    c->clients = calloc(n, sizeof *c->clients);
    c->n = n;
    c->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!c->clients || c->poll_fd < 0)
        crowd_fail("no memory or no descriptor");
    for (size_t i = 0; i < n; i++) {
        client_connect(c, &c->clients[i]);
        client_hello(c, &c->clients[i]);
    }
    crowd_wait(c);
}

void crowd_leave(struct crowd *c) {
    for (size_t i = 0; i < c->n; i++) {
        (void)sp_close(c->clients[i].fd);
        check("dropping a token", sp_token_drop(c->clients[i].token));
    }
    (void)sp_close(c->poll_fd);
    free(c->clients);
    struct crowd one = {0};
    crowd_join(&one, c->socket, 1);
    (void)sp_close(one.clients->fd);
    free(one.clients);
}

uint64_t crowd_daemon_ns(const struct crowd *c) {
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(c->daemon, &clock) || clock_gettime(clock, &t))
        crowd_fail("the daemon has ended");
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The number behind "FIELD:" in a file of lines. */
static uint64_t field_of(const char *path, const char *field) {
    char line[128];
    unsigned long long value = 0;
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            value = strtoull(line + strlen(field) + 1, NULL, 10);
    if (f)
        fclose(f);
    return value;
}

double crowd_daemon_rss_mib(const struct crowd *c) {
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/status", (int)c->daemon);
    return (double)field_of(path, "VmRSS") / 1024;
}

uint64_t crowd_meminfo_kib(const char *field) {
    return field_of("/proc/meminfo", field);
}
