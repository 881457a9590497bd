/* SPDX-License-Identifier: MIT */
/*
 * Huge pages: those that are equal as a whole end up shared and still mapped huge; those of which a part has
 * twins are split where that is worth it, and otherwise left alone; and a batch takes a huge page as a whole
 * or leaves it whole, whoever interferes.
 */
#include "batch_rig.h"
#include "os/proc.h"

#include <liburing.h>

#define H     SP_WINDOW_SIZE
#define PAGES SP_WINDOW_PAGES
#define SPAN  8 /* windows of one program's half */

/* ---- helpers ---- */

static int pagemap = -1;

static bool is_huge(const uint8_t *window) {
    sp_bits bits;
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_HUGE, (uintptr_t)window / H, 0, PAGES, &bits), "scan");
    return sp_bits_count(&bits) == PAGES;
}

static unsigned huge_windows(const uint8_t *p, size_t n) {
    unsigned huge = 0;
    for (size_t i = 0; i < n; i++)
        huge += is_huge(p + i * H);
    return huge;
}

static uint8_t *huge_new(size_t windows) {
    void *p;
    must(sp_map_new(windows * H, H, &p), "map");
    must(sp_advise((uintptr_t)p, windows * H, MADV_HUGEPAGE), "hugepage");
    return p;
}

static void huge_make(uint8_t *p, size_t windows) {
    for (size_t i = 0; i < windows; i++)
        if (!is_huge(p + i * H))
            must(sp_advise((uintptr_t)p + i * H, H, MADV_COLLAPSE), "collapse");
}

/* Two halves of huge windows; the second has the content of the first but for every `apart`th page (0: all
 * the same). */
static uint8_t *halves_new(size_t apart) {
    uint8_t *p = huge_new(2 * SPAN);
    fill_twins(p, 2 * SPAN * PAGES, 1);
    for (size_t i = 0; apart && i < SPAN * PAGES; i += apart)
        page_fill(p + SPAN * H + i * PAGE, 2, i);
    huge_make(p, 2 * SPAN);
    return p;
}

static void halves_are(const uint8_t *p, size_t apart) {
    for (size_t i = 0; i < SPAN * PAGES; i++) {
        bool other = apart && i % apart == 0;
        assert_true(page_is(p + i * PAGE, 1, i));
        assert_true(page_is(p + SPAN * H + i * PAGE, other ? 2 : 1, i));
    }
}

static void rig_end(struct engine_rig *r, uint8_t *p) {
    rig_unmap(r, p, 2 * SPAN * H);
    sp_engine_free(r->engine);
}

/* ---- the engine ---- */

static void test_equal_ones_stay_huge(void **state) {
    struct engine_rig r;
    uint8_t *p = halves_new(0);
    rig_init(&r, NULL);
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * SPAN * PAGES, UINT64_MAX));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged_huge), 2 * SPAN * PAGES);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_shared), SPAN * PAGES);
    assert_int_equal(huge_windows(p, 2 * SPAN), 2 * SPAN);
    halves_are(p, 0);
    /* A write breaks one page of one window. */
    p[3 * H + 7 * PAGE] ^= 1;
    assert_true(rig_until(&r, SP_COUNTER_pages_broken, 1, 1));
    assert_int_equal(huge_windows(p, 2 * SPAN), 2 * SPAN - 1);
    p[3 * H + 7 * PAGE] ^= 1;
    halves_are(p, 0);
    rig_end(&r, p);
}

/* The local link of a rig, whose questions are counted. */
static struct {
    struct sp_link_ops ops;
    int (*ask)(struct sp_link *l, const struct sp_query *queries, size_t n, struct sp_answer *ret_answers);
    uint64_t asked;
} counting;

static int counting_ask(struct sp_link *l, const struct sp_query *queries, size_t n,
                        struct sp_answer *ret_answers) {
    __atomic_fetch_add(&counting.asked, n, __ATOMIC_RELAXED);
    return counting.ask(l, queries, n, ret_answers);
}

