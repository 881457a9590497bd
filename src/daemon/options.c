/* SPDX-License-Identifier: MIT */
/* See options.h. */
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/host.h"
#include "daemon/metrics.h"

#define CONFIG_BYTES_MAX 65536

#ifndef SP_VERSION
#define SP_VERSION "unknown"
#endif

enum option_value {
    OPTION_SOCKET = 256,
    OPTION_FOREGROUND,
    OPTION_SET,
    OPTION_CONFIG,
    OPTION_KSM_FILES,
    OPTION_PRESSURE_FILE,
    OPTION_METRICS,
    OPTION_ONLY_UID,
    OPTION_OWNER_PID,
    OPTION_ALIVE,
    OPTION_READY_FD,
    OPTION_VERSION = 'V',
    OPTION_HELP = 'h',
};

static const struct option table[] = {
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"foreground", no_argument, NULL, OPTION_FOREGROUND},
    {"set", required_argument, NULL, OPTION_SET},
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"ksm-files", required_argument, NULL, OPTION_KSM_FILES},
    {"pressure-file", required_argument, NULL, OPTION_PRESSURE_FILE},
    {"metrics", required_argument, NULL, OPTION_METRICS},
    {"only-uid", required_argument, NULL, OPTION_ONLY_UID},
    {"owner-pid", required_argument, NULL, OPTION_OWNER_PID},
    {"alive", required_argument, NULL, OPTION_ALIVE},
    {"ready-fd", required_argument, NULL, OPTION_READY_FD},
    {"version", no_argument, NULL, OPTION_VERSION},
    {"help", no_argument, NULL, OPTION_HELP},
    {0},
};

/* Of the machine's daemon. */
#define CONFIG_DEFAULT "/etc/samepage/samepaged.conf"

static const char usage[] =
    "Usage: samepaged [OPTION]...\n"
    "Keeps the index and the store of pages that programs share. Runs in the foreground until SIGTERM.\n"
    "\n"
    "  --socket PATH        listen at PATH (default: /run/samepage/socket for root,\n"
    "                       $XDG_RUNTIME_DIR/samepage/socket for others)\n"
    "  --set KEY=VALUE      change a setting; may be given several times, or KEY=VALUE,KEY=VALUE\n"
    "  --config FILE        read settings from FILE: lines of KEY=VALUE, those that begin with # aside;\n"
    "                       --set comes after it (default: " CONFIG_DEFAULT " if there is one, for root\n"
    "                       without --owner-pid)\n"
    "  --ksm-files DIR      serve the files of /sys/kernel/mm/ksm at DIR, an empty directory (FUSE): who\n"
    "                       reads or writes them asks and sets this daemon, each user their own domain\n"
    "  --pressure-file FILE where to find out about memory pressure, for lazy_max_cpu: a cgroup's\n"
    "                       memory.pressure, for instance (default: /proc/pressure/memory)\n"
    "  --metrics ADDRESS    serve OpenMetrics over HTTP, at /metrics: unix:PATH (for the daemon's user\n"
    "                       only), or 127.0.0.1:PORT, localhost:PORT, [::1]:PORT (for everybody on the\n"
    "                       machine)\n"
    "  --only-uid UID       serve this user only (default: as root and without --owner-pid everybody,\n"
    "                       else the user it runs as)\n"
    "  --foreground         do not go into the background (it never does)\n"
    "  --owner-pid PID      private mode: end by itself after that process, when nobody needs it any more\n"
    "  --alive FILE         with --owner-pid: whoever has FILE open or mapped still needs it; FILE, the\n"
    "                       socket and their directory are removed at the end\n"
    "  --ready-fd N         write one byte to descriptor N when listening, then close it\n"
    "  --version, -V        print the version and end\n"
    "  --help, -h           print this and end\n"
    "\n"
    "Settings:\n";

static void help(void) {
    fputs(usage, stdout);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const struct sp_setting_info *s = &sp_setting_info[i];
        printf("  %s=%s  (%s, %s)\n      %s\n", s->name, sp_setting_text(i, s->value_default).text, s->unit,
               sp_setting_allowed(i).text, s->meaning);
    }
}

__attribute__((format(printf, 1, 2))) static enum options_result bad(const char *format, ...) {
    va_list arguments;
    fputs("samepaged: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputs("\nTry 'samepaged --help'.\n", stderr);
    return OPTIONS_BAD;
}

static bool number(const char *text, unsigned long max, unsigned long *ret) {
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || v > max)
        return false;
    *ret = v;
    return true;
}

static enum options_result set_socket(struct options *o, const char *path) {
    if (!*path || strlen(path) >= sizeof o->socket)
        return bad("--socket: a path of 1 to %zu bytes is needed", sizeof o->socket - 1);
    strcpy(o->socket, path);
    o->socket_default = false;
    return OPTIONS_RUN;
}

