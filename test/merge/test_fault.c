/* SPDX-License-Identifier: MIT */
/*
 * Every call into os/ and every allocation fails in turn, once, and then from there on: a whole life of an
 * engine is played, with the Nth call failing, for N from 1 until a life passes without meeting it. After
 * each, every byte is what it must be, no thread hangs, and nothing of the engine's memory is left (I1, I6,
 * I7).
 *
 * Calls that put back what was taken from the program have no alternative and are repeated until they
 * succeed: for these "from there on" means fifty times.
 */
#include "merge_test.h"

#include "os/fault.h"

#define PAGES 96
#define BYTES SP_WINDOW_SIZE

static struct {
    uint64_t calls, fail_at, failed, stubborn;
    bool always;
    int error;
    char first[32]; /* the call that failed first */
    bool leaks;     /* a failing unmap leaves a mapping behind: nothing else is to be expected */
} fault;

/* The test's own calls go through os/ too, and are not to fail. */
static _Thread_local bool exempt;

static bool is_stubborn(const char *call) {
    static const char *const names[] = {"uffd_move", "uffd_copy", "uffd_wake", "uffd_unregister",
                                        "uffd_read"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (!strcmp(call, names[i]))
            return true;
    return false;
}

static int hook(const char *call) {
    if (exempt)
        return 0;
    uint64_t n = __atomic_add_fetch(&fault.calls, 1, __ATOMIC_RELAXED);
    if (n < fault.fail_at || (n > fault.fail_at && !fault.always))
        return 0;
    if (is_stubborn(call) && __atomic_fetch_add(&fault.stubborn, 1, __ATOMIC_RELAXED) >= 50)
        return 0;
    if (!strcmp(call, "unmap") || !strcmp(call, "token_drop"))
        fault.leaks = true;
    if (__atomic_fetch_add(&fault.failed, 1, __ATOMIC_RELAXED) == 0)
        strncpy(fault.first, call, sizeof(fault.first) - 1);
    return fault.error;
}

/* Mappings that bear the mark of sp_map_mark, or are of the store or a token. */
static size_t own_mappings(bool show) {
    char line[512], header[512] = "";
    size_t n = 0;
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f'))
            strcpy(header, line);
        else if (strncmp(line, "VmFlags:", 8) || (!strstr(line, " rr") && !strstr(header, "memfd:samepage")))
            continue;
        else if (n++, show)
            fprintf(stderr, "# left: %s#       %s", header, line);
    }
    if (f)
        fclose(f);
    return n;
}

struct expectation {
    uint8_t *a, *b;
    bool discarded;
};

static size_t wrong(const struct expectation *x) {
    size_t n = 0;
    for (size_t i = 0; i < PAGES; i++) {
        n += !(x->discarded && i >= PAGES / 2 ? page_is_zero(x->a + i * PAGE)
                                              : page_is(x->a + i * PAGE, 1, i));
        n += !(i == 5       ? page_is_zero(x->b + i * PAGE)
               : i % 4 == 0 ? page_is(x->b + i * PAGE, 2, i)
                            : page_is(x->b + i * PAGE, 1, i));
    }
    return n;
}

