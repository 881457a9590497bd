/* SPDX-License-Identifier: MIT */
/*
 * The engine with a domain in this process: what it shares, what it leaves alone, what it gives back, and
 * what the application's calls (unmerge, discard, remove, protect) do to merged memory.
 */
#include "merge_test.h"

#include "merge/state.h"
#include "os/uffd.h"

#define N     (8 * MIB)
#define PAGES (N / PAGE)

/* Two ranges with the same content, settled. */
struct twins {
    struct engine_rig rig;
    uint8_t *a, *b;
};

static void twins_open(struct twins *t, struct sp_link *(*wrap)(struct sp_link *)) {
    rig_init(&t->rig, wrap);
    t->a = memory_new(N);
    t->b = memory_new(N);
    fill(t->a, PAGES, 1);
    fill(t->b, PAGES, 1);
    assert_int_equal(rig_add(&t->rig, t->a, N), N);
    assert_int_equal(rig_add(&t->rig, t->b, N), N);
    assert_int_equal(rig_settle(&t->rig), 0);
    assert_true(rig_until(&t->rig, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
}

static void twins_close(struct twins *t) {
    t->rig.engine = sp_engine_free(t->rig.engine);
    memory_free(t->a, N);
    memory_free(t->b, N);
}

/* Memory that the store holds: what shmem the machine uses is others' too, so by the descriptors. There are
 * none of the worker's in our table: through the mappings' files. */
static uint64_t store_bytes(const void *page) {
    char path[64];
    struct stat st;
    uintptr_t at = (uintptr_t)page;
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    uint64_t bytes = UINT64_MAX;
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) != 2 || at < start || at >= end)
            continue;
        snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", start, end);
        if (!stat(path, &st))
            bytes = (uint64_t)st.st_blocks * 512;
    }
    if (f)
        fclose(f);
    return bytes;
}

/* Windows in which each page has a value of its own. */
static unsigned windows_with_slots(struct engine_rig *r, const uint8_t *from) {
    unsigned n = 0;
    sp_engine_lock(r->engine);
    SP_WINDOWS_EACH(&r->engine->windows, (uintptr_t)from, (uintptr_t)from + N, win) {
        n += win->slot != NULL;
    }
    sp_engine_unlock(r->engine);
    return n;
}

static unsigned present_pages(const uint8_t *p, size_t bytes) {
    unsigned n = 0;
    for (size_t at = 0; at < bytes; at += PAGE)
        n += page_present(p + at);
    return n;
}

/* What the store pages of short runs were read into is given back when there is no more to do; and is there
 * again for the next ones. */
static void test_copies_go_back(void **state) {
    enum { SHORT = 32 };
    struct engine_rig r;
    rig_init(&r, NULL);
    for (unsigned round = 1; round < 4; round++) {
        uint8_t *p = rig_twins(&r, SHORT * PAGE, round);
        assert_true(rig_until(&r, SP_COUNTER_pages_merged, round * SHORT, round * SHORT));
        const uint8_t *copies = r.engine->worker->store_copy;
        for (unsigned i = 0; present_pages(copies, SP_WINDOW_SIZE) && i < 3000; i++)
            sp_sleep_ns(SECOND_NS / 100);
        assert_int_equal(present_pages(copies, SP_WINDOW_SIZE), 0);
        assert_int_equal(
            wrong_pages(p, SHORT / 2, round) + wrong_pages(p + SHORT / 2 * PAGE, SHORT / 2, round), 0);
    }
    r.engine = sp_engine_free(r.engine);
}

static void test_shares(void **state) {
    struct twins t;
    twins_open(&t, NULL);
    assert_int_equal(rig_counter(&t.rig, SP_COUNTER_pages_shared), PAGES);
    assert_int_equal(rig_counter(&t.rig, SP_COUNTER_pages_sharing), PAGES);
    assert_int_equal(rig_range(&t.rig, t.a, N, SP_COUNTER_pages_shared), PAGES);
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_is(t.a + i * PAGE, 1, i) && page_is(t.b + i * PAGE, 1, i));
    for (size_t i = 0; i < PAGES; i += 37)
        assert_true(page_of_store(t.a + i * PAGE) && page_of_store(t.b + i * PAGE));
    assert_int_equal(store_bytes(t.a), N);
    /* H23: what lies together is mapped together; 4 windows each, in at most a few pieces. */
    assert_true(mappings_between(t.a, t.a + N) <= 24);
    assert_true(mappings_between(t.b, t.b + N) <= 24);
    /* And needs no memory of ours for each page. */
    for (unsigned i = 0; i < 1000 && windows_with_slots(&t.rig, t.a) + windows_with_slots(&t.rig, t.b); i++)
        sp_sleep_ns(5000000);
    assert_int_equal(windows_with_slots(&t.rig, t.a) + windows_with_slots(&t.rig, t.b), 0);
    twins_close(&t);
}

