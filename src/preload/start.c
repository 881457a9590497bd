/* SPDX-License-Identifier: MIT */
/*
 * The constructor: reads the environment that `samepage run` made, and makes an engine that as yet has no
 * thread, no descriptor and no region. Whatever is wrong, the program runs, unmerged; only with
 * SAMEPAGE_VERBOSE=1 does it hear of it.
 *
 *     SAMEPAGE_SOCKET   the daemon's socket; without it nothing is done at all
 *     SAMEPAGE_VOUCH    see os/vouch.h
 *     SAMEPAGE_ALIVE    a file that is mapped for as long as the process lives: its owner sees by it that
 *                       somebody is left (fcntl(2), leases)
 *     SAMEPAGE_SET      "KEY=VALUE,...", see core/settings.h
 *     SAMEPAGE_SCOPE    what is merged, see preload/scope.h
 *     SAMEPAGE_MERGE_ANY  see inherit.c
 *     SAMEPAGE_SIMULATE_NODE  a NUMA node that all of the process's memory is taken to lie on, so that a
 *                       machine with one node shows what merge_across_nodes does on others
 *
 * Runs before every other constructor, the C library's own included (-z initfirst; see fork.c for why), so
 * that the environment comes from the arguments that the dynamic linker passes, not from getenv.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "client/remote.h"
#include "core/node.h"
#include "core/settings.h"
#include "preload/scope.h"
#include "preload/shim.h"

/* Not by the C library: a program may have a clock_gettime of its own, which cannot be called yet (k). */
static uint64_t now_ns(void) {
    struct timespec t = {0};
    sp_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static const char *environment_get(char **environment, const char *name) {
    size_t n = strlen(name);
    for (; environment && *environment; environment++)
        if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=')
            return *environment + n + 1;
    return NULL;
}

static void complain(char **environment, const char *what, const char *text) {
    const char *verbose = environment_get(environment, "SAMEPAGE_VERBOSE");
    if (!verbose || strcmp(verbose, "1") != 0)
        return;
    char line[512] = "samepage: not merging: ";
    size_t room = sizeof(line) - 2;
    strncat(line, what, room - strlen(line));
    strncat(line, ": ", room - strlen(line));
    strncat(line, text, room - strlen(line));
    strcat(line, "\n");
    sp_syscall(SYS_write, 2, line, strlen(line));
}

/* Failing is no reason not to merge: the owner then merely does not wait for us. */
static void alive_map(const char *path) {
    long fd = sp_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    sp_syscall(SYS_mmap, 0, SP_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    sp_syscall(SYS_close, fd);
}

static int simulated_node;

static int simulated_nodes(const void *const *pages, size_t n, int *ret_nodes) {
    (void)pages;
    for (size_t i = 0; i < n; i++)
        ret_nodes[i] = simulated_node;
    return 0;
}

/* 0 to SP_NODE_MAX. */
static bool node_parse(const char *text, int *ret_node) {
    int node = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && node <= SP_NODE_MAX; at++)
        node = node * 10 + (*at - '0');
    if (at == text || *at || node > SP_NODE_MAX)
        return false;
    *ret_node = node;
    return true;
}

static void start(char **environment) {
    const char *socket = environment_get(environment, "SAMEPAGE_SOCKET");
    const char *set = environment_get(environment, "SAMEPAGE_SET");
    const char *alive = environment_get(environment, "SAMEPAGE_ALIVE");
    const char *node = environment_get(environment, "SAMEPAGE_SIMULATE_NODE");
    struct sp_settings settings;
    enum sp_scope scope = SP_SCOPE_DEFAULT;
    bool scope_known = sp_scope_parse(environment_get(environment, "SAMEPAGE_SCOPE"), &scope);
    struct sp_link *link;
    struct sp_engine *engine;
    char error[256] = "";

    loader_init(socket && scope_known && scope == SP_SCOPE_ALL);
    if (!socket)
        return;
    if (alive && *alive)
        alive_map(alive);
    sp_settings_init(&settings);
    if (set && *set && sp_settings_parse(&settings, set, error, sizeof(error)) < 0) {
        complain(environment, "SAMEPAGE_SET", error);
        return;
    }
    if (!scope_known) {
        complain(environment, "SAMEPAGE_SCOPE", "neither 'all' nor 'advised'");
        return;
    }
    if (node && *node && !node_parse(node, &simulated_node)) {
        complain(environment, "SAMEPAGE_SIMULATE_NODE", "not the number of a node, 0 to 1023");
        return;
    }
    if (socket[0] != '/') {
        complain(environment, "SAMEPAGE_SOCKET", "not an absolute path");
        return;
    }
    struct sp_vouch vouch = sp_vouch_parse(environment_get(environment, "SAMEPAGE_VOUCH"));
    int r = sp_remote_link_new(socket, &link);
    if (r >= 0) {
        sp_remote_link_vouch(link, &vouch);
        r = sp_engine_new(link, &settings, &engine);
    }
    if (r < 0) {
        complain(environment, "SAMEPAGE_SOCKET", r == -ENAMETOOLONG ? "path too long" : "not enough memory");
        return;
    }
    shim.pid = (int)sp_syscall(SYS_getpid);
    sp_engine_bare(engine);
    sp_engine_mappings(engine, shim_mappings);
    if (node && *node)
        sp_engine_nodes(engine, simulated_nodes);
    sp_engine_refresh(engine, shim_refresh_locked);
    shim.all = scope == SP_SCOPE_ALL;
    shim.merge_any = inherit_read(environment);
    if (shim.all && settings.v[SP_SETTING_worker_start_kbytes])
        sp_engine_begin_at(engine, now_ns() + settings.v[SP_SETTING_worker_start_millisecs] * 1000000);
    shim.allowed_bytes = shim.merge_any ? 0 : settings.v[SP_SETTING_worker_start_kbytes] * 1024;
    fork_watch();
    /* From here on the interposed calls see it; there is only this thread. */
    shim.engine = engine;
}

__attribute__((constructor)) static void construct(int argc, char **argv, char **environment) {
    int saved = errno;
    (void)argc;
    leave_if_sanitized(argv, environment);
    fork_init(); /* also where nothing is merged: the names go on to the C library's */
    counted_init();
    identity_init();
    device_init();
    start(environment);
    errno = saved;
}
