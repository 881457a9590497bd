/* SPDX-License-Identifier: MIT */
/*
 * Every call that the shim stands in front of, made on memory that is merged: preload_calls CASE.
 *
 * preload.py runs each case with the shim and without, and compares: the kernel itself is the model. With
 * SAMEPAGE_SOCKET set a case waits until its memory is mapped from the store before it goes on.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#include "calls.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

/* ---- mapping and unmapping ---- */

static void case_munmap(void) {
    unsigned char *p = area_merged();
    CALL(munmap(p + 1, PAGE));
    CALL(munmap(p, 0));
    CALL(munmap(p, (size_t)-1));
    show("after errors", p, PAGES, 0);
    CALL(munmap(p + 10 * PAGE, 3 * PAGE - 7));
    CALL(munmap(p, PAGE));
    CALL(munmap(p + AREA - PAGE, 2 * PAGE));
    printf("mapped %d %d %d\n", is_mapped(p, PAGE), is_mapped(p + 10 * PAGE, 3 * PAGE),
           is_mapped(p + AREA, PAGE));
    show("middle", p + PAGE, 9, 1);
    show("rest", p + 13 * PAGE, PAGES - 14, 13);
    memset(p + 20 * PAGE, 7, 5 * PAGE);
    show("written", p + 13 * PAGE, PAGES - 14, 13);
    CALL(munmap(p, AREA));
    printf("mapped %d\n", is_mapped(p, AREA));
}

