/* SPDX-License-Identifier: MIT */
/*
 * Processes with threads that do to memory, while it is merged, whatever programs do to memory: write, read,
 * map, unmap, discard, protect, lock, fork (with and without the C library), direct I/O, pinned buffers. All
 * calls that the engine's contract wants under its lock are made so. Raw clones are made only where the
 * worker can have fork events (CAP_SYS_PTRACE): without them such a child is not covered (H3).
 *
 * The record of every byte is kept by whoever owns it, in memory that is not registered: each thread owns a
 * slice of its process's memory, and a cache line in each page of an area that all threads of it share. Part
 * of the content comes from a small pool, so that there is always something to merge, within a process and
 * between processes.
 *
 * With --compact the kernel moves pages about in physical memory all the while (compaction), as it does on
 * any machine that runs long or uses huge pages; that takes root.
 *
 * With --huge windows are huge pages again and again, several of the same content, and rest for a moment.
 *
 * With --tree each process's own index is that of two trees, which reads pages at any moment.
 *
 * With --daemon the processes are clients of a samepaged, and it and they are killed at random moments and
 * started anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/remote.h"
#include "merge/engine.h"
#include "merge/local.h"
#include "os/mapping.h"
#include "os/syscall.h"
#include "os/thread.h"

#define PAGE          SP_PAGE_SIZE
#define SLICE_PAGES   1024
#define SLICE_BYTES   (SLICE_PAGES * PAGE)
#define COMMON_PAGES  512
#define COMMON_BYTES  (COMMON_PAGES * PAGE)
#define THREADS_MAX   32
#define PROCESSES_MAX 64

static struct {
    unsigned seconds, processes, threads, kills;
    uint64_t seed;
    bool compact, huge;
    enum sp_index_kind index; /* of the domain within each process */
    const char *socket, *daemon;
} opt = {.seconds = 10, .processes = 2, .threads = 4, .seed = 1};

/* One process. */
static struct sp_engine *engine;
static struct sp_link *local_link;
static uint8_t *common;
static uint64_t end_ns;
static bool fork_events;

struct actor {
    unsigned number;
    uint64_t random;
    uint8_t *slice;  /* registered */
    uint8_t *record; /* what it holds */
    uint64_t common_record[COMMON_PAGES];
    uint8_t *buffer; /* page aligned, not registered */
    int file;        /* for direct I/O; -1: not to be had */
    struct io_uring ring;
    bool has_ring;
    uint64_t steps;
};

static uint64_t rnd(struct actor *a) {
    a->random ^= a->random << 13;
    a->random ^= a->random >> 7;
    a->random ^= a->random << 17;
    return a->random;
}

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "stress: process %d: ", getpid());
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(2);
}

/* Some consecutive pages of the slice. */
struct span {
    size_t first, pages;
};

static struct span span_of(struct actor *a, size_t most) {
    struct span s = {rnd(a) % SLICE_PAGES, rnd(a) % most + 1};
    if (s.first + s.pages > SLICE_PAGES)
        s.pages = SLICE_PAGES - s.first;
    return s;
}

static uint8_t *at(const struct actor *a, size_t page) {
    return a->slice + page * PAGE;
}

static uint8_t *recorded(const struct actor *a, size_t page) {
    return a->record + page * PAGE;
}

/* Where a wrong page is, for whoever has to find out why: a line of /proc/self/maps, and the page's entry in
 * pagemap(5). */
static void tell_place(uintptr_t address) {
    char line[512];
    unsigned long start, end;
    uint64_t entry = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof(line), maps))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= address && address < end)
            fprintf(stderr, "stress: %#lx lies in %s", (unsigned long)address, line);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pread(pagemap, &entry, sizeof(entry), (off_t)(address / PAGE * sizeof(entry))) == sizeof(entry))
        fprintf(stderr, "stress: its pagemap entry is %#llx, the engine is in state %s\n",
                (unsigned long long)entry, sp_engine_state_text(sp_engine_state(engine)));
    if (getenv("STRESS_HOLD")) {
        fprintf(stderr, "stress: process %d stops to be looked at\n", getpid());
        raise(SIGSTOP);
    }
}

