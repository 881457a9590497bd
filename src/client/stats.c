/* SPDX-License-Identifier: MIT */
/* libsamepage: version, texts, states and statistics. Nothing here changes anything. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/registry.h"
#include "merge/local.h"
#include "samepage/samepage.h"
#include "wire/control.h"

/* How long a daemon may take to tell its counters. */
#define STATUS_MS 1000

const char *samepage_version(void) {
    return SAMEPAGE_VERSION;
}

/* ---- texts ---- */

static const struct {
    int error;
    const char *text;
} texts[] = {
    {0, "success"},
    {EINVAL,
     "invalid argument: a range that is not page aligned, is empty, overlaps another region or is not "
     "registered, a wrong structure size, an unknown flag or a malformed setting"},
    {ERANGE, "the value of a setting is out of its range"},
    {ENOENT, "unknown setting, or no such file: where userfaultfd was wanted see `samepage doctor`"},
    {ENAMETOOLONG, "the path of the daemon's socket is too long"},
    {ENOMEM, "not enough memory, or a range that is not mapped"},
    {EOPNOTSUPP, "nothing in the range can be merged: samepage_eligible tells why"},
    {ENOTCONN, "the daemon is not there at present"},
    {ECONNREFUSED, "no daemon listens at the socket"},
    {ETIMEDOUT, "not in the time given"},
    {EPERM, "no access to userfaultfd, or no worker may run in this process: samepage_domain_state tells "
            "which; for userfaultfd see `samepage doctor`"},
    {EACCES, "no access to userfaultfd or to the daemon's socket: see `samepage doctor`"},
    {ENOSYS, "this kernel has no userfaultfd: see `samepage doctor`"},
    {EAGAIN, "no thread could be made"},
    {EBUSY, "merging is stopped: the setting run is not 1"},
    {ECANCELED, "merging has ended for good in this domain: samepage_domain_state tells why"},
};

const char *samepage_strerror(int error) {
    if (error == INT_MIN)
        return "unknown error";
    int positive = error < 0 ? -error : error;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        if (texts[i].error == positive)
            return texts[i].text;
    const char *text = strerrordesc_np(positive);
    return text ? text : "unknown error";
}

/* ---- states ---- */

enum samepage_state samepage_domain_state(samepage_domain *domain, const char **ret_text) {
    static const enum samepage_state states[] = {
        [SP_ENGINE_IDLE] = SAMEPAGE_STATE_IDLE,
        [SP_ENGINE_STARTING] = SAMEPAGE_STATE_STARTING,
        [SP_ENGINE_RUNNING] = SAMEPAGE_STATE_RUNNING,
        [SP_ENGINE_NO_LINK] = SAMEPAGE_STATE_CONNECTING,
        [SP_ENGINE_NO_USERFAULTFD] = SAMEPAGE_STATE_NO_USERFAULTFD,
        [SP_ENGINE_SECCOMP] = SAMEPAGE_STATE_SECCOMP,
        [SP_ENGINE_LOCKED_MEMORY] = SAMEPAGE_STATE_LOCKED_MEMORY,
        [SP_ENGINE_UNSAFE_KERNEL] = SAMEPAGE_STATE_UNSAFE_KERNEL,
        [SP_ENGINE_NO_THREAD] = SAMEPAGE_STATE_NO_THREAD,
        [SP_ENGINE_STOPPED] = SAMEPAGE_STATE_STOPPED,
        [SP_ENGINE_RAW_CALLS] = SAMEPAGE_STATE_STOPPED,
        [SP_ENGINE_SINGLE] = SAMEPAGE_STATE_STOPPED,
    };
    sp_engine_kick(domain->engine);
    enum sp_engine_state state = sp_engine_state(domain->engine);
    if (ret_text)
        *ret_text = sp_engine_state_text(state);
    return states[state];
}

/* ---- statistics ---- */

/* Fills in the caller's structure of `size` bytes: what it has room for, and zeros for what we do not know.
 */
static void give(void *ret, size_t size, const void *from, size_t known) {
    memset((char *)ret + sizeof(size_t), 0, size - sizeof(size_t));
    size_t n = size < known ? size : known;
    memcpy((char *)ret + sizeof(size_t), (const char *)from + sizeof(size_t), n - sizeof(size_t));
}