static struct sp_link *count_questions(struct sp_link *l) {
    counting.ops = *l->ops;
    counting.ask = l->ops->ask;
    counting.ops.ask = counting_ask;
    counting.asked = 0;
    l->ops = &counting.ops;
    return l;
}

static bool by_fingerprints(void) {
    return test_index() == SP_INDEX_HASH;
}

/* Each huge page with a twin takes a question or two, not one for each page. */
static void test_few_questions(void **state) {
    struct engine_rig r;
    uint8_t *p = halves_new(0);
    rig_init(&r, count_questions);
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * SPAN * PAGES, UINT64_MAX));
    assert_true(rig_until(&r, SP_COUNTER_pages_merged_huge, 2 * SPAN * PAGES, UINT64_MAX));
    print_message("# %lu questions\n", (unsigned long)counting.asked);
    if (by_fingerprints())
        assert_true(counting.asked < 8 * SPAN);
    halves_are(p, 0);
    rig_end(&r, p);
}

/* The local link of a rig: once, after a whole window was asked about, something happens because of which it
 * is to be asked about again. */
enum interference { HINTS_LOST, LINK_LOST, NODES_APART };
static struct {
    struct sp_link_ops ops, inner;
    enum interference kind;
    uint64_t asked;       /* about whole windows */
    uint64_t passes;      /* that ended since the first of these */
    uint64_t passes_then; /* when the second came */
    uint64_t pages;       /* questions about single pages until then */
    bool done;
} meddled;

static int again_ask(struct sp_link *l, const struct sp_query *queries, size_t n,
                     struct sp_answer *ret_answers) {
    bool whole = queries[0].probe.v == SP_PROBE_WINDOW.v;
    meddled.pages += meddled.asked < 2 && !whole ? n : 0;
    if (whole && meddled.asked == 1)
        meddled.passes_then = meddled.passes;
    __atomic_fetch_add(&meddled.asked, whole, __ATOMIC_RELEASE);
    return meddled.inner.ask(l, queries, n, ret_answers);
}

static int again_hints(struct sp_link *l, struct sp_hint *ret_hints, size_t max, size_t *ret_n) {
    if (!meddled.asked || meddled.done)
        return meddled.inner.hints(l, ret_hints, max, ret_n);
    meddled.done = true;
    if (meddled.kind == LINK_LOST)
        return -ENOTCONN;
    if (meddled.kind == NODES_APART) {
        l->settings.v[SP_SETTING_merge_across_nodes] = 0;
        l->settings_number++;
        return 0;
    }
    ret_hints[0] = (struct sp_hint){.window = SP_HINT_ALL};
    *ret_n = 1;
    return 0;
}

static void again_scanned(struct sp_link *l) {
    meddled.passes += meddled.asked > 0;
    meddled.inner.scanned(l);
}

static struct sp_link *interfere(struct sp_link *l) {
    meddled.ops = meddled.inner = *l->ops;
    meddled.ops.ask = again_ask;
    meddled.ops.hints = again_hints;
    meddled.ops.scanned = again_scanned;
    l->ops = &meddled.ops;
    return l;
}

static void asked_again(enum interference kind) {
    struct engine_rig r;
    uint8_t *p = huge_new(1);
    fill(p, PAGES, 1);
    huge_make(p, 1);
    memset(&meddled, 0, sizeof meddled);
    meddled.kind = kind;
    rig_settings(&r);
    rig_begin(&r, interfere);
    r.link->settings = r.settings;
    rig_add(&r, p, H);
    while (__atomic_load_n(&meddled.asked, __ATOMIC_ACQUIRE) < 2)
        sp_sleep_ns(SECOND_NS / 100);
    print_message("# %lu passes\n", (unsigned long)meddled.passes_then);
    assert_true(meddled.done && meddled.pages == 0);
    assert_in_range(meddled.passes_then, 0, 3);
    rig_unmap(&r, p, H);
    sp_engine_free(r.engine);
}

/* A huge page that waits for a better answer does not wait on when nobody knows any more who was hinted at,
 * when the index has gone that might have hinted, or when it asks by other rules. */
