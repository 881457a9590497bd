/* SPDX-License-Identifier: MIT */
/*
 * What each setting does to a worker that is at work: they are changed while it is, as the daemon's message
 * does it. The link is the local one, with some of its functions replaced.
 *
 * Bounds of rates are checked from above only: a slow machine reads fewer pages in a time, never more.
 */
#include "merge_test.h"

#include "merge/state.h"
#include "os/wake.h"

#define N     (4 * MIB)
#define PAGES (N / PAGE)
#define MS    (SECOND_NS / 1000)

static struct engine_rig r;
static const struct sp_link_ops *local;
static struct sp_link_ops replaced;
static const uint8_t *refused_start, *refused_end; /* the index declines to answer about this memory */
static uint64_t refused;                           /* how often it did */
static uint32_t obeyed;                            /* as reported last */
static bool settled;

static int ask(struct sp_link *l, const struct sp_query *q, size_t n, struct sp_answer *a) {
    int error = local->ask(l, q, n, a);
    for (size_t i = 0; !error && i < n; i++) {
        const uint8_t *page = (const uint8_t *)(uintptr_t)(q[i].page.v * PAGE);
        if (page < refused_start || page >= refused_end)
            continue;
        /* Nothing is shared there: all of it differs. */
        assert_true(a[i].kind != SP_ANSWER_SHARE);
        if (a[i].kind == SP_ANSWER_UNKNOWN)
            error = local->forget(l, &q[i], 1);
        a[i].kind = SP_ANSWER_DECLINED;
        __atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED);
    }
    return error;
}

static int report(struct sp_link *l, const struct sp_report *report, bool *ret_pause) {
    __atomic_store_n(&settled, report->settled, __ATOMIC_RELEASE);
    __atomic_store_n(&obeyed, report->settings_number, __ATOMIC_RELEASE);
    return local->report(l, report, ret_pause);
}

static struct sp_link *wrap(struct sp_link *l) {
    local = l->ops;
    replaced = *local;
    replaced.ask = ask;
    replaced.report = report;
    l->ops = &replaced;
    return l;
}

static void begin(void) {
    refused_start = refused_end = NULL;
    refused = obeyed = 0;
    settled = false;
    rig_init(&r, wrap);
}

/* As a message of the daemon would. */
static void set(enum sp_setting setting, uint64_t value) {
    r.settings.v[setting] = value;
    r.link->settings = r.settings;
    __atomic_store_n(&r.link->settings_number, r.link->settings_number + 1, __ATOMIC_RELEASE);
}

static void set_and_wait(enum sp_setting setting, uint64_t value) {
    set(setting, value);
    for (unsigned i = 0; __atomic_load_n(&obeyed, __ATOMIC_ACQUIRE) != r.link->settings_number; i++) {
        assert_true(i < 6000);
        sp_sleep_ns(5 * MS);
    }
}

static uint8_t *memory(uint64_t seed) {
    uint8_t *p = memory_new(N);
    fill(p, PAGES, seed);
    rig_add(&r, p, N);
    return p;
}

static void end(uint8_t *a, uint8_t *b) {
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    if (b)
        memory_free(b, N);
}

static void test_run_0(void **state) {
    begin();
    uint8_t *a = memory(1), *b = memory(1);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    set_and_wait(SP_SETTING_run, 0);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans),
             scanned = rig_counter(&r, SP_COUNTER_pages_scanned);
    uint8_t *c = memory(1);
    sp_sleep_ns(300 * MS);
    assert_int_equal(of_store(c, PAGES), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_full_scans), scans);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_scanned), scanned);
    struct sp_merge_result result;
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)c, (uintptr_t)c + N, false, &result), -EBUSY);
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)c, (uintptr_t)c + N, true, &result), -EBUSY);
    /* What is merged stays so, and what is written is given back. */
    assert_int_equal(of_store(a, PAGES), PAGES);
    fill(b, PAGES / 2, 2);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES / 2, PAGES / 2));
    set_and_wait(SP_SETTING_run, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 3 * PAGES, 3 * PAGES));
    assert_int_equal(of_store(c, PAGES), PAGES);
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(c, PAGES, 1) + wrong_pages(b, PAGES / 2, 2), 0);
    end(a, b);
    memory_free(c, N);
}

