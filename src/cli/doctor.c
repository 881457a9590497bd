/* SPDX-License-Identifier: MIT */
/*
 * `samepage doctor`: what this machine offers, what is missing, and how to get it. Looks only: it changes
 * nothing. One table of checks; each is tried for real where it can be (a version number says little about a
 * patched kernel or a sandbox), as the user who asks, for a program which that user starts.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/places.h"
#include "core/settings.h"
#include "os/pagemap.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/store.h"
#include "os/uffd.h"

#define KERNEL_NEEDED         ((6u << 16) | (8u << 8))
#define MAPPINGS_DEFAULT      65530
#define CAPABILITY_PTRACE_BIT 19 /* CAP_SYS_PTRACE (capability.h): what userfaultfd(2) asks for */

enum { OPTION_JSON };

static const struct sp_option options[] = {
    [OPTION_JSON] = {"json", 'j', NULL, "print the findings as JSON"},
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

static int doctor_main(const struct sp_command *command, int argc, char **argv);

const struct sp_command sp_command_doctor = {
    .name = "doctor",
    .usage = "[OPTION...]",
    .summary = "look at what this machine offers and what is missing",
    .options = options,
    .notes = "Changes nothing. Exit status 0: all that is needed is there; 1: something is missing.\n",
    .main = doctor_main,
};

enum level { OK, WARN, MISSING };

struct finding {
    enum level level;
    char text[256];
    char advice[256]; /* empty: none */
};

/* What several checks want to know. */
struct machine {
    int uffd_error; /* of a userfaultfd of our own: 0: there */
    uint64_t features;
    bool daemon; /* one for everybody serves us: it hands out /dev/userfaultfd */
    char daemon_path[SP_SOCKET_PATH_BYTES];
};

__attribute__((format(printf, 3, 4))) static void found(struct finding *f, enum level level,
                                                        const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(f->text, sizeof f->text, format, list);
    va_end(list);
    f->level = level;
}

__attribute__((format(printf, 2, 3))) static void advise(struct finding *f, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(f->advice, sizeof f->advice, format, list);
    va_end(list);
}

/* --- Reading ------------------------------------------------------------------------------------------ */

/* The first line of a file in /proc or /sys. */
static bool read_line(const char *path, char *text, int bytes) {
    FILE *file = fopen(path, "re");
    bool good = file && fgets(text, bytes, file);
    if (file)
        fclose(file);
    if (good)
        text[strcspn(text, "\n")] = 0;
    return good;
}

static bool has_ptrace_capability(void) {
    char line[256];
    unsigned long long effective = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "CapEff: %llx", &effective) == 1)
            break;
    if (file)
        fclose(file);
    return effective >> CAPABILITY_PTRACE_BIT & 1;
}

static void look_for_daemon(struct machine *m) {
    struct sp_sockets s;
    if (sp_sockets_system(&s))
        return;
    for (size_t i = 0; i < s.n && !m->daemon; i++) {
        if (sp_socket_serves(s.place[i].path))
            continue;
        m->daemon = true;
        strcpy(m->daemon_path, s.place[i].path);
    }
    sp_sockets_deinit(&s);
}

/* --- Checks ------------------------------------------------------------------------------------------- */

static void check_kernel(const struct machine *m, struct finding *f) {
    uint32_t version;
    bool swap_on;
    int r = sp_proc_kernel(&version, &swap_on);
    if (r) {
        found(f, WARN, "the version cannot be read: %s", strerror(-r));
        return;
    }
    found(f, version >= KERNEL_NEEDED ? OK : MISSING, "Linux %u.%u.%u, 6.8 is needed", version >> 16,
          version >> 8 & 0xff, version & 0xff);
    if (version < KERNEL_NEEDED)
        advise(f, "boot a newer kernel (Debian 12: linux-image-amd64 from bookworm-backports)");
}

static void check_userfaultfd(const struct machine *m, struct finding *f) {
    char sysctl[16] = "";
    (void)read_line("/proc/sys/vm/unprivileged_userfaultfd", sysctl, sizeof sysctl);
    if (!m->uffd_error) {
        found(f, OK, "%s",
              has_ptrace_capability() ? "by userfaultfd(2), as root or with CAP_SYS_PTRACE"
              : !strcmp(sysctl, "1")  ? "by userfaultfd(2), open to every user (vm.unprivileged_userfaultfd)"
                                      : "by /dev/userfaultfd");
        return;
    }
    if (m->uffd_error == -ENOSYS) {
        found(f, MISSING, "this kernel or sandbox has none");
        advise(f, "boot a kernel with CONFIG_USERFAULTFD, or leave the sandbox");
        return;
    }
    if (m->daemon) {
        found(f, OK, "handed out by the daemon at %s", m->daemon_path);
        return;
    }
    found(f, MISSING, "not allowed for this user: %s", strerror(-m->uffd_error));
    advise(f, "run samepaged as root, or as root: chmod o+rw /dev/userfaultfd, or: sysctl "
              "vm.unprivileged_userfaultfd=1");
}