static void case_mmap_over(void) {
    unsigned char *p = area_merged();
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    CALL_AT(p, mmap(p + 5, PAGE, PROT_READ, flags, -1, 0));
    CALL_AT(p, mmap(p, 0, PROT_READ, flags, -1, 0));
    CALL_AT(p, mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0));
    CALL_AT(p, mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    show("after errors", p, PAGES, 0);
    CALL_AT(p + 4 * PAGE, mmap(p + 4 * PAGE, 100, PROT_READ | PROT_WRITE, flags, -1, 0));
    /* Each content is in it twice: what is merged may be broken before it is looked at. */
    CALL_AT(p + 100 * PAGE, mmap(p + 100 * PAGE, 128 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    show("replaced", p, PAGES, 0);
    fill(p + 64 * PAGE, 64);
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    fill(p, PAGES);
    wait_merged(p + 128 * PAGE, 128 * PAGE);
    show("filled again", p, PAGES, 0);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CALL_AT(p, mmap(p, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0));
    printf("file there %d\n", memcmp(p, "\177ELF", 4) == 0);
    CALL_AT(p, mmap(p, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 12));
    show("rest", p + 2 * PAGE, PAGES - 2, 2);
}

static void case_shmat(void) {
    unsigned char *p = area_merged();
    int id = shmget(IPC_PRIVATE, 3 * PAGE, IPC_CREAT | 0600);
    CALL_AT(p, shmat(id, p, 0));
    CALL_AT(p, shmat(id, p + 1, SHM_REMAP));
    CALL_AT(p, shmat(-1, p, SHM_REMAP));
    CALL_AT(NULL, shmat(id, NULL, SHM_REMAP));
    show("after errors", p, PAGES, 0);
    CALL_AT(p + PAGE, shmat(id, p + PAGE + 5, SHM_REMAP | SHM_RND));
    show("attached", p, PAGES, 0);
    fill(p, 4);
    CALL(madvise(p + PAGE, 3 * PAGE, MADV_DONTNEED));
    show("the segment keeps its content", p, PAGES, 0);
    CALL(shmdt(p + PAGE));
    CALL(shmctl(id, IPC_RMID, NULL));
    show("rest", p + 4 * PAGE, PAGES - 4, 4);
}

static void case_mremap_errors(void) {
    unsigned char *p = area_merged();
    CALL_AT(p, mremap(p + 1, AREA, 2 * AREA, MREMAP_MAYMOVE));
    CALL_AT(p, mremap(p, AREA, 0, MREMAP_MAYMOVE));
    CALL_AT(p, mremap(p, 0, AREA, MREMAP_MAYMOVE));
    CALL_AT(p, mremap(p, AREA, AREA, MREMAP_FIXED, p + 2 * AREA));
    CALL_AT(p, mremap(p, AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, p + PAGE));
    CALL_AT(p, mremap(p, AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, p + AREA + 1));
    CALL_AT(p, mremap(p, AREA, 2 * AREA, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
    CALL_AT(p, mremap(p, AREA, AREA, 64));
    CALL_AT(p, mremap(p, AREA, 2 * AREA, 0));
    CALL_AT(p, mremap(p, PAGE, 2 * PAGE, 0));
    show("after errors", p, PAGES, 0);
    CALL(munmap(p + 100 * PAGE, PAGE));
    CALL_AT(p, mremap(p, AREA, 2 * AREA, MREMAP_MAYMOVE));
    show("low", p, 100, 0);
    show("high", p + 101 * PAGE, PAGES - 101, 101);
}

static void case_mremap_shrink(void) {
    unsigned char *p = area_merged();
    CALL_AT(p, mremap(p, AREA, AREA, 0));
    CALL_AT(p, mremap(p, AREA, AREA - 10 * PAGE, 0));
    CALL_AT(p, mremap(p, AREA - 10 * PAGE, 100 * PAGE, MREMAP_MAYMOVE));
    printf("mapped %d\n", is_mapped(p + 100 * PAGE, AREA - 100 * PAGE));
    show("rest", p, 100, 0);
}

static void case_mremap_grow(void) {
    unsigned char *p = area_merged();
    CALL(munmap(p + AREA, AREA));
    CALL_AT(p, mremap(p, AREA, AREA + 10 * PAGE, 0));
    show("grown in place", p, PAGES + 10, 0);
    fill(p + AREA, 10);
    CALL_AT(p, mremap(p, AREA + 10 * PAGE, 3 * AREA, 0));
    show("no room", p, PAGES + 10, 0);
    CALL_AT(p, mremap(p + AREA, 10 * PAGE, 20 * PAGE, MREMAP_MAYMOVE));
    show("grown again", p, PAGES + 20, 0);
}

static void case_mremap_move(void) {
    unsigned char *p = area_merged();
    memset(p + 30 * PAGE, 9, 2 * PAGE);
    errno = 0;
    unsigned char *q = mremap(p, AREA, 2 * AREA, MREMAP_MAYMOVE);
    say_address("mremap", q, p);
    printf("old mapped %d\n", is_mapped(p, PAGE));
    show("moved", q, 2 * PAGES, 0);
    fill(q, 2 * PAGES);
    wait_merged(q + AREA, AREA);
    show("merged again", q, 2 * PAGES, 0);
    CALL(madvise(q, 2 * AREA, MADV_DONTNEED));
    show("discarded", q, 2 * PAGES, 0);
}

static void case_mremap_fixed(void) {
    unsigned char *p = area_merged(), *q = area_merged();
    CALL_AT(q + 64 * PAGE,
            mremap(p + 64 * PAGE, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + 64 * PAGE));
    printf("mapped %d %d %d\n", is_mapped(p, 64 * PAGE), is_mapped(p + 64 * PAGE, PAGE),
           is_mapped(p + 128 * PAGE, PAGE));
    show("target", q, PAGES, 0);
    CALL_AT(q + 128 * PAGE,
            mremap(p + 128 * PAGE, 128 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + 128 * PAGE));
    show("target", q, PAGES, 0);
    printf("mapped %d %d\n", is_mapped(p + 192 * PAGE, PAGE), is_mapped(p + 256 * PAGE, PAGE));
    CALL_AT(q + AREA, mremap(q, AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, q + AREA));
    show("moved whole", q + AREA, PAGES, 0);
    CALL(madvise(q + AREA, AREA, MADV_DONTNEED));
    show("discarded", q + AREA, PAGES, 0);
}

static void case_mremap_dontunmap(void) {
    unsigned char *p = area_merged();
    unsigned char *q = mremap(p, AREA, AREA, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    say_address("mremap", q, p);
    show("old", p, PAGES, 0);
    show("new", q, PAGES, 0);
    fill(p, PAGES);
    show("old filled", p, PAGES, 0);
}

/* ---- advice ---- */

static void case_madvise_errors(void) {
    unsigned char *p = area_new();
    char stack[3 * PAGE];
    unsigned char *shared = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 2; i++) {
        int advice = i ? MADV_UNMERGEABLE : MADV_MERGEABLE;
        CALL(madvise(p + 1, PAGE, advice));
        CALL(madvise(p, (size_t)-1, advice));
        CALL(madvise(p, (size_t)-PAGE, advice));
        CALL(madvise(p, 0, advice));
        CALL(madvise(NULL, PAGE, advice));
        CALL(madvise(shared, AREA, advice));
        CALL(madvise((void *)((uintptr_t)(stack + PAGE) & ~(PAGE - 1)), PAGE, advice));
        CALL(madvise(p, AREA - 5, advice));
    }
    CALL(munmap(p + 10 * PAGE, PAGE));
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    wait_merged(p + 11 * PAGE, AREA - 11 * PAGE);
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    show("low", p, 10, 0);
    show("high", p + 11 * PAGE, PAGES - 11, 11);
    CALL(madvise(p, PAGE, 12345));
}

static void case_dontneed(void) {
    unsigned char *p = area_merged();
    CALL(madvise(p + 1, PAGE, MADV_DONTNEED));
    CALL(madvise(p, (size_t)-1, MADV_DONTNEED));
    CALL(madvise(p, 0, MADV_DONTNEED));
    show("after errors", p, PAGES, 0);
    CALL(madvise(p + 10 * PAGE, 3 * PAGE - 1, MADV_DONTNEED));
    show("discarded", p, PAGES, 0);
    memset(p + 200 * PAGE, 5, 3 * PAGE);
    CALL(madvise(p + 100 * PAGE, 200 * PAGE, MADV_DONTNEED));
    show("more", p, PAGES, 0);
    CALL(munmap(p + 400 * PAGE, PAGE));
    CALL(madvise(p + 399 * PAGE, 3 * PAGE, MADV_DONTNEED));
    show("below the hole", p, 400, 0);
    show("above the hole", p + 401 * PAGE, PAGES - 401, 401);
    CALL(syscall(SYS_madvise, p, 2 * PAGE, MADV_DONTNEED));
    CALL(posix_madvise(p + 2 * PAGE, PAGE, POSIX_MADV_DONTNEED));
    show("by syscall", p, 400, 0);
}

static void case_dontneed_unmerged(void) {
    unsigned char *p = area_merged();
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    show("unmerged", p, PAGES, 0);
    /* Each content twice: what the rest of the area holds stays private and is no twin for them. */
    CALL(madvise(p + 8 * PAGE, 128 * PAGE, MADV_DONTNEED));
    show("discarded", p, PAGES, 0);
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    fill(p, PAGES);
    wait_merged(p, 136 * PAGE);
    show("merged again", p, PAGES, 0);
    CALL(madvise(p, AREA, MADV_DONTNEED));
    show("discarded again", p, PAGES, 0);
}

static void case_dontneed_locked(void) {
    unsigned char *p = area_merged();
    CALL(mlock(p + 50 * PAGE, 10 * PAGE));
    CALL(madvise(p + 40 * PAGE, 40 * PAGE, MADV_DONTNEED));
    show("stopped at locked", p, PAGES, 0);
    CALL(madvise(p + 52 * PAGE, PAGE, MADV_FREE));
    show("not freed", p, PAGES, 0);
    CALL(madvise(p + 50 * PAGE, 2 * PAGE, MADV_DONTNEED_LOCKED));
    show("locked discarded", p, PAGES, 0);
    CALL(munlock(p + 50 * PAGE, 10 * PAGE));
    CALL(madvise(p + 40 * PAGE, 40 * PAGE, MADV_DONTNEED));
    show("unlocked", p, PAGES, 0);
}

/* The kernel may take the pages at once or later: only what both allow is printed. */
static void case_free(void) {
    unsigned char *p = area_merged();
    CALL(madvise(p, 100 * PAGE, MADV_FREE));
    int bad = 0;
    for (size_t i = 0; i < 100; i++)
        bad += !is_filled(p + i * PAGE, i) && !is_zero(p + i * PAGE);
    printf("neither old nor zero %d\n", bad);
    fill(p, 50);
    show("written", p, 50, 0);
    show("rest", p + 100 * PAGE, PAGES - 100, 100);
}

static void case_remove(void) {
    unsigned char *p = area_merged();
    CALL(madvise(p, AREA, MADV_REMOVE));
    CALL(madvise(p + PAGE, PAGE, MADV_REMOVE));
    show("still there", p, PAGES, 0);
}

static void case_guard(void) {
    unsigned char *p = area_merged();
    CALL(madvise(p + 5 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL));
    pid_t pid = fork();
    if (!pid) {
        signal(SIGSEGV, SIG_DFL);
        _exit(p[6 * PAGE]);
    }
    printf("touched %d\n", reap(pid) < 0);
    CALL(madvise(p + 5 * PAGE, 3 * PAGE, MADV_GUARD_REMOVE));
    show("removed", p, PAGES, 0);
}

static void case_wipeonfork(void) {
    unsigned char *p = area_merged();
    memset(p + 3 * PAGE, 3, PAGE);
    CALL(madvise(p, 100 * PAGE, MADV_WIPEONFORK));
    show("parent", p, PAGES, 0);
    fflush(stdout);
    for (int kind = 0; kind < 3; kind++) {
        pid_t pid = kind == 0 ? fork() : kind == 1 ? _Fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (!pid) {
            show("child", p, PAGES, 0);
            fill(p, 10);
            fflush(stdout);
            pid_t grandchild = fork();
            if (!grandchild) {
                show("grandchild", p, PAGES, 0);
                fflush(stdout);
                _exit(0);
            }
            _exit(reap(grandchild));
        }
        printf("reaped %d\n", reap(pid));
        fflush(stdout);
    }
    CALL(madvise(p, 50 * PAGE, MADV_KEEPONFORK));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        show("kept in child", p, PAGES, 0);
        fflush(stdout);
        _exit(0);
    }
    printf("reaped %d\n", reap(pid));
    show("parent still", p, PAGES, 0);
    CALL(madvise(p, AREA, MADV_DONTNEED));
    show("discarded", p, PAGES, 0);
}

/* As the C library's malloc does, which the shim cannot see. */
static void *mmap_raw(void *p, size_t bytes, long fixed) {
    long r = SYS_mmap;
    register long flags __asm__("r10") = MAP_PRIVATE | MAP_ANONYMOUS | fixed;
    register long fd __asm__("r8") = -1;
    register long offset __asm__("r9") = 0;
    __asm__ volatile("syscall"
                     : "+a"(r)
                     : "D"(p), "S"(bytes), "d"(PROT_READ | PROT_WRITE), "r"(flags), "r"(fd), "r"(offset)
                     : "rcx", "r11", "memory");
    return (void *)r;
}

static void map_behind_its_back(void *p, size_t bytes) {
    if (mmap_raw(p, bytes, MAP_FIXED) != p)
        abort();
}

static void *map_somewhere_behind_its_back(size_t bytes) {
    void *p = mmap_raw(NULL, bytes, 0);
    if ((unsigned long)p >= (unsigned long)-4095L)
        abort();
    return p;
}

static void unmap_behind_its_back(void *p, size_t bytes) {
    long r = SYS_munmap;
    __asm__ volatile("syscall" : "+a"(r) : "D"(p), "S"(bytes) : "rcx", "r11", "memory");
    if (r)
        abort();
}

/* What the shim believes of the range is wrong; that it maps and unmaps there itself must put that right. */
static void case_behind_its_back(void) {
    unsigned char *p = area_new();
    CALL(madvise(p, AREA, MADV_DODUMP));
    unmap_behind_its_back(p, AREA);
    CALL_AT(p, mmap(p, AREA, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    CALL(munmap(p, AREA));
    map_behind_its_back(p, AREA);
    fill(p, PAGES);
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    area_merged();
    usleep(100000);
    printf("untracked memory merged %zu\n", mapped_from_store(p, AREA));
}

/* Memory that is gone again before, while or after it is registered and shared; and what is mapped there by
 * others then must be left alone. */
static void *come_and_go(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    uintptr_t bad = 0;
    for (unsigned i = 0; i < 80; i++) {
        unsigned char *p = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        unsigned char *last = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || last == MAP_FAILED)
            return (void *)1;
        if (i % 4 == 0) {
            fill(p, PAGES);
            if (i % 8 == 0)
                mprotect(p, PAGE, PROT_NONE);
            usleep((useconds_t)(rand_r(&seed) % 50000));
        }
        unsigned char *first = p + (i % 2 ? 0 : AREA / 2), *rest = p + (i % 2 ? AREA / 2 : 0);
        if (munmap(first, AREA / 2))
            bad++;
        unsigned char *behind = map_somewhere_behind_its_back(AREA / 2);
        memset(behind, (int)i | 1, AREA / 2);
        if (i % 4 < 2)
            usleep((useconds_t)(rand_r(&seed) % 50000));
        for (size_t k = 0; k < AREA / 2; k += PAGE / 2)
            bad += behind[k] != (unsigned char)(i | 1);
        bad += mapped_from_store(behind, AREA / 2);
        unmap_behind_its_back(behind, AREA / 2);
        if (munmap(rest, AREA / 2) || munmap(last, AREA))
            bad++;
    }
    return (void *)bad;
}

static void case_come_and_go(void) {
    pthread_t threads[2];
    unsigned char *p = area_merged();
    for (uintptr_t i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, come_and_go, (void *)(i + 1)))
            abort();
    for (unsigned i = 0; i < 2; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        printf("bad %zu\n", (size_t)(uintptr_t)bad);
    }
    show("the other memory", p, PAGES, 0);
}

/* Where everything is merged p must be, without another call of the program. */
static void wait_merged_unasked(const unsigned char *p) {
    const char *scope = getenv("SAMEPAGE_SCOPE");
    if (scope && !strcmp(scope, "all"))
        wait_merged(p, AREA);
}

/* Mapped beside what is shared: whether it is merged must not hang on a call that the program makes later. */
static void case_no_more_calls(void) {
    area_merged();
    unsigned char *p = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        abort();
    fill(p, PAGES);
    wait_merged_unasked(p);
    show("filled", p, PAGES, 0);
}

/* Nor on who makes one. */
static void case_vfork_calls(void) {
    area_merged();
    unsigned char *p = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t pid = vfork();
    if (!pid)
        _exit(mprotect(p, AREA, PROT_READ | PROT_WRITE) ? 1 : 0);
    printf("reaped %d\n", reap(pid));
    fill(p, PAGES);
    wait_merged_unasked(p);
    show("filled", p, PAGES, 0);
}

/* More of it than can be remembered: that memory is not merged any more, but what is merged stays known. */
static void case_dontfork_much(void) {
    unsigned char *areas[6];
    unsigned refused = 0;
    for (unsigned i = 0; i < 6; i++)
        areas[i] = area_merged();
    for (unsigned i = 0; i < 6; i++)
        for (size_t k = 0; k < PAGES; k += 2)
            refused += madvise(areas[i] + k * PAGE, PAGE, MADV_DONTFORK) != 0;
    printf("refused %u\n", refused);
    for (size_t k = 0; k < PAGES; k += 2)
        refused += madvise(areas[5] + k * PAGE, PAGE, MADV_DONTNEED) != 0;
    printf("refused %u\n", refused);
    show("discarded", areas[5], PAGES, 0);
    CALL(munmap(areas[4], AREA));
    show("beside it", areas[3], PAGES, 0);
}

static void case_dontfork(void) {
    unsigned char *p = area_merged(), *q = area_new(), *never = area_new();
    CALL(madvise(never, AREA, MADV_DONTFORK));
    CALL(madvise(p, 64 * PAGE, MADV_DONTFORK));
    CALL(madvise(p + 64 * PAGE, 64 * PAGE, MADV_DONTDUMP));
    CALL(madvise(p + 128 * PAGE, 64 * PAGE, MADV_NOHUGEPAGE));
    CALL(madvise(q, AREA, MADV_DONTFORK));
    CALL(madvise(q, AREA, MADV_DONTDUMP));
    CALL(madvise(q, AREA, MADV_MERGEABLE));
    wait_merged(q, AREA);
    printf("dc %zu %zu dd %zu %zu nh %zu\n", flagged(p, AREA, "dc"), flagged(q, AREA, "dc"),
           flagged(p, AREA, "dd"), flagged(q, AREA, "dd"), flagged(p, AREA, "nh"));
    CALL(madvise(p, AREA, MADV_DONTNEED));
    printf("dc %zu dd %zu nh %zu\n", flagged(p, AREA, "dc"), flagged(p, AREA, "dd"), flagged(p, AREA, "nh"));
    fill(p, PAGES);
    wait_merged(p + 64 * PAGE, AREA - 64 * PAGE);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        printf("in child %d %d %d\n", is_mapped(p, PAGE), is_mapped(q, PAGE), is_mapped(p + 64 * PAGE, PAGE));
        show("rest", p + 64 * PAGE, PAGES - 64, 64);
        map_behind_its_back(never, AREA);
        fill(never, PAGES);
        CALL(madvise(never, AREA, MADV_MERGEABLE));
        usleep(400000);
        fill(p + 64 * PAGE, 64);
        CALL(madvise(p + 64 * PAGE, 64 * PAGE, MADV_MERGEABLE));
        wait_merged(p + 64 * PAGE, 64 * PAGE);
        usleep(100000);
        printf("untracked memory merged %zu\n", mapped_from_store(never, AREA));
        fflush(stdout);
        _exit(0);
    }
    printf("reaped %d\n", reap(pid));
    CALL(madvise(p, 64 * PAGE, MADV_DOFORK));
    CALL(madvise(p + 64 * PAGE, 64 * PAGE, MADV_DODUMP));
    printf("dc %zu dd %zu\n", flagged(p, AREA, "dc"), flagged(p, AREA, "dd"));
    show("parent", p, PAGES, 0);
}

static void case_process_madvise(void) {
    unsigned char *p = area_merged();
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    struct iovec v[3] = {{p, 2 * PAGE}, {p + 10 * PAGE, PAGE}, {p + 1, PAGE}};
    CALL(process_madvise(pidfd, v, 2, MADV_DONTNEED, 0));
    show("discarded", p, PAGES, 0);
    CALL(process_madvise(pidfd, v, 3, MADV_DONTNEED, 0));
    CALL(process_madvise(pidfd, v + 2, 1, MADV_DONTNEED, 0));
    CALL(process_madvise(pidfd, v, 1, MADV_DONTNEED, 1));
    CALL(process_madvise(pidfd, (void *)8, 1, MADV_DONTNEED, 0));
    CALL(process_madvise(-1, v, 1, MADV_DONTNEED, 0));
    CALL(process_madvise(-10000, v + 1, 1, MADV_DONTNEED, 0));
    CALL(process_madvise(-10001, v + 1, 1, MADV_DONTNEED, 0));
    CALL(process_madvise(pidfd, v, 2, MADV_COLD, 0));
    show("end", p, PAGES, 0);
}

/* ---- protection, locks, policy ---- */

static unsigned char *faulting;
static volatile sig_atomic_t faults;

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    (void)context;
    unsigned char *page = (unsigned char *)((uintptr_t)info->si_addr & ~(PAGE - 1));
    if (page < faulting || page >= faulting + AREA || mprotect(page, PAGE, PROT_READ | PROT_WRITE))
        _exit(9);
    faults++;
}

static void case_mprotect(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    unsigned char *p = area_merged();
    faulting = p;
    sigaction(SIGSEGV, &action, NULL);
    CALL(mprotect(p + 1, PAGE, PROT_READ));
    CALL(mprotect(p, PAGE, 0x4000));
    CALL(mprotect(p, 100 * PAGE, PROT_NONE));
    CALL(mprotect(p + 100 * PAGE, 100 * PAGE, PROT_READ));
    usleep(200000);
    show("through the handler", p, 150, 0);
    printf("faults %d\n", (int)faults);
    p[120 * PAGE] = 1;
    printf("faults %d\n", (int)faults);
    CALL(mprotect(p, AREA, PROT_READ | PROT_WRITE));
    fill(p, PAGES);
    wait_merged(p, AREA);
    CALL(mprotect(p, 64 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
    CALL(munmap(p + 300 * PAGE, PAGE));
    CALL(mprotect(p + 290 * PAGE, 20 * PAGE, PROT_READ));
    show("low", p, 300, 0);
    CALL(mprotect(p + 290 * PAGE, 10 * PAGE, PROT_NONE));
    CALL(madvise(p + 290 * PAGE, 10 * PAGE, MADV_UNMERGEABLE));
    CALL(mprotect(p + 290 * PAGE, 10 * PAGE, PROT_READ | PROT_WRITE));
    show("low", p, 300, 0);
    CALL(madvise(p, 300 * PAGE, MADV_DONTNEED));
    show("discarded", p, 300, 0);
}

static void case_pkey(void) {
    unsigned char *p = area_merged();
    CALL(pkey_mprotect(p, 64 * PAGE, PROT_READ, -1));
    CALL(pkey_mprotect(p, 64 * PAGE, PROT_READ | PROT_WRITE, 15));
    CALL(pkey_mprotect(p, 64 * PAGE, PROT_READ | PROT_WRITE, 0));
    int key = pkey_alloc(0, 0);
    if (key > 0)
        CALL(pkey_mprotect(p + 64 * PAGE, 64 * PAGE, PROT_READ | PROT_WRITE, key));
    CALL(mprotect(p, 64 * PAGE, PROT_READ | PROT_WRITE));
    show("keyed", p, PAGES, 0);
    fill(p, PAGES);
    show("written", p, PAGES, 0);
}

static void case_mlock(void) {
    unsigned char *p = area_merged();
    CALL(mlock2(p, PAGE, 8));
    CALL(mlock(p + 2 * AREA, 2 * AREA));
    CALL(mlock(p + 7, 20 * PAGE));
    CALL(mlock2(p + 100 * PAGE, 20 * PAGE, MLOCK_ONFAULT));
    printf("locked %zu\n", flagged(p, AREA, "lo"));
    show("locked", p, PAGES, 0);
    fill(p, PAGES);
    show("written", p, PAGES, 0);
    CALL(munlock(p, AREA));
    printf("locked %zu\n", flagged(p, AREA, "lo"));
    CALL(mlockall(0));
    CALL(mlockall(77));
    CALL(mlockall(MCL_CURRENT));
    show("all locked", p, PAGES, 0);
    CALL(madvise(p, AREA, MADV_DONTNEED));
    show("still there", p, PAGES, 0);
    CALL(munlockall());
    CALL(madvise(p, 10 * PAGE, MADV_DONTNEED));
    show("discarded", p, PAGES, 0);
}

static void case_mbind(void) {
    unsigned char *p = area_merged();
    unsigned long nodes = 1, none = 0;
    int mode = -1;
    CALL(syscall(SYS_mbind, p + 1, PAGE, 2, &nodes, 64, 0));
    CALL(syscall(SYS_mbind, p, PAGE, 99, &nodes, 64, 0));
    CALL(syscall(SYS_mbind, p, PAGE, 2, &nodes, 64, 512));
    CALL(syscall(SYS_mbind, p, PAGE, 2, (void *)8, 64, 0));
    CALL(syscall(SYS_mbind, p, 64 * PAGE, 2, &nodes, 64, 0));
    show("bound", p, PAGES, 0);
    CALL(syscall(SYS_mbind, p + AREA - PAGE, 2 * PAGE, 0, &none, 0, 0));
    CALL(syscall(SYS_get_mempolicy, &mode, NULL, 0, p + 200 * PAGE, 2));
    printf("policy of what was left alone %d\n", mode);
    fill(p, PAGES);
    show("written", p, PAGES, 0);
}

static void case_name(void) {
    unsigned char *p = area_merged();
    CALL(prctl(PR_SET_VMA, 0UL, p + 1, 10 * PAGE, "one"));
    CALL(prctl(PR_SET_VMA, 0UL, p, 10 * PAGE, "[bad]"));
    CALL(prctl(PR_SET_VMA, 0UL, p, 10 * PAGE, "one"));
    CALL(prctl(PR_SET_VMA, 0UL, p, 10 * PAGE, NULL));
    show("named", p, PAGES, 0);
}

/* ---- prctl ---- */

static void case_merge_any(void) {
    unsigned char *p = area_new();
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 1, 0, 0));
    CALL(prctl(PR_GET_MEMORY_MERGE, 1, 0, 0, 0));
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    unsigned char *q = area_new();
    wait_merged(p, AREA);
    wait_merged(q, AREA);
    show("present", p, PAGES, 0);
    show("future", q, PAGES, 0);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
        fflush(stdout);
        _exit(0);
    }
    printf("reaped %d\n", reap(pid));
    CALL(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    show("ended", p, PAGES, 0);
    CALL(madvise(q, AREA, MADV_DONTNEED));
    show("discarded", q, PAGES, 0);
}

/* ---- children ---- */

static unsigned char *parents;

static int child_main(void *arg) {
    (void)arg;
    int n = count_filled(parents, PAGES);
    memset(parents, 1, 64 * PAGE);
    return n == (int)PAGES && count_filled(parents, PAGES) == (int)PAGES - 64 ? 42 : 1;
}

static pid_t make_child(int kind) {
    static char stack[65536] __attribute__((aligned(16)));
    struct clone_args args = {.exit_signal = SIGCHLD};
    switch (kind) {
    case 0:
        return fork();
    case 1:
        return _Fork();
    case 2:
        return (pid_t)syscall(SYS_fork);
    case 3:
        return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    case 4:
        return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    default:
        return clone(child_main, stack + sizeof(stack), SIGCHLD, NULL);
    }
}

/* While the worker merges again and again what is written again and again. */
static void case_children(void) {
    parents = area_merged();
    int good[6] = {0};
    for (int round = 0; round < 60; round++) {
        int kind = round % 6;
        fill(parents, PAGES);
        usleep((useconds_t)(round * 300));
        pid_t pid = make_child(kind);
        if (!pid)
            _exit(child_main(NULL));
        good[kind] += reap(pid) == 42;
        if (count_filled(parents, PAGES) != (int)PAGES)
            printf("parent's memory changed in round %d\n", round);
    }
    for (int kind = 0; kind < 6; kind++)
        printf("good children of kind %d: %d\n", kind, good[kind]);
    CALL(syscall(SYS_clone3, (void *)8, sizeof(struct clone_args)));
    CALL(syscall(SYS_clone3, NULL, 3));
    CALL(clone(NULL, NULL, SIGCHLD, NULL));
    wait_merged(parents, AREA);
    show("parent", parents, PAGES, 0);
}

/* A child that goes on merging by itself, and whose child ... */
static void case_child_merges(void) {
    unsigned char *p = area_merged();
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        show("child", p, PAGES, 0);
        usleep(300000);
        unsigned char *q = area_merged();
        fill(p, PAGES);
        wait_merged(p, AREA);
        show("merged again", p, PAGES, 0);
        show("new", q, PAGES, 0);
        CALL(munmap(q, AREA));
        CALL(madvise(p, AREA, MADV_DONTNEED));
        show("discarded", p, PAGES, 0);
        fflush(stdout);
        _exit(0);
    }
    printf("reaped %d\n", reap(pid));
    show("parent", p, PAGES, 0);
}

