/* SPDX-License-Identifier: MIT */
/*
 * What the kernel makes of a worker that is a process of its own and shares only the program's memory
 * (clone(CLONE_VM) alone), beside one that is a thread of the program: the facts that docs/worker.md weighs.
 * Each case runs in a child, which plays the program; its worker does what it is asked to, a function at a
 * time.
 */
#include "os_test.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include "os/lock.h"
#include "os/thread.h"

#define PROCESS CLONE_VM
#define THREAD  (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
#define STACK   ((size_t)64 * 1024)

struct worker {
    pid_t id; /* of the process, or of the thread */
    bool outlives;
    long (*call)(void *arg);
    void *arg;
    long result;
    struct sp_event asked, answered;
    char *stack;
};

static int worker_main(void *p) {
    struct worker *w = p;
    /* A case that fails leaves nobody behind. A thread is ended by the program's end anyway. */
    if (!w->outlives && sp_syscall(SYS_gettid) == sp_syscall(SYS_getpid))
        sp_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    for (uint32_t seen = 0;; seen++) {
        sp_event_wait(&w->asked, seen, UINT64_MAX);
        if (!w->call)
            return 0;
        w->result = w->call(w->arg);
        sp_event_post(&w->answered);
    }
}

static void worker_tell(struct worker *w, long (*call)(void *arg), void *arg) {
    w->call = call;
    w->arg = arg;
    sp_event_post(&w->asked);
}

/* The memory, and with it private futexes, are shared: this is how the two talk throughout. */
static long worker_ask(struct worker *w, long (*call)(void *arg), void *arg) {
    uint32_t seen = w->answered.word;
    worker_tell(w, call, arg);
    sp_event_wait(&w->answered, seen, UINT64_MAX);
    return w->result;
}

static long own_pid(void *arg) {
    return sp_syscall(SYS_getpid);
}

/* With every signal blocked, as ours is; returns when it runs. 0 or a negative errno. */
static int worker_start(struct worker *w, int flags) {
    sigset_t all, old;
    w->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    w->id = clone(worker_main, w->stack + STACK, flags, w);
    int r = w->id < 0 ? -errno : 0;
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (r == 0)
        worker_ask(w, own_pid, NULL);
    return r;
}

static void worker_end(struct worker *w) {
    worker_tell(w, NULL, NULL);
}

static bool exists(pid_t id) {
    return sp_syscall(SYS_tkill, id, 0) == 0;
}

static size_t read_proc(pid_t pid, const char *name, char *text, size_t room) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[n < 0 ? 0 : n] = '\0';
    return n < 0 ? 0 : (size_t)n;
}

static long status_of(pid_t pid, const char *key) {
    char text[4096];
    read_proc(pid, "status", text, sizeof(text));
    const char *at = strstr(text, key);
    return at ? atol(at + strlen(key)) : -1;
}

/* ---- what the program and others see of it ---- */

static int count(void *arg) {
    struct worker p = {0}, t = {0};
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(worker_ask(&p, own_pid, NULL) == p.id && p.id != getpid());
    CHILD_CHECK(status_of(getpid(), "\nThreads:") == 1);
    CHILD_CHECK(worker_start(&t, THREAD) == 0);
    CHILD_CHECK(worker_ask(&t, own_pid, NULL) == getpid());
    CHILD_CHECK(status_of(getpid(), "\nThreads:") == 2);
    return 0;
}

static void a_process_is_not_counted_as_a_thread(void **state) {
    assert_int_equal(in_child(count, NULL), 0);
}

/* As a process with the program's name, arguments and size. */
static int look_alike(void *arg) {
    struct worker p = {0};
    char mine[4096], its[4096];
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(read_proc(getpid(), "cmdline", mine, sizeof(mine)) > 1);
    read_proc(p.id, "cmdline", its, sizeof(its));
    CHILD_CHECK(strcmp(mine, its) == 0);
    read_proc(getpid(), "statm", mine, sizeof(mine));
    read_proc(p.id, "statm", its, sizeof(its));
    CHILD_CHECK(strcmp(mine, its) == 0); /* whoever adds up counts it twice */
    /* The kernel's choice of whom to kill: whoever of the two is chosen, both die (__oom_kill_process). */
    read_proc(getpid(), "oom_score", mine, sizeof(mine));
    read_proc(p.id, "oom_score", its, sizeof(its));
    CHILD_CHECK(strcmp(mine, its) == 0);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    CHILD_CHECK(write(fd, "567", 3) == 3);
    read_proc(p.id, "oom_score_adj", its, sizeof(its));
    CHILD_CHECK(strcmp("567\n", its) == 0);
    return 0;
}

