/* SPDX-License-Identifier: MIT */
/*
 * The engine and a link that fails, is slow, or does other things in between: I7 (the memory stays intact and
 * the engine joins again) and I8 (a reference is taken when the index answers, so that nothing that happens
 * between the answer and the remap can take the store page away).
 */
#include "merge_test.h"

#include "merge/state.h"
#include "os/fault.h"
#include "os/proc.h"

#define N     (4 * MIB)
#define PAGES (N / PAGE)

/* A link around the local one. */
static struct wrapper {
    struct sp_link link;
    struct sp_link *inner;
    uint64_t calls;
    uint64_t fail_at; /* number of the call that fails, and ends the connection; 0: none */
    bool fail_always; /* and every one from then on */
    bool broken;
    uint64_t opened;
    void (*between)(void); /* after an answer with references, before the engine sees it */
    void (*before_release)(const struct sp_store_run *runs, size_t n);
    bool no_userfaultfd;
    bool pause;           /* merging is to pause */
    const uint8_t *hint;  /* hint at all pages of its window, once */
    const uint8_t *watch; /* questions about pages of its window */
    uint64_t asked;       /* are counted here */
} wrapper;

/* True: this call fails. */
static bool failing(void) {
    uint64_t n = __atomic_add_fetch(&wrapper.calls, 1, __ATOMIC_RELAXED);
    if (wrapper.fail_at && (n == wrapper.fail_at || (wrapper.fail_always && n > wrapper.fail_at)))
        wrapper.broken = true;
    return wrapper.broken;
}

static int w_open(struct sp_link *l, struct sp_welcome *ret) {
    wrapper.broken = false;
    if (failing())
        return -ECONNREFUSED;
    wrapper.opened++;
    return wrapper.inner->ops->open(wrapper.inner, ret);
}
static void w_close(struct sp_link *l) {
    wrapper.inner->ops->close(wrapper.inner);
}
static void w_free(struct sp_link *l) {
    wrapper.inner->ops->free(wrapper.inner);
}
static int w_userfaultfd(struct sp_link *l, int *fd, bool *fork_events) {
    if (wrapper.no_userfaultfd)
        return -EPERM;
    return failing() ? -ENOTCONN : wrapper.inner->ops->userfaultfd(wrapper.inner, fd, fork_events);
}
static uint64_t window_of(const uint8_t *p) {
    return (uintptr_t)p / SP_WINDOW_SIZE;
}

static int w_ask(struct sp_link *l, const struct sp_query *q, size_t n, struct sp_answer *a) {
    if (failing())
        return -ENOTCONN;
    int error = wrapper.inner->ops->ask(wrapper.inner, q, n, a);
    bool shares = false;
    const uint8_t *watch = __atomic_load_n(&wrapper.watch, __ATOMIC_ACQUIRE);
    for (size_t i = 0; !error && i < n; i++) {
        shares |= a[i].kind == SP_ANSWER_SHARE;
        if (watch && sp_page_window(q[i].page) == window_of(watch))
            __atomic_fetch_add(&wrapper.asked, 1, __ATOMIC_RELAXED);
    }
    if (shares && wrapper.between)
        wrapper.between();
    return error;
}
static int w_publish(struct sp_link *l, const struct sp_query *q, const void *const *c, size_t n,
                     struct sp_answer *a) {
    return failing() ? -ENOTCONN : wrapper.inner->ops->publish(wrapper.inner, q, c, n, a);
}
static int w_forget(struct sp_link *l, const struct sp_query *q, size_t n) {
    return failing() ? -ENOTCONN : wrapper.inner->ops->forget(wrapper.inner, q, n);
}
static void w_scanned(struct sp_link *l) {
    wrapper.inner->ops->scanned(wrapper.inner);
}
static int w_release(struct sp_link *l, const struct sp_store_run *r, size_t n) {
    if (failing())
        return -ENOTCONN;
    if (wrapper.before_release)
        wrapper.before_release(r, n);
    return wrapper.inner->ops->release(wrapper.inner, r, n);
}
static int w_segment(struct sp_link *l, uint64_t s, int *fd) {
    return failing() ? -ENOTCONN : wrapper.inner->ops->segment(wrapper.inner, s, fd);
}
static int w_report(struct sp_link *l, const struct sp_report *r, bool *pause) {
    if (failing())
        return -ENOTCONN;
    int error = wrapper.inner->ops->report(wrapper.inner, r, pause);
    if (!error && __atomic_load_n(&wrapper.pause, __ATOMIC_RELAXED))
        *pause = true;
    return error;
}
static int w_hint_fd(struct sp_link *l) {
    return wrapper.inner->ops->hint_fd(wrapper.inner);
}
static int w_hints(struct sp_link *l, struct sp_hint *h, size_t max, size_t *n) {
    if (failing())
        return -ENOTCONN;
    const uint8_t *hint = max ? __atomic_exchange_n(&wrapper.hint, NULL, __ATOMIC_ACQ_REL) : NULL;
    if (!hint)
        return wrapper.inner->ops->hints(wrapper.inner, h, max, n);
    *h = (struct sp_hint){.window = window_of(hint)};
    memset(&h->pages, 0xff, sizeof(h->pages));
    *n = 1;
    return 0;
}
static void w_forked(struct sp_link *l) {
    wrapper.inner->ops->forked(wrapper.inner);
}