static void compare(const struct actor *a, size_t first, size_t pages, const char *after) {
    for (size_t i = first; i < first + pages; i++)
        if (memcmp(at(a, i), recorded(a, i), PAGE)) {
            size_t k = 0, zeros = 0;
            while (at(a, i)[k] == recorded(a, i)[k] && k < PAGE - 1)
                k++;
            uint8_t is = at(a, i)[k];
            for (size_t z = 0; z < PAGE; z++)
                zeros += at(a, i)[z] == 0;
            tell_place((uintptr_t)at(a, i));
            die("page %zu of thread %u is wrong at byte %zu after %s: %02x, not %02x; %zu bytes are zero", i,
                a->number, k, after, is, recorded(a, i)[k], zeros);
        }
}

/* ---- what a thread does ---- */

static void pool_fill(uint8_t *page, uint64_t content) {
    uint64_t *w = (uint64_t *)(void *)page, x = (content + 1) * UINT64_C(0x9e3779b97f4a7c15);
    for (size_t k = 0; k < PAGE / 8; k++)
        w[k] = x + k;
}

/* The same for many threads and processes, at the same places or at others. */
static void do_fill(struct actor *a) {
    struct span s = span_of(a, 256);
    uint64_t shift = rnd(a) % 4 ? 0 : rnd(a) % 64;
    for (size_t i = s.first; i < s.first + s.pages; i++) {
        pool_fill(recorded(a, i), (i + shift) % 512);
        memcpy(at(a, i), recorded(a, i), PAGE);
    }
}

/* A whole window anew, as a huge page if the kernel has one, and time for it to be merged as such. */
static void do_huge(struct actor *a) {
    size_t first = rnd(a) % (SLICE_PAGES / SP_WINDOW_PAGES) * SP_WINDOW_PAGES;
    uint64_t start = (uintptr_t)at(a, first), end = start + SP_WINDOW_SIZE, shift = rnd(a) % 2;
    if (!opt.huge)
        return;
    sp_engine_lock(engine);
    sp_engine_remove_locked(engine, start, end, true);
    void *p = mmap(at(a, first), SP_WINDOW_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    (void)madvise(at(a, first), SP_WINDOW_SIZE, MADV_HUGEPAGE);
    int error = sp_engine_add_locked(engine, start, end, true, NULL);
    sp_engine_unlock(engine);
    if (p == MAP_FAILED || error)
        die("a huge window: %s", strerror(p == MAP_FAILED ? errno : -error));
    for (size_t i = first; i < first + SP_WINDOW_PAGES; i++) {
        pool_fill(recorded(a, i), (i + shift) % 512);
        memcpy(at(a, i), recorded(a, i), PAGE);
    }
    sp_sleep_ns(1000000 + rnd(a) % 60000000);
    compare(a, first, SP_WINDOW_PAGES, "making it huge");
}

static void do_zero(struct actor *a) {
    struct span s = span_of(a, 64);
    memset(recorded(a, s.first), 0, s.pages * PAGE);
    memset(at(a, s.first), 0, s.pages * PAGE);
}

static void do_write(struct actor *a) {
    struct span s = span_of(a, 8);
    for (size_t i = s.first; i < s.first + s.pages; i++) {
        size_t k = rnd(a) % PAGE;
        recorded(a, i)[k] = at(a, i)[k] = (uint8_t)rnd(a);
    }
}

static void do_read(struct actor *a) {
    struct span s = span_of(a, 64);
    compare(a, s.first, s.pages, "reading");
}

static void do_read_foreign(struct actor *a) {
    struct span s = span_of(a, 4);
    struct iovec to = {a->buffer, s.pages * PAGE}, from = {at(a, s.first), s.pages * PAGE};
    if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)(s.pages * PAGE))
        die("process_vm_readv: %s", strerror(errno));
    if (memcmp(a->buffer, recorded(a, s.first), s.pages * PAGE))
        die("process_vm_readv sees something else");
}