static enum options_result set_default_socket(struct options *o) {
    const char *directory = geteuid() ? getenv("XDG_RUNTIME_DIR") : "/run";
    o->socket_default = true;
    if (!directory || !*directory)
        return bad("XDG_RUNTIME_DIR is not set: say where to listen with --socket PATH");
    int n = snprintf(o->socket, sizeof o->socket, "%s/samepage/socket", directory);
    if (n < 0 || (size_t)n >= sizeof o->socket)
        return bad("XDG_RUNTIME_DIR is too long for a socket: say where to listen with --socket PATH");
    return OPTIONS_RUN;
}

static enum options_result take(struct options *o, int option, const char *value) {
    unsigned long v;
    switch (option) {
    case OPTION_SOCKET:
        return set_socket(o, value);
    case OPTION_FOREGROUND:
        return OPTIONS_RUN;
    case OPTION_SET: /* see read_sets */
        return OPTIONS_RUN;
    case OPTION_CONFIG:
        if (o->config)
            return bad("--config %s: one file only", value);
        o->config = value;
        return OPTIONS_RUN;
    case OPTION_KSM_FILES:
        o->ksm_files = value;
        return *value ? OPTIONS_RUN : bad("--ksm-files: a directory is needed");
    case OPTION_PRESSURE_FILE:
        o->pressure_file = value;
        return *value ? OPTIONS_RUN : bad("--pressure-file: a file is needed");
    case OPTION_METRICS:
        o->metrics = value;
        return metrics_address_wrong(value) ? bad("--metrics %s: %s", value, metrics_address_wrong(value))
                                            : OPTIONS_RUN;
    case OPTION_ONLY_UID:
        if (!number(value, UINT32_MAX - 1, &v))
            return bad("--only-uid %s: not a user number", value);
        o->only_uid = (uid_t)v;
        o->only_uid_set = true;
        return OPTIONS_RUN;
    case OPTION_OWNER_PID:
        if (!number(value, INT32_MAX, &v) || !v)
            return bad("--owner-pid %s: not a process number", value);
        o->owner_pid = (pid_t)v;
        return OPTIONS_RUN;
    case OPTION_ALIVE:
        o->alive = value;
        return *value ? OPTIONS_RUN : bad("--alive: a path is needed");
    case OPTION_READY_FD:
        if (!number(value, INT32_MAX, &v))
            return bad("--ready-fd %s: not a descriptor number", value);
        o->ready_fd = (int)v;
        return OPTIONS_RUN;
    case OPTION_VERSION:
        puts("samepaged " SP_VERSION);
        return OPTIONS_DONE;
    case OPTION_HELP:
        help();
        return OPTIONS_DONE;
    default:
        /* getopt has said what is wrong. */
        fputs("Try 'samepaged --help'.\n", stderr);
        return OPTIONS_BAD;
    }
}

static enum options_result read_config(struct options *o) {
    struct sp_settings_change file = {0};
    char error[256];
    unsigned line;
    bool by_default = !o->config;
    const char *path = by_default ? CONFIG_DEFAULT : o->config;
    if (by_default && (geteuid() != 0 || o->owner_pid))
        return OPTIONS_RUN;
    char *text = NULL;
    int r = host_read_file(path, CONFIG_BYTES_MAX, &text);
    if (r == -ENOENT && by_default)
        return OPTIONS_RUN;
    if (r)
        return bad("%s: %s", path,
                   r == -EFBIG     ? "too long for a file of settings"
                   : r == -EBADMSG ? "not a text"
                                   : strerror(-r));
    r = sp_settings_change_lines(&file, text, &line, error, sizeof error);
    free(text);
    if (r)
        return bad("%s:%u: %s", path, line, error);
    sp_settings_apply(&o->settings, &file);
    return OPTIONS_RUN;
}

/* After the file, wherever they stand. */
static enum options_result read_sets(struct options *o, int argc, char **argv) {
    char error[256];
    optind = 0; /* from the start (getopt_long(3)) */
    for (int option; (option = getopt_long(argc, argv, "Vh", table, NULL)) != -1;)
        if (option == OPTION_SET && sp_settings_parse(&o->settings, optarg, error, sizeof error))
            return bad("--set %s: %s", optarg, error);
    return OPTIONS_RUN;
}

enum options_result options_parse(struct options *o, int argc, char **argv) {
    enum options_result r = OPTIONS_RUN;
    *o = (struct options){.ready_fd = -1};
    sp_settings_init(&o->settings);
    for (int option; r == OPTIONS_RUN && (option = getopt_long(argc, argv, "Vh", table, NULL)) != -1;)
        r = take(o, option, optarg);
    if (r != OPTIONS_RUN)
        return r;
    if (optind < argc)
        return bad("%s: no arguments are taken", argv[optind]);
    if (o->alive && !o->owner_pid)
        return bad("--alive: needs --owner-pid");
    r = read_config(o);
    if (r == OPTIONS_RUN)
        r = read_sets(o, argc, argv);
    if (r != OPTIONS_RUN)
        return r;
    return *o->socket ? OPTIONS_RUN : set_default_socket(o);
}