static int fork_and_look(struct sp_engine *e, const struct expectation *x) {
    sp_engine_fork_prepare(e);
    pid_t pid = fork();
    if (pid == 0) {
        watchdog(20);
        sp_engine_fork_child(e);
        exempt = true;
        size_t n = wrong(x);
        exempt = false;
        sp_engine_free(e);
        exempt = true;
        _exit(n + wrong(x) ? 1 : 0);
    }
    sp_engine_fork_parent(e);
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

static void live(struct sp_engine *e, struct expectation *x) {
    uintptr_t a = (uintptr_t)x->a, b = (uintptr_t)x->b;
    sp_engine_lock(e);
    int unused = sp_engine_add_locked(e, a, a + BYTES, true, NULL);
    unused = sp_engine_add_locked(e, b, b + BYTES, true, NULL);
    sp_engine_unlock(e);
    unused = sp_engine_wait_settled(e, SECOND_NS / 10);
    for (size_t i = 0; i < PAGES; i += 4)
        page_fill(x->b + i * PAGE, 2, i);
    struct sp_merge_result result;
    unused = sp_engine_merge(e, b, b + BYTES, false, &result);
    sp_engine_lock(e);
    unused = sp_engine_unmerge_locked(e, a, a + 16 * PAGE);
    int error = sp_engine_discard_locked(e, a + PAGES / 2 * PAGE, a + PAGES * PAGE);
    if (!error) {
        exempt = true;
        must(sp_advise(a + PAGES / 2 * PAGE, PAGES / 2 * PAGE, MADV_DONTNEED), "dontneed");
        exempt = false;
        x->discarded = true;
    } else { /* nothing was promised for a part: what was discarded is zeros, the rest as it was */
        x->discarded = page_is_zero(x->a + PAGES / 2 * PAGE);
        exempt = true;
        for (size_t i = PAGES / 2; i < PAGES; i++)
            if (page_is_zero(x->a + i * PAGE))
                page_fill(x->a + i * PAGE, 1, i);
        x->discarded = false;
        exempt = false;
    }
    sp_engine_unlock(e);
    if (!fault.always) {
        /* Under failures for ever a fork event may never be read, which no kernel does. */
        int status = fork_and_look(e, x);
        if (status)
            fail_msg("a child found wrong pages or died: %x", (unsigned)status);
    }
    (void)unused;
}

static void life(uint64_t fail_at, bool always, int error) {
    size_t before = own_mappings(false);
    struct expectation x = {memory_new(BYTES), memory_new(BYTES), false};
    fill(x.a, PAGES, 1);
    fill(x.b, PAGES, 1);
    memset(x.b + 5 * PAGE, 0, PAGE);
    memset(&fault, 0, sizeof(fault));
    fault.fail_at = fail_at;
    fault.always = always;
    fault.error = error;
    watchdog(60);

    struct sp_settings settings;
    sp_settings_init(&settings);
    settings.v[SP_SETTING_sleep_millisecs] = 2;
    settings.v[SP_SETTING_sleep_max_millisecs] = 8;
    struct sp_link *link;
    struct sp_engine *e;
    bool tripped = false;
    sp_fault_hook = hook;
    exempt = false;
    if (sp_local_link_new(&settings, test_index(), &link) == 0 && sp_engine_new(link, &settings, &e) == 0) {
        live(e, &x);
        tripped = sp_engine_state(e) == SP_ENGINE_RAW_CALLS;
        sp_engine_free(e);
    } else { /* so that the expectation is met */
        for (size_t i = 0; i < PAGES; i += 4)
            page_fill(x.b + i * PAGE, 2, i);
    }
    exempt = true;
    size_t bad = wrong(&x);
    memory_free(x.a, BYTES);
    memory_free(x.b, BYTES);
    size_t left = own_mappings(false) - before;
    if (bad)
        fail_msg("%zu pages are wrong after call %llu failed%s: %s", bad, (unsigned long long)fail_at,
                 always ? " for good" : "", fault.first);
    if (tripped) /* a failure is no sign that somebody else changes mappings (H1) */
        fail_msg("tripped after call %llu failed%s: %s", (unsigned long long)fail_at,
                 always ? " for good" : "", fault.first);
    if (left && !fault.leaks)
        own_mappings(true);
    if (left && !fault.leaks)
        fail_msg("%zu mappings are left after call %llu failed%s: %s", left, (unsigned long long)fail_at,
                 always ? " for good" : "", fault.first);
}

/* Lives until one does not meet its failure; returns how many did. */
static uint64_t lives(bool always, int error, unsigned step, uint64_t most) {
    uint64_t n = 1, met = 0;
    for (;; n += step) {
        life(n, always, error);
        if (!fault.failed || n > most)
            break;
        met++;
    }
    print_message("# %llu lives with a failure, the last at call %llu\n", (unsigned long long)met,
                  (unsigned long long)n);
    return met;
}

/* The engine goes on with background passes for as long as it lives, so that there is no last call; what is
 * done once is done within the first few hundred. */
static void test_one_call_no_memory(void **state) {
    assert_true(lives(false, -ENOMEM, 1, 900) > 50);
}

static void test_one_call_invalid(void **state) {
    assert_true(lives(false, -EINVAL, 1, 900) > 25);
}

static void test_one_call_again(void **state) {
    assert_true(lives(false, -EAGAIN, 2, 900) > 15);
}

static void test_from_one_call_on(void **state) {
    assert_true(lives(true, -ENOMEM, 1, 900) > 25);
}

/* Without a failure such a life merges something, or the above would show nothing. */
static void test_none(void **state) {
    life(UINT64_MAX, false, 0);
    assert_int_equal(fault.failed, 0);
    assert_true(fault.calls > 100);
    print_message("# %llu calls in a life\n", (unsigned long long)fault.calls);
}

int main(void) {
    exempt = true;
    require_uffd();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_one_call_no_memory),
        cmocka_unit_test(test_one_call_invalid),
        cmocka_unit_test(test_one_call_again),
        cmocka_unit_test(test_from_one_call_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