/* However fast a freeze is: what it is taken to cost is never less than a quarter of the usual. */
static void test_freeze_micros(void **state) {
    const uint64_t pages_at_most = 200;
    begin();
    set(SP_SETTING_freeze_micros, 20);
    uint8_t *a = memory(1), *b = memory(1);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    assert_true(rig_until(&r, SP_COUNTER_batches, 2 * PAGES / pages_at_most, UINT64_MAX));
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    end(a, b);
}

static void test_run_2(void **state) {
    begin();
    uint8_t *a = memory(1), *b = memory(1), *zeros = memory_new(N);
    memset(zeros, 0, N);
    rig_add(&r, zeros, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, PAGES, PAGES));
    assert_false(page_present(zeros + 7 * PAGE));
    must(sp_protect((uintptr_t)b, N / 2, PROT_READ), "protect");
    sp_engine_lock(r.engine);
    must(sp_engine_protection_locked(r.engine, (uintptr_t)b, (uintptr_t)b + N / 2, PROT_READ), "protected");
    sp_engine_unlock(r.engine);
    set_and_wait(SP_SETTING_run, 2);
    assert_int_equal(of_store(a, PAGES) + of_store(b, PAGES), 0);
    assert_true(page_present(zeros) && page_present(zeros + 7 * PAGE));
    assert_true(rig_until(&r, SP_COUNTER_pages_shared, 0, 0));
    assert_int_equal(rig_counter(&r, SP_COUNTER_ksm_zero_pages), 0);
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    assert_true(page_is_zero(zeros + 7 * PAGE));
    /* It stays so, until it is told otherwise. */
    sp_sleep_ns(200 * MS);
    assert_int_equal(of_store(a, PAGES) + of_store(b, PAGES), 0);
    assert_true(page_present(zeros + 7 * PAGE));
    uint64_t merged = rig_counter(&r, SP_COUNTER_pages_merged);
    set_and_wait(SP_SETTING_run, 1);
    uint8_t *c = memory(3), *d = memory(3);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, merged + 2 * PAGES, merged + 2 * PAGES));
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, PAGES, PAGES));
    end(a, b);
    memory_free(zeros, N);
    memory_free(c, N);
    memory_free(d, N);
}

/* A worker that starts under run = 2 has nothing to do. */
static void test_run_2_first(void **state) {
    begin();
    set(SP_SETTING_run, 2);
    uint8_t *a = memory(1), *b = memory(1);
    set_and_wait(SP_SETTING_run, 2);
    assert_int_equal(of_store(a, PAGES) + of_store(b, PAGES), 0);
    set_and_wait(SP_SETTING_run, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    end(a, b);
}

/* Reads `what` for half a second: it may grow by no more than `each` in every `pause_ns`. */
static void check_rate(enum sp_counter what, uint64_t each, uint64_t pause_ns) {
    uint64_t begin_ns = sp_now_ns(), before = rig_counter(&r, what);
    for (unsigned i = 0; i < 50; i++) {
        sp_sleep_ns(10 * MS);
        uint64_t now = rig_counter(&r, what), passed_ns = sp_now_ns() - begin_ns;
        assert_true(now - before <= each * (passed_ns / pause_ns + 2));
    }
}

static void test_pages_to_scan(void **state) {
    begin();
    r.settings.v[SP_SETTING_sleep_millisecs] = 25;
    set(SP_SETTING_pages_to_scan, 64);
    uint8_t *lone = memory(9);
    set_and_wait(SP_SETTING_pages_to_scan, 64);
    uint8_t *a = memory(1), *b = memory(1);
    check_rate(SP_COUNTER_pages_scanned, 64, 25 * MS);
    /* All of it comes to be read in the end, and only then is it settled. */
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_counter(&r, SP_COUNTER_pages_scanned) >= 3 * PAGES);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    set_and_wait(SP_SETTING_pages_to_scan, 0);
    uint64_t scanned = rig_counter(&r, SP_COUNTER_pages_scanned);
    fill(lone, PAGES, 5);
    sp_sleep_ns(200 * MS);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_scanned), scanned);
    set_and_wait(SP_SETTING_pages_to_scan, SP_UNBOUNDED_PAGES);
    assert_true(rig_until(&r, SP_COUNTER_pages_scanned, scanned + PAGES, UINT64_MAX));
    end(a, b);
    memory_free(lone, N);
}

