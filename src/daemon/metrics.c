/* SPDX-License-Identifier: MIT */
/*
 * See metrics.h. By libmicrohttpd, without a thread of its own: its epoll descriptor is a source of the
 * daemon's loop, and MHD_run does what can be done without waiting. Connections are few and end when nothing
 * moves, so that who reads slowly, or not at all, takes a bounded number of descriptors for a bounded time.
 *
 * The text is made at most once in TEXT_NS, however many ask: all answers in that time are one. So asking
 * costs the daemon next to nothing, and slow readers hold on to few texts.
 */
#include "daemon/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/openmetrics.h"
#include "daemon/log.h"
#include "os/socket.h"
#include "os/thread.h"

#define NS_PER_MS            UINT64_C(1000000)
#define TEXT_NS              (1000 * NS_PER_MS)
#define CONNECTIONS_MAX      64u
#define CONNECTION_TIMEOUT_S 10u
#define CONNECTION_BYTES     ((size_t)8192)
#define CONTENT_TYPE         "application/openmetrics-text; version=1.0.0; charset=utf-8"
#define UNIX_PREFIX          "unix:"

struct metrics {
    struct source source; /* its epoll descriptor */
    struct sessions *all;
    struct MHD_Daemon *http;
    struct MHD_Response *text; /* NULL: none yet */
    uint64_t text_ns;          /* when it was made */
    char path[108];            /* of the Unix socket; empty: none */
    struct host_file file;
};

/* ---- the address ---- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Loopback only: there is no access control over TCP. */
static bool host_parse(const char *host, union address *ret) {
    if (!strcmp(host, "localhost"))
        host = "127.0.0.1";
    *ret = (union address){.v4 = {.sin_family = AF_INET}};
    if (inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1)
        return ntohl(ret->v4.sin_addr.s_addr) >> 24 == 127;
    *ret = (union address){.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
    return !strcmp(host, "[::1]");
}

static bool port_parse(const char *text, in_port_t *ret) {
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || v > UINT16_MAX)
        return false;
    *ret = htons((uint16_t)v);
    return true;
}

static const char *address_parse(const char *text, union address *ret) {
    char host[64];
    const char *colon = strrchr(text, ':');
    in_port_t port;
    if (!colon || colon == text || (size_t)(colon - text) >= sizeof host)
        return "neither HOST:PORT nor unix:PATH";
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    if (!host_parse(host, ret))
        return "only loopback is served over TCP (127.0.0.1, localhost, [::1])";
    if (!port_parse(colon + 1, &port))
        return "a port is a number from 0 to 65535";
    if (ret->any.sa_family == AF_INET)
        ret->v4.sin_port = port;
    else
        ret->v6.sin6_port = port;
    return NULL;
}

static bool is_unix(const char *address) {
    return !strncmp(address, UNIX_PREFIX, strlen(UNIX_PREFIX));
}

const char *metrics_address_wrong(const char *address) {
    union address unused;
    size_t n = strlen(address), prefix = strlen(UNIX_PREFIX);
    if (!is_unix(address))
        return address_parse(address, &unused);
    return n == prefix || n - prefix >= sizeof((struct metrics *)0)->path
               ? "a path of 1 to 107 bytes is needed"
               : NULL;
}

/* ---- listening ---- */

static int listen_tcp(const char *text, int *ret_fd) {
    union address a;
    int one = 1;
    if (address_parse(text, &a))
        return -EINVAL;
    socklen_t bytes = a.any.sa_family == AF_INET ? sizeof a.v4 : sizeof a.v6;
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) || bind(fd, &a.any, bytes) ||
        listen(fd, SOMAXCONN)) {
        int error = -errno;
        (void)sp_close(fd);
        return error;
    }
    *ret_fd = fd;
    return 0;
}

static int listen_unix(struct metrics *m, const char *path, int *ret_fd) {
    int r = sp_socket_listen_stream(path, ret_fd);
    if (r)
        return r;
    r = host_file_identify(path, &m->file);
    if (r)
        (void)sp_close(*ret_fd);
    else
        snprintf(m->path, sizeof m->path, "%s", path);
    return r;
}

/* ---- the text ---- */

static void domain_take(const struct domain *d, struct sp_metrics_domain *ret) {
    ret->uid = d->uid;
    ret->clients = d->connected;
    ret->families_waiting = d->waiting;
    ret->store_bytes = store_memory(&d->store);
    ret->settings = d->settings;
    domain_counters(d, &ret->counters, &ret->freezes);
}

