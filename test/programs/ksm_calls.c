/* SPDX-License-Identifier: MIT */
/*
 * The calls by which programs ask for merging, right and wrong: ksm_calls CASE. ksm_calls.py compares what is
 * printed on the kernel with what is printed under `samepage run`.
 *
 * Whether memory may be merged is asked of whoever merges: on the kernel it is a flag of the mapping (mg in
 * smaps), with us it is seen by what happens. Lines that begin with a word in brackets are not expected to be
 * the same; ksm_calls.py says why, and what they must be.
 */
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "calls.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define RW        (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

extern char **environ;

/* ---- what has become of memory ---- */

/* Memory that was advised now is merged: so is by then all that is looked at earlier and may be. */
static void wait_round(void) {
    for (int i = 0; i < 2; i++) {
        unsigned char *p = area_merged();
        munmap(p - 2 * AREA, 5 * AREA);
    }
}

static size_t mergeable(const unsigned char *p, size_t pages) {
    if (!with_shim)
        return flagged(p, pages * PAGE, "mg") / PAGE;
    wait_round();
    return mapped_from_store(p, pages * PAGE) ? shared_pages(p, pages) : 0;
}

static void say_mergeable(const char *what, const unsigned char *p, size_t pages) {
    size_t n = mergeable(p, pages);
    printf("%s: %zu of %zu mergeable\n", what, n, pages);
}

static void say_private(const char *what, const unsigned char *p, size_t pages) {
    printf("%s: %zu private\n", what, private_pages(p, pages));
    show(what, p, pages, 0);
}

