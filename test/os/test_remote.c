/* SPDX-License-Identifier: MIT */
/* Looking at other processes: their memory, also where it is not there, what they are, and whose memory they
 * have. */
#include "os_test.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "os/remote.h"

#define PAGES 16

/* A child that sleeps until it is killed, with a copy of our memory, or with our memory itself (CLONE_VM). */
static pid_t sleeper(unsigned flags) {
    pid_t child = (pid_t)sp_syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    must(child, "clone");
    if (!child) {
        sp_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            sp_syscall(SYS_pause);
    }
    return child;
}

static void end(pid_t child) {
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void reads_pieces(void **state) {
    char *p = pages_new(PAGES), buffer[6 * SP_PAGE_SIZE] __attribute__((aligned(8)));
    size_t got = 0;
    pages_fill(p, PAGES, 1);
    pid_t child = sleeper(0);
    struct iovec pieces[] = {{p + 2 * PAGE, PAGE}, {p + 5 * PAGE, 3 * PAGE}, {p + 12 * PAGE + 128, 64}};
    assert_int_equal(sp_remote_read(child, pieces, 3, buffer, &got), 0);
    assert_int_equal(got, 4 * PAGE + 64);
    assert_true(page_is(buffer, 1, 2) && page_is(buffer + PAGE, 1, 5) && page_is(buffer + 3 * PAGE, 1, 7));
    assert_memory_equal(buffer + 4 * PAGE, p + 12 * PAGE + 128, 64);
    end(child);
    pages_free(p, PAGES);
}

static void stops_at_what_is_not_there(void **state) {
    char *p = pages_new(PAGES), buffer[6 * SP_PAGE_SIZE] __attribute__((aligned(8)));
    size_t got = 77;
    pages_fill(p, PAGES, 1);
    must(sp_unmap(p + 6 * PAGE, PAGE), "unmap");
    pid_t child = sleeper(0);
    struct iovec across = {p + 4 * PAGE, 5 * PAGE}, gone = {p + 6 * PAGE, PAGE};
    assert_int_equal(sp_remote_read(child, &across, 1, buffer, &got), 0);
    assert_int_equal(got, 2 * PAGE);
    assert_true(page_is(buffer, 1, 4) && page_is(buffer + PAGE, 1, 5));
    assert_int_equal(sp_remote_read(child, &gone, 1, buffer, &got), 0);
    assert_int_equal(got, 0);
    end(child);
    got = 77;
    assert_int_equal(sp_remote_read(child, &across, 1, buffer, &got), -ESRCH);
    assert_int_equal(got, 77);
    pages_free(p, PAGES);
}

static void others_are_protected(void **state) {
    char *p = pages_new(1), buffer[SP_PAGE_SIZE];
    pages_fill(p, 1, 1);
    pid_t other = getpid();
    pid_t child = fork();
    if (!child) {
        struct iovec piece = {p, PAGE};
        size_t got;
        bool dropped = !getuid() && !setresgid(NOBODY, NOBODY, NOBODY) && !setresuid(NOBODY, NOBODY, NOBODY);
        _exit(!dropped ? 77 : sp_remote_read(other, &piece, 1, buffer, &got) == -EPERM ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    pages_free(p, 1);
    if (WEXITSTATUS(status) == 77)
        NOT_HERE("needs root, to become somebody else");
    assert_int_equal(status, 0);
}

static void same_memory_is_known(void **state) {
    pid_t copy = sleeper(0), same = sleeper(CLONE_VM);
    struct sp_process ours, of_same;
    if (!sp_remote_same(getpid(), getpid()))
        print_message("# skipped: this kernel has no kcmp\n");
    else
        assert_true(sp_remote_same(getpid(), same));
    assert_false(sp_remote_same(getpid(), copy));
    assert_int_equal(sp_process_read(getpid(), &ours), 0);
    assert_int_equal(sp_process_read(same, &of_same), 0);
    assert_true(ours.stack == of_same.stack && ours.heap == of_same.heap && ours.stack);
    end(copy);
    end(same);
}

static bool find_ours(void *ctx, int pid) {
    return !(*(bool *)ctx = pid == getpid());
}

static void processes_are_described(void **state) {
    struct sp_process p;
    bool found = false;
    assert_int_equal(sp_process_each(find_ours, &found), 0);
    assert_true(found);
    prctl(PR_SET_NAME, "a) Z 7 (b"); /* what is behind the last bracket counts */
    assert_int_equal(sp_process_read(getpid(), &p), 0);
    assert_true(p.pid == getpid() && p.parent == getppid() && p.state == 'R' && !p.kernel_thread);
    assert_true(p.resident_pages > 10);
    assert_true(sp_process_read(2, &p) < 0 || p.parent != 0 || p.kernel_thread);
    pid_t child = fork();
    if (!child)
        _exit(0);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(sp_process_read(child, &p), 0);
    assert_int_equal(p.state, 'Z');
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_true(sp_process_read(child, &p) < 0);
    assert_false(sp_process_has_worker(getpid()));
    prctl(PR_SET_NAME, "samepage");
    assert_true(sp_process_has_worker(getpid()));
}

struct wanted {
    uint64_t start;
    struct sp_mapping found;
    char name[64];
};

static bool want(void *ctx, const struct sp_mapping *m) {
    struct wanted *w = ctx;
    if (m->start > w->start || m->end <= w->start)
        return true;
    w->found = *m;
    snprintf(w->name, sizeof(w->name), "%s", m->name);
    return false;
}

static void mappings_are_described(void **state) {
    char *p = pages_new(PAGES);
    pages_fill(p, 5, 1);
    must(sp_advise((uintptr_t)p, PAGES * PAGE, MADV_DONTDUMP), "dontdump"); /* a mapping of its own */
    pid_t child = sleeper(0);
    struct wanted w = {.start = (uintptr_t)p};
    assert_int_equal(sp_remote_mappings(child, want, &w), 0);
    assert_true(w.found.start == (uintptr_t)p && w.found.end == (uintptr_t)p + PAGES * PAGE);
    assert_true(w.found.resident_bytes == 5 * PAGE && w.found.anonymous_bytes == 5 * PAGE);
    assert_true(!w.found.huge_bytes && !w.found.swap_bytes && w.found.eligible == SP_ELIGIBLE);
    assert_string_equal(w.name, "");
    w.start = (uintptr_t)&w; /* our stack */
    assert_int_equal(sp_remote_mappings(child, want, &w), 0);
    assert_string_equal(w.name, "[stack]");
    end(child);
    assert_true(sp_remote_mappings(child, want, &w) < 0);
    pages_free(p, PAGES);
}

/* Of three pages: our own, one that a child shares, and one that was never written. */
static void private_pages_are_told_apart(void **state) {
    char *p = pages_new(PAGES);
    int fd;
    sp_bits bits;
    uint64_t window = (uintptr_t)p / SP_WINDOW_SIZE;
    unsigned first = (unsigned)((uintptr_t)p % SP_WINDOW_SIZE / PAGE);
    if (first + PAGES > SP_WINDOW_PAGES)
        NOT_HERE("the pages lie in two windows");
    pages_fill(p, 4, 1);
    pid_t child = sleeper(0);
    page_fill(p, 2, 0); /* breaks the sharing of this one */
    must(sp_pagemap_open_of(getpid(), &fd), "pagemap");
    assert_int_equal(sp_pagemap_private_window(fd, window, first, first + PAGES, &bits), 0);
    assert_int_equal(sp_bits_count(&bits), 1);
    assert_true(sp_bits_get(&bits, first));
    end(child);
    assert_int_equal(sp_pagemap_private_window(fd, window, first, first + PAGES, &bits), 0);
    assert_int_equal(sp_bits_count(&bits), 4);
    assert_int_equal(sp_pagemap_private_window(fd, window, first + 1, first + 3, &bits), 0);
    assert_int_equal(sp_bits_count(&bits), 2);
    close(fd);
    pages_free(p, PAGES);
}

static void files_are_not_private(void **state) {
    int fd, file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    assert_int_equal(ftruncate(file, PAGE), 0);
    assert_int_equal(pwrite(file, "x", 1, 0), 1);
    char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    sp_bits bits;
    uint64_t window = (uintptr_t)p / SP_WINDOW_SIZE;
    unsigned slot = (unsigned)((uintptr_t)p % SP_WINDOW_SIZE / PAGE);
    assert_true(p != MAP_FAILED && *p == 'x');
    must(sp_pagemap_open_of(getpid(), &fd), "pagemap");
    assert_int_equal(sp_pagemap_private_window(fd, window, slot, slot + 1, &bits), 0);
    assert_int_equal(sp_bits_count(&bits), 0);
    p[1] = 1; /* copied on write */
    assert_int_equal(sp_pagemap_private_window(fd, window, slot, slot + 1, &bits), 0);
    assert_int_equal(sp_bits_count(&bits), 1);
    munmap(p, PAGE);
    close(fd);
    close(file);
}

static void memory_that_is_gone_is_known(void **state) {
    pid_t child = sleeper(0);
    sp_bits bits;
    int fd;
    must(sp_pagemap_open_of(child, &fd), "pagemap");
    assert_int_equal(sp_pagemap_private_window(fd, 0, 0, 1, &bits), 0);
    end(child);
    assert_int_equal(sp_pagemap_private_window(fd, 0, 0, 1, &bits), -ESRCH);
    close(fd);
    assert_true(sp_pagemap_open_of(child, &fd) < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_pieces),
        cmocka_unit_test(stops_at_what_is_not_there),
        cmocka_unit_test(others_are_protected),
        cmocka_unit_test(same_memory_is_known),
        cmocka_unit_test(processes_are_described),
        cmocka_unit_test(mappings_are_described),
        cmocka_unit_test(private_pages_are_told_apart),
        cmocka_unit_test(files_are_not_private),
        cmocka_unit_test(memory_that_is_gone_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
