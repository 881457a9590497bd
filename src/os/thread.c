/* SPDX-License-Identifier: MIT */
/*
 * Threads of ours and clocks.
 *
 * The stack is a mapping of our own: the C library's thread control block and static TLS lie in it too, so
 * nothing the thread needs for itself is ever in memory that may be frozen. What the new thread has to know
 * lies at the far (lowest) end of the stack. All signals are blocked by way of pthread_sigmask, which leaves
 * the C library's internal ones open: setuid(2) of the program waits for every thread to answer.
 */
#include "os/thread.h"

#include <errno.h>
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
        struct start *s = start_of(&made);
        *s = (struct start){.main = main, .arg = arg, .own_files = own_files};
        for (size_t c = 0; c < sizeof(s->name) - 1 && name[c]; c++)
            s->name[c] = name[c];
        r = create(&made);
        if (r < 0)
            stack_deinit(&made);
        else
            *t = made;
    }
    return r;
}

void sp_thread_join(struct sp_thread *t) {
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