static void test_no_wait_for_nothing(void **state) {
    if (!by_fingerprints())
        skip();
    asked_again(HINTS_LOST);
    asked_again(LINK_LOST);
    asked_again(NODES_APART);
}

/* The local link of a rig, whose memory's second half is unmapped when it has been asked about as a whole. */
static struct {
    struct sp_link_ops ops, inner;
    struct engine_rig *rig;
    uint8_t *half; /* NULL: was unmapped */
} halving;

static int halving_ask(struct sp_link *l, const struct sp_query *queries, size_t n,
                       struct sp_answer *ret_answers) {
    int error = halving.inner.ask(l, queries, n, ret_answers);
    if (halving.half)
        rig_unmap(halving.rig, halving.half, H / 2);
    __atomic_store_n(&halving.half, NULL, __ATOMIC_RELEASE);
    return error;
}

static struct sp_link *halve(struct sp_link *l) {
    halving.ops = halving.inner = *l->ops;
    halving.ops.ask = halving_ask;
    l->ops = &halving.ops;
    return l;
}

/* What was unmapped while it was asked about is nobody's twin: only what is left of it is shared. */
static void test_unmapped_while_asked(void **state) {
    struct engine_rig r;
    uint8_t *p = huge_new(2);
    if (!by_fingerprints())
        skip();
    fill(p, PAGES, 1);
    fill(p + H, PAGES, 1);
    huge_make(p, 2);
    halving.rig = &r;
    halving.half = p + H / 2;
    rig_init(&r, halve);
    rig_add(&r, p, H);
    while (__atomic_load_n(&halving.half, __ATOMIC_ACQUIRE))
        sp_sleep_ns(SECOND_NS / 100);
    assert_int_equal(rig_settle(&r), 0);
    rig_add(&r, p + H, H);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES / 2, PAGES / 2));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_shared), PAGES / 2);
    assert_int_equal(wrong_pages(p, PAGES / 2, 1) + wrong_pages(p + H, PAGES, 1), 0);
    rig_unmap(&r, p, H / 2);
    rig_unmap(&r, p + H, H);
    sp_engine_free(r.engine);
}

/* A huge page whose twin is in small pages finds it all the same, whoever comes first. */
static void small_twin(bool small_first) {
    struct engine_rig r;
    uint8_t *p = huge_new(1), *small = memory_new(H);
    fill(p, PAGES, 1);
    fill(small, PAGES, 1);
    huge_make(p, 1);
    rig_init(&r, NULL);
    rig_add(&r, small_first ? small : p, H);
    assert_int_equal(rig_settle(&r), 0);
    rig_add(&r, small_first ? p : small, H);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, UINT64_MAX));
    assert_int_equal(wrong_pages(p, PAGES, 1), 0);
    assert_int_equal(wrong_pages(small, PAGES, 1), 0);
    rig_unmap(&r, p, H);
    rig_unmap(&r, small, H);
    sp_engine_free(r.engine);
}

static void test_small_twins(void **state) {
    small_twin(true);
    small_twin(false);
}

/* What has been written since it was asked about is nobody's twin: nothing is published for its sake. */
static void test_written_since_asked(void **state) {
    struct engine_rig r;
    uint8_t *p = huge_new(2);
    fill(p, PAGES, 1);
    fill(p + H, PAGES, 1);
    huge_make(p, 2);
    rig_init(&r, NULL);
    rig_add(&r, p, H);
    assert_int_equal(rig_settle(&r), 0);
    fill(p, PAGES, 2);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 5, UINT64_MAX));
    assert_int_equal(rig_settle(&r), 0);
    rig_add(&r, p + H, H);
    assert_int_equal(rig_settle(&r), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_published), 0);
    /* Nor is what was unmapped. */
    rig_unmap(&r, p + H, H);
    must(sp_map_fresh((uintptr_t)p + H, H, PROT_READ | PROT_WRITE), "map");
    must(sp_advise((uintptr_t)p + H, H, MADV_HUGEPAGE), "hugepage");
    fill(p, PAGES, 1);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 15, UINT64_MAX));
    assert_int_equal(rig_settle(&r), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_published), 0);
    assert_int_equal(wrong_pages(p, PAGES, 1), 0);
    rig_unmap(&r, p, 2 * H);
    sp_engine_free(r.engine);
}

