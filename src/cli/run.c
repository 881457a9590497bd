/* SPDX-License-Identifier: MIT */
/*
 * `samepage run`: finds or starts a daemon, sets the environment that our library reads when the dynamic
 * linker loads it into the command, and becomes the command: the same process, so that its status, signals,
 * streams and children are its own. Only --summary needs a process that waits (cli/supervise.c).
 *
 * The environment: LD_PRELOAD (ours before what was there, an allocator library behind it), SAMEPAGE_SOCKET,
 * SAMEPAGE_ALIVE (a private daemon only), SAMEPAGE_SET (only where something was set), SAMEPAGE_SCOPE (--all
 * and --advised only), SAMEPAGE_VERBOSE (--verbose only), SAMEPAGE_VOUCH (--ksm-files with root's daemon
 * only). Nothing else is changed, but by --ksm-files the namespaces (cli/view.h).
 */
#include "cli/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/heap.h"
#include "cli/places.h"
#include "cli/private.h"
#include "cli/program.h"
#include "cli/view.h"
#include "core/settings.h"
#include "os/socket.h"
#include "os/uffd.h"
#include "os/vouch.h"
#include "preload/scope.h"

enum {
    OPTION_ALL,
    OPTION_ADVISED,
    OPTION_HEAP,
    OPTION_SUMMARY,
    OPTION_SOCKET,
    OPTION_SET,
    OPTION_KSM_FILES,
    OPTION_VERBOSE
};