extern char **environ;

static void case_vfork(void) {
    unsigned char *p = area_merged();
    char *argv[] = {(char *)(uintptr_t) "true", NULL};
    for (int i = 0; i < 20; i++) {
        pid_t pid = vfork();
        if (!pid) {
            void *m = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            madvise(m, AREA, MADV_MERGEABLE);
            munmap(m, AREA);
            execve("/bin/true", argv, environ);
            _exit(7);
        }
        int status = reap(pid);
        if (status)
            printf("vfork child %d\n", status);
        if (posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) || reap(pid))
            printf("spawned child failed\n");
        pid = (pid_t)syscall(SYS_vfork);
        if (!pid)
            _exit(5);
        if (reap(pid) != 5)
            printf("child of syscall(SYS_vfork) failed\n");
    }
    if (system("exit 3") != 3 << 8)
        printf("system failed\n");
    fill(p, PAGES);
    wait_merged(p, AREA);
    show("end", p, PAGES, 0);
}

/* A child of vfork advises before its parent ever did: a worker of its own would end with it. */
static void case_vfork_first(void) {
    unsigned char *p = area_new();
    char *argv[] = {(char *)(uintptr_t) "true", NULL};
    pid_t pid = vfork();
    if (!pid) {
        madvise(p, AREA, MADV_MERGEABLE);
        usleep(50000);
        execve("/bin/true", argv, environ);
        _exit(7);
    }
    printf("reaped %d\n", reap(pid));
    unsigned char *q = area_merged();
    show("end", p, PAGES, 0);
    show("merged", q, PAGES, 0);
}