/* Equal in all that was sampled of it, and not in a byte: the comparison decides, the others stay as they
 * are, and pages with twins are found. */
static void test_alike_as_a_whole(void **state) {
    struct engine_rig r;
    uint8_t *p = halves_new(0);
    for (size_t i = 0; i < SPAN; i++)
        p[(SPAN + i) * H + i * PAGE + 64 * (20 + i) + 7] ^= 1;
    rig_init(&r, NULL);
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, SPAN * (PAGES - 1), SPAN * PAGES));
    for (size_t i = 0; i < SPAN; i++)
        p[(SPAN + i) * H + i * PAGE + 64 * (20 + i) + 7] ^= 1;
    halves_are(p, 0);
    rig_end(&r, p);
}

/* Two halves on two nodes in turns, the second in turns twice as long: whole windows share where they are on
 * the same node, and none with one on another. */
static const uint8_t *halves;

static int nodes_in_turns(const void *const *pages, size_t n, int *ret_nodes) {
    for (size_t i = 0; i < n; i++) {
        size_t window = (size_t)((const uint8_t *)pages[i] - halves) / H;
        ret_nodes[i] = (int)(window < SPAN ? window % 2 : window / 2 % 2);
    }
    return 0;
}

static void test_nodes_apart(void **state) {
    struct engine_rig r;
    uint8_t *p = halves_new(0);
    halves = p;
    rig_settings(&r);
    r.settings.v[SP_SETTING_merge_across_nodes] = 0;
    rig_begin(&r, NULL);
    sp_engine_nodes(r.engine, nodes_in_turns);
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, SPAN * PAGES, SPAN * PAGES));
    assert_int_equal(rig_settle(&r), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged_huge), SPAN * PAGES);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_shared), SPAN * PAGES / 2);
    assert_int_equal(huge_windows(p, 2 * SPAN), 2 * SPAN);
    for (size_t i = 0; i < SPAN; i++) {
        bool same = i % 2 == i / 2 % 2;
        assert_true(page_of_store(p + i * H) == same && page_of_store(p + (SPAN + i) * H) == same);
    }
    halves_are(p, 0);
    rig_end(&r, p);
}

/* Memory of which a page was published is made anew as a huge page: what was published before stays. */
static void test_published_before(void **state) {
    struct engine_rig r;
    void *map;
    must(sp_map_new(3 * H, H, &map), "map");
    uint8_t *p = map, *twin = p + 400 * PAGE, *again = p + 2 * H;
    must(sp_advise((uintptr_t)p, H, MADV_NOHUGEPAGE), "small");
    must(sp_advise((uintptr_t)again, H, MADV_NOHUGEPAGE), "small");
    page_fill(twin, 5, 0);
    page_fill(again + 400 * PAGE, 5, 0);
    rig_init(&r, NULL);
    rig_add(&r, p, H);
    assert_int_equal(rig_settle(&r), 0);
    rig_add(&r, again, H); /* asks last, so it publishes */
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 1, 1));
    rig_unmap(&r, again, H);
    must(sp_map_fresh((uintptr_t)again, H, PROT_READ | PROT_WRITE), "map");
    must(sp_advise((uintptr_t)p + H, 2 * H, MADV_HUGEPAGE), "hugepage");
    fill(p + H, PAGES, 1);
    fill(again, PAGES, 1);
    huge_make(p + H, 2);
    rig_add(&r, p + H, H);
    assert_int_equal(rig_settle(&r), 0);
    rig_add(&r, again, H);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, UINT64_MAX));
    assert_true(page_is(twin, 5, 0));
    assert_int_equal(wrong_pages(p + H, PAGES, 1), 0);
    assert_int_equal(wrong_pages(again, PAGES, 1), 0);
    rig_unmap(&r, p, 3 * H);
    sp_engine_free(r.engine);
}