static const struct sp_option options[] = {
    [OPTION_ALL] = {"all", 'A', NULL, "merge all private anonymous memory of the command and its children"},
    [OPTION_ADVISED] = {"advised", 'a', NULL,
                        "merge only what a program advises itself (MADV_MERGEABLE,\n"
                        "                         PR_SET_MEMORY_MERGE)"},
    [OPTION_HEAP] = {"heap", 'H', "NAME",
                     "with --all: give programs the malloc of that library, so that\n"
                     "                         their heap is merged too: " SP_HEAP_NAMES "\n"
                     "                         (default: " SP_HEAP_DEFAULT_NAME " where it is installed)"},
    [OPTION_SUMMARY] = {"summary", 's', NULL, "print one line on standard error at the end"},
    [OPTION_SOCKET] = {"socket", 'S', "PATH", "use the daemon that listens there"},
    [OPTION_SET] = {"set", 0, "KEY=VALUE", "change a setting; may be repeated"},
    [OPTION_KSM_FILES] = {"ksm-files", 0, NULL,
                          "show the command the daemon's files at " SP_VIEW_DIRECTORY ",\n"
                          "                         in a mount namespace of its own"},
    [OPTION_VERBOSE] = {"verbose", 'v', NULL, "say which daemon is used; show a private daemon's log"},
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

static int run_main(const struct sp_command *command, int argc, char **argv);

const struct sp_command sp_command_run = {
    .name = "run",
    .usage = "[OPTION...] [--] COMMAND [ARGUMENT...]",
    .summary = "run a command; it and its children share identical memory",
    .options = options,
    .notes =
        "The daemon: --socket, else SAMEPAGE_SOCKET, else one that listens at\n"
        "$XDG_RUNTIME_DIR/samepage/socket or /run/samepage/socket, else a private one is started, which\n"
        "ends with the last of the processes. Settings are for a private one: any other has its own.\n\n"
        "What is merged: --all or --advised, else what SAMEPAGE_SCOPE says, else --" SP_SCOPE_DEFAULT_TEXT
        ".\n"
        "With --all a program joins when it is worker_start_millisecs old: compilers, scripts and the like\n"
        "end before, and would pay for what nobody has anything of.\n\n"
        "The command gets LD_PRELOAD, SAMEPAGE_SOCKET, SAMEPAGE_MERGE_ANY, and where they apply "
        "SAMEPAGE_ALIVE,\n"
        "SAMEPAGE_SET, SAMEPAGE_SCOPE, SAMEPAGE_VERBOSE and SAMEPAGE_VOUCH in its environment.\n\n"
        "--summary tells of all programs of this user that share at that daemon while the command runs; a\n"
        "private daemon has those of the command only.\n\n"
        "Exit status: the command's; 125 when samepage fails itself or a setting is wrong, 126 when the\n"
        "command cannot be executed, 127 when it is not found, 2 for wrong usage.\n",
    .main = run_main,
};

struct run_options {
    bool summary, verbose;
    bool ksm_files;
    bool set_here; /* --set was given */
    const char *socket;
    const char *scope;          /* NULL: neither --all nor --advised */
    const struct sp_heap *heap; /* NULL: no --heap */
    char *set;                  /* "KEY=VALUE,...": SAMEPAGE_SET and then each --set; NULL: none */
};

static int fail(const char *what, const char *why) {
    sp_complain(&sp_command_run, "%s: %s", what, why);
    return SP_EXIT_RUN_FAILED;
}

int sp_job_failed(const struct sp_job *job, int error) {
    if (error == -ENOENT || error == -ENOTDIR) {
        /* The kernel says the same of what a script's first line or an ELF file asks for (execve(2)). */
        bool there = *job->path && !access(job->path, F_OK);
        sp_complain(&sp_command_run, "%s: %s", job->name,
                    there ? "its interpreter, that of its first line or its dynamic linker, was not found"
                          : "not found");
        return SP_EXIT_NOT_FOUND;
    }
    sp_complain(&sp_command_run, "%s: %s", job->name,
                error == -EACCES   ? "not executable: permission denied"
                : error == -EISDIR ? "not executable: it is a directory"
                                   : strerror(-error));
    return SP_EXIT_NOT_EXECUTABLE;
}

/* --- Options ----------------------------------------------------------------------------------------- */

/* Appends to a list of settings ("KEY=VALUE,...", NULL: empty) after checking that `text` is valid. Returns 0
 * or an exit status. */
static int add_settings(char **list, const char *origin, const char *text) {
    struct sp_settings scratch;
    char error[256], *all;
    sp_settings_init(&scratch);
    if (sp_settings_parse(&scratch, text, error, sizeof error))
        return fail(origin, error);
    if (asprintf(&all, "%s%s%s", *list ? *list : "", *list ? "," : "", text) < 0)
        return fail(origin, strerror(ENOMEM));
    free(*list);
    *list = all;
    return 0;
}

/* What the environment sets already comes first: the later one counts. */
static int add_inherited(struct run_options *o) {
    const char *inherited = getenv("SAMEPAGE_SET");
    char *all = NULL;
    if (!inherited || !*inherited)
        return 0;
    int status = add_settings(&all, "SAMEPAGE_SET in the environment", inherited);
    if (!status && o->set)
        status = add_settings(&all, "--set", o->set);
    if (status) {
        free(all);
        return status;
    }
    free(o->set);
    o->set = all;
    return 0;
}

/* Inherited and wrong: the shim would merge nothing, and say nothing. */
static int check_scope(void) {
    enum sp_scope scope;
    if (sp_scope_parse(getenv("SAMEPAGE_SCOPE"), &scope))
        return 0;
    return fail("SAMEPAGE_SCOPE in the environment", "neither 'all' nor 'advised'");
}

static int take_option(struct run_options *o, int option, const char *value) {
    switch (option) {
    case OPTION_ALL:
    case OPTION_ADVISED:
        o->scope = option == OPTION_ALL ? "all" : "advised";
        return 0;
    case OPTION_HEAP:
        o->heap = sp_heap_find(value);
        if (!o->heap)
            return sp_usage_error(&sp_command_run, "option '--heap': '%s' is none of " SP_HEAP_NAMES, value);
        return 0;
    case OPTION_SUMMARY:
        o->summary = true;
        return 0;
    case OPTION_VERBOSE:
        o->verbose = true;
        return 0;
    case OPTION_KSM_FILES:
        o->ksm_files = true;
        return 0;
    case OPTION_SOCKET:
        if (!*value)
            return sp_usage_error(&sp_command_run, "option '--socket' needs a path");
        o->socket = value;
        return 0;
    case OPTION_SET:
        o->set_here = true;
        return add_settings(&o->set, "--set", value);
    default:
        return 0;
    }
}

/* --- Which daemon ------------------------------------------------------------------------------------ */

static int try_connect(const char *path) {
    struct sp_vouch vouch = sp_vouch_parse(getenv("SAMEPAGE_VOUCH"));
    int fd, r = sp_vouch_connect(path, &vouch, &fd);
    if (!r)
        (void)sp_close(fd);
    return r;
}

static bool use_system(char ret_path[SP_SOCKET_PATH_BYTES]) {
    struct sp_sockets s;
    bool found = false;
    if (sp_sockets_system(&s))
        return false;
    for (size_t i = 0; i < s.n && !found; i++) {
        found = !try_connect(s.place[i].path) && !sp_socket_serves(s.place[i].path);
        if (found)
            strcpy(ret_path, s.place[i].path);
    }
    sp_sockets_deinit(&s);
    return found;
}

/* A private daemon has no more rights than we have: without userfaultfd here it could not help. */
static bool can_merge(void) {
    uint64_t features = 0;
    int r = sp_uffd_features(-1, &features);
    if (!r && (features & SP_UFFD_NEEDED) == SP_UFFD_NEEDED)
        return true;
    sp_complain(&sp_command_run, "nothing will be merged: %s; see 'samepage doctor'",
                !r             ? "this kernel's userfaultfd lacks UFFDIO_MOVE (Linux 6.8 has it)"
                : r == -ENOSYS ? "this kernel has no userfaultfd"
                               : "no access to userfaultfd, and no daemon that has it");
    return false;
}

struct daemon_choice {
    bool use; /* false: the command runs without */
    bool private_started;
    char socket[SP_SOCKET_PATH_BYTES]; /* absolute: the command may go elsewhere */
    struct sp_private private;
};

static int use_named(struct daemon_choice *c, const char *origin, const char *path) {
    char cwd[PATH_MAX] = "";
    bool full = path[0] == '/';
    int r = try_connect(path);
    /* What is wrong otherwise the library in the command finds out, which goes on trying. */
    if (!r && sp_socket_serves(path) == -EACCES)
        r = -EACCES;
    if (!r && !full && !getcwd(cwd, sizeof cwd))
        r = -errno;
    if (!r &&
        snprintf(c->socket, sizeof c->socket, "%s%s%s", cwd, full ? "" : "/", path) >= (int)sizeof c->socket)
        r = -ENAMETOOLONG;
    c->use = !r;
    if (!r)
        return 0;
    sp_complain(&sp_command_run, "cannot reach a daemon at %s (from %s): %s", path, origin, sp_socket_why(r));
    return SP_EXIT_RUN_FAILED;
}

/* 0 or an exit status. */
static int choose_daemon(const struct run_options *o, struct daemon_choice *c) {
    const char *named = getenv("SAMEPAGE_SOCKET");
    if (o->socket)
        return use_named(c, "--socket", o->socket);
    if (named && *named)
        return use_named(c, "SAMEPAGE_SOCKET in the environment", named);
    c->use = use_system(c->socket);
    if (c->use || !can_merge())
        return 0;
    if (sp_private_start(&c->private, o->set, o->verbose))
        return fail("cannot start a private daemon", c->private.error);
    c->use = c->private_started = true;
    strcpy(c->socket, c->private.socket);
    return 0;
}

/* --- Environment ------------------------------------------------------------------------------------- */

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; *p; p += strcspn(p, " :"), p += strspn(p, " :"))
        if (strcspn(p, " :") == n && !strncmp(p, word, n))
            return true;
    return false;
}