/* Handlers that map memory run while the shim holds its lock. */
static void map_and_unmap(void) {
    void *m = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || madvise(m, AREA, MADV_DONTNEED) || munmap(m, AREA))
        _exit(8);
}

static void case_atfork(void) {
    unsigned char *p = area_merged();
    pthread_atfork(map_and_unmap, map_and_unmap, map_and_unmap);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (!pid) {
            map_and_unmap();
            _exit(count_filled(p, PAGES) == (int)PAGES ? 0 : 1);
        }
        int status = reap(pid);
        if (status)
            printf("child %d\n", status);
    }
    show("end", p, PAGES, 0);
}

/* ---- threads and signals ---- */

static volatile bool stop;

static void on_timer(int signal_number) {
    int saved = errno;
    (void)signal_number;
    map_and_unmap();
    errno = saved;
}

static void *churn(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    unsigned char *p = area_new();
    madvise(p, AREA, MADV_MERGEABLE);
    while (!stop) {
        size_t page = (size_t)rand_r(&seed) % (PAGES - 64), n = 1 + (size_t)rand_r(&seed) % 63;
        unsigned char *at = p + page * PAGE;
        bool zero = true;
        switch (rand_r(&seed) % 5) {
        case 0:
            if (madvise(at, n * PAGE, MADV_DONTNEED))
                abort();
            break;
        case 1:
            if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
                at)
                abort();
            madvise(at, n * PAGE, MADV_MERGEABLE);
            break;
        case 2:
            if (mprotect(at, n * PAGE, PROT_READ) || mprotect(at, n * PAGE, PROT_READ | PROT_WRITE))
                abort();
            zero = false;
            break;
        case 3:
            if (munmap(at, n * PAGE) || mmap(at, n * PAGE, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
                abort();
            madvise(at, n * PAGE, MADV_MERGEABLE);
            break;
        default:
            usleep(2000);
            zero = false;
            break;
        }
        for (size_t i = 0; i < n; i++)
            if (zero ? !is_zero(at + i * PAGE) : !is_filled(at + i * PAGE, page + i))
                abort();
        if (zero)
            for (size_t i = 0; i < n; i++) {
                uint64_t *w = (uint64_t *)(at + i * PAGE);
                for (size_t k = 0; k < PAGE / 8; k++)
                    w[k] = ((page + i) % 64 + 1) * 1000003 + k;
            }
    }
    return p;
}

static void case_signals(void) {
    pthread_t threads[3];
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, NULL);
    for (uintptr_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, churn, (void *)(i + 1));
    setitimer(ITIMER_REAL, &often, NULL);
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 3;
    do {
        map_and_unmap();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    setitimer(ITIMER_REAL, &never, NULL);
    stop = true;
    for (int i = 0; i < 3; i++) {
        void *p;
        pthread_join(threads[i], &p);
        show("thread", p, PAGES, 0);
    }
}

static bool cleaned_up;

static void on_cancel(void *arg) {
    cleaned_up = arg != NULL;
}

static void *blocked_open(void *path) {
    pthread_cleanup_push(on_cancel, path);
    printf("opened %d\n", open(path, O_RDONLY));
    pthread_cleanup_pop(0);
    return NULL;
}

/* Cancellation points stay what they are. */
static void case_cancel(void) {
    char path[] = "/tmp/preload_calls.XXXXXX";
    pthread_t t;
    void *result = NULL;
    close(mkstemp(path));
    unlink(path);
    CALL(mkfifo(path, 0600));
    pthread_create(&t, NULL, blocked_open, path);
    usleep(100000);
    int error = pthread_cancel(t);
    pthread_join(t, &result);
    printf("error %d cancelled %d cleaned up %d\n", error, result == PTHREAD_CANCELED, cleaned_up);
    unlink(path);
}

/* ---- the rest of a program ---- */

static void case_closefrom(void) {
    unsigned char *p = area_merged();
    CALL(close_range(3, ~0U, 0));
    for (int i = 0; i < 200; i++)
        if (open("/dev/null", O_RDWR) < 0)
            break;
    unsigned char *q = area_new();
    CALL(madvise(q, AREA, MADV_MERGEABLE));
    fill(p, PAGES);
    CALL(close_range(3, ~0U, 0));
    wait_merged(q, AREA);
    wait_merged(p, AREA);
    show("first", p, PAGES, 0);
    show("second", q, PAGES, 0);
    int fd = open("/dev/null", O_RDWR);
    printf("lowest descriptor %d\n", fd);
}

static void case_userfaultfd(void) {
    unsigned char *p = area_new();
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)p + 64 * PAGE, 64 * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_WP};
    CALL(ioctl(fd, UFFDIO_API, &api));
    CALL(ioctl(fd, UFFDIO_REGISTER, &range));
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    wait_merged(p + 128 * PAGE, AREA - 128 * PAGE);
    printf("its own memory merged %zu\n", mapped_from_store(p + 64 * PAGE, 64 * PAGE));
    struct uffdio_writeprotect protect = {.range = {(uintptr_t)p + 64 * PAGE, PAGE},
                                          .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    CALL(ioctl(fd, UFFDIO_WRITEPROTECT, &protect));
    protect.mode = 0;
    CALL(ioctl(fd, UFFDIO_WRITEPROTECT, &protect));
    CALL(ioctl(fd, UFFDIO_UNREGISTER, &range.range));
    show("end", p, PAGES, 0);
}