static void say_kernel(void) {
    char text[512] = "";
    int fd = open("/proc/self/ksm_stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
        printf("[kernel] nothing\n");
    else
        printf("[kernel] merge_any %d mergeable %d\n", strstr(text, "merge_any: yes") != NULL,
               strstr(text, "mergeable: yes") != NULL);
    close(fd);
}

static void *fresh(size_t pages, int prot, int flags) {
    return mmap(NULL, pages * PAGE, prot, flags, -1, 0);
}

/* ---- madvise ---- */

static long by_name(void *p, size_t bytes, int advice) {
    return madvise(p, bytes, advice);
}

static long by_number(void *p, size_t bytes, int advice) {
    return syscall(SYS_madvise, p, bytes, advice);
}

/* Of itself, by a descriptor; gives back how much was advised. */
static long by_process(void *p, size_t bytes, int advice) {
    struct iovec v = {p, bytes};
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    long r = syscall(SYS_process_madvise, pidfd, &v, 1, advice, 0);
    int saved = errno;
    close(pidfd);
    errno = saved;
    return r;
}

/* A range that wraps, and ranges that the kernel takes for empty. */
static void wrong_ranges(long (*call)(void *, size_t, int), int advice) {
    unsigned char *p = area_new();
    unsigned char *last = (unsigned char *)(uintptr_t)-PAGE;
    CALL(call(p + 1, PAGE, advice));
    CALL(call(p + PAGE - 1, 0, advice));
    CALL(call(p, 0, advice));
    CALL(call(p, 1, advice));
    CALL(call(p, AREA - 5, advice));
    CALL(call(p, (size_t)-1, advice));
    CALL(call(p, (size_t)-PAGE, advice));
    CALL(call(p, (size_t) - (uintptr_t)p, advice));
    CALL(call(p, (size_t)1 << 47, advice));
    CALL(call(NULL, 0, advice));
    CALL(call(NULL, PAGE, advice));
    CALL(call(NULL, (size_t)-1, advice));
    CALL(call(last, PAGE, advice));
    CALL(call(last, 2 * PAGE, advice));
    CALL(call((void *)((uintptr_t)1 << 63), PAGE, advice));
    CALL(call((void *)(((uintptr_t)1 << 47) - PAGE), PAGE, advice));
    CALL(call(p, PAGE, advice + 1000));
    CALL(call(p, PAGE, -1));
}

static void case_ranges(void) {
    for (int i = 0; i < 2; i++) {
        int advice = i ? MADV_UNMERGEABLE : MADV_MERGEABLE;
        wrong_ranges(by_name, advice);
        wrong_ranges(by_number, advice);
        wrong_ranges(by_process, advice);
    }
}

static void case_holes(void) {
    unsigned char *p = area_new();
    munmap(p, 10 * PAGE);
    munmap(p + 200 * PAGE, 50 * PAGE);
    munmap(p + AREA - PAGE, PAGE);
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    say_mergeable("below the hole", p + 10 * PAGE, 190);
    say_mergeable("above the hole", p + 250 * PAGE, PAGES - 251);
    CALL(madvise(p + 100 * PAGE, 200 * PAGE, MADV_UNMERGEABLE));
    say_mergeable("low", p + 10 * PAGE, 90);
    say_mergeable("high", p + 300 * PAGE, PAGES - 301);
    say_mergeable("between", p + 100 * PAGE, 100);
    CALL(madvise(p + 205 * PAGE, PAGE, MADV_UNMERGEABLE));
    CALL(madvise(p + 205 * PAGE, PAGE, MADV_MERGEABLE));
}

/* Advises twice, and takes it back twice. */
static void advise_kind(const char *kind, void *p, size_t pages) {
    printf("%s:", kind);
    if (p == MAP_FAILED) {
        printf(" %s\n", strerrorname_np(errno));
        return;
    }
    for (int i = 0; i < 4; i++) {
        errno = 0;
        int r = madvise(p, pages * PAGE, i < 2 ? MADV_MERGEABLE : MADV_UNMERGEABLE);
        printf(" %s", r ? strerrorname_np(errno) : "0");
    }
    printf("\n");
}

/* The mapping of this name in /proc/self/maps. */
static void *find_mapping(const char *name, size_t *ret_pages) {
    char line[512];
    unsigned long start = 0, end = 0;
    bool found = false;
    FILE *f = fopen("/proc/self/maps", "re");
    while (f && !found && fgets(line, sizeof(line), f))
        found = strstr(line, name) && sscanf(line, "%lx-%lx", &start, &end) == 2;
    if (f)
        fclose(f);
    *ret_pages = found ? (end - start) / PAGE : 0;
    return found ? (void *)start : MAP_FAILED;
}

static void case_kinds(void) {
    static const char *const names[] = {"[stack]", "[vvar]", "[vdso]", "/ksm_calls"};
    int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), memory = memfd_create("shared", MFD_CLOEXEC);
    if (ftruncate(memory, (off_t)AREA))
        exit(4);
    advise_kind("anonymous", fresh(32, RW, ANONYMOUS), 32);
    advise_kind("less than we track", fresh(3, RW, ANONYMOUS), 3);
    advise_kind("read-only", fresh(32, PROT_READ, ANONYMOUS), 32);
    advise_kind("no access", fresh(32, PROT_NONE, ANONYMOUS), 32);
    advise_kind("executable", fresh(32, RW | PROT_EXEC, ANONYMOUS), 32);
    advise_kind("locked", fresh(32, RW, ANONYMOUS | MAP_LOCKED), 32);
    advise_kind("growing down", fresh(32, RW, ANONYMOUS | MAP_GROWSDOWN), 32);
    advise_kind("shared", fresh(32, RW, MAP_SHARED | MAP_ANONYMOUS), 32);
    advise_kind("shared file", mmap(NULL, AREA, RW, MAP_SHARED, memory, 0), PAGES);
    advise_kind("private copy of it", mmap(NULL, AREA, RW, MAP_PRIVATE, memory, 0), PAGES);
    advise_kind("private file", mmap(NULL, PAGE, RW, MAP_PRIVATE, exe, 0), 1);
    advise_kind("huge", fresh(512, RW, ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE), 512);
    unsigned char *guarded = fresh(32, RW, ANONYMOUS);
    madvise(guarded, 5 * PAGE, MADV_GUARD_INSTALL);
    advise_kind("guarded", guarded, 32);
    void *block = malloc(1 << 20);
    advise_kind("of malloc", (void *)(((uintptr_t)block + PAGE) & ~(PAGE - 1)), 100);
    uintptr_t heap = (uintptr_t)sbrk((intptr_t)(33 * PAGE));
    advise_kind("heap", (void *)((heap + PAGE - 1) & ~(PAGE - 1)), 32);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        size_t pages;
        void *p = find_mapping(names[i], &pages);
        advise_kind(names[i], p, pages);
    }
    free(block);
}