static void others_see_the_program_twice(void **state) {
    assert_int_equal(in_child(look_alike, NULL), 0);
}

static volatile sig_atomic_t sigchld_seen;

static void on_sigchld(int signal) {
    sigchld_seen = 1;
}

static int wait_for_it(void *arg) {
    struct worker p = {0};
    siginfo_t info;
    signal(SIGCHLD, on_sigchld);
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    /* Who asks for children of every kind is told of one, and would wait for it. */
    CHILD_CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == 0);
    worker_end(&p);
    CHILD_CHECK(waitid(P_PID, (id_t)p.id, &info, WEXITED | WNOWAIT | __WALL) == 0);
    CHILD_CHECK(!sigchld_seen);
    CHILD_CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    CHILD_CHECK(exists(p.id)); /* a zombie, which somebody must know of */
    CHILD_CHECK(waitpid(p.id, NULL, __WALL) == p.id);
    CHILD_CHECK(!exists(p.id));
    return 0;
}

static void wait_does_not_see_it_unless_it_waits_for_all(void **state) {
    assert_int_equal(in_child(wait_for_it, NULL), 0);
}

static int one_thread_only(void *arg) {
    int form = *(int *)arg;
    struct worker w = {0};
    CHILD_CHECK(worker_start(&w, form) == 0);
    int want = form == PROCESS ? 0 : -EINVAL;
    CHILD_CHECK(sp_syscall(SYS_unshare, CLONE_NEWUSER) == want);
    CHILD_CHECK(sp_syscall(SYS_unshare, CLONE_VM) == -EINVAL);
    return 0;
}

static void unsharing_users_minds_threads_only(void **state) {
    int forms[] = {PROCESS, THREAD};
    assert_int_equal(in_child(one_thread_only, &forms[0]), 0);
    assert_int_equal(in_child(one_thread_only, &forms[1]), 0);
}

/* What asks whether anybody shares the memory (current_is_single_threaded) refuses both. */
static int enter_time(void *arg) {
    struct worker p = {0};
    CHILD_CHECK(sp_syscall(SYS_unshare, CLONE_NEWTIME) == 0);
    int fd = open("/proc/self/ns/time_for_children", O_RDONLY);
    CHILD_CHECK(fd >= 0);
    CHILD_CHECK(sp_syscall(SYS_setns, fd, CLONE_NEWTIME) == 0);
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(sp_syscall(SYS_setns, fd, CLONE_NEWTIME) == -EUSERS);
    return 0;
}

static void entering_a_time_namespace_minds_both(void **state) {
    if (getuid())
        NOT_HERE("only root makes time namespaces");
    assert_int_equal(in_child(enter_time, NULL), 0);
}

/* Instead of the child that the program is about to make; and with its end the namespace ends. */
static int first_of_namespace(void *arg) {
    struct worker p = {0}, t = {0};
    CHILD_CHECK(sp_syscall(SYS_unshare, CLONE_NEWPID) == 0);
    CHILD_CHECK(worker_start(&t, THREAD) == -EINVAL);
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(worker_ask(&p, own_pid, NULL) == 1);
    worker_end(&p);
    CHILD_CHECK(waitpid(p.id, NULL, __WALL) == p.id);
    CHILD_CHECK(fork() < 0 && errno == ENOMEM);
    return 0;
}

static void it_becomes_the_first_of_a_pid_namespace(void **state) {
    if (getuid())
        NOT_HERE("only root makes pid namespaces");
    assert_int_equal(in_child(first_of_namespace, NULL), 0);
}

struct followed {
    int flags;
    bool seen;
};

static int start_traced(void *arg) {
    struct followed *f = arg;
    struct worker w = {.outlives = false};
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    CHILD_CHECK(worker_start(&w, f->flags) == 0);
    return 0;
}

