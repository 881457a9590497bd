/* SPDX-License-Identifier: MIT */
/*
 * Threads of ours and clocks.
 *
 * The stack is a mapping of our own: the C library's thread control block and static TLS lie in it too, so
 * nothing the thread needs for itself is ever in memory that may be frozen. What the new thread has to know
 * lies at the far (lowest) end of the stack. All signals are blocked by way of pthread_sigmask, which leaves
 * the C library's internal ones open: setuid(2) of the program waits for every thread to answer. A bare
 * thread answers to nobody, and blocks them too.
 */
#include "os/thread.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/syscall.h"

#define STACK_BYTES ((size_t)256 * 1024)
/* For programs whose static TLS, which takes its place from the stack, is larger than that. */
#define STACK_BYTES_LARGE ((size_t)8 * 1024 * 1024)
#define GUARD_BYTES       SP_PAGE_SIZE

struct start {
    void (*main)(void *arg, int status);
    void *arg;
    bool own_files;
    char name[16];
};

static int leave_files(void) {
    int fault = sp_fault("files_leave");
    if (fault)
        return fault;
    return (int)sp_syscall(SYS_close_range, 0, ~0U, CLOSE_RANGE_UNSHARE);
}

static void *thread_main(void *p) {
    const struct start *s = p;
    int status = s->own_files ? leave_files() : 0;
    sp_syscall(SYS_prctl, PR_SET_NAME, s->name);
    s->main(s->arg, status);
    return NULL;
}

static struct start *start_of(const struct sp_thread *t) {
    return (struct start *)((char *)t->stack + GUARD_BYTES);
}

static int stack_init(struct sp_thread *t, size_t usable_bytes) {
    size_t bytes = GUARD_BYTES + usable_bytes;
    void *stack;
    int r = sp_map_own(bytes, SP_PAGE_SIZE, &stack);
    if (r < 0)
        return r;
    r = sp_protect((uintptr_t)stack, GUARD_BYTES, PROT_NONE);
    if (r < 0) {
        sp_syscall(SYS_munmap, stack, bytes);
        return r;
    }
    t->stack = stack;
    t->stack_bytes = bytes;
    return 0;
}

static void stack_deinit(struct sp_thread *t) {
    if (t->stack)
        sp_syscall(SYS_munmap, t->stack, t->stack_bytes);
    *t = (struct sp_thread){0};
}

/* A negative errno; pthread functions return positive ones. */
static int create(struct sp_thread *t) {
    pthread_attr_t attr;
    int r = pthread_attr_init(&attr);
    if (r)
        return -r;
    r = pthread_attr_setstack(&attr, (char *)t->stack + GUARD_BYTES, t->stack_bytes - GUARD_BYTES);
    if (!r) {
        sigset_t all, old;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(&t->handle, &attr, thread_main, start_of(t));
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    pthread_attr_destroy(&attr);
    return -r;
}

static void start_init(struct start *s, const char *name, bool own_files, void (*main)(void *arg, int status),
                       void *arg) {
    *s = (struct start){.main = main, .arg = arg, .own_files = own_files};
    for (size_t c = 0; c < sizeof(s->name) - 1 && name[c]; c++)
        s->name[c] = name[c];
}

int sp_thread_start(struct sp_thread *t, const char *name, bool own_files,
                    void (*main)(void *arg, int status), void *arg) {
    int fault = sp_fault("thread_start");
    if (fault)
        return fault;
    static const size_t sizes[] = {STACK_BYTES, STACK_BYTES_LARGE};
    int r = -EINVAL;
    /* -EINVAL is how pthread_create says that static TLS leaves no room on this stack. */
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes) && r == -EINVAL; i++) {
        struct sp_thread made = {0};
        r = stack_init(&made, sizes[i]);
        if (r < 0)
            return r;
        start_init(start_of(&made), name, own_files, main, arg);
        r = create(&made);
        if (r < 0)
            stack_deinit(&made);
        else
            *t = made;
    }
    return r;
}

#if defined(__x86_64__)
/*
 * At the high end of a bare thread's stack lies what the compiler and the C library expect to find by way of
 * %fs: below it the static TLS of the libraries, all of it zero (errno is there); from there on the thread
 * control block, of which we fill in what is part of the ABI: its own address twice, the stack guard and the
 * pointer guard (glibc, sysdeps/x86_64/nptl/tls.h).
 */