/* On average: a pass ends with the window in which it has merged enough, and is paid for by the pause. */
static void test_max_pages_to_merge(void **state) {
    begin();
    r.settings.v[SP_SETTING_sleep_millisecs] = 25;
    set(SP_SETTING_max_pages_to_merge, 64);
    uint8_t *lone = memory(9);
    set_and_wait(SP_SETTING_max_pages_to_merge, 64);
    uint64_t begin_ns = sp_now_ns(), merged = 0;
    uint8_t *a = memory(1), *b = memory(1), *c = memory(1);
    for (unsigned i = 0; i < 50; i++) {
        sp_sleep_ns(10 * MS);
        merged = rig_counter(&r, SP_COUNTER_pages_merged);
        assert_true(merged <= 64 * ((sp_now_ns() - begin_ns) / (25 * MS) + 2) + SP_WINDOW_PAGES);
    }
    assert_true(merged < 3 * PAGES);
    set_and_wait(SP_SETTING_max_pages_to_merge, 0);
    merged = rig_counter(&r, SP_COUNTER_pages_merged);
    uint8_t *d = memory(1);
    sp_sleep_ns(200 * MS);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged), merged);
    /* What was done is not paid for at another rate: with this one it would take a day. */
    set_and_wait(SP_SETTING_max_pages_to_merge, SP_UNBOUNDED_PAGES);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 4 * PAGES, 4 * PAGES));
    r.settings.v[SP_SETTING_max_pages_to_merge] = 1;
    set_and_wait(SP_SETTING_sleep_millisecs, 1000);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 1, UINT64_MAX));
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(d, PAGES, 1), 0);
    end(a, b);
    memory_free(c, N);
    memory_free(d, N);
    memory_free(lone, N);
}

/* What is merged at once counts, and what it hints at waits its turn. */
static void test_max_pages_to_merge_hinted(void **state) {
    struct sp_merge_result result;
    begin();
    uint8_t *a = memory(1);
    assert_int_equal(rig_settle(&r), 0);
    r.settings.v[SP_SETTING_max_pages_to_merge] = 1;
    set_and_wait(SP_SETTING_sleep_millisecs, 1000);
    uint8_t *b = memory(1);
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)b, (uintptr_t)b + N, false, &result), 0);
    assert_int_equal(result.shared_pages, PAGES);
    sp_sleep_ns(200 * MS);
    assert_true(rig_counter(&r, SP_COUNTER_pages_merged) <= PAGES + SP_WINDOW_PAGES);
    end(a, b);
}

/* Pages that fail all the time do not keep the others from being read: a pass goes on where the last ended. A
 * full scan is one that came to all of them. */