static struct sp_link *wrap(struct sp_link *inner) {
    static const struct sp_link_ops ops = {
        .open = w_open,
        .close = w_close,
        .free = w_free,
        .userfaultfd = w_userfaultfd,
        .ask = w_ask,
        .publish = w_publish,
        .forget = w_forget,
        .scanned = w_scanned,
        .release = w_release,
        .segment = w_segment,
        .report = w_report,
        .hint_fd = w_hint_fd,
        .hints = w_hints,
        .forked = w_forked,
    };
    wrapper = (struct wrapper){.link = {.ops = &ops, .idle_fd = -1}, .inner = inner};
    return &wrapper.link;
}

/* ---- I7 ---- */

/* Two ranges merged, one of them written, some of it discarded; then all bytes looked at. */
static void scene(uint64_t fail_at, bool always) {
    struct engine_rig r;
    rig_init(&r, wrap);
    wrapper.fail_at = fail_at;
    wrapper.fail_always = always;
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    memset(b + 9 * PAGE, 0, PAGE);
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    uint64_t begin = sp_now_ns();
    while (__atomic_load_n(&wrapper.calls, __ATOMIC_RELAXED) < fail_at + 12 &&
           sp_now_ns() - begin < SECOND_NS / 4)
        sp_sleep_ns(SECOND_NS / 500);
    for (size_t i = 0; i < PAGES; i += 3)
        page_fill(b + i * PAGE, 2, i);
    sp_engine_lock(r.engine);
    must(sp_engine_unmerge_locked(r.engine, (uintptr_t)a, (uintptr_t)a + N / 4), "unmerge");
    must(sp_engine_discard_locked(r.engine, (uintptr_t)a + N / 2, (uintptr_t)a + N), "discard");
    must(sp_advise((uintptr_t)a + N / 2, N / 2, MADV_DONTNEED), "dontneed");
    sp_engine_unlock(r.engine);
    struct sp_merge_result result;
    int unused = sp_engine_merge(r.engine, (uintptr_t)b, (uintptr_t)b + N, false, &result);
    (void)unused;
    if (!always && fail_at % 16 == 0) { /* joins again and goes on (once a second, so not each time) */
        uint64_t merged = rig_counter(&r, SP_COUNTER_pages_merged);
        uint8_t *c = rig_twins(&r, N, 7);
        assert_true(rig_until(&r, SP_COUNTER_pages_merged, merged + PAGES, UINT64_MAX));
        assert_int_equal(sp_engine_state(r.engine), SP_ENGINE_RUNNING);
        assert_true(wrapper.opened >= (fail_at > 1) + 1u || fail_at > wrapper.calls);
        assert_int_equal(wrong_pages(c, PAGES / 2, 7) + wrong_pages(c + N / 2, PAGES / 2, 7), 0);
        rig_unmap(&r, c, N);
    }
    r.engine = sp_engine_free(r.engine);
    for (size_t i = 0; i < PAGES; i++) {
        assert_true(i < PAGES / 2 ? page_is(a + i * PAGE, 1, i) : page_is_zero(a + i * PAGE));
        assert_true(i % 3 == 0 ? page_is(b + i * PAGE, 2, i)
                    : i == 9   ? page_is_zero(b + i * PAGE)
                               : page_is(b + i * PAGE, 1, i));
    }
    memory_free(a, N);
    memory_free(b, N);
}

static void test_fails_at_every_call(void **state) {
    for (uint64_t n = 1; n <= 48; n++)
        scene(n, false);
}

static void test_fails_from_every_call_on(void **state) {
    for (uint64_t n = 1; n <= 40; n += 2)
        scene(n, true);
}

/* A domain that is left and joined again: what was merged before stays, and is not given back to the new one,
 * which never gave it. */