static void check_feature(const struct machine *m, struct finding *f, uint64_t bits, const char *purpose) {
    if (m->uffd_error)
        found(f, WARN, "cannot be tried without userfaultfd");
    else if ((m->features & bits) == bits)
        found(f, OK, "%s", purpose);
    else {
        found(f, MISSING, "not in this kernel: %s", purpose);
        advise(f, "boot Linux 6.8 or later");
    }
}

static void check_move(const struct machine *m, struct finding *f) {
    check_feature(m, f, SP_UFFD_MOVE, "pages can be frozen");
}

static void check_wp_async(const struct machine *m, struct finding *f) {
    check_feature(m, f, SP_UFFD_WP_ASYNC | SP_UFFD_WP_UNPOPULATED, "writes can be noticed");
}

static void check_pagemap_scan(const struct machine *m, struct finding *f) {
    char page[2 * SP_PAGE_SIZE];
    struct sp_range range;
    size_t n;
    int fd, r = sp_pagemap_open(&fd);
    if (!r) {
        uint64_t next, start = ((uintptr_t)page + SP_PAGE_SIZE - 1) & ~(uint64_t)(SP_PAGE_SIZE - 1);
        r = sp_pagemap_scan(fd, SP_PAGEMAP_PRESENT, start, start + SP_PAGE_SIZE, &range, 1, &n, &next);
        (void)sp_close(fd);
    }
    if (!r) {
        found(f, OK, "written pages can be listed");
        return;
    }
    found(f, MISSING, "does not work: %s", strerror(-r));
    advise(f, "boot Linux 6.8 or later, with /proc mounted");
}

static void check_memfd(const struct machine *m, struct finding *f) {
    struct sp_segment s;
    int r = sp_segment_init(&s);
    if (!r) {
        sp_segment_deinit(&s);
        found(f, OK, "the store can be made and handed out read-only");
        return;
    }
    found(f, MISSING, "the store cannot be made: %s", strerror(-r));
    advise(f, "allow memfd_create(2), set vm.memfd_noexec to 0 or 1, mount /proc");
}

static void check_swap(const struct machine *m, struct finding *f) {
    uint32_t version;
    bool swap_on, safe;
    if (sp_proc_kernel(&version, &swap_on) || sp_proc_move_is_safe(&safe)) {
        found(f, WARN, "cannot be read from /proc");
        return;
    }
    if (safe) {
        found(f, OK, "%s", swap_on ? "on, and this kernel moves pages safely beside it" : "off");
        return;
    }
    found(f, MISSING, "on, and this kernel could move a wrong page while it swaps: no merging");
    advise(f, "swapoff -a, or boot Linux 6.16, 6.15.3, 6.12.34 or later");
}

static void check_pressure(const struct machine *m, struct finding *f) {
    uint64_t share;
    int r = sp_proc_pressure(SP_PROC_PRESSURE, &share);
    if (!r) {
        found(f, OK, "the kernel tells: lazy_max_cpu can be used");
        return;
    }
    found(f, WARN, "the kernel does not tell (%s): for lazy_max_cpu there is never any", strerror(-r));
    advise(f, "boot with psi=1, or a kernel with CONFIG_PSI, if lazy_max_cpu is wanted");
}

static void check_mappings(const struct machine *m, struct finding *f) {
    uint64_t max;
    if (sp_proc_max_map_count(&max)) {
        found(f, WARN, "vm.max_map_count cannot be read");
        return;
    }
    uint64_t percent = sp_setting_info[SP_SETTING_map_percent].value_default;
    found(f, max > MAPPINGS_DEFAULT ? OK : WARN,
          "at most %s per process; each run of shared pages costs one, so %s if all are scattered",
          sp_text_number(max), sp_text_bytes(max * percent / 100 * SP_PAGE_SIZE));
    if (max <= MAPPINGS_DEFAULT)
        advise(f, "for programs with many scattered duplicates, as root: sysctl vm.max_map_count=1048576");
}

static void check_seccomp(const struct machine *m, struct finding *f) {
    int mode;
    if (sp_proc_seccomp(&mode))
        found(f, WARN, "cannot be read from /proc");
    else if (!mode)
        found(f, OK, "none here");
    else {
        found(f, MISSING, "one is in force here: programs started here are left alone, lest it kill them");
        advise(f, "start programs outside this sandbox, or run its container with seccomp=unconfined");
    }
}

/* By trying: none of the kernel's settings says it. */
static bool store_can_be_huge(void) {
    static const char page[SP_PAGE_SIZE];
    struct sp_segment segment;
    if (sp_segment_init(&segment))
        return false;
    int r = sp_segment_write(&segment, 0, page);
    if (!r)
        r = sp_segment_huge(&segment, 0);
    sp_segment_deinit(&segment);
    return r == 0;
}