/* strace -f, gdb. Returns the exit status of the traced program. */
static int trace(struct followed *f) {
    pid_t pid = fork(), who;
    int status, result = -1;
    if (pid == 0)
        _exit(start_traced(f));
    waitpid(pid, &status, 0);
    ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, pid, NULL, NULL);
    while ((who = waitpid(-1, &status, __WALL)) > 0) {
        if (WIFSTOPPED(status)) {
            f->seen |= status >> 8 == (SIGTRAP | PTRACE_EVENT_CLONE << 8);
            ptrace(PTRACE_CONT, who, NULL, NULL);
        } else if (who == pid) {
            result = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        }
    }
    return result;
}

static void a_tracer_follows_unless_it_is_untraced(void **state) {
    struct followed f = {.flags = PROCESS}, u = {.flags = PROCESS | CLONE_UNTRACED};
    assert_int_equal(trace(&f), 0);
    assert_true(f.seen);
    assert_int_equal(trace(&u), 0);
    assert_false(u.seen);
}

/* ---- what it has of its own ---- */

static long open_null(void *arg) {
    return sp_syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY);
}

static int limit_files(void *arg) {
    struct worker p = {0}, t = {0};
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(worker_start(&t, THREAD) == 0);
    CHILD_CHECK(worker_ask(&p, open_null, NULL) == worker_ask(&t, open_null, NULL)); /* tables are two */
    struct rlimit none = {0};
    CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHILD_CHECK(worker_ask(&t, open_null, NULL) == -EMFILE);
    CHILD_CHECK(worker_ask(&p, open_null, NULL) >= 0);
    return 0;
}

static void limits_do_not_reach_it(void **state) {
    assert_int_equal(in_child(limit_files, NULL), 0);
}

static long burn(void *arg) {
    uint64_t until = sp_thread_cpu_ns() + 100000000;
    while (sp_thread_cpu_ns() < until)
        ;
    return 0;
}

static int use_processor(void *arg) {
    struct worker p = {0}, t = {0};
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(worker_start(&t, THREAD) == 0);
    uint64_t before = sp_process_cpu_ns();
    worker_ask(&p, burn, NULL);
    CHILD_CHECK(sp_process_cpu_ns() - before < 100000000);
    worker_ask(&t, burn, NULL);
    CHILD_CHECK(sp_process_cpu_ns() - before >= 100000000);
    return 0;
}

static void its_time_is_not_the_programs(void **state) {
    assert_int_equal(in_child(use_processor, NULL), 0);
}

