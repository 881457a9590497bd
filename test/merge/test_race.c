/* SPDX-License-Identifier: MIT */
/*
 * The primitive against everything that a program may do at the same time: threads that write and read, by
 * themselves and through system calls, forks that no handler sees (H3), and locking of memory. The record of
 * what must be in the memory lies elsewhere and is kept by whoever writes (I1).
 */
#include "batch_rig.h"

#include <sys/uio.h>

#include "os/fault.h"

#define WINDOWS 16
#define PAGES   (WINDOWS * SP_WINDOW_PAGES)

static struct {
    uint8_t *memory;
    struct sp_segment segment;
    void *view;
    uint64_t store_next; /* in pages */
    struct sp_batch_run runs[64];
    struct sp_batch batch;
    uint64_t outcomes[8];
    uint64_t random;
    uint64_t frozen_most_ns, frozen_ns, batches, forks;
} g;

/* How often the kernel refused to take a page back, so that it was copied. */
static uint64_t copies;

static int count_copies(const char *call) {
    if (!strcmp(call, "uffd_copy"))
        __atomic_fetch_add(&copies, 1, __ATOMIC_RELAXED);
    return 0;
}

static void world_open(void) {
    memset(&g, 0, sizeof(g));
    g.random = 88172645463325252u;
    batch_open(&g.batch, true, &g.segment, &g.view);
    g.batch.runs = g.runs;
}

static void memory_renew(void) {
    g.memory = memory_new(PAGES * PAGE);
    fill(g.memory, PAGES, 1);
    batch_arm(&g.batch, g.memory, PAGES * PAGE);
}

static void world_close(void) {
    batch_close(&g.batch, &g.segment, g.view);
}

/* Runs of up to 16 pages from `page` on, onto store pages that hold what the memory holds now; for every
 * `differs`th page something else. */
static void batch_of(size_t page, unsigned pages, unsigned differs) {
    g.batch.base = (uintptr_t)g.memory + page / SP_WINDOW_PAGES * SP_WINDOW_SIZE;
    g.batch.n = 0;
    for (unsigned done = 0; done < pages;) {
        unsigned n = (unsigned)(random_next(&g.random) % 16) + 1;
        if (n > pages - done)
            n = pages - done;
        if (g.store_next % SP_SEGMENT_PAGES + n > SP_SEGMENT_PAGES)
            g.store_next = 0; /* what mapped the first of them has been unmapped long ago */
        for (unsigned i = 0; i < n; i++) {
            uint8_t copy[SP_PAGE_SIZE] __attribute__((aligned(8)));
            memcpy(copy, g.memory + (page + done + i) * PAGE, PAGE);
            if (differs && random_next(&g.random) % differs == 0)
                copy[random_next(&g.random) % PAGE] ^= 4;
            must(sp_segment_write(&g.segment, g.store_next + i, copy), "store");
        }
        g.runs[g.batch.n++] = (struct sp_batch_run){
            .slot = (unsigned)((page + done) % SP_WINDOW_PAGES),
            .pages = n,
            .expected = (uint8_t *)g.view + g.store_next * PAGE,
            .fd = g.segment.fd_shared,
            .offset = g.store_next * PAGE,
        };
        g.store_next += n;
        done += n;
    }
    sp_batch_run(&g.batch);
    g.batches++;
    g.forks += g.batch.forks;
    g.frozen_ns += g.batch.frozen_ns;
    if (g.batch.frozen_ns > g.frozen_most_ns)
        g.frozen_most_ns = g.batch.frozen_ns;
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        g.outcomes[g.batch.outcome[i]]++;
}

/* ---- writers and readers (I1, I6) ---- */

#define WRITERS     4
#define LANE_READ   1024 /* bytes of each page written by read(2) */
#define LANE_DIRECT 2048 /* a sector of each page written by direct I/O */
#define SECTOR      512

static volatile bool stop;
static size_t cursor; /* page that is merged about now */
static uint64_t lost, steps[8];