static void check_huge_pages(const struct machine *m, struct finding *f) {
    char line[128], *start, *end;
    if (!read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line) ||
        !(start = strchr(line, '[')) || !(end = strchr(start, ']'))) {
        found(f, OK, "not in this kernel");
        return;
    }
    *end = 0;
    bool kept = store_can_be_huge();
    found(f, kept ? OK : WARN, "%s: those that are equal as a whole %s", start + 1,
          kept ? "are shared as such" : "become small pages, because the store has none");
    if (!kept)
        advise(f, "as root: echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled, if it is deny");
}

static void check_ksm(const struct machine *m, struct finding *f) {
    char line[32];
    if (!read_line("/sys/kernel/mm/ksm/run", line, sizeof line)) {
        found(f, OK, "not in this kernel");
        return;
    }
    if (strcmp(line, "1") != 0) {
        found(f, OK, "off");
        return;
    }
    found(f, WARN, "ksmd runs: both work, but the same memory is scanned, and paid for, twice");
    advise(f, "as root: echo 2 > /sys/kernel/mm/ksm/run (2 also takes its pages apart)");
}

static void check_files(const struct machine *m, struct finding *f) {
    char preload[PATH_MAX], daemon[PATH_MAX];
    if (sp_place_preload(preload))
        found(f, MISSING, SP_PRELOAD_NAME " is not beside this program");
    else if (strpbrk(preload, " :"))
        found(f, MISSING, "the dynamic linker accepts no space or colon in %.200s", preload);
    else if (sp_place_daemon(daemon))
        found(f, MISSING, "samepaged is not beside this program");
    else {
        found(f, OK, "%.200s", preload);
        return;
    }
    advise(f, "install samepage again: make install");
}

static void check_daemon(const struct machine *m, struct finding *f) {
    if (m->daemon) {
        found(f, OK, "listens at %s", m->daemon_path);
        return;
    }
    /* Missing only where nothing works without it: that is what the check of userfaultfd says. */
    found(f, OK, "none runs for everybody: 'samepage run' starts a private one for each command");
}

static const struct check {
    const char *name;
    void (*look)(const struct machine *m, struct finding *f);
} checks[] = {
    {"kernel", check_kernel},
    {"userfaultfd", check_userfaultfd},
    {"UFFDIO_MOVE", check_move},
    {"WP_ASYNC", check_wp_async},
    {"PAGEMAP_SCAN", check_pagemap_scan},
    {"memfd", check_memfd},
    {"swap", check_swap},
    {"memory pressure", check_pressure},
    {"system-call filter", check_seccomp},
    {"mappings", check_mappings},
    {"huge pages", check_huge_pages},
    {"KSM", check_ksm},
    {"files", check_files},
    {"daemon", check_daemon},
};
#define N_CHECKS (sizeof checks / sizeof *checks)

/* --- Showing ------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    enum sp_colour colour;
} levels[] = {[OK] = {"ok", SP_GREEN}, [WARN] = {"warn", SP_YELLOW}, [MISSING] = {"missing", SP_RED}};

static void print_finding(const char *name, const struct finding *f) {
    sp_print_coloured(levels[f->level].colour, 8, levels[f->level].name);
    printf("%-19s %s\n", name, f->text);
    if (*f->advice)
        printf("%-28s-> %s\n", "", f->advice);
}

static int print_json(const struct finding *findings, size_t missing) {
    json_t *list = json_array();
    for (size_t i = 0; i < N_CHECKS; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name", checks[i].name, "level",
                                              levels[findings[i].level].name, "text", findings[i].text,
                                              "advice", findings[i].advice));
    json_t *root = json_pack("{s:b, s:o}", "ready", !missing, "checks", list);
    int r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
    printf("\n");
    json_decref(root);
    return r;
}

static void print_text(const struct finding *findings, size_t missing) {
    for (size_t i = 0; i < N_CHECKS; i++)
        print_finding(checks[i].name, &findings[i]);
    if (missing)
        printf("\n%zu of what is needed %s missing.\n", missing, missing == 1 ? "is" : "are");
    else
        printf("\nAll that is needed is here.\n");
}

static int examine(bool json) {
    struct finding findings[N_CHECKS] = {0};
    struct machine m = {.daemon = false};
    size_t missing = 0;
    m.uffd_error = sp_uffd_features(-1, &m.features);
    look_for_daemon(&m);
    for (size_t i = 0; i < N_CHECKS; i++) {
        checks[i].look(&m, &findings[i]);
        missing += findings[i].level == MISSING;
    }
    int status = missing ? SP_EXIT_FAILURE : SP_EXIT_OK;
    if (!json)
        print_text(findings, missing);
    else if (print_json(findings, missing))
        status = SP_EXIT_FAILURE;
    return sp_output_finish(status);
}

static int doctor_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value;
    bool json = false;
    for (int option; (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        if (option == SP_ARGS_DONE)
            return args.status;
        json = true;
    }
    if (args.next < argc)
        return sp_usage_error(command, "unexpected argument '%s'", argv[args.next]);
    return examine(json);
}