static void test_stays_merged_after_free(void **state) {
    struct twins t;
    twins_open(&t, NULL);
    t.rig.engine = sp_engine_free(t.rig.engine);
    assert_int_equal(wrong_pages(t.a, PAGES, 1), 0);
    assert_true(page_of_store(t.a + 5 * PAGE));
    memset(t.a, 3, N);
    assert_int_equal(wrong_pages(t.b, PAGES, 1), 0);
    twins_close(&t);
}

static void test_zeros_become_holes(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(N);
    memset(p, 0, N);
    page_fill(p + 9 * PAGE, 1, 9);
    rig_add(&r, p, N);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, PAGES - 1, PAGES - 1));
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_present(p + i * PAGE) == (i == 9));
    for (size_t i = 0; i < PAGES; i++)
        assert_true(i == 9 ? page_is(p + i * PAGE, 1, 9) : page_is_zero(p + i * PAGE));
    p[20 * PAGE] = 1; /* no longer one of them */
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, 0, PAGES - 2));
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* A part of it; the next is read-only, and another protection ends in the middle of a run of zeros. */
static void test_holes_become_pages(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(N);
    uintptr_t start = (uintptr_t)p;
    memset(p, 0, N);
    rig_add(&r, p, N);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, PAGES, PAGES));
    sp_engine_lock(r.engine);
    must(sp_protect(start + 16 * PAGE, 16 * PAGE, PROT_READ), "protect");
    must(sp_engine_protection_locked(r.engine, start + 16 * PAGE, start + 32 * PAGE, PROT_READ), "tell");
    int error = sp_engine_refill_locked(r.engine, start + 5 * PAGE, start + 40 * PAGE);
    for (size_t i = 0; i < 64; i++)
        assert_true(page_present(p + i * PAGE) == (i >= 5 && i < 40));
    sp_engine_unlock(r.engine);
    assert_int_equal(error, 0);
    assert_int_equal(sp_protect(start + 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE), 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_is_zero(p + i * PAGE));
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

static void set_pace(struct engine_rig *r, struct sp_pace pace) {
    sp_engine_lock(r->engine);
    sp_engine_pace_locked(r->engine, &pace);
    sp_engine_unlock(r->engine);
}

/* Held, nothing is read; and after a pass that read more than it may nothing is for long. */
static void test_pace(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    set_pace(&r, (struct sp_pace){.held = true});
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    usleep(200000);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_scanned), 0);
    set_pace(&r, (struct sp_pace){.held = false});
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    set_pace(&r, (struct sp_pace){.sleep_ns = UINT64_MAX / 2, .scan_pages = 1, .merge_pages = PAGES});
    usleep(200000);
    uint8_t *c = memory_new(N);
    fill(c, PAGES, 1);
    rig_add(&r, c, N);
    usleep(200000);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged), 2 * PAGES);
    set_pace(&r, (struct sp_pace){.sleep_ns = 1000, .scan_pages = 1, .merge_pages = 1});
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 3 * PAGES, 3 * PAGES));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
    memory_free(c, N);
}

static bool stop; /* atomic */

static void *keeps_writing(void *arg) {
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
        for (size_t i = 0; i < 16; i++)
            __atomic_fetch_add((uint64_t *)(void *)((uint8_t *)arg + i * PAGE), 1, __ATOMIC_RELAXED);
    return NULL;
}