/* A filter that kills for what no program in a sandbox may do: open, ioctl, sockets, new threads, reading
 * other memory. */
static void filter_install(void) {
    static const int killers[] = {SYS_openat,           SYS_ioctl,      SYS_socket,  SYS_clone,
                                  SYS_clone3,           SYS_pread64,    SYS_connect, SYS_futex,
                                  SYS_process_vm_readv, SYS_userfaultfd};
    const size_t n = sizeof(killers) / sizeof(*killers);
    struct sock_filter code[64];
    size_t at = 0;
    code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < n; i++) {
        code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)killers[i], 0, 1);
        code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)at, code};
    CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
}

static void case_seccomp_after(void) {
    unsigned char *p = area_merged(), *q = area_merged();
    filter_install();
    CALL(madvise(p, 100 * PAGE, MADV_DONTNEED));
    show("discarded", p, PAGES, 0);
    fill(p, PAGES);
    CALL(madvise(p, 100 * PAGE, MADV_UNMERGEABLE));
    CALL(madvise(q, AREA, MADV_MERGEABLE));
    CALL(munmap(p + 200 * PAGE, 100 * PAGE));
    usleep(200000);
    map_and_unmap();
    show("low", p, 200, 0);
    show("other", q, PAGES, 0);
}

static void case_seccomp_before(void) {
    unsigned char *p = area_new();
    filter_install();
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    usleep(200000);
    CALL(madvise(p, 100 * PAGE, MADV_DONTNEED));
    show("end", p, PAGES, 0);
}