static void do_common(struct actor *a) {
    for (unsigned n = 0; n < 64; n++) {
        size_t page = rnd(a) % COMMON_PAGES;
        uint64_t *word = (uint64_t *)(void *)(common + page * PAGE + a->number * 64);
        uint64_t got = __atomic_load_n(word, __ATOMIC_RELAXED);
        if (got != a->common_record[page])
            die("common page %zu of thread %u holds %llx, not %llx", page, a->number, (unsigned long long)got,
                (unsigned long long)a->common_record[page]);
        a->common_record[page] = rnd(a) % 4; /* few values: equal pages */
        __atomic_store_n(word, a->common_record[page], __ATOMIC_RELAXED);
    }
}

static void do_discard(struct actor *a) {
    struct span s = span_of(a, 64);
    uint64_t start = (uintptr_t)at(a, s.first), end = start + s.pages * PAGE;
    sp_engine_lock(engine);
    int error = sp_engine_discard_locked(engine, start, end);
    if (!error && madvise(at(a, s.first), s.pages * PAGE, MADV_DONTNEED))
        error = -errno;
    sp_engine_unlock(engine);
    if (error)
        die("discard: %s", strerror(-error));
    memset(recorded(a, s.first), 0, s.pages * PAGE);
    compare(a, s.first, s.pages, "discarding");
}