/* Answers getppid with EPERM. With TSYNC: in every thread. */
static long filter(unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return sp_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static long own_parent(void *arg) {
    return sp_syscall(SYS_getppid);
}

static int filter_all(void *arg) {
    struct worker p = {0}, t = {0}, late = {0};
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(worker_start(&t, THREAD) == 0);
    CHILD_CHECK(filter(SECCOMP_FILTER_FLAG_TSYNC) == 0);
    CHILD_CHECK(own_parent(NULL) == -EPERM);
    CHILD_CHECK(worker_ask(&t, own_parent, NULL) == -EPERM);
    /* The other side of it: who is bound needs only to write to the worker's stack, which is its own memory,
     * to have made whatever calls it was forbidden. */
    CHILD_CHECK(worker_ask(&p, own_parent, NULL) == getpid());
    CHILD_CHECK(worker_start(&late, PROCESS) == 0);
    CHILD_CHECK(worker_ask(&late, own_parent, NULL) == -EPERM);
    return 0;
}

static void a_filter_for_all_threads_does_not_bind_it(void **state) {
    assert_int_equal(in_child(filter_all, NULL), 0);
}

static int become_another(void *arg) {
    struct worker p = {0}, t = {0};
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    CHILD_CHECK(worker_start(&t, THREAD) == 0);
    CHILD_CHECK(sp_syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0); /* of this thread alone */
    CHILD_CHECK(sp_syscall(SYS_tkill, t.id, SIGURG) == 0);
    CHILD_CHECK(sp_syscall(SYS_tkill, p.id, SIGURG) == -EPERM);
    /* Still there for owner_is_dead and sp_wake_alive, which ask for ESRCH. */
    CHILD_CHECK(sp_syscall(SYS_tkill, p.id, 0) == -EPERM);
    worker_end(&p);
    return 0;
}

static void who_has_become_another_cannot_wake_it(void **state) {
    if (getuid())
        NOT_HERE("only root can become somebody else");
    assert_int_equal(in_child(become_another, NULL), 0);
}

/* ---- its death, and what is frozen then ---- */

struct frozen {
    char *page, *scratch;
    int fd;
};

static long freeze_page(void *arg) {
    struct frozen *f = arg;
    size_t moved;
    f->fd = uffd_new(0);
    int r = sp_uffd_register(f->fd, (uintptr_t)f->scratch, PAGE, SP_UFFD_MODE_MISSING);
    if (r == 0)
        r = sp_uffd_register(f->fd, (uintptr_t)f->page, PAGE, SP_UFFD_MODE_MISSING);
    if (r == 0)
        r = sp_uffd_move(f->fd, -1, (uintptr_t)f->scratch, (uintptr_t)f->page, PAGE, &moved);
    return r;
}

static int kill_alone(void *arg) {
    int form = *(int *)arg;
    struct worker w = {0};
    struct frozen f = {pages_new(1), pages_new(1), -1};
    page_fill(f.page, 1, 1);
    CHILD_CHECK(worker_start(&w, form) == 0);
    CHILD_CHECK(worker_ask(&w, freeze_page, &f) == 0);
    sp_syscall(SYS_tkill, w.id, SIGKILL);
    if (form == PROCESS)
        CHILD_CHECK(waitpid(w.id, NULL, __WALL) == w.id);
    else
        sp_sleep_ns(UINT64_C(10000000000)); /* not survived */
    return page_is_zero(f.page) ? 77 : 0;
}

static void killed_alone_it_takes_frozen_pages_with_it(void **state) {
    int forms[] = {PROCESS, THREAD};
    assert_int_equal(in_child(kill_alone, &forms[0]), 77); /* the program runs on, with zeros */
    assert_int_equal(in_child(kill_alone, &forms[1]), -1); /* nobody is left to read them */
}

static long trap(void *arg) {
#if defined(__x86_64__)
    __asm__ volatile("int3");
#else
    __asm__ volatile("brk #0");
#endif
    return 0;
}

/* A breakpoint that a debugger has set in memory which both run in, and does not trace. */
static int run_into_trap(void *arg) {
    struct worker p = {0};
    int status;
    struct rlimit none = {0};
    CHILD_CHECK(setrlimit(RLIMIT_CORE, &none) == 0);
    CHILD_CHECK(worker_start(&p, PROCESS) == 0);
    worker_tell(&p, trap, NULL);
    CHILD_CHECK(waitpid(p.id, &status, __WALL) == p.id);
    CHILD_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTRAP);
    return 0;
}

static void a_trap_ends_it_alone(void **state) {
    assert_int_equal(in_child(run_into_trap, NULL), 0);
}

static long own_group(void *arg) {
    return sp_syscall(SYS_getpgid, 0);
}

static long leave_session(void *arg) {
    return sp_syscall(SYS_setsid);
}

static int change_group(void *arg) {
    struct worker left = {0}, own = {0};
    setpgid(0, 0);
    CHILD_CHECK(worker_start(&left, PROCESS) == 0);
    CHILD_CHECK(worker_start(&own, PROCESS) == 0);
    CHILD_CHECK(worker_ask(&left, own_group, NULL) == getpid()); /* kill(-pgid) of others reaches it */
    CHILD_CHECK(worker_ask(&own, leave_session, NULL) == own.id);
    CHILD_CHECK(worker_ask(&own, own_group, NULL) == own.id);
    signal(SIGTERM, SIG_IGN);
    CHILD_CHECK(kill(-getpid(), SIGTERM) == 0);
    CHILD_CHECK(status_of(left.id, "\nPPid:") == getpid() && status_of(own.id, "\nPPid:") == getpid());
    return 0;
}

static void it_is_in_the_programs_group_until_it_leaves(void **state) {
    assert_int_equal(in_child(change_group, NULL), 0);
}

static long own_pending(void *arg) {
    uint64_t pending = 0;
    sp_syscall(SYS_rt_sigpending, &pending, sizeof(pending));
    return (pending & UINT64_C(1) << (SIGUSR1 - 1)) != 0;
}

static long ask_death_signal(void *arg) {
    return sp_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1);
}

static void *start_and_end(void *p) {
    struct worker *w = p;
    if (worker_start(w, PROCESS) == 0)
        worker_ask(w, ask_death_signal, NULL);
    return NULL;
}

