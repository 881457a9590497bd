/* SPDX-License-Identifier: MIT */
/*
 * Who changes settings, and how clients learn of it.
 *
 * Each domain has settings of its own, which begin as the daemon's. A user changes those of their own domain,
 * limits aside; who controls the daemon changes any domain's, or with `all` those of all domains, of domains
 * to come, and of the daemon. Permissions and values are looked at before anything is changed.
 *
 * A client is told at once, if it takes messages, and else with its next report; it says with each report
 * which settings it has carried out, so that whoever asks for the status sees who has not yet.
 *
 * pages_to_scan bounds a domain as ksmd's bounds the machine, but each client reads its pages itself: each
 * gets an equal share, at least one page; and likewise of max_pages_to_merge. So a domain may read less than
 * it is allowed while some of its clients have nothing to read, and never more, unless there are more clients
 * than pages. When clients come and go their shares follow, but not all the time.
 *
 * While the advisor is on pages_to_scan is what it advises, and nobody else's to set; what was set before
 * counts again when it is switched off.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/policy.h"
#include "daemon/session.h"

#define SHARES_NS UINT64_C(500000000)

/* ---- telling ---- */

/* Of these each client gets its share. */
static const enum sp_setting shared_out[] = {SP_SETTING_pages_to_scan, SP_SETTING_max_pages_to_merge};
#define SHARED_OUT (sizeof shared_out / sizeof *shared_out)

static bool is_bound(uint64_t pages) {
    return pages != 0 && pages != SP_UNBOUNDED_PAGES;
}

static bool is_bounded(const struct domain *d) {
    struct sp_settings s = policy_settings(d);
    bool any = false;
    for (size_t i = 0; i < SHARED_OUT; i++)
        any |= is_bound(s.v[shared_out[i]]);
    return any;
}

static uint64_t share_of(uint64_t pages, uint64_t clients) {
    if (!is_bound(pages) || clients < 2)
        return pages;
    return pages < clients ? 1 : pages / clients;
}

void control_settings(const struct domain *d, struct sp_settings *ret_settings) {
    *ret_settings = policy_settings(d);
    for (size_t i = 0; i < SHARED_OUT; i++)
        ret_settings->v[shared_out[i]] = share_of(ret_settings->v[shared_out[i]], d->connected);
}

void control_tell(struct session *s) {
    struct member *m = s->member;
    if (!m || m->settings_told == m->domain->settings_number || !session_reads(s))
        return;
    struct sp_settings settings;
    struct sp_wire_settings message = {.number = m->domain->settings_number};
    sp_wire_header_init(&message.header, SP_WIRE_SETTINGS, sizeof message, 0);
    control_settings(m->domain, &settings);
    memcpy(message.settings, settings.v, sizeof message.settings);
    m->settings_told = message.number;
    m->settled = false; /* it looks again */
    session_send(s, &message, sizeof message, -1);
}

/* Whether the advisor stands in the way of what is given, in a domain with these settings. */
static bool advised(const struct sp_settings *s, const struct sp_settings_change *c) {
    struct sp_settings then = *s;
    sp_settings_apply(&then, c);
    return c->given[SP_SETTING_pages_to_scan] && policy_advises(&then);
}

/* The domain's clients are to be told anew. */
static void changed(struct domain *d) {
    d->shares = d->connected;
    domain_settings_changed(d);
}

static void tell_all(struct sessions *all) {
    for (struct session *s = all->first, *next; s; s = next) {
        next = s->next;
        control_tell(s);
    }
}

void control_advised(struct sessions *all, struct domain *d) {
    changed(d);
    tell_all(all);
}

uint64_t control_work(struct sessions *all, uint64_t now_ns) {
    uint64_t next_ns = UINT64_MAX;
    bool any = false;
    if (now_ns < all->service->shares_ns)
        return all->service->shares_ns;
    for (struct domain *d = all->service->domains; d; d = d->next) {
        if (!is_bounded(d) || d->shares == d->connected)
            continue;
        if (now_ns >= d->shares_ns) {
            d->shares_ns = now_ns + SHARES_NS;
            changed(d);
            any = true;
        } else if (d->shares_ns < next_ns) {
            next_ns = d->shares_ns;
        }
    }
    all->service->shares_ns = next_ns; /* before it is told: a session that ends on that changes it */
    if (any)
        tell_all(all);
    return all->service->shares_ns;
}

/* ---- changing ---- */