/* A page near to what is being merged. */
static size_t near_page(uint64_t *random) {
    size_t at = __atomic_load_n(&cursor, __ATOMIC_RELAXED) + random_next(random) % 96;
    return at < 24 ? at : (at - 24) % PAGES;
}

static void lose(const char *who, size_t page, uint64_t want, uint64_t got) {
    if (__atomic_fetch_add(&lost, 1, __ATOMIC_RELAXED) < 5)
        fprintf(stderr, "%s: page %zu holds %llx, not %llx\n", who, page, (unsigned long long)got,
                (unsigned long long)want);
}

/* Owns bytes 64 n ... 64 n + 7 of each page. */
static void *writer(void *arg) {
    size_t lane = (size_t)(uintptr_t)arg;
    uint64_t random = 1234567 + lane, n = 0;
    uint64_t *record = calloc(PAGES, 8);
    for (size_t i = 0; i < PAGES; i++)
        record[i] = *(uint64_t *)(void *)(g.memory + i * PAGE + lane * 64);
    while (!stop) {
        size_t page = near_page(&random);
        uint64_t *at = (uint64_t *)(void *)(g.memory + page * PAGE + lane * 64);
        uint64_t got = __atomic_load_n(at, __ATOMIC_RELAXED);
        if (got != record[page])
            lose("writer", page, record[page], got);
        record[page] = got + 1;
        __atomic_store_n(at, got + 1, __ATOMIC_RELAXED);
        n++;
    }
    for (size_t i = 0; i < PAGES; i++) {
        uint64_t got = *(uint64_t *)(void *)(g.memory + i * PAGE + lane * 64);
        if (got != record[i])
            lose("writer at the end", i, record[i], got);
    }
    free(record);
    __atomic_fetch_add(&steps[0], n, __ATOMIC_RELAXED);
    return NULL;
}

/* What a writer wrote never goes back. */
static void *reader(void *arg) {
    bool foreign = arg != NULL;
    uint64_t random = 77, n = 0;
    uint64_t *least = calloc(PAGES, 8);
    for (; !stop; n++) {
        size_t page = near_page(&random);
        uint64_t *at = (uint64_t *)(void *)(g.memory + page * PAGE), got = 0;
        if (foreign) {
            struct iovec to = {&got, 8}, from = {at, 8};
            if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 8)
                lose("process_vm_readv", page, 8, (uint64_t)errno);
        } else {
            got = __atomic_load_n(at, __ATOMIC_RELAXED);
        }
        if (got < least[page])
            lose(foreign ? "process_vm_readv" : "reader", page, least[page], got);
        least[page] = got;
    }
    free(least);
    __atomic_fetch_add(&steps[foreign ? 2 : 1], n, __ATOMIC_RELAXED);
    return NULL;
}

/* The kernel writes into the pages: by read(2) from a file, or by direct I/O. */
static void *kernel_writer(void *arg) {
    bool direct = arg != NULL;
    size_t offset = direct ? LANE_DIRECT : LANE_READ, bytes = direct ? SECTOR : 64;
    char name[] = "/var/tmp/samepage-test-XXXXXX";
    int file = direct ? mkostemp(name, O_DIRECT | O_CLOEXEC) : memfd_create("in", MFD_CLOEXEC);
    if (file < 0)
        return NULL; /* no direct I/O there: counted below */
    if (direct)
        unlink(name);
    uint8_t *buffer = memory_new(SP_WINDOW_SIZE);
    uint64_t random = 99, n = 0, *record = calloc(PAGES, 8);
    while (!stop) {
        size_t page = near_page(&random);
        uint8_t *at = g.memory + page * PAGE + offset;
        if (record[page] && *(volatile uint64_t *)(void *)at != record[page])
            lose(direct ? "direct I/O" : "read", page, record[page], *(uint64_t *)(void *)at);
        record[page] = (uint64_t)page << 32 | ++n;
        memcpy(buffer, &record[page], 8);
        if (pwrite(file, buffer, bytes, 0) != (ssize_t)bytes || pread(file, at, bytes, 0) != (ssize_t)bytes) {
            lose(direct ? "direct I/O fails" : "read fails", page, bytes, (uint64_t)errno);
            break;
        }
    }
    for (size_t i = 0; i < PAGES; i++)
        if (record[i] && *(uint64_t *)(void *)(g.memory + i * PAGE + offset) != record[i])
            lose(direct ? "direct I/O at the end" : "read at the end", i, record[i], 0);
    close(file);
    memory_free(buffer, SP_WINDOW_SIZE);
    free(record);
    __atomic_fetch_add(&steps[direct ? 4 : 3], n, __ATOMIC_RELAXED);
    return NULL;
}