/* So PR_SET_PDEATHSIG says nothing of the program's end, and must not be SIGKILL. */
static int starter_ends(void *arg) {
    struct worker w = {0};
    pthread_t thread;
    CHILD_CHECK(pthread_create(&thread, NULL, start_and_end, &w) == 0);
    CHILD_CHECK(pthread_join(thread, NULL) == 0);
    while (status_of(getpid(), "\nThreads:") > 1)
        sched_yield();
    CHILD_CHECK(worker_ask(&w, own_pending, NULL) == 1);
    CHILD_CHECK(worker_ask(&w, own_parent, NULL) == getpid());
    worker_end(&w);
    return 0;
}

static void the_death_signal_is_of_the_thread_that_started_it(void **state) {
    assert_int_equal(in_child(starter_ends, NULL), 0);
}

/* ---- the program stops, ends, becomes another: the worker goes on ---- */

/* Told by the worker, in memory that the test shares with it. */
struct told {
    volatile uint32_t moves; /* of a page to scratch and back */
    volatile int worker, parent, ended, other_memory, resident_pages;
    volatile uint32_t thread_word; /* clear_child_tid of the program's only thread */
};

struct watch {
    struct told *told;
    pid_t program;
    uint32_t thread_word;
    struct frozen f;
};

static long watch(void *arg) {
    struct watch *w = arg;
    struct told *told = w->told;
    size_t moved;
    uintptr_t a = (uintptr_t)w->f.page, b = (uintptr_t)w->f.scratch;
    int pidfd = (int)sp_syscall(SYS_pidfd_open, w->program, 0);
    if (freeze_page(&w->f) || pidfd < 0)
        return -1;
    told->worker = (int)sp_syscall(SYS_getpid);
    for (;;) {
        uintptr_t t = a;
        if (sp_uffd_move(w->f.fd, -1, a, b, PAGE, &moved))
            return -1;
        a = b;
        b = t;
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        told->ended = sp_syscall(SYS_poll, &p, 1, 0) == 1;
        told->parent = (int)sp_syscall(SYS_getppid);
        long order = sp_syscall(SYS_kcmp, w->program, sp_syscall(SYS_getpid), KCMP_VM, 0, 0);
        told->other_memory = order > 0;
        told->thread_word = __atomic_load_n(&w->thread_word, __ATOMIC_RELAXED);
        __atomic_add_fetch(&told->moves, 1, __ATOMIC_SEQ_CST);
        sp_sleep_ns(1000000);
    }
}

enum end { STOPS, EXITS, KILLED, EXECS, DUMPS };

/* The program: with a watching worker. */
static void program(struct told *told, int form, enum end end) {
    static struct worker w;
    static struct watch watched;
    struct rlimit core = {end == DUMPS ? RLIM_INFINITY : 0, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &core);
    watched = (struct watch){told, getpid(), 1, {pages_new(1), pages_new(1), -1}};
    page_fill(watched.f.page, 1, 1);
    sp_syscall(SYS_set_tid_address, &watched.thread_word);
    w.outlives = true;
    if (worker_start(&w, form))
        _exit(1);
    worker_tell(&w, watch, &watched);
    while (told->moves < 3)
        sp_sleep_ns(1000000);
    if (end == EXITS)
        _exit(0);
    if (end == EXECS)
        execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    if (end == DUMPS)
        abort();
    for (;;)
        pause();
}

static struct told *told_new(void) {
    return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static pid_t program_start(struct told *told, int form, enum end end) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        program(told, form, end);
    while (told->moves < 3)
        sp_sleep_ns(1000000);
    return pid;
}

/* Whether the worker does something within a second; twice, as what it tells may be a round old. */
static bool goes_on(const struct told *told) {
    uint32_t moves = told->moves;
    for (int i = 0; i < 1000 && told->moves < moves + 2; i++)
        sp_sleep_ns(1000000);
    return told->moves >= moves + 2;
}

static void a_process_works_while_the_program_is_stopped(void **state) {
    for (int form = 0; form < 2; form++) {
        struct told *told = told_new();
        pid_t pid = program_start(told, form ? THREAD : PROCESS, STOPS);
        int status;
        kill(pid, SIGSTOP);
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        assert_int_equal(goes_on(told), form == 0);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        assert_int_equal(goes_on(told), form == 0); /* and when it is dead: */
        if (form == 0) {
            assert_int_equal(told->ended, 1);
            assert_int_equal(kill(told->worker, SIGKILL), 0);
        }
        munmap(told, PAGE);
    }
}