/* A page that is written all the time is left alone, for longer and longer. */
static void test_volatile(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    pthread_t thread;
    __atomic_store_n(&stop, false, __ATOMIC_RELAXED);
    pthread_create(&thread, NULL, keeps_writing, p);
    rig_add(&r, p, N);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, 50, UINT64_MAX));
    for (size_t i = 0; i < 16; i++)
        assert_false(page_of_store(p + i * PAGE));
    uint64_t scanned = rig_counter(&r, SP_COUNTER_pages_scanned);
    assert_true(scanned >= PAGES - 16 && scanned < PAGES + 16 * 25);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* Broken pages give their references back; with the last one the store page goes. */
static void test_gives_back(void **state) {
    struct twins t;
    twins_open(&t, NULL);
    for (size_t i = 0; i < PAGES / 2; i++)
        page_fill(t.b + i * PAGE, 2, i);
    assert_true(rig_until(&t.rig, SP_COUNTER_pages_sharing, PAGES / 2, PAGES / 2));
    assert_int_equal(store_bytes(t.a + N - PAGE), N); /* the other still maps them */
    for (size_t i = 0; i < PAGES / 2; i++)
        page_fill(t.a + i * PAGE, 3, i);
    assert_true(rig_until(&t.rig, SP_COUNTER_pages_shared, PAGES / 2, PAGES / 2));
    assert_true(rig_until(&t.rig, SP_COUNTER_pages_punched, PAGES / 2, PAGES / 2));
    assert_int_equal(store_bytes(t.a + N - PAGE), N / 2);
    for (size_t i = 0; i < PAGES; i++) {
        assert_true(page_is(t.b + i * PAGE, i < PAGES / 2 ? 2 : 1, i));
        assert_true(page_is(t.a + i * PAGE, i < PAGES / 2 ? 3 : 1, i));
    }
    assert_int_equal(rig_counter(&t.rig, SP_COUNTER_pages_broken), PAGES);
    twins_close(&t);
}

/* I3: an offset that was punched is not given out again. The store's file offsets of the mappings tell. */
static uint64_t store_offset(const void *page) {
    char line[512];
    uint64_t offset = UINT64_MAX;
    FILE *f = fopen("/proc/self/maps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long start, end, at;
        if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &at) == 3 && (uintptr_t)page >= start &&
            (uintptr_t)page < end)
            offset = at + ((uintptr_t)page - start);
    }
    if (f)
        fclose(f);
    return offset;
}

static void test_no_offset_reused(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    size_t bytes = 2 * MIB, pages = bytes / PAGE;
    static bool used[SP_SEGMENT_PAGES];
    memset(used, 0, sizeof(used));
    for (unsigned round = 0; round < 8; round++) {
        uint8_t *a = memory_new(bytes), *b = memory_new(bytes);
        fill(a, pages, round);
        fill(b, pages, round);
        rig_add(&r, a, bytes);
        rig_add(&r, b, bytes);
        assert_true(rig_until(&r, SP_COUNTER_pages_merged, (round + 1) * 2 * pages, (round + 1) * 2 * pages));
        for (size_t i = 0; i < pages; i++) {
            uint64_t at = store_offset(a + i * PAGE) / PAGE;
            assert_true(at < SP_SEGMENT_PAGES && !used[at]);
            assert_int_equal(at, store_offset(b + i * PAGE) / PAGE);
            used[at] = true;
        }
        rig_unmap(&r, a, bytes);
        rig_unmap(&r, b, bytes);
        assert_true(rig_until(&r, SP_COUNTER_pages_shared, 0, 0));
    }
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_punched), 8 * pages);
    r.engine = sp_engine_free(r.engine);
}

static void test_unmerge(void **state) {
    struct twins t;
    twins_open(&t, NULL);
    __atomic_store_n(&stop, false, __ATOMIC_RELAXED);
    pthread_t thread;
    fill(t.a, 16, 1);
    pthread_create(&thread, NULL, keeps_writing, t.b);
    sp_engine_lock(t.rig.engine);
    int error = sp_engine_unmerge_locked(t.rig.engine, (uintptr_t)t.b, (uintptr_t)t.b + N);
    sp_engine_unlock(t.rig.engine);
    assert_int_equal(error, 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < PAGES; i++) {
        assert_false(page_of_store(t.b + i * PAGE));
        assert_true(i < 16 || page_is(t.b + i * PAGE, 1, i));
        for (size_t k = 1; i < 16 && k < PAGE / 8; k++) /* the rest of the written pages */
            assert_int_equal(((uint64_t *)(void *)(t.b + i * PAGE))[k],
                             ((uint64_t *)(void *)(t.a + i * PAGE))[k]);
    }
    assert_true(rig_until(&t.rig, SP_COUNTER_pages_sharing, 0, 0));
    twins_close(&t);
}