/* As a look does: the first write to each of the pages changes its entry in the page table, also while the
 * kernel is about to move the page (sp_uffd_move). */
static void arm(size_t page, unsigned pages) {
    struct sp_range written[24];
    uint64_t start = (uintptr_t)g.memory + page * PAGE, next;
    size_t n;
    must(sp_pagemap_scan(g.batch.pagemap, SP_PAGEMAP_WRITTEN, start, start + pages * PAGE, written, 24, &n,
                         &next),
         "arm");
}

static void test_no_lost_write(void **state) {
    world_open();
    lost = 0;
    memset(steps, 0, sizeof(steps));
    for (unsigned round = 0; round < 6; round++) {
        memory_renew();
        stop = false;
        cursor = 0;
        pthread_t threads[WRITERS + 4];
        for (size_t i = 0; i < WRITERS; i++)
            pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)i);
        pthread_create(&threads[WRITERS], NULL, reader, NULL);
        pthread_create(&threads[WRITERS + 1], NULL, reader, &g);
        pthread_create(&threads[WRITERS + 2], NULL, kernel_writer, NULL);
        pthread_create(&threads[WRITERS + 3], NULL, kernel_writer, &g);
        unsigned pages;
        for (size_t page = 0; page < PAGES; page += pages) {
            pages = (unsigned)(random_next(&g.random) % 24) + 1;
            if (page % SP_WINDOW_PAGES + pages > SP_WINDOW_PAGES)
                pages = (unsigned)(SP_WINDOW_PAGES - page % SP_WINDOW_PAGES);
            __atomic_store_n(&cursor, page, __ATOMIC_RELAXED);
            arm(page, pages);
            batch_of(page, pages, 0);
        }
        stop = true;
        for (size_t i = 0; i < WRITERS + 4; i++)
            pthread_join(threads[i], NULL);
        memory_free(g.memory, PAGES * PAGE);
    }
    print_message("# %llu batches, merged %llu, changed %llu, busy %llu, most frozen %llu us; writes %llu, "
                  "reads %llu + %llu, by the kernel %llu + %llu\n",
                  (unsigned long long)g.batches, (unsigned long long)g.outcomes[SP_OUTCOME_MERGED],
                  (unsigned long long)g.outcomes[SP_OUTCOME_CHANGED],
                  (unsigned long long)g.outcomes[SP_OUTCOME_BUSY],
                  (unsigned long long)g.frozen_most_ns / 1000, (unsigned long long)steps[0],
                  (unsigned long long)steps[1], (unsigned long long)steps[2], (unsigned long long)steps[3],
                  (unsigned long long)steps[4]);
    assert_int_equal(lost, 0);
    assert_true(g.outcomes[SP_OUTCOME_MERGED] > 1000);
    assert_true(g.outcomes[SP_OUTCOME_CHANGED] > 10); /* or nothing was ever at stake */
    assert_true(steps[1] && steps[2] && steps[3] && steps[4]);
    world_close();
}

/* ---- children that nobody announced (H3) ---- */

static uint64_t children, children_wrong;

/* Looks at every page; no call of the C library, which knows nothing of this child. */
static int child_look(void) {
    for (size_t i = 0; i < PAGES; i++)
        if (!page_is(g.memory + i * PAGE, 1, i))
            return 1;
    return 0;
}

