/* SPDX-License-Identifier: MIT */
/*
 * KSM_START_STOP_KTHREAD and KSM_GET_INFO_KTHREAD. See device.h.
 *
 * The driver's thread merged for everybody, and often it was one program that set it going and others that
 * had their memory merged. So what is set goes to the program's domain, as `samepage set` of its user would
 * have it, by a connection of its own: the worker's is in another descriptor table. Only where the daemon
 * does not take it (it is not there, or the domain is not this user's to change) does it count for this
 * process alone: its engine keeps a pace of its own.
 *
 * The settings know milliseconds. Whoever set something finer is told what it set for as long as the domain
 * has what was made of it.
 */
#include <errno.h>
#include <sys/uio.h>

#include "client/remote.h"
#include "merge/state.h"
#include "os/mapping.h"
#include "preload/device.h"
#include "preload/shim.h"
#include "samepage/ksm_2008.h"
#include "wire/control.h"

#define ANSWER_MS     3000
#define MICROS_PER_MS UINT64_C(1000)

/* Under the engine's lock; the first is valid once it was set. */
static struct ksm_kthread_info thread;
static bool thread_set;
static bool thread_own; /* it counts for this process alone */

static bool runs(const struct ksm_kthread_info *info) {
    return info->flags & ksm_control_flags_run;
}

static const char *socket_path(void) {
    return sp_remote_link_path(shim.engine->link);
}

/* ---- setting ---- */

static void change_add(struct sp_settings_change *c, enum sp_setting setting, uint64_t value) {
    c->given[setting] = true;
    c->values.v[setting] = value;
}

static struct sp_settings_change change_of(const struct ksm_kthread_info *info) {
    struct sp_settings_change c = {.given = {false}};
    change_add(&c, SP_SETTING_run, runs(info));
    if (!runs(info)) /* nothing else matters then, and it may be all 0 */
        return c;
    change_add(&c, SP_SETTING_sleep_millisecs, (info->sleep + MICROS_PER_MS - 1) / MICROS_PER_MS);
    change_add(&c, SP_SETTING_pages_to_scan, info->pages_to_scan);
    change_add(&c, SP_SETTING_max_pages_to_merge, info->max_pages_to_merge);
    return c;
}

/* 0, or why the daemon did not take it. While the advisor chooses pages_to_scan, the rest is set. */
static int domain_set(const struct ksm_kthread_info *info) {
    struct sp_settings_change c = change_of(info);
    uid_t uid = (uid_t)sp_syscall(SYS_geteuid);
    int r = sp_control_set(socket_path(), ANSWER_MS, &uid, &c);
    if (r != -EBUSY)
        return r;
    c.given[SP_SETTING_pages_to_scan] = false;
    return sp_control_set(socket_path(), ANSWER_MS, &uid, &c);
}

static struct sp_pace pace_of(const struct ksm_kthread_info *info) {
    return (struct sp_pace){
        .held = !runs(info) || !info->max_pages_to_merge,
        .sleep_ns = (uint64_t)info->sleep * 1000,
        .scan_pages = info->pages_to_scan,
        .merge_pages = info->max_pages_to_merge,
    };
}

long thread_start_stop(const void *argument) {
    struct ksm_kthread_info info;
    if (sp_peek(&info, (uintptr_t)argument, sizeof(info)))
        return -EFAULT;
    if (runs(&info) && !info.pages_to_scan)
        return -EPERM;
    bool own = shim.stopped || domain_set(&info) != 0;
    struct sp_pace pace = own ? pace_of(&info) : (struct sp_pace){.held = false};
    bool taken = shim_lock();
    thread = info;
    thread_set = true;
    thread_own = own;
    sp_engine_pace_locked(shim.engine, &pace);
    shim_unlock(taken);
    return 0;
}

/* ---- telling ---- */

static uint32_t at_most_32_bits(uint64_t v) {
    return v < UINT32_MAX ? (uint32_t)v : UINT32_MAX;
}

static struct ksm_kthread_info info_of(const struct sp_settings *s) {
    return (struct ksm_kthread_info){
        .sleep = at_most_32_bits(s->v[SP_SETTING_sleep_millisecs] * MICROS_PER_MS),
        .pages_to_scan = (uint32_t)s->v[SP_SETTING_pages_to_scan],
        .max_pages_to_merge = (uint32_t)s->v[SP_SETTING_max_pages_to_merge],
        .flags = s->v[SP_SETTING_run] == 1 ? ksm_control_flags_run : 0,
    };
}

/* Whether the domain still has what was set. */
static bool is_set(const struct sp_settings *s, const struct ksm_kthread_info *info) {
    struct sp_settings_change c = change_of(info);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        if (c.given[i] && c.values.v[i] != s->v[i])
            return false;
    return true;
}

/* Writes to memory that may not be there. */
static long poke(void *to, const void *from, size_t bytes) {
    struct iovec source = {(void *)(uintptr_t)from, bytes}, target = {to, bytes};
    long r = sp_syscall(SYS_process_vm_writev, sp_syscall(SYS_getpid), &source, 1, &target, 1, 0);
    return r == (long)bytes ? 0 : -EFAULT;
}

long thread_info(void *argument) {
    struct sp_settings s;
    bool asked = !shim.stopped && sp_control_get(socket_path(), ANSWER_MS, &s) == 0;
    bool taken = shim_lock();
    if (!asked)
        s = shim.engine->settings;
    bool remembered = thread_set && (thread_own || !asked || is_set(&s, &thread));
    struct ksm_kthread_info info = remembered ? thread : info_of(&s);
    shim_unlock(taken);
    return poke(argument, &info, sizeof(info));
}