static void do_remap(struct actor *a) {
    struct span s = span_of(a, 128);
    uint64_t start = (uintptr_t)at(a, s.first), end = start + s.pages * PAGE;
    sp_engine_lock(engine);
    sp_engine_remove_locked(engine, start, end, true);
    void *p = mmap(at(a, s.first), s.pages * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    int error = sp_engine_add_locked(engine, start, end, true, NULL);
    sp_engine_unlock(engine);
    if (p == MAP_FAILED || error)
        die("remap: %s", strerror(p == MAP_FAILED ? errno : -error));
    memset(recorded(a, s.first), 0, s.pages * PAGE);
    compare(a, s.first, s.pages, "mapping anew");
}

static void do_protect(struct actor *a) {
    struct span s = span_of(a, 32);
    uint64_t start = (uintptr_t)at(a, s.first), end = start + s.pages * PAGE;
    const int prots[] = {rnd(a) % 2 ? PROT_NONE : PROT_READ, PROT_READ | PROT_WRITE};
    for (unsigned i = 0; i < 2; i++) {
        sp_engine_lock(engine);
        int error = mprotect(at(a, s.first), s.pages * PAGE, prots[i]) ? -errno : 0;
        if (!error)
            error = sp_engine_protection_locked(engine, start, end, prots[i]);
        sp_engine_unlock(engine);
        if (error)
            die("protect: %s", strerror(-error));
        if (prots[i] == PROT_READ)
            compare(a, s.first, s.pages, "protecting");
        sp_sleep_ns(rnd(a) % 200000);
    }
    compare(a, s.first, s.pages, "protecting");
}

/* Behind the engine's back on purpose: it must do no harm. */
static void do_lock(struct actor *a) {
    struct span s = span_of(a, 16);
    int error = mlock2(at(a, s.first), s.pages * PAGE, rnd(a) % 2 ? MLOCK_ONFAULT : 0);
    if (error && errno != ENOMEM && errno != EAGAIN)
        die("mlock: %s", strerror(errno));
    compare(a, s.first, s.pages, "locking");
    munlock(at(a, s.first), s.pages * PAGE);
}

static int wait_for_status(long pid) {
    int status;
    while (waitpid((pid_t)pid, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid: %s", strerror(errno));
    return status;
}

static void do_fork(struct actor *a) {
    sp_engine_fork_prepare(engine);
    pid_t pid = fork();
    if (pid == 0) {
        sp_engine_fork_child(engine);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        compare(a, 0, SLICE_PAGES, "fork, in the child");
        _exit(0);
    }
    int error = errno;
    sp_engine_fork_parent(engine);
    if (pid < 0)
        die("fork: %s", strerror(error));
    do_write(a);
    int status = wait_for_status(pid);
    if (status)
        die("a child by fork ended with %x", (unsigned)status);
}

/* The child has no C library to speak with, so it tells by its status, and the parent looks at itself too:
 * whether the child alone is wrong makes a difference. */
static void do_raw_clone(struct actor *a) {
    if (!fork_events)
        return;
    long pid = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        sp_syscall(SYS_exit_group, memcmp(a->slice, a->record, SLICE_BYTES) ? 3 : 0);
    if (pid < 0)
        die("clone: %s", strerror((int)-pid));
    do_write(a);
    int status = wait_for_status(pid);
    if (status) {
        compare(a, 0, SLICE_PAGES, "clone, and so are others in the child");
        die("a child by clone, and it alone, ended with %x", (unsigned)status);
    }
}

static void do_direct(struct actor *a) {
    if (a->file < 0)
        return;
    struct span from = span_of(a, 8);
    ssize_t bytes = (ssize_t)(from.pages * PAGE);
    size_t to = rnd(a) % (SLICE_PAGES - from.pages + 1);
    if (pwrite(a->file, at(a, from.first), (size_t)bytes, 0) != bytes ||
        pread(a->file, at(a, to), (size_t)bytes, 0) != bytes)
        die("direct I/O: %s", strerror(errno));
    memmove(recorded(a, to), recorded(a, from.first), (size_t)bytes);
    compare(a, to, from.pages, "direct I/O");
}

/* Pages stay pinned while the engine goes on, and are then written to by the kernel. */
static void do_pinned(struct actor *a) {
    if (!a->has_ring || a->file < 0)
        return;
    struct span s = span_of(a, 4);
    struct iovec pin = {at(a, s.first), s.pages * PAGE};
    for (size_t i = 0; i < s.pages; i++)
        pool_fill(a->buffer + i * PAGE, rnd(a) % 512);
    if (pwrite(a->file, a->buffer, pin.iov_len, 0) != (ssize_t)pin.iov_len)
        die("file: %s", strerror(errno));
    int error = io_uring_register_buffers(&a->ring, &pin, 1);
    if (error == -ENOMEM) /* RLIMIT_MEMLOCK */
        return;
    if (error)
        die("register buffers: %s", strerror(-error));
    compare(a, s.first, s.pages, "pinning");
    sp_sleep_ns(rnd(a) % 3000000);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&a->ring);
    io_uring_prep_read_fixed(sqe, a->file, pin.iov_base, (unsigned)pin.iov_len, 0, 0);
    struct io_uring_cqe *cqe;
    do
        error = io_uring_submit_and_wait(&a->ring, 1);
    while (error == -EINTR);
    if (error < 0 || io_uring_wait_cqe(&a->ring, &cqe) || cqe->res != (int)pin.iov_len)
        die("read into a pinned buffer");
    io_uring_cqe_seen(&a->ring, cqe);
    memcpy(recorded(a, s.first), a->buffer, pin.iov_len);
    compare(a, s.first, s.pages, "a read into pinned pages");
    io_uring_unregister_buffers(&a->ring);
}

static void do_merge(struct actor *a) {
    struct sp_merge_result result;
    struct span s = span_of(a, 512);
    uint64_t start = (uintptr_t)at(a, s.first);
    /* Without a daemon for the moment it says so; the memory stays as it is. */
    int unused = sp_engine_merge(engine, start, start + s.pages * PAGE, rnd(a) % 4 == 0, &result);
    (void)unused;
    compare(a, s.first, s.pages, "merging");
}

static void do_unmerge(struct actor *a) {
    struct span s = span_of(a, 128);
    uint64_t start = (uintptr_t)at(a, s.first);
    sp_engine_lock(engine);
    int error = sp_engine_unmerge_locked(engine, start, start + s.pages * PAGE);
    sp_engine_unlock(engine);
    if (error)
        die("unmerge: %s", strerror(-error));
    compare(a, s.first, s.pages, "unmerging");
}

static void do_rest(struct actor *a) {
    sp_sleep_ns(rnd(a) % 20000000);
}

static const struct {
    void (*act)(struct actor *a);
    unsigned weight;
} acts[] = {
    {do_fill, 20},   {do_zero, 4},      {do_write, 30}, {do_read, 30},   {do_read_foreign, 8},
    {do_common, 30}, {do_discard, 4},   {do_remap, 4},  {do_protect, 4}, {do_lock, 3},
    {do_fork, 1},    {do_raw_clone, 2}, {do_direct, 6}, {do_pinned, 3},  {do_merge, 2},
    {do_unmerge, 2}, {do_rest, 12},     {do_huge, 10},
};

static void *actor_main(void *arg) {
    struct actor *a = arg;
    unsigned total = 0;
    for (size_t i = 0; i < sizeof(acts) / sizeof(*acts); i++)
        total += acts[i].weight;
    for (; sp_now_ns() < end_ns; a->steps++) {
        unsigned pick = (unsigned)(rnd(a) % total);
        size_t i = 0;
        while (pick >= acts[i].weight)
            pick -= acts[i++].weight;
        acts[i].act(a);
    }
    compare(a, 0, SLICE_PAGES, "everything");
    return NULL;
}

/* ---- a process ---- */

static void *memory_new(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("mmap: %s", strerror(errno));
    return p;
}

static void actor_init(struct actor *a, unsigned process, unsigned number, uint8_t *slice) {
    char name[] = "/var/tmp/samepage-stress-XXXXXX";
    a->number = number;
    a->random = (opt.seed * 1000003 + process) * 1000003 + number + 1;
    a->slice = slice;
    a->record = memory_new(SLICE_BYTES);
    a->buffer = memory_new(SLICE_BYTES);
    a->file = mkostemp(name, O_DIRECT | O_CLOEXEC);
    if (a->file >= 0)
        unlink(name);
    a->has_ring = io_uring_queue_init(4, &a->ring, 0) == 0;
    for (unsigned i = 0; i < 8; i++)
        do_fill(a);
}

static void add(void *p, size_t bytes) {
    sp_engine_lock(engine);
    int error = sp_engine_add_locked(engine, (uintptr_t)p, (uintptr_t)p + bytes, true, NULL);
    sp_engine_unlock(engine);
    if (error)
        die("register: %s", strerror(-error));
}

/* Asked by a userfaultfd of our own: a daemon that we start has no more rights than we have. */
static bool can_have_fork_events(void) {
    int fd;
    bool can = false;
    if (!sp_uffd_for_worker(-1, &fd, &can))
        close(fd);
    return can;
}

static void engine_open(void) {
    struct sp_settings settings;
    struct sp_link *link;
    sp_settings_init(&settings);
    settings.v[SP_SETTING_sleep_millisecs] = 5;
    settings.v[SP_SETTING_sleep_max_millisecs] = 20;
    int error =
        opt.socket ? sp_remote_link_new(opt.socket, &link) : sp_local_link_new(&settings, opt.index, &link);
    if (!opt.socket)
        local_link = link;
    if (!error)
        error = sp_engine_new(link, &settings, &engine);
    if (error)
        die("engine: %s", strerror(-error));
}

/* What it did goes to the starter, who wants to know that something was merged at all. */
struct tally {
    uint64_t steps, merged, merged_huge, broken, differed, pinned, freeze_max_ns, errors;
};

static int process_main(unsigned number, unsigned round, int tally_fd) {
    static struct actor actors[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(opt.seconds + 120);
    fork_events = can_have_fork_events();
    engine_open();
    void *slices_at;
    if (sp_map_new(opt.threads * SLICE_BYTES, SP_WINDOW_SIZE, &slices_at))
        die("mmap: no memory");
    uint8_t *slices = slices_at;
    common = memory_new(COMMON_BYTES);
    memset(common, 0, COMMON_BYTES);
    for (unsigned i = 0; i < opt.threads; i++)
        actor_init(&actors[i], number + 100 * round, i, slices + i * SLICE_BYTES);
    add(slices, opt.threads * SLICE_BYTES);
    add(common, COMMON_BYTES);
    for (unsigned i = 0; i < opt.threads; i++)
        pthread_create(&threads[i], NULL, actor_main, &actors[i]);
    struct tally t = {0};
    for (unsigned i = 0; i < opt.threads; i++) {
        pthread_join(threads[i], NULL);
        t.steps += actors[i].steps;
    }
    struct sp_report report;
    memset(&report, 0, sizeof(report));
    sp_engine_report(engine, &report);
    if (report.state == SP_ENGINE_RAW_CALLS) /* there are none */
        die("merging has ended: %s", sp_engine_state_text(report.state));
    t.merged = report.counters.v[SP_COUNTER_pages_merged];
    t.merged_huge = report.counters.v[SP_COUNTER_pages_merged_huge];
    t.broken = report.counters.v[SP_COUNTER_pages_broken];
    t.differed = report.counters.v[SP_COUNTER_pages_differed];
    t.pinned = report.counters.v[SP_COUNTER_pages_pinned];
    t.errors = report.counters.v[SP_COUNTER_errors];
    t.freeze_max_ns = report.freezes.max_ns;
    sp_engine_free(engine);
    for (unsigned i = 0; i < opt.threads; i++)
        compare(&actors[i], 0, SLICE_PAGES, "the engine's end");
    return write(tally_fd, &t, sizeof(t)) == sizeof(t) ? 0 : 1;
}

/* ---- the starter ---- */

static pid_t clients[PROCESSES_MAX], daemon_pid;
static unsigned rounds;
static int tally_pipe[2];

static void client_start(unsigned i) {
    fflush(NULL);
    clients[i] = fork();
    if (clients[i] == 0)
        _exit(process_main(i, rounds, tally_pipe[1]));
    rounds++;
}

static void daemon_start(void) {
    char ready[16], byte;
    int p[2];
    if (pipe(p))
        die("pipe: %s", strerror(errno));
    snprintf(ready, sizeof(ready), "%d", p[1]);
    daemon_pid = fork();
    if (daemon_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(p[0]);
        execl(opt.daemon, opt.daemon, "--socket", opt.socket, "--ready-fd", ready, "--set",
              "sleep_millisecs=5,sleep_max_millisecs=20", (char *)NULL);
        _exit(127);
    }
    close(p[1]);
    if (read(p[0], &byte, 1) != 1)
        die("%s does not start", opt.daemon);
    close(p[0]);
}

/* Ends the process `pid`, which is ours; only SIGKILL may be what it died of. */
static void kill_and_wait(pid_t pid) {
    int status;
    kill(pid, SIGKILL);
    if (waitpid(pid, &status, 0) != pid)
        die("waitpid: %s", strerror(errno));
    if (!(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) && status != 0)
        die("a process ended with %x before it was killed", (unsigned)status);
}

static void kill_somebody(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    if (opt.daemon && *random % 3 == 0) {
        kill_and_wait(daemon_pid);
        if (*random % 7)
            sp_sleep_ns(*random % 300000000);
        daemon_start();
    } else {
        unsigned i = (unsigned)(*random >> 8) % opt.processes;
        kill_and_wait(clients[i]);
        client_start(i);
    }
}

/* vm.rst, compact_memory: writing to it moves pages together once, and sets nothing. */
static pid_t compactor_start(void) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(tally_pipe[0]);
    close(tally_pipe[1]); /* the starter reads until nobody has it */
    for (;;) {
        int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "1", 1) != 1)
            die("compact_memory: %s", strerror(errno));
        close(fd);
        sp_sleep_ns(UINT64_C(20000000));
    }
}