static uint64_t released;

static void count_released(const struct sp_store_run *runs, size_t n) {
    for (size_t i = 0; i < n; i++)
        __atomic_fetch_add(&released, runs[i].pages, __ATOMIC_RELAXED);
}

static void test_nothing_owed_to_another_index(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    wrapper.before_release = count_released;
    uint8_t *a = rig_twins(&r, N, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    released = 0;
    uint64_t opened = wrapper.opened;
    wrapper.fail_at = wrapper.calls + 1;
    while (__atomic_load_n(&wrapper.opened, __ATOMIC_RELAXED) == opened)
        sp_sleep_ns(SECOND_NS / 100);
    memset(a, 3, N);
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 8, UINT64_MAX));
    assert_int_equal(released, 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
}

/* ---- I8 ---- */

static struct engine_rig *race_rig;
static uint8_t *race_owner; /* the first sharers, whose references are the only others */
static unsigned race_times;

/* Between the answer "shares with X" and the remap every other reference to X goes: the others write to all
 * their pages, the engine finds them broken and gives them back. Played on the worker's own thread, because
 * that is who would do it next. */
static void others_give_back(void) {
    if (!race_owner)
        return;
    uint8_t *owner = race_owner;
    race_owner = NULL;
    race_times++;
    memset(owner, 5, N);
    struct sp_engine *e = race_rig->engine;
    struct sp_store_run runs[PAGES];
    size_t n = 0;
    sp_engine_lock(e);
    SP_WINDOWS_EACH(&e->windows, (uintptr_t)owner, (uintptr_t)owner + N, win) {
        SP_BITS_EACH(&win->shared, slot) {
            runs[n++] = (struct sp_store_run){{sp_window_value(win, slot)}, 1};
            sp_bits_clear(&win->shared, slot);
        }
    }
    sp_engine_unlock(e);
    assert_int_equal(n, PAGES);
    must(wrapper.inner->ops->release(wrapper.inner, runs, n), "release");
    /* What was given back takes effect: no child lives. */
    for (unsigned i = 0; i < 3; i++) {
        struct sp_hint hints[1];
        size_t got;
        sp_sleep_ns(SECOND_NS / 8);
        must(wrapper.inner->ops->hints(wrapper.inner, hints, 0, &got), "hints");
    }
}