/* MADV_UNMERGEABLE and at once MADV_MERGEABLE: the kernel still knows our userfaultfd there, which is not one
 * of the program's. What has got another reason in between stays out. */
static void test_advised_again_at_once(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    rig_add(&r, a, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    uint64_t eligible = 0, start = (uintptr_t)a, wiped = start + N / 2;
    sp_engine_lock(r.engine);
    sp_engine_remove_locked(r.engine, start, start + N, false);
    must(sp_advise(wiped, 16 * PAGE, MADV_WIPEONFORK), "wipeonfork");
    int error = sp_engine_add_locked(r.engine, start, start + N, true, &eligible);
    sp_engine_unlock(r.engine);
    must(error, "add");
    assert_int_equal(eligible, N - 16 * PAGE);
    fill(b, PAGES, 1);
    assert_int_equal(rig_add(&r, b, N), N);
    uint64_t pages = 2 * (PAGES - 16);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, pages, pages));
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    assert_false(page_of_store((uint8_t *)(uintptr_t)wiped));
    assert_int_equal(sp_engine_state(r.engine), SP_ENGINE_RUNNING);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* Read-only memory is unmerged too, and stays read-only. */
static void test_unmerge_protected(void **state) {
    struct twins t;
    twins_open(&t, NULL);
    sp_engine_lock(t.rig.engine);
    must(sp_protect((uintptr_t)t.b, N / 2, PROT_READ), "mprotect");
    must(sp_engine_protection_locked(t.rig.engine, (uintptr_t)t.b, (uintptr_t)t.b + N / 2, PROT_READ),
         "tell");
    int error = sp_engine_unmerge_locked(t.rig.engine, (uintptr_t)t.b, (uintptr_t)t.b + N);
    sp_engine_unlock(t.rig.engine);
    assert_int_equal(error, 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_true(!page_of_store(t.b + i * PAGE) && page_is(t.b + i * PAGE, 1, i));
    int file = memfd_create("y", MFD_CLOEXEC);
    assert_int_equal(write(file, "12345678", 8), 8);
    assert_true(pread(file, t.b, 8, 0) < 0 && errno == EFAULT); /* still read-only */
    close(file);
    twins_close(&t);
}

/* H5: what MADV_DONTNEED does to merged memory must be what it does to any. */
static void test_discard(void **state) {
    struct twins t;
    twins_open(&t, NULL);
    uint8_t *from = t.b + 3 * PAGE, *to = t.b + N / 2 + 7 * PAGE;
    page_fill(t.b + 5 * PAGE, 9, 9); /* broken */
    sp_engine_lock(t.rig.engine);
    int error = sp_engine_discard_locked(t.rig.engine, (uintptr_t)from, (uintptr_t)to);
    if (!error)
        error = sp_advise((uintptr_t)from, (size_t)(to - from), MADV_DONTNEED);
    sp_engine_unlock(t.rig.engine);
    assert_int_equal(error, 0);
    size_t gone = (size_t)(to - from) / PAGE;
    for (size_t i = 0; i < PAGES; i++) {
        uint8_t *page = t.b + i * PAGE;
        assert_true(page >= from && page < to ? page_is_zero(page) : page_is(page, 1, i));
    }
    assert_int_equal(wrong_pages(t.a, PAGES, 1), 0);
    assert_true(rig_until(&t.rig, SP_COUNTER_pages_sharing, PAGES - gone, PAGES - gone));
    /* It is watched again: the same content is merged again. */
    for (uint8_t *page = from; page < to; page += PAGE)
        page_fill(page, 1, (size_t)(page - t.b) / PAGE);
    assert_true(rig_until(&t.rig, SP_COUNTER_pages_sharing, PAGES, PAGES));
    assert_int_equal(wrong_pages(t.b, PAGES, 1), 0);
    twins_close(&t);
}

/* H1: a range that was announced is not touched any more, whatever is mapped there afterwards. */
static void test_replaced(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    for (unsigned round = 0; round < 300; round++) {
        fill(b, PAGES / 8, 1); /* merged meanwhile or not */
        sp_sleep_ns(round % 8 * 3000000);
        sp_engine_lock(r.engine);
        sp_engine_remove_locked(r.engine, (uintptr_t)b, (uintptr_t)b + N, true);
        assert_ptr_equal(mmap(b, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                         b);
        assert_int_equal(madvise(b, N, MADV_NOHUGEPAGE), 0);
        fill(b, PAGES / 8, 1); /* the same content: a forgetful engine would merge it */
        uint64_t eligible;
        if (round % 2)
            must(sp_engine_add_locked(r.engine, (uintptr_t)b, (uintptr_t)b + N, false, &eligible), "add");
        sp_engine_unlock(r.engine);
        if (round % 2 == 0) {
            sp_sleep_ns(5000000);
            for (size_t i = 0; i < PAGES / 8; i++)
                assert_true(!page_of_store(b + i * PAGE) && page_is(b + i * PAGE, 1, i));
            rig_add(&r, b, N);
        }
        assert_int_equal(wrong_pages(b, PAGES / 8, 1), 0);
    }
    assert_int_equal(wrong_pages(a, PAGES, 1), 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 1, UINT64_MAX));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* H22: memory that the program makes unreadable while it is being looked at. */
static void test_protected_meanwhile(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N);
    fill(a, PAGES, 1);
    fill(a + N / 2, PAGES / 2, 1);
    rig_add(&r, a, N);
    uint64_t random = 7;
    for (unsigned round = 0; round < 3000; round++) {
        size_t at = random_next(&random) % (PAGES - 64), n = random_next(&random) % 64 + 1;
        for (size_t i = at; i < at + n; i += 3) {
            uint64_t *word = (uint64_t *)(void *)(a + i * PAGE);
            __atomic_store_n(word, *word, __ATOMIC_RELAXED); /* looked at again */
        }
        sp_engine_lock(r.engine);
        uint64_t start = (uintptr_t)a + at * PAGE, end = start + n * PAGE;
        must(sp_protect(start, end - start, PROT_NONE), "mprotect");
        must(sp_engine_protection_locked(r.engine, start, end, PROT_NONE), "tell");
        sp_engine_unlock(r.engine);
        sp_sleep_ns(random_next(&random) % 1000000);
        sp_engine_lock(r.engine);
        must(sp_protect(start, end - start, PROT_READ | PROT_WRITE), "mprotect");
        must(sp_engine_protection_locked(r.engine, start, end, PROT_READ | PROT_WRITE), "tell");
        sp_engine_unlock(r.engine);
    }
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_is(a + i * PAGE, 1, i % (PAGES / 2)));
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 1, UINT64_MAX));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
}