static int finish(void) {
    int bad = 0;
    for (unsigned i = 0; i < opt.processes; i++) {
        int status;
        waitpid(clients[i], &status, 0);
        if (status) {
            fprintf(stderr, "stress: process %d ended with %x\n", clients[i], (unsigned)status);
            bad = 1;
        }
    }
    if (opt.daemon)
        kill_and_wait(daemon_pid);
    close(tally_pipe[1]);
    struct tally sum = {0}, t;
    while (read(tally_pipe[0], &t, sizeof(t)) == sizeof(t)) {
        sum.steps += t.steps;
        sum.merged += t.merged;
        sum.merged_huge += t.merged_huge;
        sum.broken += t.broken;
        sum.differed += t.differed;
        sum.pinned += t.pinned;
        sum.errors += t.errors;
        if (t.freeze_max_ns > sum.freeze_max_ns)
            sum.freeze_max_ns = t.freeze_max_ns;
    }
    printf("stress: seed %llu, %llu steps, %llu pages merged, %llu broken, %llu put back, %llu refused, "
           "%llu failed calls, longest freeze %llu us\n",
           (unsigned long long)opt.seed, (unsigned long long)sum.steps, (unsigned long long)sum.merged,
           (unsigned long long)sum.broken, (unsigned long long)sum.differed, (unsigned long long)sum.pinned,
           (unsigned long long)sum.errors, (unsigned long long)sum.freeze_max_ns / 1000);
    if (opt.huge)
        printf("stress: %llu of the pages merged as huge pages\n", (unsigned long long)sum.merged_huge);
    if (!bad && !sum.merged) {
        fprintf(stderr, "stress: nothing was merged, so nothing was tested\n");
        bad = 1;
    }
    return bad;
}