static void test_zeros_go_as_a_whole(void **state) {
    struct engine_rig r;
    uint8_t *p = huge_new(2 * SPAN);
    memset(p, 0, 2 * SPAN * H);
    huge_make(p, 2 * SPAN);
    rig_init(&r, NULL);
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, 2 * SPAN * PAGES, UINT64_MAX));
    assert_false(page_present(p));
    rig_end(&r, p);
}

static void test_split_where_it_is_worth_it(void **state) {
    struct engine_rig r;
    uint8_t *p = halves_new(10);
    rig_init(&r, NULL);
    rig_add(&r, p, 2 * SPAN * H);
    size_t twins = SPAN * PAGES - (SPAN * PAGES + 9) / 10;
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, twins, twins));
    halves_are(p, 10);
    rig_end(&r, p);
}

static void test_left_where_it_is_not(void **state) {
    struct engine_rig r;
    uint8_t *p = halves_new(10);
    rig_init(&r, NULL);
    r.settings.v[SP_SETTING_huge_split_percent] = 95;
    sp_engine_free(r.engine);
    must(sp_local_link_new(&r.settings, test_index(), &r.link), "local link");
    must(sp_engine_new(r.link, &r.settings, &r.engine), "engine");
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, 20, UINT64_MAX));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged), 0);
    assert_int_equal(huge_windows(p, 2 * SPAN), 2 * SPAN);
    halves_are(p, 10);
    rig_end(&r, p);
}

/* What is written all the time is not armed, which would split it; when it has come to rest it is shared. */
static bool rests;

static void *hot_writer(void *arg) {
    for (uint64_t round = 1; !__atomic_load_n(&rests, __ATOMIC_ACQUIRE); round++)
        for (size_t i = 0; i < H / 8; i += 64)
            ((volatile uint64_t *)arg)[i + round % 64] = round;
    return NULL;
}

static void test_hot_ones_are_not_armed(void **state) {
    struct engine_rig r;
    pthread_t thread;
    uint8_t *p = halves_new(0);
    __atomic_store_n(&rests, false, __ATOMIC_RELEASE);
    assert_int_equal(pthread_create(&thread, NULL, hot_writer, p), 0);
    rig_init(&r, NULL);
    rig_add(&r, p, 2 * SPAN * H);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, (SPAN - 1) * PAGES, (SPAN - 1) * PAGES));
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 10, UINT64_MAX));
    assert_true(is_huge(p));
    __atomic_store_n(&rests, true, __ATOMIC_RELEASE);
    assert_int_equal(pthread_join(thread, NULL), 0);
    fill(p, PAGES, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, SPAN * PAGES, SPAN * PAGES));
    assert_int_equal(huge_windows(p, 2 * SPAN), 2 * SPAN);
    halves_are(p, 0);
    rig_end(&r, p);
}

/* ---- the primitive ---- */

struct whole {
    uint8_t *window;
    struct sp_segment segment;
    void *view;
    struct sp_batch_run run;
    struct sp_batch batch;
};

/* A huge window with content 1 and a chunk of the store with the same. */
static void whole_open(struct whole *r, bool fork_events) {
    batch_open(&r->batch, fork_events, &r->segment, &r->view);
    r->window = huge_new(1);
    fill(r->window, PAGES, 1);
    huge_make(r->window, 1);
    batch_arm(&r->batch, r->window, H);
    r->batch.base = (uintptr_t)r->window;
    r->batch.runs = &r->run;
    r->batch.n = 1;
    r->batch.whole = true;
    must(sp_segment_write(&r->segment, 0, r->window), "store");
    must(sp_segment_huge(&r->segment, 0), "huge store");
    must(sp_segment_write_many(&r->segment, 0, r->window, PAGES), "store");
    r->run = (struct sp_batch_run){.pages = PAGES, .expected = r->view, .fd = r->segment.fd_shared};
}