static int set_preload(void) {
    char path[PATH_MAX], *all;
    const char *before = getenv("LD_PRELOAD");
    if (sp_place_preload(path))
        return fail(SP_PRELOAD_NAME, "is not beside this program: reinstall samepage");
    if (strpbrk(path, " :"))
        return fail(path, "the dynamic linker accepts no path with a space or a colon (ld.so(8))");
    if (before && has_word(before, path))
        return 0;
    if (asprintf(&all, "%s%s%s", path, before && *before ? ":" : "", before ? before : "") < 0)
        return fail("LD_PRELOAD", strerror(ENOMEM));
    int r = setenv("LD_PRELOAD", all, 1);
    free(all);
    return r ? fail("LD_PRELOAD", strerror(ENOMEM)) : 0;
}

/* What will hold for the command, the environment included. */
static enum sp_scope scope_of(const struct run_options *o) {
    enum sp_scope scope = SP_SCOPE_DEFAULT;
    (void)sp_scope_parse(o->scope ? o->scope : getenv("SAMEPAGE_SCOPE"), &scope);
    return scope;
}

/* The library stands last: an allocator that the user preloads goes first. */
static int append_preload(const char *path) {
    char *all;
    const char *before = getenv("LD_PRELOAD");
    if (before && has_word(before, path))
        return 0;
    if (asprintf(&all, "%s%s%s", before && *before ? before : "", before && *before ? ":" : "", path) < 0)
        return fail("LD_PRELOAD", strerror(ENOMEM));
    int r = setenv("LD_PRELOAD", all, 1);
    free(all);
    return r ? fail("LD_PRELOAD", strerror(ENOMEM)) : 0;
}

static int use_heap(const struct sp_heap *heap, const char *path) {
    if (heap->variable && setenv(heap->variable, heap->value, 0))
        return fail(heap->variable, strerror(errno));
    return append_preload(path);
}

/* 0 or an exit status. A library that was asked for must be there; the default need not. */
static int set_heap(const struct run_options *o) {
    const struct sp_heap *heap = o->heap ? o->heap : sp_heap_find(SP_HEAP_DEFAULT_NAME);
    char path[PATH_MAX];
    if (scope_of(o) != SP_SCOPE_ALL || !heap->file)
        return 0;
    if (!sp_heap_path(heap, path)) {
        if (o->verbose)
            sp_complain(&sp_command_run, "heap: %s", path);
        return use_heap(heap, path);
    }
    if (o->heap) {
        sp_complain(&sp_command_run, "--heap=%s: %s is not installed: apt-get install %s", heap->name,
                    heap->file, heap->package);
        return SP_EXIT_RUN_FAILED;
    }
    if (o->verbose)
        sp_complain(&sp_command_run, "heap: not merged, %s is not installed (package %s)", heap->file,
                    heap->package);
    return 0;
}