/* One range over what can be merged and what cannot. */
static void case_overlap(void) {
    unsigned char *p = area_new();
    int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    mmap(p + 64 * PAGE, 64 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(p + 192 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, exe, 0);
    mprotect(p + 256 * PAGE, 64 * PAGE, PROT_NONE);
    mprotect(p + 320 * PAGE, 64 * PAGE, PROT_READ);
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    say_mergeable("first", p, 64);
    say_mergeable("shared", p + 64 * PAGE, 64);
    say_mergeable("between", p + 128 * PAGE, 64);
    say_mergeable("[file]", p + 192 * PAGE, 1);
    say_mergeable("behind", p + 193 * PAGE, 63);
    say_mergeable("last", p + 384 * PAGE, PAGES - 384);
    mprotect(p + 256 * PAGE, 128 * PAGE, RW);
    say_mergeable("made writable", p + 256 * PAGE, 128);
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    say_private("first", p, 64);
    say_private("last", p + 256 * PAGE, PAGES - 256);
}

/* The kernel would merge it; a program that locks memory has no worker (H21). */
static void case_locked(void) {
    unsigned char *p = area_new();
    CALL(mlock(p, 64 * PAGE));
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    say_private("all", p, PAGES);
}

static void case_unmergeable(void) {
    unsigned char *p = area_new(), *never = area_new();
    memset(p + 400 * PAGE, 0, 112 * PAGE);
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    say_mergeable("advised", p, 400);
    CALL(madvise(p + 100 * PAGE, 50 * PAGE - 1, MADV_UNMERGEABLE));
    printf("at once: %zu private\n", private_pages(p + 100 * PAGE, 50));
    say_mergeable("before", p, 100);
    say_mergeable("taken back", p + 100 * PAGE, 50);
    say_mergeable("behind", p + 150 * PAGE, 250);
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    printf("at once, zeros among them: %zu private\n", private_pages(p, PAGES));
    show("taken back", p, PAGES, 0);
    CALL(madvise(never, AREA, MADV_UNMERGEABLE));
    say_private("never advised", never, PAGES);
    CALL(madvise(p, AREA, MADV_DONTNEED));
    fill(p, PAGES);
    say_mergeable("left alone", p, PAGES);
    CALL(madvise(p, AREA, MADV_DONTNEED));
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    fill(p, PAGES);
    say_mergeable("advised again", p, PAGES);
}

/* What was refused stays refused where it goes; what comes in its place is new. */
static void case_moved(void) {
    unsigned char *p = area_new(), *q = area_new();
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    p = mremap(p, AREA, 2 * AREA, MREMAP_MAYMOVE);
    fill(p, 2 * PAGES);
    say_mergeable("moved", p, 2 * PAGES);
    CALL(madvise(q, AREA, MADV_MERGEABLE));
    say_mergeable("advised", q, PAGES);
    q = mremap(q, AREA, 2 * AREA, MREMAP_MAYMOVE);
    fill(q + AREA, PAGES);
    say_mergeable("grown", q + AREA, PAGES);
    mmap(q, AREA, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    fill(q, PAGES);
    say_mergeable("[new]", q, PAGES);
}

/* Refused before there is enough to be worth a worker, which comes when there is. */
static void case_early(void) {
    unsigned char *p = area_new(), *q = NULL;
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    for (int i = 0; i < 12; i++)
        q = area_new();
    say_mergeable("[new]", q, PAGES);
    say_mergeable("refused", p, PAGES);
    p = mremap(p, AREA, 2 * AREA, MREMAP_MAYMOVE);
    fill(p, 2 * PAGES);
    say_mergeable("moved", p, 2 * PAGES);
}

/* ---- prctl ---- */

static void case_prctl(void) {
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    for (int k = 0; k < 4; k++) {
        unsigned long a[4] = {0};
        a[k] = 1;
        CALL(prctl(PR_GET_MEMORY_MERGE, a[0], a[1], a[2], a[3]));
        CALL(prctl(PR_SET_MEMORY_MERGE, 1UL, a[1], a[2], a[3] | (k == 0)));
        CALL(prctl(PR_SET_MEMORY_MERGE, 0UL, a[1], a[2], a[3] | (k == 0)));
    }
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    static const unsigned long on[] = {1, 2, -1UL, 1UL << 32, 1UL << 63};
    for (size_t i = 0; i < sizeof(on) / sizeof(*on); i++) {
        CALL(prctl(PR_SET_MEMORY_MERGE, on[i], 0UL, 0UL, 0UL));
        CALL(prctl(PR_SET_MEMORY_MERGE, on[i], 0UL, 0UL, 0UL));
        CALL(prctl(PR_GET_MEMORY_MERGE, 0UL, 0UL, 0UL, 0UL));
        CALL(syscall(SYS_prctl, PR_GET_MEMORY_MERGE, 0UL, 0UL, 0UL, 0UL));
        say_kernel();
        CALL(syscall(SYS_prctl, PR_SET_MEMORY_MERGE, 0UL, 0UL, 0UL, 0UL));
        CALL(prctl(PR_SET_MEMORY_MERGE, 0UL, 0UL, 0UL, 0UL));
        CALL(prctl(PR_GET_MEMORY_MERGE, 0UL, 0UL, 0UL, 0UL));
    }
    say_kernel();
}

static void case_merge_any(void) {
    unsigned char *before = area_new(), *refused = area_new(), *advised = area_new();
    CALL(madvise(refused, AREA, MADV_UNMERGEABLE));
    CALL(madvise(advised, AREA, MADV_MERGEABLE));
    CALL(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
    say_mergeable("advised, not by prctl", advised, PAGES);
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    unsigned char *later = area_new();
    say_mergeable("there before", before, PAGES);
    say_mergeable("refused before", refused, PAGES);
    say_mergeable("mapped later", later, PAGES);
    CALL(madvise(later, AREA, MADV_UNMERGEABLE));
    say_private("refused", later, PAGES);
    later = mremap(later, AREA, 2 * AREA, MREMAP_MAYMOVE);
    fill(later, 2 * PAGES);
    say_mergeable("refused and moved", later, 2 * PAGES);
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    CALL(madvise(later, AREA, MADV_DONTNEED));
    fill(later, PAGES);
    say_mergeable("set twice", later, PAGES);
    CALL(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
    say_private("there before", before, PAGES);
    say_private("advised", advised, PAGES);
    say_private("mapped later", later, PAGES);
    unsigned char *after = area_new();
    say_mergeable("mapped after", after, PAGES);
    CALL(madvise(after, AREA, MADV_MERGEABLE));
    say_mergeable("advised after", after, PAGES);
}

/* ---- inheritance ---- */

/* What a child or a program that was executed finds. */
static void say_inherited(void) {
    int any = prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
    printf("inherited %d\n", any);
    say_mergeable(any ? "new" : "[new]", area_new(), PAGES);
    fflush(stdout);
}

static void case_say_inherited(void) {
    say_inherited();
}

static void case_set_and_exec(void) {
    char *argv[] = {(char *)(uintptr_t) "ksm_calls", (char *)(uintptr_t) "say_inherited", NULL};
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    fflush(stdout);
    execv("/proc/self/exe", argv);
}

static void reap_as(const char *what, pid_t pid) {
    printf("%s: %d\n", what, reap(pid));
    fflush(stdout);
}

/* The process's own again, and never merged before. */
static void fill_anew(unsigned char *p) {
    if (madvise(p, AREA, MADV_DONTNEED))
        exit(6);
    fill(p, PAGES);
}

static void case_fork(void) {
    unsigned char *p = area_new(), *refused = area_new();
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    CALL(madvise(refused, AREA, MADV_UNMERGEABLE));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        usleep(300000); /* a child that ends soon is not worth a worker */
        fill_anew(p);
        fill_anew(refused);
        say_mergeable("in the child", p, PAGES);
        say_mergeable("refused", refused, PAGES);
        CALL(madvise(p, AREA, MADV_UNMERGEABLE));
        say_private("taken back", p, PAGES);
        CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
        say_inherited();
        _exit(0);
    }
    reap_as("child", pid);
    fill_anew(p);
    wait_merged(p, AREA);
    say_mergeable("in the parent", p, PAGES);
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
}

static void case_fork_any(void) {
    CALL(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        usleep(300000);
        say_inherited();
        CALL(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
        say_mergeable("new when that has ended", area_new(), PAGES);
        fflush(stdout);
        _exit(0);
    }
    reap_as("child", pid);
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
}

/* Programs that are executed after `set` was given to prctl, in each way. */
static void execute(unsigned long set) {
    char *argv[] = {(char *)(uintptr_t) "ksm_calls", (char *)(uintptr_t) "say_inherited", NULL};
    CALL(prctl(PR_SET_MEMORY_MERGE, set, 0UL, 0UL, 0UL));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        execve("/proc/self/exe", argv, environ);
        _exit(7);
    }
    reap_as("fork", pid);
    pid = vfork();
    if (!pid) {
        execv("/proc/self/exe", argv);
        _exit(7);
    }
    reap_as("vfork", pid);
    if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ))
        pid = -1;
    reap_as("spawn", pid);
    /* The program's setting is not its child's, which executes in turn. */
    argv[1] = (char *)(uintptr_t) "set_and_exec";
    pid = fork();
    if (!pid) {
        execv("/proc/self/exe", argv);
        _exit(7);
    }
    reap_as("itself", pid);
    CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
}

static void case_exec(void) {
    unsigned char *p = area_new();
    CALL(madvise(p, AREA, MADV_MERGEABLE));
    execute(0);
    execute(1);
    setenv("SOMETHING", "else", 1);
    execute(0);
}

/* ---- threads ---- */

static void *set_in_thread(void *arg) {
    CALL(prctl(PR_SET_MEMORY_MERGE, *(const unsigned long *)arg, 0UL, 0UL, 0UL));
    return NULL;
}

static void case_thread(void) {
    unsigned char *p = area_new();
    for (unsigned long set = 1; set < 2; set--) {
        pthread_t t;
        pthread_create(&t, NULL, set_in_thread, &set);
        pthread_join(t, NULL);
        CALL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
        say_mergeable(set ? "set by a thread" : "taken back by a thread", p, PAGES);
    }
}

static volatile bool stop;

static void *toggle(void *arg) {
    unsigned char *p = arg;
    int errors = 0;
    while (!stop) {
        errors += madvise(p, AREA, MADV_MERGEABLE) != 0;
        usleep(2000);
        errors += madvise(p, AREA, MADV_UNMERGEABLE) != 0;
    }
    return (void *)(uintptr_t)errors;
}

/* Advice, its end and writes at the same time. */
static void case_threads(void) {
    unsigned char *p = area_new();
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, toggle, p);
    for (int i = 0; i < 50; i++) {
        prctl(PR_SET_MEMORY_MERGE, (unsigned long)(i % 2), 0UL, 0UL, 0UL);
        fill(p, PAGES);
        usleep(20000);
    }
    stop = true;
    for (int i = 0; i < 3; i++) {
        void *errors;
        pthread_join(t[i], &errors);
        printf("errors %d\n", (int)(uintptr_t)errors);
    }
    CALL(madvise(p, AREA, MADV_UNMERGEABLE));
    say_private("at the end", p, PAGES);
}

#define CASES(X)                                                                                             \
    X(ranges)                                                                                                \
    X(holes)                                                                                                 \
    X(kinds)                                                                                                 \
    X(overlap)                                                                                               \
    X(locked)                                                                                                \
    X(unmergeable)                                                                                           \
    X(moved)                                                                                                 \
    X(early)                                                                                                 \
    X(prctl) X(merge_any) X(say_inherited) X(set_and_exec) X(fork) X(fork_any) X(exec) X(thread) X(threads)

int main(int argc, char **argv) {
    static const struct call_case cases[] = {
#define X(name) {#name, case_##name},
        CASES(X)
#undef X
    };
    return cases_main(argc, argv, cases, sizeof(cases) / sizeof(*cases));
}