/* Whether the user may change these settings; of one domain or of all. */
static int permit(uid_t uid, const uid_t *domain, const struct sp_settings_change *c) {
    bool controls = control_controls(uid);
    if (!controls && domain && *domain != uid)
        return -EACCES;
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        if (!c->given[i] || sp_setting_info[i].scope == SP_SETTING_OF_USER)
            continue;
        if (!controls)
            return -EACCES;
        if (domain && sp_setting_info[i].scope == SP_SETTING_OF_DAEMON)
            return -EINVAL;
    }
    return 0;
}

/* Empty where nothing is given. */
static void change_text(const struct sp_settings_change *c, char *text, size_t bytes) {
    size_t n = 0;
    *text = '\0';
    for (size_t i = 0; i < SP_SETTING_COUNT && n < bytes; i++)
        if (c->given[i])
            n += (size_t)snprintf(text + n, bytes - n, " %s=%s", sp_setting_info[i].name,
                                  sp_setting_text(i, c->values.v[i]).text);
}

static void log_change(uid_t uid, pid_t pid, const uid_t *domain, const char *text) {
    char whose[24] = "all";
    if (!*text)
        return;
    if (domain)
        snprintf(whose, sizeof whose, "uid %u", (unsigned)*domain);
    log_client("process %d of uid %u sets, for %s:%s", (int)pid, (unsigned)uid, whose, text);
}

/* Whether pages are shared that may not be by what is given, or would not be found any more. */
static bool shared_otherwise(const struct domain *d, const struct sp_settings_change *c) {
    const enum sp_setting nodes = SP_SETTING_merge_across_nodes;
    struct sp_counters now = {{0}};
    sp_domain_counters(d->index, &now);
    return c->given[nodes] && c->values.v[nodes] != d->settings.v[nodes] &&
           now.v[SP_COUNTER_pages_shared] != 0;
}

/* What cannot be set just now, as in KSM, whose errors the files have (ksmfs.c). */
static int permit_now(struct service *service, const uid_t *domain, const struct sp_settings_change *c) {
    const struct domain *one = domain ? service_domain_find(service, *domain) : NULL;
    bool busy = advised(one ? &one->settings : &service->settings, c);
    for (const struct domain *d = service->domains; d; d = d->next)
        if (!domain || d == one)
            busy |= advised(&d->settings, c) || shared_otherwise(d, c);
    return busy ? -EBUSY : 0;
}

static void domain_set(struct domain *d, const struct sp_settings_change *c) {
    sp_settings_apply(&d->settings, c);
    changed(d);
}

static int set_one(struct service *service, uid_t uid, uid_t domain, const struct sp_settings_change *c) {
    struct domain *d = service_domain_find(service, domain);
    /* One's own may be arranged before there are clients. */
    int r = d ? 0 : domain == uid ? service_domain(service, domain, &d) : -ESRCH;
    if (!r)
        domain_set(d, c);
    return r;
}

static void set_all(struct service *service, const struct sp_settings_change *c) {
    sp_settings_apply(&service->settings, c);
    service_settings_changed(service);
    for (struct domain *d = service->domains; d; d = d->next)
        domain_set(d, c);
}

void control_get(struct session *s, uint32_t sequence) {
    const struct domain *d = service_domain_find(s->all->service, s->uid);
    struct sp_settings settings = d ? policy_settings(d) : s->all->service->settings;
    struct sp_wire_settings m = {.number = d ? d->settings_number : 1};
    sp_wire_header_init(&m.header, SP_WIRE_SETTINGS, sizeof m, sequence);
    memcpy(m.settings, settings.v, sizeof m.settings);
    session_send(s, &m, sizeof m, -1);
}

bool control_controls(uid_t uid) {
    return uid == 0 || uid == geteuid();
}

bool control_sees(uid_t uid, const struct domain *d) {
    return uid == 0 || uid == d->uid;
}

int control_change(struct sessions *all, uid_t uid, pid_t pid, const uid_t *domain,
                   const struct sp_settings_change *c) {
    char text[1024];
    if (!domain && !control_controls(uid))
        domain = &uid;
    int r = permit(uid, domain, c);
    if (!r)
        r = permit_now(all->service, domain, c);
    change_text(c, text, sizeof text);
    if (r)
        return r;
    if (!domain)
        set_all(all->service, c);
    else if (*text || service_domain_find(all->service, *domain)) /* else there is nobody to be told */
        r = set_one(all->service, uid, *domain, c);
    if (r)
        return r;
    log_change(uid, pid, domain, text);
    tell_all(all);
    return 0;
}

int control_set(struct session *s, const struct sp_wire_set *m) {
    struct sp_settings_change c;
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        c.given[i] = m->given >> i & 1;
    memcpy(c.values.v, m->settings, sizeof c.values.v);
    return control_change(s->all, s->uid, s->pid, m->all ? NULL : &m->uid, &c);
}