/* I6: stopping at any moment leaves nothing frozen, whoever writes meanwhile. */
static void test_stop_at_any_moment(void **state) {
    for (unsigned round = 0; round < 40; round++) {
        struct engine_rig r;
        rig_init(&r, NULL);
        uint8_t *a = memory_new(N);
        fill(a, PAGES / 2, 1);
        fill(a + N / 2, PAGES / 2, 1);
        pthread_t thread;
        __atomic_store_n(&stop, false, __ATOMIC_RELAXED);
        pthread_create(&thread, NULL, keeps_writing, a + N / 4);
        rig_add(&r, a, N);
        sp_sleep_ns(15000000 + round * 1000000);
        if (round % 2) {
            sp_engine_stop(r.engine, SP_ENGINE_STOPPED);
            assert_int_equal(sp_engine_state(r.engine), SP_ENGINE_STOPPED);
            uint64_t merged = rig_counter(&r, SP_COUNTER_pages_merged);
            sp_sleep_ns(3000000);
            assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged), merged);
            assert_true(sp_engine_wait_settled(r.engine, SECOND_NS) < 0);
            struct sp_merge_result result;
            assert_true(sp_engine_merge(r.engine, (uintptr_t)a, (uintptr_t)a + N, false, &result) < 0);
        }
        r.engine = sp_engine_free(r.engine);
        __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        for (size_t i = 0; i < PAGES; i++) {
            __atomic_fetch_add((uint64_t *)(void *)(a + i * PAGE) + 1, 0, __ATOMIC_SEQ_CST);
            assert_true((i >= PAGES / 4 && i < PAGES / 4 + 16) || page_is(a + i * PAGE, 1, i % (PAGES / 2)));
        }
        memory_free(a, N);
    }
}