#define CONTROL_BYTES    SP_PAGE_SIZE
#define TLS_MARGIN_BYTES ((size_t)64 * 1024)

static uint64_t *control_of(const struct sp_thread *t) {
    return (uint64_t *)((char *)t->stack + t->stack_bytes - CONTROL_BYTES);
}

/* The word at %fs + `offset`. */
static uint64_t from_fs(uint64_t offset) {
    uint64_t v;
    __asm__("movq %%fs:(%1), %0" : "=r"(v) : "r"(offset) : "memory");
    return v;
}

/* How far below the control block errno lies, in every thread; what else the C library keeps is near. */
static size_t tls_bytes(void) {
    size_t below = (size_t)(from_fs(0) - (uintptr_t)__errno_location());
    return (below + TLS_MARGIN_BYTES + SP_PAGE_SIZE - 1) & ~(size_t)(SP_PAGE_SIZE - 1);
}

static void control_init(uint64_t *control) {
    control[0] = control[2] = (uintptr_t)control;
    control[5] = from_fs(0x28);
    control[6] = from_fs(0x30);
}

/* Ends the thread alone. Nothing of the stack is used any more when the kernel clears *bare_tid. */
static void bare_main(struct start *s) {
    thread_main(s);
    for (;;)
        sp_syscall(SYS_exit, 0);
}

/* clone(2); the child takes from its stack what it is to call, and with what. */
static long bare_clone(uint64_t flags, void *stack, uint32_t *tid, void *control) {
    long ret;
    register uint32_t *r10 __asm__("r10") = tid;
    register void *r8 __asm__("r8") = control;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "popq %%rdi\n\t"
                     "popq %%rax\n\t"
                     "callq *%%rax\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(ret)
                     : "a"((long)SYS_clone), "D"(flags), "S"(stack), "d"(tid), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return ret;
}

/* The thread's number stands in the last word of the control block's page. */
static int bare_create(struct sp_thread *t, size_t top_bytes) {
    const uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                           CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    uint64_t all = UINT64_MAX, old = 0;
    uint64_t *control = control_of(t);
    uint64_t *top = (uint64_t *)((char *)t->stack + t->stack_bytes - top_bytes) - 2;
    control_init(control);
    top[0] = (uintptr_t)start_of(t);
    top[1] = (uintptr_t)bare_main;
    t->bare_tid = (uint32_t *)(control + CONTROL_BYTES / sizeof(*control) - 1);
    sp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(all));
    long r = bare_clone(flags, top, t->bare_tid, control);
    sp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof(old));
    return r < 0 ? (int)r : 0;
}

int sp_thread_start_bare(struct sp_thread *t, const char *name, bool own_files,
                         void (*main)(void *arg, int status), void *arg) {
    int fault = sp_fault("thread_start");
    if (fault)
        return fault;
    struct sp_thread made = {0};
    size_t top_bytes = tls_bytes() + CONTROL_BYTES;
    int r = stack_init(&made, STACK_BYTES + top_bytes);
    if (r < 0)
        return r;
    start_init(start_of(&made), name, own_files, main, arg);
    r = bare_create(&made, top_bytes);
    if (r < 0)
        stack_deinit(&made);
    else
        *t = made;
    return r;
}
#else
int sp_thread_start_bare(struct sp_thread *t, const char *name, bool own_files,
                         void (*main)(void *arg, int status), void *arg) {
    return -ENOSYS;
}
#endif

/* The kernel wakes with a futex that is not private (set_tid_address(2)). */
static void bare_join(const struct sp_thread *t) {
    uint32_t tid;
    while ((tid = __atomic_load_n(t->bare_tid, __ATOMIC_ACQUIRE)))
        sp_syscall(SYS_futex, t->bare_tid, FUTEX_WAIT, tid, NULL);
}

void sp_thread_join(struct sp_thread *t) {
    if (t->bare_tid)
        bare_join(t);
    else
        pthread_join(t->handle, NULL);
    stack_deinit(t);
}

void sp_thread_forget(struct sp_thread *t) {
    stack_deinit(t);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t sp_now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t sp_thread_cpu_ns(void) {
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t sp_process_cpu_ns(void) {
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

void sp_sleep_ns(uint64_t ns) {
    uint64_t until_ns = sp_now_ns() + ns;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                             .tv_nsec = (long)(until_ns % 1000000000)};
    while (sp_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == -EINTR) {
    }
}