static int set_environment(const struct run_options *o, const struct daemon_choice *c) {
    int status = set_preload();
    if (!status)
        status = set_heap(o);
    if (status)
        return status;
    /* An outer private daemon's file means nothing to another daemon. */
    if (o->socket || c->private_started)
        unsetenv("SAMEPAGE_ALIVE");
    if (setenv("SAMEPAGE_SOCKET", c->socket, 1) ||
        (c->private_started && setenv("SAMEPAGE_ALIVE", c->private.alive, 1)) ||
        (o->set && setenv("SAMEPAGE_SET", o->set, 1)) ||
        (o->scope && setenv("SAMEPAGE_SCOPE", o->scope, 1)) || setenv("SAMEPAGE_MERGE_ANY", "0", 0) ||
        (o->verbose && setenv("SAMEPAGE_VERBOSE", "1", 1)))
        return fail("environment", strerror(errno));
    return 0;
}

/* --- run --------------------------------------------------------------------------------------------- */

static void warn_kind(const struct sp_job *job) {
    enum sp_program_kind kind = sp_program_kind(job->path);
    if (kind != SP_PROGRAM_FINE)
        sp_complain(&sp_command_run, "%s %s: its memory cannot be merged, only that of programs it starts",
                    job->name, sp_program_kind_text(kind));
}

static int prepare_daemon(const struct run_options *o, struct daemon_choice *c, struct sp_job *job) {
    int status = choose_daemon(o, c);
    if (status || !c->use)
        return status;
    job->socket = c->socket;
    if (o->verbose)
        sp_complain(&sp_command_run, "%s daemon at %s", c->private_started ? "private" : "using the",
                    c->socket);
    if (o->set_here && !c->private_started)
        sp_complain(&sp_command_run, "--set: the daemon at %s has settings of its own, which replace these",
                    c->socket);
    warn_kind(job);
    return set_environment(o, c);
}

/* Where root has no number a daemon of root's is known by its directory. One that nobody can vouch for, its
 * directory being others' as well, is not believed there, and the command not merged. */
static int set_vouch(const struct daemon_choice *c) {
    struct sp_vouch vouch;
    char text[SP_VOUCH_TEXT_BYTES];
    if (sp_vouch_make(c->socket, &vouch))
        return 0;
    sp_vouch_text(&vouch, text);
    return setenv("SAMEPAGE_VOUCH", text, 1) ? fail("environment", strerror(errno)) : 0;
}

/* 0 or an exit status. Last, as from here on this process has other rights. */
static int show_files(const struct run_options *o, const struct daemon_choice *c) {
    char error[512];
    if (!o->ksm_files)
        return 0;
    if (!c->use)
        return fail("--ksm-files", "there is no daemon that would serve them");
    int status = set_vouch(c);
    if (status)
        return status;
    return sp_view_enter(c->socket, error, sizeof error) ? fail("--ksm-files", error) : 0;
}

static int run(const struct run_options *o, char **argv) {
    char path[PATH_MAX] = "";
    struct daemon_choice choice = {.use = false};
    struct sp_job job = {.name = argv[0], .path = path, .argv = argv};
    int r = sp_program_find(argv[0], path);
    if (r)
        return sp_job_failed(&job, r);
    int status = prepare_daemon(o, &choice, &job);
    if (!status)
        status = show_files(o, &choice);
    if (status)
        return status;
    if (o->summary)
        return sp_supervise(&job);
    return sp_job_failed(&job, sp_program_exec(path, argv));
}

/* SP_ARGS_END: go on; SP_ARGS_DONE: end with args->status. */
static int parse(struct run_options *o, struct sp_args *args) {
    const char *value;
    for (;;) {
        int option = sp_args_next(args, &value);
        if (option < 0)
            return option;
        args->status = take_option(o, option, value);
        if (args->status)
            return SP_ARGS_DONE;
    }
}

static int run_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    struct run_options o = {0};
    int status;
    if (parse(&o, &args) == SP_ARGS_DONE)
        status = args.status;
    else if (args.next == argc)
        status = sp_usage_error(command, "no command to run");
    else if (o.heap && o.heap->file && scope_of(&o) != SP_SCOPE_ALL)
        status = sp_usage_error(command, "option '--heap' needs '--all'");
    else if (!(status = add_inherited(&o)) && (o.scope || !(status = check_scope())))
        status = run(&o, argv + args.next);
    free(o.set);
    return status;
}