/* NULL: no memory. */
static char *text_make(const struct service *s, size_t *ret_bytes) {
    size_t n = 0, i = 0;
    for (const struct domain *d = s->domains; d; d = d->next)
        n++;
    struct sp_metrics_domain *domains = calloc(n + 1, sizeof *domains);
    if (!domains)
        return NULL;
    for (const struct domain *d = s->domains; d; d = d->next)
        domain_take(d, &domains[i++]);
    struct sp_metrics all = {
        .cpu_ns = sp_process_cpu_ns(), .rss_bytes = host_resident_bytes(), .domain = domains, .n_domains = n};
    *ret_bytes = sp_openmetrics(&all, NULL, 0);
    char *text = malloc(*ret_bytes + 1);
    if (text)
        sp_openmetrics(&all, text, *ret_bytes + 1);
    free(domains);
    return text;
}

/* NULL: no memory, and no older one. */
static struct MHD_Response *text_response(struct metrics *m) {
    size_t bytes;
    uint64_t now_ns = sp_now_ns();
    if (m->text && now_ns - m->text_ns < TEXT_NS)
        return m->text;
    char *text = text_make(m->all->service, &bytes);
    struct MHD_Response *made =
        text ? MHD_create_response_from_buffer(bytes, text, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!made) {
        free(text);
        return m->text;
    }
    MHD_add_response_header(made, MHD_HTTP_HEADER_CONTENT_TYPE, CONTENT_TYPE);
    if (m->text)
        MHD_destroy_response(m->text); /* who is still sent it keeps it */
    m->text = made;
    m->text_ns = now_ns;
    return made;
}

/* ---- requests ---- */

static enum MHD_Result answer_short(struct MHD_Connection *c, unsigned status, const char *text) {
    union {
        const char *in;
        void *out;
    } body = {.in = text};
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), body.out, MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result done = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return done;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_bytes, void **request) {
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_short(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    if (strcmp(url, "/metrics") != 0)
        return answer_short(c, MHD_HTTP_NOT_FOUND, "the metrics are at /metrics\n");
    struct MHD_Response *text = text_response(ctx);
    return text ? MHD_queue_response(c, MHD_HTTP_OK, text) : MHD_NO;
}

/* ---- the loop ---- */

/* When there are as many connections as there may be, libmicrohttpd listens no more until some have ended,
 * and begins again only with the second run after that one: nobody else would call it. */
static void run(struct metrics *m) {
    for (int i = 0; i < 3; i++)
        (void)MHD_run(m->http);
}

static void metrics_ready(struct source *source, uint32_t events) {
    run((struct metrics *)source);
}

uint64_t metrics_work(struct metrics *m, uint64_t now_ns) {
    MHD_UNSIGNED_LONG_LONG wait_ms;
    if (!m || MHD_get_timeout(m->http, &wait_ms) != MHD_YES)
        return UINT64_MAX;
    if (wait_ms > 0)
        return now_ns + wait_ms * NS_PER_MS;
    run(m);
    /* Once in a round, so that others have their turn; what is left is the next round's. */
    return MHD_get_timeout(m->http, &wait_ms) == MHD_YES ? now_ns + wait_ms * NS_PER_MS : UINT64_MAX;
}

static int start(struct metrics *m, int listen_fd) {
    m->http = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, m, MHD_OPTION_LISTEN_SOCKET,
                               listen_fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
                               MHD_OPTION_CONNECTION_TIMEOUT, CONNECTION_TIMEOUT_S,
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, MHD_OPTION_END);
    if (!m->http) {
        (void)sp_close(listen_fd);
        return -ENOMEM;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(m->http, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info)
        return -ENOSYS;
    m->source.fd = info->epoll_fd;
    return host_poll_add(m->all->poll_fd, &m->source, EPOLLIN);
}

/* Port 0 is any that is free: which one? */
static void say_where(const struct metrics *m, const char *address, int listen_fd) {
    union address a;
    socklen_t bytes = sizeof a;
    if (*m->path || getsockname(listen_fd, &a.any, &bytes))
        log_line("metrics at %s", address);
    else
        log_line("metrics at %.*s:%u", (int)(strrchr(address, ':') - address), address,
                 (unsigned)ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port));
}

int metrics_new(struct sessions *all, const char *address, struct metrics **ret_metrics) {
    struct metrics *m = calloc(1, sizeof *m);
    int fd;
    if (!m)
        return -ENOMEM;
    *m = (struct metrics){.source = {.fd = -1, .ready = metrics_ready}, .all = all};
    int r = is_unix(address) ? listen_unix(m, address + strlen(UNIX_PREFIX), &fd) : listen_tcp(address, &fd);
    if (!r)
        r = start(m, fd);
    if (r) {
        metrics_free(m);
        return r;
    }
    say_where(m, address, fd);
    *ret_metrics = m;
    return 0;
}

void metrics_free(struct metrics *m) {
    if (!m)
        return;
    if (m->http)
        MHD_stop_daemon(m->http);
    if (m->text)
        MHD_destroy_response(m->text);
    if (*m->path)
        host_file_remove(m->path, &m->file);
    free(m);
}