static void case_unshare(void) {
    unsigned char *p = area_merged();
    CALL(unshare(CLONE_THREAD)); /* asks for one thread, as the next does, which is refused in a chroot */
    CALL(unshare(CLONE_NEWUSER));
    show("end", p, PAGES, 0);
}

/* As unshare; a mount namespace minds who shares the working directory. */
static void case_setns(void) {
    unsigned char *p = area_merged();
    int fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    CALL(setns(fd, CLONE_NEWUSER));
    CALL(setns(fd, CLONE_NEWNS));
    CALL(syscall(SYS_setns, fd, 0));
    CALL(setns(-1, 0));
    show("end", p, PAGES, 0);
}

/* As programs ask for it that were built with an old C library. */
int old_xstat(int kind, const char *path, struct stat *st);
int old_fxstatat(int kind, int fd, const char *path, struct stat *st, int flags);
__asm__(".symver old_xstat, __xstat64@GLIBC_2.2.5");
__asm__(".symver old_fxstatat, __fxstatat64@GLIBC_2.4");

#define COUNT_WAYS 7

/* The threads that this process sees itself have. */
static int count(int way) {
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
    struct stat st = {0};
    DIR *d;
    switch (way) {
    case 0:
        return fstatat(proc, "self/task/", &st, 0) ? -1 : (int)st.st_nlink - 2;
    case 1:
        return stat("/proc/self/task", &st) ? -1 : (int)st.st_nlink - 2;
    case 2:
        return fstatat64(proc, "./self/task", (struct stat64 *)&st, 0) ? -1 : (int)st.st_nlink - 2;
    case 3:
        return stat64("/proc/thread-self/..", (struct stat64 *)&st) ? -1 : (int)st.st_nlink - 2;
    case 4:
        return old_xstat(1, "/proc/self/task", &st) ? -1 : (int)st.st_nlink - 2;
    case 5:
        return old_fxstatat(1, proc, "self/task/", &st, 0) ? -1 : (int)st.st_nlink - 2;
    default:
        d = opendir("/proc/self/task");
        for (const struct dirent *e; d && (e = readdir(d));)
            n += e->d_name[0] != '.';
        return n;
    }
}

