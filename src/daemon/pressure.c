/* SPDX-License-Identifier: MIT */
/* See pressure.h. */
#include "daemon/pressure.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "daemon/log.h"
#include "daemon/policy.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/thread.h"

/* 5 %, in a window that ordinary users may ask for. */
#define STALL_US  100000
#define WINDOW_US 2000000
/* The same read from the file, and what counts as over; hundredths of a percent. */
#define PRESSED 500
#define RELAXED 100
#define LAST_NS UINT64_C(10000000000)
#define LOOK_NS UINT64_C(1000000000)

static void set(struct pressure *p, bool pressed, uint64_t now_ns) {
    if (pressed == p->service->pressed)
        return;
    policy_pressure(p->service, pressed, now_ns);
    log_line(pressed ? "memory pressure: domains that are lazy without it are keen now"
                     : "no memory pressure any more: domains may be lazy again");
}

static void forget_trigger(struct pressure *p) {
    if (p->source.fd < 0)
        return;
    host_poll_remove(p->poll_fd, &p->source);
    (void)sp_close(p->source.fd);
    p->source.fd = -1;
}

static void on_trigger(struct source *source, uint32_t events) {
    struct pressure *p = (struct pressure *)source;
    uint64_t now_ns = sp_now_ns();
    if (events & EPOLLERR) { /* the cgroup has gone */
        forget_trigger(p);
        p->look_ns = now_ns;
        return;
    }
    p->until_ns = now_ns + LAST_NS;
    p->look_ns = now_ns + LOOK_NS;
    set(p, true, now_ns);
}

static bool is_wanted(const struct service *s) {
    for (const struct domain *d = s->domains; d; d = d->next)
        if (d->settings.v[SP_SETTING_lazy_max_cpu])
            return true;
    return false;
}

static void begin(struct pressure *p, uint64_t now_ns) {
    p->wanted = true;
    p->look_ns = now_ns;
    if (host_pressure_trigger(p->path, STALL_US, WINDOW_US, &p->source.fd))
        p->source.fd = -1;
    else if (host_poll_add(p->poll_fd, &p->source, EPOLLPRI)) {
        (void)sp_close(p->source.fd);
        p->source.fd = -1;
    }
}

static void end(struct pressure *p, uint64_t now_ns) {
    p->wanted = p->unreadable = false;
    forget_trigger(p);
    set(p, false, now_ns);
}

static void look(struct pressure *p, uint64_t now_ns) {
    uint64_t share = 0;
    int r = sp_proc_pressure(p->path, &share);
    if (r && !p->unreadable)
        log_line("memory pressure cannot be read from %s: %s; it counts as none", p->path, strerror(-r));
    p->unreadable = r != 0;
    if (share >= PRESSED)
        p->until_ns = now_ns + LAST_NS;
    set(p, now_ns < p->until_ns || (p->service->pressed && share >= RELAXED), now_ns);
    /* While there is none, who is told need not look. */
    p->look_ns = p->service->pressed || p->source.fd < 0 ? now_ns + LOOK_NS : UINT64_MAX;
}

uint64_t pressure_work(struct pressure *p, uint64_t now_ns) {
    bool wanted = is_wanted(p->service);
    if (wanted && !p->wanted)
        begin(p, now_ns);
    if (!wanted && p->wanted)
        end(p, now_ns);
    if (!wanted)
        return UINT64_MAX;
    if (now_ns >= p->look_ns)
        look(p, now_ns);
    return p->look_ns;
}

void pressure_init(struct pressure *p, struct service *service, int poll_fd, const char *path) {
    *p = (struct pressure){.source = {.fd = -1, .ready = on_trigger},
                           .path = path ? path : SP_PROC_PRESSURE,
                           .service = service,
                           .poll_fd = poll_fd,
                           .look_ns = UINT64_MAX};
}

void pressure_deinit(struct pressure *p) {
    if (p->source.fd >= 0)
        (void)sp_close(p->source.fd);
}