static void test_references_before_offsets(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    race_rig = &r;
    /* One range holds both the publisher and its twin; then each page of it holds one reference at least. */
    uint8_t *a = rig_twins(&r, N, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    race_times = 0;
    race_owner = a;
    wrapper.between = others_give_back;
    uint8_t *b = rig_twins(&r, N, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    wrapper.between = NULL;
    assert_int_equal(race_times, 1);
    assert_true(rig_settle(&r) == 0);
    assert_int_equal(wrong_pages(b, PAGES / 2, 1) + wrong_pages(b + N / 2, PAGES / 2, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* A slow index: the program changes everything between question and answer. */
static uint8_t *slow_memory;
static unsigned slow_round;

static void everything_changes(void) {
    if (!slow_memory)
        return;
    slow_round++;
    for (size_t i = 0; i < PAGES; i++)
        page_fill(slow_memory + i * PAGE, 100 + slow_round, i);
    if (slow_round == 4)
        slow_memory = NULL;
}

static void test_changed_before_remap(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill_twins(a, PAGES, 1);
    rig_add(&r, a, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    slow_memory = b;
    slow_round = 0;
    wrapper.between = everything_changes;
    fill_twins(b, PAGES, 1);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_differed, PAGES / 2, UINT64_MAX));
    assert_int_equal(rig_settle(&r), 0);
    slow_memory = NULL;
    wrapper.between = NULL;
    sp_sleep_ns(SECOND_NS / 5);
    assert_int_equal(wrong_pages(b, PAGES, 100 + slow_round), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* What a page became between answer and remap waits elsewhere for a twin: the page is asked about as a whole
 * from then on, and the other one waits under its probe. */
static uint8_t *twin_source, *twin_memory;

static void becomes_a_twin(void) {
    uint8_t *p = __atomic_exchange_n(&twin_memory, NULL, __ATOMIC_ACQ_REL);
    if (p)
        memcpy(p, twin_source, N / 2);
}

static void test_changed_into_a_twin(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = memory_new(N), *b = memory_new(N), *c = memory_new(N);
    fill_twins(a, PAGES, 1);
    fill(c, PAGES / 2, 2);
    rig_add(&r, a, N);
    rig_add(&r, c, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES / 2, PAGES / 2));
    twin_source = c;
    __atomic_store_n(&twin_memory, b, __ATOMIC_RELEASE);
    wrapper.between = becomes_a_twin;
    memcpy(b, a, N / 2);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    assert_null(twin_memory);
    assert_int_equal(wrong_pages(b, PAGES / 2, 2) + wrong_pages(c, PAGES / 2, 2), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
    memory_free(c, N);
}

/* ---- pages that cannot be worked on when it is their turn ---- */

static uint8_t *protect_memory; /* to be protected between answer and remap */
static struct engine_rig *protect_rig;

static void protection(struct engine_rig *r, uint8_t *p, int prot) {
    sp_engine_lock(r->engine);
    must(sp_engine_protection_locked(r->engine, (uintptr_t)p, (uintptr_t)p + N, prot), "protection");
    must(sp_protect((uintptr_t)p, N, prot), "protect");
    sp_engine_unlock(r->engine);
}

static void becomes_protected(void) {
    uint8_t *p = __atomic_exchange_n(&protect_memory, NULL, __ATOMIC_ACQ_REL);
    if (p)
        protection(protect_rig, p, PROT_READ);
}

/* Until the worker has passed through everything some times more. */
static void passes(struct engine_rig *r, uint64_t n) {
    uint64_t scans = rig_counter(r, SP_COUNTER_full_scans);
    assert_true(rig_until(r, SP_COUNTER_full_scans, scans + n, UINT64_MAX));
}

/* Pages that became read-only between the answer and the remap are merged when they are writable again. */
static void test_protected_between(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill_twins(a, PAGES, 1);
    fill_twins(b, PAGES, 1);
    rig_add(&r, a, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    protect_rig = &r;
    wrapper.between = becomes_protected;
    __atomic_store_n(&protect_memory, b, __ATOMIC_RELEASE);
    rig_add(&r, b, N);
    passes(&r, 8);
    assert_null(protect_memory);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged), PAGES);
    protection(&r, b, PROT_READ | PROT_WRITE);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES, 2 * PAGES));
    assert_int_equal(wrong_pages(b, PAGES / 2, 1) + wrong_pages(b + N / 2, PAGES / 2, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* Memory without a twin: all that the index knows. */
static uint8_t *known_range(struct engine_rig *r) {
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    rig_add(r, p, N);
    assert_true(rig_until(r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    return p;
}

/* True: all pages of the first window of `p` were asked about since `asked` was reset. */
static bool asked_within(double seconds) {
    for (unsigned i = 0; i < seconds * 100; i++) {
        if (__atomic_load_n(&wrapper.asked, __ATOMIC_RELAXED) >= SP_WINDOW_PAGES)
            return true;
        sp_sleep_ns(SECOND_NS / 100);
    }
    return false;
}

static void hint_at(const uint8_t *p) {
    __atomic_store_n(&wrapper.asked, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&wrapper.watch, p, __ATOMIC_RELEASE);
    __atomic_store_n(&wrapper.hint, p, __ATOMIC_RELEASE);
    while (__atomic_load_n(&wrapper.hint, __ATOMIC_ACQUIRE))
        sp_sleep_ns(SECOND_NS / 1000);
}

/* Until the worker has been told. */
static void pause_merging(struct engine_rig *r, bool pause) {
    __atomic_store_n(&wrapper.pause, pause, __ATOMIC_RELAXED);
    while (__atomic_load_n(&r->engine->worker->paused, __ATOMIC_RELAXED) != pause)
        sp_sleep_ns(SECOND_NS / 100);
}

/* Hints for pages that are read-only, or while merging is paused, are followed when that has ended. */
static void test_hints_wait(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = known_range(&r);
    hint_at(a);
    assert_true(asked_within(10));

    protection(&r, a, PROT_READ);
    hint_at(a);
    passes(&r, 4);
    assert_int_equal(wrapper.asked, 0);
    protection(&r, a, PROT_READ | PROT_WRITE);
    assert_true(asked_within(10));

    pause_merging(&r, true);
    hint_at(a);
    passes(&r, 4);
    assert_int_equal(wrapper.asked, 0);
    pause_merging(&r, false);
    assert_true(asked_within(10));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
}

/* Whether the window of `p` is not in the list of those with something to do, and does not come back to it.
 */
static bool left_alone(struct engine_rig *r, const uint8_t *p) {
    bool queued = false;
    for (unsigned i = 0; i < 20 && !queued; i++) {
        sp_engine_lock(r->engine);
        const struct sp_window *win = sp_windows_find(&r->engine->windows, window_of(p));
        queued = win && win->queued;
        sp_engine_unlock(r->engine);
        sp_sleep_ns(SECOND_NS / 1000);
    }
    return !queued;
}

/* While pages are read-only nothing is done about a hint, pass after pass, wherever the hint was when they
 * became so. */
static void test_hints_at_read_only(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = known_range(&r);
    pause_merging(&r, true);
    hint_at(a);
    passes(&r, 4);
    protection(&r, a, PROT_READ);
    pause_merging(&r, false);
    passes(&r, 4);
    assert_true(left_alone(&r, a));
    assert_int_equal(wrapper.asked, 0);
    protection(&r, a, PROT_READ | PROT_WRITE);
    assert_true(asked_within(10));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
}

static int refuse_windows(const char *call) {
    return strcmp(call, "pagemap_window") ? 0 : -ENOMEM;
}

/* Hints for pages of which the kernel does not say just now whether they may be read are followed later. */
static void test_hints_outlast_errors(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = known_range(&r);
    sp_fault_hook = refuse_windows;
    hint_at(a);
    passes(&r, 4);
    assert_int_equal(wrapper.asked, 0);
    sp_fault_hook = NULL;
    assert_true(asked_within(10));
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
}

/* Without a userfaultfd only quiescent memory is merged, when its owner says so: a hint must not take
 * references to pages that nobody will map. */
static void test_hints_without_userfaultfd(void **state) {
    struct engine_rig r;
    struct sp_merge_result result;
    rig_init(&r, wrap);
    wrapper.no_userfaultfd = true;
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)a, (uintptr_t)a + N, true, &result), 0);
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)b, (uintptr_t)b + N, true, &result), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_shared), PAGES);
    hint_at(a);
    assert_false(asked_within(0.3));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_sharing), 0);
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)a, (uintptr_t)a + N, true, &result), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_sharing), PAGES);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