static void whole_close(struct whole *r) {
    memory_free(r->window, H);
    batch_close(&r->batch, &r->segment, r->view);
}

static unsigned outcomes(const struct whole *r, enum sp_outcome which) {
    unsigned n = 0;
    for (unsigned i = 0; i < PAGES; i++)
        n += r->batch.outcome[i] == which;
    return n;
}

static void test_batch_whole(void **state) {
    struct whole r;
    whole_open(&r, false);
    sp_batch_run(&r.batch);
    assert_int_equal(outcomes(&r, SP_OUTCOME_MERGED), PAGES);
    assert_true(is_huge(r.window));
    assert_true(page_of_store(r.window));
    assert_int_equal(wrong_pages(r.window, PAGES, 1), 0);
    whole_close(&r);
}

/* One page was written meanwhile: all of it goes back as it came, and is thawed. Scratch has held small pages
 * before. */
static void test_batch_written_meanwhile(void **state) {
    struct whole r;
    size_t moved;
    whole_open(&r, false);
    uint8_t *small = memory_new(PAGE);
    page_fill(small, 9, 0);
    must(sp_uffd_move(r.batch.uffd, r.batch.pagemap, (uintptr_t)r.batch.scratch + PAGE, (uintptr_t)small,
                      PAGE, &moved),
         "move");
    must(sp_advise((uintptr_t)r.batch.scratch + PAGE, PAGE, MADV_DONTNEED), "empty");
    memory_free(small, PAGE);
    r.batch.scratch_small = true;
    page_fill(r.window + 300 * PAGE, 7, 300);
    sp_batch_run(&r.batch);
    assert_int_equal(outcomes(&r, SP_OUTCOME_CHANGED), 1);
    assert_int_equal(outcomes(&r, SP_OUTCOME_KEPT), PAGES - 1);
    assert_true(is_huge(r.window));
    assert_false(page_of_store(r.window));
    assert_int_equal(wrong_pages(r.window, PAGES, 1), 1);
    assert_true(page_is(r.window + 300 * PAGE, 7, 300));
    r.window[0] ^= 1; /* sleeps if it is still frozen */
    whole_close(&r);
}

static void test_batch_pinned(void **state) {
    struct io_uring ring;
    if (io_uring_queue_init(4, &ring, 0) < 0) {
        print_message("# skipped: no io_uring here\n");
        return;
    }
    struct whole r;
    whole_open(&r, false);
    struct iovec part = {r.window + 100 * PAGE, PAGE};
    assert_int_equal(io_uring_register_buffers(&ring, &part, 1), 0);
    sp_batch_run(&r.batch);
    assert_int_equal(outcomes(&r, SP_OUTCOME_BUSY), PAGES);
    assert_true(is_huge(r.window));
    r.window[0] ^= 1;
    r.window[0] ^= 1;
    assert_int_equal(wrong_pages(r.window, PAGES, 1), 0);
    io_uring_queue_exit(&ring);
    whole_close(&r);
}

/* At vm.max_map_count nothing can be registered: what was huge stays as it is. */
static int at_the_limit(void *arg) {
    struct whole r;
    uint64_t most;
    must(sp_proc_max_map_count(&most), "limit");
    if (most > 262144)
        return 0; /* would take long */
    whole_open(&r, false);
    for (;;) { /* every second page of one range: a mapping each */
        static uint8_t *range;
        static size_t at;
        if (!range) {
            void *p;
            must(sp_map_new(2 * most * PAGE, PAGE, &p), "map");
            range = p;
        }
        if (at >= 2 * most || sp_protect((uintptr_t)range + at * PAGE, PAGE, PROT_READ))
            break;
        at += 2;
    }
    sp_batch_run(&r.batch);
    CHILD_CHECK(outcomes(&r, SP_OUTCOME_MERGED) == PAGES || outcomes(&r, SP_OUTCOME_REFUSED) == PAGES ||
                outcomes(&r, SP_OUTCOME_CHANGED) + outcomes(&r, SP_OUTCOME_KEPT) == PAGES);
    CHILD_CHECK(wrong_pages(r.window, PAGES, 1) == 0);
    r.window[0] ^= 1;
    return 0;
}