static unsigned number(const char *text, unsigned most) {
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (*end || end == text || v > most) {
        fprintf(stderr, "stress: %s is no number up to %u\n", text, most);
        exit(2);
    }
    return (unsigned)v;
}

static void options(int argc, char **argv) {
    static const struct option known[] = {
        {"seconds", required_argument, NULL, 's'},
        {"processes", required_argument, NULL, 'p'},
        {"threads", required_argument, NULL, 't'},
        {"seed", required_argument, NULL, 'e'},
        {"socket", required_argument, NULL, 'S'},
        {"daemon", required_argument, NULL, 'd'},
        {"kills", required_argument, NULL, 'k'},
        {"compact", no_argument, NULL, 'c'},
        {"tree", no_argument, NULL, 'i'},
        {"huge", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) >= 0;)
        switch (c) {
        case 's':
            opt.seconds = number(optarg, 1000000);
            break;
        case 'p':
            opt.processes = number(optarg, PROCESSES_MAX);
            break;
        case 't':
            opt.threads = number(optarg, THREADS_MAX);
            break;
        case 'e':
            opt.seed = number(optarg, 1000000000);
            break;
        case 'S':
            opt.socket = optarg;
            break;
        case 'd':
            opt.daemon = optarg;
            break;
        case 'k':
            opt.kills = number(optarg, 1000000);
            break;
        case 'c':
            opt.compact = true;
            break;
        case 'h':
            opt.huge = true;
            break;
        case 'i':
            opt.index = SP_INDEX_TREE;
            break;
        default:
            fprintf(stderr,
                    "Usage: stress [--seconds N] [--processes N] [--threads N] [--seed N] "
                    "[--socket PATH | --daemon SAMEPAGED] [--kills N] [--compact] [--huge] [--tree]\n");
            exit(2);
        }
    if (!opt.processes || !opt.threads)
        exit(2);
}

