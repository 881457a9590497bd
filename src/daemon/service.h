/* SPDX-License-Identifier: MIT */
/*
 * What the daemon keeps: one domain for each user, each with its own key, index and store, and the members of
 * each domain. A member is a client: connected, or gone while its family may still map the store.
 *
 * A domain, once made, stays until the daemon ends: its totals are asked for after the last client has gone.
 * Single-threaded. Nothing here knows of sockets; members are told things through their session's functions.
 */
#ifndef SP_DAEMON_SERVICE_H
#define SP_DAEMON_SERVICE_H

#include <sys/types.h>

#include "core/advisor.h"
#include "core/budget.h"
#include "core/domain.h"
#include "core/fingerprint.h"
#include "daemon/families.h"
#include "daemon/looks.h"
#include "daemon/punches.h"
#include "daemon/store.h"
#include "wire/hints.h"
#include "wire/message.h"

struct session;

struct member {
    struct domain *domain;
    struct member *previous, *next; /* all of the domain */
    struct session *session;        /* NULL once it has gone */
    sp_client client;
    pid_t pid;
    char name[SP_WIRE_NAME_BYTES]; /* printable */
    uint32_t state;
    bool settled;                /* as last reported, and no hint was made or under way since */
    uint32_t hints_sent;         /* messages */
    uint32_t settings_told;      /* number of the settings that it was told last */
    uint32_t settings_obeyed;    /* and that it has carried out, as last reported */
    bool scanned;                /* it has come round since the domain's last full scan */
    uint64_t scans_before;       /* its own full_scans then */
    struct sp_counters counters; /* as last reported */
    uint64_t reported_ns;        /* when that was; 0: not yet */
    struct sp_histogram freezes;
    /* Of freezes: a status is asked for with all of them, a report brings one. */
    struct sp_durations durations;
    struct sp_allowance allowance;
    struct family family;
    RB_ENTRY(member) looks_link; /* in service.looks, where `looks_in` */
    uint64_t looks_ns;
    bool looks_in;
    uint64_t segment;            /* where it publishes at present: store_place */
    struct sp_filling filling;   /* the chunk that it fills, where that is to be huge */
    struct sp_hint_queue *hints; /* NULL: none waits */
    struct member *hinted_next;  /* in service.hinted */
    bool hinted;
};

struct domain {
    struct service *service;
    struct domain *next;
    uid_t uid;
    struct sp_key key;
    struct sp_settings settings;
    uint32_t settings_number; /* another one each time that its clients are to be told others; never 0 */
    uint64_t shares;          /* among how many clients bounds were divided when they were told */
    uint64_t shares_ns;       /* when that may be done anew */
    struct sp_domain *index;
    struct store store;
    struct member *members; /* connected ones and waiting families */
    struct member **by_client;
    size_t by_client_size;
    uint64_t connected, waiting; /* how many of each */
    uint64_t tokens;             /* that its families hold on to, a descriptor each */
    uint64_t heap_bytes;         /* of the index */
    uint64_t saved_peak_bytes;
    uint64_t full_scans;     /* see scans.h */
    uint64_t unscanned;      /* connected members that are still to come round for the next one */
    bool any_scanned;        /* and one has */
    struct sp_budget budget; /* see policy.h */
    struct sp_advisor advisor;
    uint64_t advised_scans;           /* full_scans that the advisor knows of */
    uint64_t cpu_ns;                  /* used for it, by clients and here */
    struct sp_counters sum;           /* over the members' last reports */
    struct sp_counters gone_counters; /* of clients that have gone: the totals, which only grow */
    struct sp_histogram gone_freezes;
    bool sweeping;     /* the index still has entries of clients that have gone */
    bool write_failed; /* said so in the log */
};

struct service {
    struct sp_settings settings; /* of domains to come, and those of all domains together */
    /* Of each domain, so that one user leaves something for the others. */
    uint64_t tokens_max, heap_max_bytes;
    struct domain *domains;
    struct member *hinted;  /* members whose hints wait to be sent */
    struct looks looks;     /* members whose families are to be looked at */
    uint64_t guard_ns;      /* when the exposure is looked at next; UINT64_MAX: no guard */
    bool paused;            /* by the guard */
    bool pause_changed;     /* every client is to be told */
    uint64_t sweeping;      /* domains that are */
    struct punches punches; /* whose owners are domains */
    uint64_t shares_ns; /* when control.c looks at the domains' shares; 0: at once, somebody came or went */
    bool pressed;       /* memory is short */
    uint64_t bounded;   /* domains that have a CPU budget; what follows counts while there are any */
    uint64_t tick_ns;   /* when what is used for nobody in particular is paid for next */
    uint64_t cpu_ns;    /* of the daemon, when that was done last */
    uint64_t served_ns; /* of what came since: paid for already */
};

/* `tokens_max`: of each domain. */
void service_init(struct service *s, const struct sp_settings *settings, uint64_t tokens_max);
void service_deinit(struct service *s);

/* The user's domain, or NULL: there is none. */
struct domain *service_domain_find(struct service *s, uid_t uid);
/* The user's domain, made when it does not exist. */
SP_WARN_UNUSED int service_domain(struct service *s, uid_t uid, struct domain **ret_domain);
/* What is due: families, the sweep of the index, the exposure guard. Returns when there will be more to do
 * (UINT64_MAX: nothing). */
uint64_t service_work(struct service *s, uint64_t now_ns);
/* The domain's settings have changed: whatever follows from them here. Its clients are told by control.c. */
void domain_settings_changed(struct domain *d);
/* The same for the settings of all domains together. */
void service_settings_changed(struct service *s);
/* Families that hold on without a client, in all domains. */
uint64_t service_waiting(const struct service *s);

/* A client joins. Takes over the token on success. -EINVAL, -ESRCH: see family_init; -ENOMEM, -EUSERS. */
SP_WARN_UNUSED int member_new(struct domain *d, const struct sp_wire_hello *hello, pid_t pid, int token_fd,
                              struct session *session, struct member **ret_member);
/* Its session has ended. Freed when its family has gone, perhaps at once. */
void member_gone(struct member *m, uint64_t now_ns);

void member_ask(struct member *m, const struct sp_wire_queries *q, struct sp_wire_answer *ret_answers);
void member_forget(struct member *m, const struct sp_wire_queries *q);
/* Gives references back. `token_fd` (-1: none) begins the next epoch; *ret_taken: it was taken over. Returns
 * the first error; what could be done was done. */
SP_WARN_UNUSED int member_release(struct member *m, const struct sp_wire_release *release, int token_fd,
                                  uint64_t now_ns, bool *ret_taken);
void member_report(struct member *m, const struct sp_wire_report *report, uint64_t now_ns);
/* publish.c */
void member_publish(struct member *m, const struct sp_wire_publish *p, struct sp_wire_answer *ret_answers);

/* Brings the domain's peak up to date. */
void domain_note_saved(struct domain *d);
/* All counters of the domain: its own, its clients' sum, the totals of those that have gone. Freeze times
 * only where asked for: that means going through all clients. */
void domain_counters(const struct domain *d, struct sp_counters *ret_counters,
                     struct sp_histogram *ret_freezes);

#endif