/* What is mapped in the place of views. */
static bool count_mapping(void *ctx, const struct sp_mapping *m) {
    ++*(unsigned *)ctx;
    return true;
}

static unsigned mapped_for_views(struct engine_rig *r) {
    unsigned n = 0;
    sp_engine_lock(r->engine);
    uintptr_t place = r->engine->worker->view_place;
    if (place)
        must(sp_proc_mappings(place, place + SP_WINDOW_SIZE, count_mapping, &n), "mappings");
    else
        n = 1000;
    sp_engine_unlock(r->engine);
    return n;
}

/* Neither of runs all of which was equal nor of others is anything left, and where somebody else has mapped
 * something meanwhile it stays. */
static void test_views_leave_nothing(void **state) {
    struct engine_rig r;
    rig_init(&r, wrap);
    uint8_t *a = rig_twins(&r, N, 1), *few = rig_twins(&r, 80 * PAGE, 3); /* too few to be moved */
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES + 80, PAGES + 80));
    assert_int_equal(rig_settle(&r), 0);
    assert_int_equal(mapped_for_views(&r), 0);
    uint8_t *theirs = mmap((void *)r.engine->worker->view_place, SP_WINDOW_SIZE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_not_equal(theirs, MAP_FAILED);
    fill(theirs, SP_WINDOW_PAGES, 7);
    uint8_t *b = rig_twins(&r, N, 2);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * PAGES + 80, 2 * PAGES + 80));
    assert_int_equal(rig_settle(&r), 0);
    assert_true(r.engine->worker->view_place != (uintptr_t)theirs);
    assert_int_equal(mapped_for_views(&r), 0);
    assert_int_equal(wrong_pages(theirs, SP_WINDOW_PAGES, 7), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(theirs, SP_WINDOW_SIZE);
    memory_free(a, N);
    memory_free(few, 80 * PAGE);
    memory_free(b, N);
}

int main(void) {
    require_uffd();
    watchdog(250);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fails_at_every_call),
        cmocka_unit_test(test_fails_from_every_call_on),
        cmocka_unit_test(test_nothing_owed_to_another_index),
        cmocka_unit_test(test_references_before_offsets),
        cmocka_unit_test(test_changed_before_remap),
        cmocka_unit_test(test_changed_into_a_twin),
        cmocka_unit_test(test_protected_between),
        cmocka_unit_test(test_hints_wait),
        cmocka_unit_test(test_hints_at_read_only),
        cmocka_unit_test(test_hints_outlast_errors),
        cmocka_unit_test(test_hints_without_userfaultfd),
        cmocka_unit_test(test_views_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
