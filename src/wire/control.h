/* SPDX-License-Identifier: MIT */
/*
 * Asking a daemon for its status, and setting it: what `samepage status`, `get`, `set` and their kind use,
 * `--summary`, and /dev/ksm. A caller's view of the control messages. Only the status takes memory (malloc).
 */
#ifndef SP_WIRE_CONTROL_H
#define SP_WIRE_CONTROL_H

#include <sys/types.h>

#include "core/counters.h"
#include "core/histogram.h"
#include "core/settings.h"
#include "core/types.h"

struct sp_status_client {
    pid_t pid;
    char name[16];
    uint32_t state; /* enum sp_engine_state as reported by the client; UINT32_MAX when it only holds on as a
                       family */
    bool settled;   /* it has nothing to do for now */
    uint32_t settings_number; /* of the settings that it carried out last */
    uint32_t client;          /* its number: no other client of the domain has it at the same time */
    uint64_t reported_ns;     /* when it reported the counters, by uptime_ns; 0: it has not yet */
    uint64_t shared_pages;    /* in the store, mapped by it or by children of its family */
    struct sp_counters counters;
    struct sp_durations freezes;
};

struct sp_status_domain {
    uid_t uid;
    struct sp_counters counters; /* domain values, clients' values summed, gone clients' totals included where
                                    they only grow */
    struct sp_durations freezes;
    uint64_t saved_bytes, saved_peak_bytes;
    uint64_t store_bytes; /* memory the store holds */
    struct sp_settings settings;
    uint32_t settings_number;  /* of these */
    uint64_t families_waiting; /* clients that have gone but whose family still maps the store (H6) */
    struct sp_status_client *clients;
    size_t n_clients;
};

struct sp_status {
    pid_t daemon_pid;
    uint64_t daemon_cpu_ns;
    uint64_t daemon_rss_bytes;
    uint64_t uptime_ns;
    bool control;                     /* the asker controls the daemon as a whole */
    struct sp_settings settings;      /* of all domains together, and of domains to come */
    struct sp_status_domain *domains; /* root sees all, others their own */
    size_t n_domains;
};

/* 0; -ENOENT, -ECONNREFUSED, -EACCES: no daemon there or not for us; -EPROTO: it speaks another version;
 * -ETIMEDOUT: no answer within `timeout_ms`. */
SP_WARN_UNUSED int sp_control_status(const char *socket_path, int timeout_ms, struct sp_status **ret_status);
struct sp_status *sp_status_free(struct sp_status *s);

/* A client of the domain carried out these settings, or later ones. */
static inline bool sp_status_obeys(const struct sp_status_client *c, uint32_t settings_number) {
    return c->settings_number && (int32_t)(c->settings_number - settings_number) >= 0;
}

/*
 * Changes settings: of that user's domain, or (uid NULL) of all that the caller controls. All of them or, on
 * failure, none. As sp_control_status, and: -EPERM: that domain, or one of the settings, is not the caller's
 * to change; -ESRCH: that user has no domain; -EINVAL: a setting of all domains together for one of them;
 * -EBUSY: pages_to_scan while it is the advisor's. Clients obey later: see sp_status_obeys. A change that
 * gives none makes them look again and report.
 */
SP_WARN_UNUSED int sp_control_set(const char *socket_path, int timeout_ms, const uid_t *uid,
                                  const struct sp_settings_change *change);

/* The settings of the caller's domain; where there is none yet those that it would begin with. As
 * sp_control_status. *ret_settings is untouched on failure. */
SP_WARN_UNUSED int sp_control_get(const char *socket_path, int timeout_ms, struct sp_settings *ret_settings);

/*
 * Has the daemon serve the files of KSM at a descriptor of /dev/fuse that is mounted somewhere, What is read
 * and written there is of the caller's domain, whoever does it; root's may be anybody's. As
 * sp_control_status, and: -EUSERS: too many such mounts; -EINVAL: no such descriptor, or a kernel that lets
 * nobody else serve it.
 */
SP_WARN_UNUSED int sp_control_files(const char *socket_path, int timeout_ms, int fuse_fd);

#endif