int main(int argc, char **argv) {
    static char path[64];
    options(argc, argv);
    if (pipe2(tally_pipe, O_CLOEXEC))
        die("pipe: %s", strerror(errno));
    uint64_t begin = sp_now_ns();
    end_ns = begin + opt.seconds * UINT64_C(1000000000);
    char directory[] = "/tmp/samepage-stress-XXXXXX";
    if (opt.daemon && !opt.socket) {
        if (!mkdtemp(directory))
            die("mkdtemp: %s", strerror(errno));
        snprintf(path, sizeof(path), "%s/socket", directory);
        opt.socket = path;
    }
    if (opt.daemon)
        daemon_start();
    pid_t compactor = opt.compact ? compactor_start() : 0;
    for (unsigned i = 0; i < opt.processes; i++)
        client_start(i);
    uint64_t random = opt.seed * 2654435761u + 1;
    /* The last fifth of the time is without kills, so that something is merged in peace. */
    for (unsigned i = 0; i < opt.kills; i++) {
        uint64_t due = begin + (end_ns - begin) / 5 * 4 / opt.kills * (i + 1), now = sp_now_ns();
        if (due > now)
            sp_sleep_ns(due - now);
        kill_somebody(&random);
    }
    int bad = finish();
    if (compactor)
        kill_and_wait(compactor);
    if (path[0]) {
        unlink(path);
        rmdir(directory);
    }
    return bad;
}