static void test_mapping_limit(void **state) {
    assert_int_equal(in_child(at_the_limit, NULL), 0);
}

/* Children that are made at any moment, by fork and by raw clone, read what their parent reads. */
static bool ended;
static const uint8_t *forked_window;

static void *forker(void *arg) {
    bool raw = arg;
    unsigned long wrong = 0;
    while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
        pid_t pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : fork();
        if (pid == 0)
            _exit(wrong_pages(forked_window, PAGES, 1) != 0);
        int status = 1;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        wrong += status != 0;
    }
    return (void *)wrong;
}

static void fork_meanwhile(bool raw) {
    struct whole r;
    pthread_t thread;
    unsigned merged = 0, forks = 0;
    whole_open(&r, true);
    forked_window = r.window;
    __atomic_store_n(&ended, false, __ATOMIC_RELEASE);
    assert_int_equal(pthread_create(&thread, NULL, forker, (void *)(uintptr_t)raw), 0);
    for (uint64_t end = sp_now_ns() + SECOND_NS; sp_now_ns() < end;) {
        (void)sp_batch_forks(r.batch.uffd);
        r.run.expected = r.view;
        sp_batch_run(&r.batch);
        assert_false(r.batch.replaced);
        forks += (unsigned)r.batch.forks;
        if (!outcomes(&r, SP_OUTCOME_MERGED))
            continue;
        merged++;
        /* Private and huge again, for the next one: by a copy that is moved into its place. */
        uint8_t *fresh = huge_new(1);
        fill(fresh, PAGES, 1);
        batch_arm(&r.batch, fresh, H);
        must(sp_remap((uintptr_t)fresh, H, (uintptr_t)r.window), "remap");
        batch_arm(&r.batch, r.window, H);
    }
    __atomic_store_n(&ended, true, __ATOMIC_RELEASE);
    void *wrong;
    while (pthread_tryjoin_np(thread, &wrong)) {
        (void)sp_batch_forks(r.batch.uffd);
        sp_sleep_ns(100000);
    }
    assert_int_equal((uintptr_t)wrong, 0);
    assert_int_equal(wrong_pages(r.window, PAGES, 1), 0);
    print_message("# merged %u times, %u children given frozen pages\n", merged, forks);
    whole_close(&r);
}

static void test_fork_meanwhile(void **state) {
    fork_meanwhile(false);
}

static void test_clone_meanwhile(void **state) {
    fork_meanwhile(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_whole),
        cmocka_unit_test(test_batch_written_meanwhile),
        cmocka_unit_test(test_batch_pinned),
        cmocka_unit_test(test_mapping_limit),
        cmocka_unit_test(test_fork_meanwhile),
        cmocka_unit_test(test_clone_meanwhile),
        cmocka_unit_test(test_equal_ones_stay_huge),
        cmocka_unit_test(test_nodes_apart),
        cmocka_unit_test(test_hot_ones_are_not_armed),
        cmocka_unit_test(test_published_before),
        cmocka_unit_test(test_few_questions),
        cmocka_unit_test(test_no_wait_for_nothing),
        cmocka_unit_test(test_unmapped_while_asked),
        cmocka_unit_test(test_small_twins),
        cmocka_unit_test(test_written_since_asked),
        cmocka_unit_test(test_alike_as_a_whole),
        cmocka_unit_test(test_zeros_go_as_a_whole),
        cmocka_unit_test(test_split_where_it_is_worth_it),
        cmocka_unit_test(test_left_where_it_is_not),
    };
    require_uffd();
    watchdog(200);
    must(sp_pagemap_open(&pagemap), "pagemap");
    uint8_t *probe = huge_new(1);
    memset(probe, 1, H);
    if (sp_advise((uintptr_t)probe, H, MADV_COLLAPSE)) {
        printf("1..0 # SKIP no huge pages here\n");
        return 77;
    }
    memory_free(probe, H);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