/* A child of a process that has made room merges again, until it counts. */
static void count_in_child(int way) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        usleep(300000);
        unsigned char *q = area_merged();
        printf("way %d: %d\n", way, count(way));
        show("child", q, PAGES, 0);
        fflush(stdout);
        _exit(0);
    }
    printf("reaped %d\n", reap(pid));
}

static void case_count(void) {
    unsigned char *p = area_merged();
    struct stat st;
    CALL(stat("/proc/self/taskless", &st));
    CALL(stat((const char *)1, &st));
    printf("threads %d\n", count(0));
    show("merged", p, PAGES, 0);
    unsigned char *q = area_new();
    CALL(madvise(q, AREA, MADV_MERGEABLE));
    CALL(munmap(q, AREA / 2));
    printf("threads later %d\n", count(0));
    for (int way = 0; way < COUNT_WAYS; way++)
        count_in_child(way);
    show("end", p, PAGES, 0);
}

static void case_syscall(void) {
    unsigned char *p = area_merged();
    uint32_t word = 5;
    struct timespec soon = {0, 1000000};
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CALL(syscall(SYS_futex, &word, 0, 4, NULL, NULL, 0));
    CALL(syscall(SYS_futex, &word, 0, 5, &soon, NULL, 0));
    CALL(syscall(-1));
    CALL(syscall(100000));
    CALL(syscall(511));
    CALL(syscall(SYS_getpid) == getpid());
    unsigned char *m = (unsigned char *)syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
    unsigned char content[16];
    printf("sixth argument %d\n", pread(fd, content, 16, 4096) == 16 && memcmp(m, content, 16) == 0);
    CALL(syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1));
    CALL(syscall(SYS_munmap, p + 1, PAGE));
    CALL(syscall(SYS_munmap, p, 10 * PAGE));
    CALL(syscall(SYS_mprotect, p + 10 * PAGE, PAGE, PROT_READ));
    CALL(syscall(SYS_mremap, p + 10 * PAGE, 10 * PAGE, 5 * PAGE, 0, 0) == (long)(p + 10 * PAGE));
    CALL(syscall(SYS_mlock, p + 10 * PAGE, PAGE));
    CALL(syscall(SYS_munlock, p + 10 * PAGE, PAGE));
    CALL(syscall(SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    show("rest", p + 10 * PAGE, 5, 10);
    show("rest", p + 20 * PAGE, PAGES - 20, 20);
}

#define CASES(X)                                                                                             \
    X(munmap)                                                                                                \
    X(mmap_over)                                                                                             \
    X(shmat)                                                                                                 \
    X(mremap_errors)                                                                                         \
    X(mremap_shrink)                                                                                         \
    X(mremap_grow)                                                                                           \
    X(mremap_move)                                                                                           \
    X(mremap_fixed)                                                                                          \
    X(mremap_dontunmap)                                                                                      \
    X(madvise_errors)                                                                                        \
    X(dontneed)                                                                                              \
    X(dontneed_unmerged)                                                                                     \
    X(dontneed_locked)                                                                                       \
    X(free)                                                                                                  \
    X(remove)                                                                                                \
    X(guard)                                                                                                 \
    X(wipeonfork)                                                                                            \
    X(dontfork)                                                                                              \
    X(dontfork_much)                                                                                         \
    X(no_more_calls)                                                                                         \
    X(vfork_calls)                                                                                           \
    X(behind_its_back)                                                                                       \
    X(come_and_go)                                                                                           \
    X(process_madvise)                                                                                       \
    X(mprotect)                                                                                              \
    X(pkey)                                                                                                  \
    X(mlock)                                                                                                 \
    X(mbind)                                                                                                 \
    X(name)                                                                                                  \
    X(merge_any)                                                                                             \
    X(children)                                                                                              \
    X(child_merges)                                                                                          \
    X(vfork)                                                                                                 \
    X(vfork_first)                                                                                           \
    X(atfork)                                                                                                \
    X(signals)                                                                                               \
    X(cancel)                                                                                                \
    X(closefrom) X(userfaultfd) X(seccomp_after) X(seccomp_before) X(unshare) X(setns) X(count) X(syscall)

int main(int argc, char **argv) {
    static const struct call_case cases[] = {
#define X(name) {#name, case_##name},
        CASES(X)
#undef X
    };
    return cases_main(argc, argv, cases, sizeof(cases) / sizeof(*cases));
}