static void test_pages_to_scan_goes_round(void **state) {
    begin();
    r.settings.v[SP_SETTING_sleep_millisecs] = 1;
    r.settings.v[SP_SETTING_sleep_max_millisecs] = 1;
    r.settings.v[SP_SETTING_smart_scan] = 0;
    set(SP_SETTING_pages_to_scan, 64);
    uint8_t *bad = memory_new(N);
    fill(bad, PAGES, 9);
    refused_start = bad;
    refused_end = bad + N;
    rig_add(&r, bad, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_scanned, 3 * 64, UINT64_MAX));
    uint8_t *a = memory(1), *b = memory(1);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    uint64_t scanned = rig_counter(&r, SP_COUNTER_pages_scanned);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 4, UINT64_MAX));
    assert_true(rig_counter(&r, SP_COUNTER_pages_scanned) >= scanned + 3 * PAGES);
    end(a, b);
    memory_free(bad, N);
}

static void test_sleep_millisecs(void **state) {
    begin();
    uint8_t *a = memory(1);
    assert_int_equal(rig_settle(&r), 0);
    r.settings.v[SP_SETTING_sleep_max_millisecs] = 100;
    set_and_wait(SP_SETTING_sleep_millisecs, 100);
    check_rate(SP_COUNTER_full_scans, 1, 100 * MS);
    /* From an hour back to nothing: it wakes. */
    set_and_wait(SP_SETTING_sleep_millisecs, 3600000);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    set(SP_SETTING_sleep_millisecs, 0);
    sp_engine_lock(r.engine);
    int tid = r.engine->worker_tid;
    sp_engine_unlock(r.engine);
    sp_wake(tid); /* as the message does */
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 20, UINT64_MAX));
    end(a, NULL);
}

/* A page that the index goes on declining is asked about less and less often, or at every pass. */
static void test_smart_scan(void **state) {
    begin();
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    refused_start = p + 5 * PAGE;
    refused_end = p + 6 * PAGE;
    rig_add(&r, p, N);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, 60, UINT64_MAX));
    uint64_t asked = __atomic_load_n(&refused, __ATOMIC_RELAXED);
    assert_true(asked >= 1 && asked <= 12);
    uint64_t skipped = rig_counter(&r, SP_COUNTER_pages_skipped);
    assert_true(skipped >= 20);
    set_and_wait(SP_SETTING_smart_scan, 0);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    skipped = rig_counter(&r, SP_COUNTER_pages_skipped);
    asked = __atomic_load_n(&refused, __ATOMIC_RELAXED);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 60, UINT64_MAX));
    assert_true(__atomic_load_n(&refused, __ATOMIC_RELAXED) >= asked + 55);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_skipped), skipped);
    /* What fails again and again keeps nobody waiting. */
    assert_int_equal(rig_settle(&r), 0);
    end(p, NULL);
}

static void test_use_zero_pages(void **state) {
    begin();
    set(SP_SETTING_use_zero_pages, 0);
    r.settings.v[SP_SETTING_use_zero_pages] = 0;
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 2);
    memset(a + 3 * PAGE, 0, PAGE);
    rig_add(&r, a, N);
    set_and_wait(SP_SETTING_use_zero_pages, 0);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    memset(b, 0, 8 * PAGE);
    rig_add(&r, b, N);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 8, 8));
    assert_true(is_of_store(b + 5 * PAGE) && is_of_store(a + 3 * PAGE));
    assert_int_equal(rig_counter(&r, SP_COUNTER_ksm_zero_pages), 0);
    /* One that is alone is found when it counts again, although nobody writes to it. */
    uint8_t *c = memory_new(N);
    fill(c, PAGES, 3);
    fill(b, 8, 4);
    page_fill(a + 3 * PAGE, 1, 3);
    assert_true(rig_until(&r, SP_COUNTER_pages_shared, 0, 0));
    memset(c + 9 * PAGE, 0, PAGE);
    rig_add(&r, c, N);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(page_present(c + 9 * PAGE));
    set_and_wait(SP_SETTING_use_zero_pages, 1);
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, 1, 1));
    assert_false(page_present(c + 9 * PAGE));
    assert_int_equal(rig_settle(&r), 0);
    /* The others were read again, too, and are still known: a twin that comes later finds them. */
    uint8_t *twin = memory_new(N);
    fill(twin, PAGES, 5);
    memcpy(twin + 7 * PAGE, c + 20 * PAGE, PAGE);
    rig_add(&r, twin, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 1, 1));
    end(a, b);
    memory_free(twin, N);
    memory_free(c, N);
}