/* The end of the program does not end the worker, which holds the memory for as long as it lives. Whoever
 * adopts it has a child then that it never had, of the ordinary kind. */
static int adopt(void *arg) {
    enum end end = *(enum end *)arg;
    struct told *told = told_new();
    int status;
    signal(SIGCHLD, on_sigchld);
    CHILD_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t pid = program_start(told, PROCESS, end);
    if (end == KILLED)
        kill(pid, SIGKILL);
    CHILD_CHECK(waitpid(pid, &status, 0) == pid);
    CHILD_CHECK(goes_on(told));
    CHILD_CHECK(told->ended && told->parent == getpid());
    CHILD_CHECK(end != DUMPS || (WIFSIGNALED(status) && WCOREDUMP(status)));
    sigchld_seen = 0;
    kill(told->worker, SIGKILL);
    CHILD_CHECK(waitpid(-1, &status, 0) == told->worker);
    CHILD_CHECK(sigchld_seen);
    return 0;
}

static void it_outlives_the_program(void **state) {
    enum end ends[] = {EXITS, KILLED};
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(in_child(adopt, &ends[i]), 0);
}

static int dump_in_directory(void *arg) {
    enum end end = DUMPS;
    CHILD_CHECK(chdir(arg) == 0);
    return adopt(&end);
}

/* Kernels before 5.16 ended everybody who shared the memory. */
static void a_core_dump_leaves_it_alone(void **state) {
    char pattern[64] = "", directory[] = "/tmp/samepage-test-XXXXXX", command[64];
    int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY);
    if (fd < 0 || read(fd, pattern, sizeof(pattern) - 1) < 0 || pattern[0] == '|' || pattern[0] == '/') {
        close(fd);
        NOT_HERE("core files do not go into the working directory here");
    }
    close(fd);
    assert_non_null(mkdtemp(directory));
    assert_int_equal(in_child(dump_in_directory, directory), 0);
    snprintf(command, sizeof(command), "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

static void exec_leaves_it_with_the_memory(void **state) {
    struct told *told = told_new();
    pid_t pid = program_start(told, PROCESS, EXECS);
    while (!told->other_memory && goes_on(told))
        ;
    assert_int_equal(told->other_memory, 1); /* kcmp tells, to whom ptrace would be allowed */
    assert_true(goes_on(told));
    assert_int_equal(told->ended, 0); /* the program's pidfd does not */
    assert_int_equal(told->parent, pid);
    assert_int_equal(told->thread_word, 0); /* and this word is also written when the thread ends */
    assert_true(status_of(told->worker, "\nVmRSS:") > 0);
    kill(told->worker, SIGKILL);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    munmap(told, PAGE);
}

int main(void) {
    if (SANITIZED) {
        printf("1..0 # SKIP sanitizers must know everybody who runs in their memory\n");
        return 77;
    }
    require_uffd();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_is_not_counted_as_a_thread),
        cmocka_unit_test(others_see_the_program_twice),
        cmocka_unit_test(wait_does_not_see_it_unless_it_waits_for_all),
        cmocka_unit_test(unsharing_users_minds_threads_only),
        cmocka_unit_test(entering_a_time_namespace_minds_both),
        cmocka_unit_test(it_becomes_the_first_of_a_pid_namespace),
        cmocka_unit_test(a_tracer_follows_unless_it_is_untraced),
        cmocka_unit_test(limits_do_not_reach_it),
        cmocka_unit_test(its_time_is_not_the_programs),
        cmocka_unit_test(a_filter_for_all_threads_does_not_bind_it),
        cmocka_unit_test(who_has_become_another_cannot_wake_it),
        cmocka_unit_test(killed_alone_it_takes_frozen_pages_with_it),
        cmocka_unit_test(a_trap_ends_it_alone),
        cmocka_unit_test(it_is_in_the_programs_group_until_it_leaves),
        cmocka_unit_test(the_death_signal_is_of_the_thread_that_started_it),
        cmocka_unit_test(a_process_works_while_the_program_is_stopped),
        cmocka_unit_test(it_outlives_the_program),
        cmocka_unit_test(a_core_dump_leaves_it_alone),
        cmocka_unit_test(exec_leaves_it_with_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