static void *cloner(void *arg) {
    while (!stop) {
        long pid = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (pid == 0)
            sp_syscall(SYS_exit_group, child_look());
        int status = -1;
        if (pid < 0 || waitpid((pid_t)pid, &status, 0) != pid || status != 0) {
            fprintf(stderr, "clone answers %ld, the child ended with %x\n", pid, (unsigned)status);
            __atomic_fetch_add(&children_wrong, 1, __ATOMIC_RELAXED);
        }
        __atomic_fetch_add(&children, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void test_raw_clone(void **state) {
    world_open();
    children = children_wrong = 0;
    uint64_t begin = sp_now_ns();
    while (g.forks < 60 && sp_now_ns() - begin < 40 * SECOND_NS) {
        memory_renew();
        stop = false;
        pthread_t thread;
        pthread_create(&thread, NULL, cloner, NULL);
        for (size_t page = 0; page < PAGES; page += 64) {
            /* Pages that a child shared are moved only once they have been written again. */
            for (size_t i = page; i < page + 64; i++)
                __atomic_fetch_add((uint64_t *)(void *)(g.memory + i * PAGE), 0, __ATOMIC_SEQ_CST);
            batch_of(page, 64, page / 64 % 2 ? 3 : 0); /* also where nothing has to be put back */
            sp_batch_forks(g.batch.uffd);
        }
        stop = true;
        /* The last clone may wait for its event to be read. */
        struct timespec soon;
        do {
            sp_batch_forks(g.batch.uffd);
            clock_gettime(CLOCK_REALTIME, &soon);
            soon.tv_nsec += 1000000;
            if (soon.tv_nsec >= 1000000000)
                soon.tv_sec++, soon.tv_nsec -= 1000000000;
        } while (pthread_timedjoin_np(thread, NULL, &soon));
        assert_int_equal(wrong_pages(g.memory, PAGES, 1), 0);
        memory_free(g.memory, PAGES * PAGE);
    }
    print_message("# %llu children, %llu of them while pages were frozen; merged %llu, put back %llu\n",
                  (unsigned long long)children, (unsigned long long)g.forks,
                  (unsigned long long)g.outcomes[SP_OUTCOME_MERGED],
                  (unsigned long long)g.outcomes[SP_OUTCOME_CHANGED]);
    assert_int_equal(children_wrong, 0);
    assert_true(g.forks >= 10);
    assert_true(g.outcomes[SP_OUTCOME_MERGED] > 0 && g.outcomes[SP_OUTCOME_CHANGED] > 0);
    world_close();
}

/* ---- memory that is locked meanwhile ---- */

static void *locker(void *arg) {
    uint64_t random = 5;
    while (!stop) {
        size_t page = near_page(&random), bytes = PAGE * (random_next(&random) % 8 + 1);
        if ((page + 8) * PAGE > PAGES * PAGE)
            continue;
        mlock2(g.memory + page * PAGE, bytes, MLOCK_ONFAULT);
        sp_sleep_ns(1000);
    }
    munlock(g.memory, PAGES * PAGE);
    return NULL;
}

static void test_locked_meanwhile(void **state) {
    world_open();
    sp_fault_hook = count_copies;
    g.batch.fork_events = false; /* whether a fork is under way is asked by a copy of nothing */
    uint64_t begin = sp_now_ns();
    copies = 0;
    while (copies < 20 && sp_now_ns() - begin < 30 * SECOND_NS) {
        memory_renew();
        stop = false;
        pthread_t thread;
        pthread_create(&thread, NULL, locker, NULL);
        for (size_t page = 0; page < PAGES; page += 16) {
            __atomic_store_n(&cursor, page, __ATOMIC_RELAXED);
            batch_of(page, 16, 2);
        }
        stop = true;
        pthread_join(thread, NULL);
        assert_int_equal(wrong_pages(g.memory, PAGES, 1), 0);
        memory_free(g.memory, PAGES * PAGE);
    }
    sp_fault_hook = NULL;
    print_message("# %llu copies of pages that could not be moved back\n", (unsigned long long)copies);
    assert_true(copies > 0);
    world_close();
}

int main(void) {
    require_uffd();
    watchdog(150);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_lost_write),
        cmocka_unit_test(test_raw_clone),
        cmocka_unit_test(test_locked_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