/* The store's place of a page, by the mapping that it lies in. */
static uint64_t store_page(const uint8_t *page) {
    struct sp_window *win = sp_windows_find(&r.engine->windows, (uintptr_t)page / SP_WINDOW_SIZE);
    unsigned slot = (unsigned)((uintptr_t)page % SP_WINDOW_SIZE / PAGE);
    return win && sp_bits_get(&win->shared, slot) ? sp_window_value(win, slot) : UINT64_MAX;
}

static void test_max_page_sharing(void **state) {
    enum { COPIES = 40, MOST = 3 };
    rig_settings(&r);
    r.settings.v[SP_SETTING_max_page_sharing] = MOST;
    rig_begin(&r, NULL);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    for (size_t i = 0; i < COPIES; i++)
        page_fill(p + i * PAGE, 1, 1000);
    rig_add(&r, p, N);
    /* The index of two trees finds a full page again and again, and leaves the others alone. */
    bool goes_on = test_index() == SP_INDEX_HASH;
    uint64_t least = goes_on ? (COPIES - 1 + MOST - 1) / MOST : 1;
    assert_true(rig_until(&r, SP_COUNTER_pages_shared, least, COPIES / 2));
    assert_true(rig_until(&r, SP_COUNTER_pages_full, 1, COPIES));
    if (goes_on)
        assert_int_equal(rig_settle(&r), 0);
    uint64_t places[COPIES];
    sp_engine_lock(r.engine);
    for (size_t i = 0; i < COPIES; i++)
        places[i] = store_page(p + i * PAGE);
    sp_engine_unlock(r.engine);
    size_t shared = 0;
    for (size_t i = 0; i < COPIES; i++) {
        size_t sharers = 0;
        for (size_t k = 0; k < COPIES; k++)
            sharers += places[i] != UINT64_MAX && places[k] == places[i];
        assert_true(sharers <= MOST);
        shared += sharers > 0;
    }
    assert_true(shared >= (goes_on ? COPIES - 1 : MOST)); /* at most one is left over */
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* What the report says to those who wait for it, who have it told something first: what was reported before
 * may be older than b. */
static void test_settled(void **state) {
    begin();
    uint8_t *a = memory(1), *b = memory(1);
    set(SP_SETTING_run, 1);
    uint32_t number = r.link->settings_number;
    for (unsigned i = 0;
         __atomic_load_n(&obeyed, __ATOMIC_ACQUIRE) != number || !__atomic_load_n(&settled, __ATOMIC_ACQUIRE);
         i++) {
        assert_true(i < 3000);
        sp_sleep_ns(10 * MS);
    }
    assert_int_equal(of_store(a, PAGES) + of_store(b, PAGES), 2 * PAGES);
    end(a, b);
}

int main(void) {
    watchdog(240);
    require_uffd();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_0),
        cmocka_unit_test(test_freeze_micros),
        cmocka_unit_test(test_run_2),
        cmocka_unit_test(test_run_2_first),
        cmocka_unit_test(test_pages_to_scan),
        cmocka_unit_test(test_pages_to_scan_goes_round),
        cmocka_unit_test(test_max_pages_to_merge),
        cmocka_unit_test(test_max_pages_to_merge_hinted),
        cmocka_unit_test(test_sleep_millisecs),
        cmocka_unit_test(test_smart_scan),
        cmocka_unit_test(test_use_zero_pages),
        cmocka_unit_test(test_max_page_sharing),
        cmocka_unit_test(test_settled),
    };
    return cmocka_run_group_tests_name("merge/obey", tests, NULL, NULL);
}