int samepage_region_stats(samepage_region *region, struct samepage_region_counters *ret_counters) {
    if (ret_counters->size < sizeof(*ret_counters))
        return -EINVAL;
    struct sp_counters now;
    sp_engine_kick(region->domain->engine);
    sp_engine_range_counters(region->domain->engine, region->start, region->end, &now);
    const struct samepage_region_counters c = {
        .registered_bytes = now.v[SP_COUNTER_registered_bytes],
        .eligible_bytes = region->eligible_bytes,
        .ksm_merging_pages = now.v[SP_COUNTER_pages_shared],
        .ksm_zero_pages = now.v[SP_COUNTER_ksm_zero_pages],
        .pages_unshared = now.v[SP_COUNTER_pages_unshared],
        .pages_volatile = now.v[SP_COUNTER_pages_volatile],
        .pages_broken = now.v[SP_COUNTER_pages_broken],
        .resident_pages = now.v[SP_COUNTER_resident_pages],
    };
    give(ret_counters, ret_counters->size, &c, sizeof(c));
    return 0;
}

/* The counters that the index keeps: ours, or the daemon's domain of this user. */
static void domain_whole(const struct samepage_domain *d, const struct sp_counters *worker,
                         struct samepage_domain_counters *c) {
    struct sp_counters index = *worker;
    if (d->local) {
        sp_local_link_counters(d->local, &index);
        c->domain_known = 1;
        c->saved_bytes = sp_counters_saved_bytes(&index);
    } else {
        struct sp_status *status;
        if (sp_control_status(d->socket_path, STATUS_MS, &status))
            return;
        for (size_t i = 0; i < status->n_domains && !c->domain_known; i++)
            if (status->domains[i].uid == geteuid()) {
                index = status->domains[i].counters;
                c->domain_known = 1;
                c->saved_bytes = status->domains[i].saved_bytes;
            }
        sp_status_free(status);
    }
    c->pages_shared = c->domain_known ? index.v[SP_COUNTER_pages_shared] : 0;
    c->pages_sharing = c->domain_known ? index.v[SP_COUNTER_pages_sharing] : 0;
    c->exposure_bytes = c->domain_known ? index.v[SP_COUNTER_exposure_bytes] : 0;
}

int samepage_domain_stats(samepage_domain *domain, struct samepage_domain_counters *ret_counters) {
    if (ret_counters->size < sizeof(*ret_counters))
        return -EINVAL;
    struct sp_report r = {0};
    sp_engine_kick(domain->engine);
    sp_engine_report(domain->engine, &r);
    const uint64_t *v = r.counters.v;
    struct samepage_domain_counters c = {
        .pages_unshared = v[SP_COUNTER_pages_unshared],
        .pages_volatile = v[SP_COUNTER_pages_volatile],
        .pages_skipped = v[SP_COUNTER_pages_skipped],
        .pages_scanned = v[SP_COUNTER_pages_scanned],
        .full_scans = v[SP_COUNTER_full_scans],
        .ksm_zero_pages = v[SP_COUNTER_ksm_zero_pages],
        .pages_merged = v[SP_COUNTER_pages_merged],
        .pages_broken = v[SP_COUNTER_pages_broken],
        .pages_differed = v[SP_COUNTER_pages_differed],
        .pages_pinned = v[SP_COUNTER_pages_pinned],
        .registered_bytes = v[SP_COUNTER_registered_bytes],
        .resident_pages = v[SP_COUNTER_resident_pages],
        .freezes = sp_histogram_total(&r.freezes),
        .freeze_p50_ns = sp_histogram_percentile(&r.freezes, 50),
        .freeze_p99_ns = sp_histogram_percentile(&r.freezes, 99),
        .freeze_max_ns = r.freezes.max_ns,
        .cpu_ns = v[SP_COUNTER_cpu_ns],
        .own_bytes = v[SP_COUNTER_own_bytes],
        .errors = v[SP_COUNTER_errors],
    };
    domain_whole(domain, &r.counters, &c);
    give(ret_counters, ret_counters->size, &c, sizeof(c));
    return 0;
}