/* Merging at once: everything that is there counts as settled, several callers at a time. */
struct caller {
    struct engine_rig *rig;
    uint8_t *p;
    int error;
    struct sp_merge_result result;
};

static void *merges_now(void *arg) {
    struct caller *c = arg;
    c->error = sp_engine_merge(c->rig->engine, (uintptr_t)c->p, (uintptr_t)c->p + N, false, &c->result);
    return NULL;
}

static void merge_now(bool quiescent) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p[4];
    struct sp_merge_result result;
    for (size_t i = 0; i < 4; i++) {
        p[i] = memory_new(N);
        fill(p[i], PAGES, 1);
        memset(p[i] + 5 * PAGE, 0, PAGE);
    }
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)p[0], (uintptr_t)p[0] + N, quiescent, &result),
                     -EINVAL);
    if (quiescent) {
        for (size_t i = 0; i < 4; i++) {
            rig_add(&r, p[i], N);
            assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)p[i], (uintptr_t)p[i] + N, true, &result),
                             0);
        }
        assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)p[0], (uintptr_t)p[0] + N, true, &result), 0);
    } else {
        struct caller callers[4];
        pthread_t threads[4];
        for (size_t i = 0; i < 4; i++) {
            rig_add(&r, p[i], N);
            callers[i] = (struct caller){.rig = &r, .p = p[i]};
            pthread_create(&threads[i], NULL, merges_now, &callers[i]);
        }
        for (size_t i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(callers[i].error, 0);
        }
        assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)p[0], (uintptr_t)p[0] + N, false, &result), 0);
    }
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < PAGES; k++)
            assert_true(k == 5 ? page_is_zero(p[i] + k * PAGE) : page_is(p[i] + k * PAGE, 1, k));
    /* Whoever was served first had no twins yet: it is merged by hints, soon after the others' requests. */
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 3 * (PAGES - 1), 3 * (PAGES - 1)));
    assert_int_equal(rig_range(&r, p[3], N, SP_COUNTER_pages_shared), PAGES - 1);
    r.engine = sp_engine_free(r.engine);
    for (size_t i = 0; i < 4; i++)
        memory_free(p[i], N);
}

static void test_merge_now(void **state) {
    merge_now(false);
}

static void test_merge_quiescent(void **state) {
    merge_now(true);
}

/* What was asked about at once, and has no twin, is found by one that comes later. */
static void test_known_after_merge_now(void **state) {
    struct engine_rig r;
    struct sp_merge_result result;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    rig_add(&r, a, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)a, (uintptr_t)a + N, false, &result), 0);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_unshared), 0);
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* Wrongly aligned twins still share, page by page. */
static void test_scattered(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    for (size_t i = 0; i < PAGES; i++)
        page_fill(b + i * PAGE, 1, (i * 5) % PAGES); /* 5 is no divisor: a permutation */
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_is(a + i * PAGE, 1, i) && page_is(b + i * PAGE, 1, (i * 5) % PAGES));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

int main(void) {
    require_uffd();
    watchdog(250);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_go_back),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_stays_merged_after_free),
        cmocka_unit_test(test_zeros_become_holes),
        cmocka_unit_test(test_holes_become_pages),
        cmocka_unit_test(test_pace),
        cmocka_unit_test(test_volatile),
        cmocka_unit_test(test_gives_back),
        cmocka_unit_test(test_no_offset_reused),
        cmocka_unit_test(test_unmerge),
        cmocka_unit_test(test_unmerge_protected),
        cmocka_unit_test(test_advised_again_at_once),
        cmocka_unit_test(test_discard),
        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_protected_meanwhile),
        cmocka_unit_test(test_stop_at_any_moment),
        cmocka_unit_test(test_merge_now),
        cmocka_unit_test(test_merge_quiescent),
        cmocka_unit_test(test_known_after_merge_now),
        cmocka_unit_test(test_scattered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
