/* SPDX-License-Identifier: MIT */
/*
 * What /proc tells, on real mappings of every kind.
 */
#include "os_test.h"

#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "os/proc.h"
#include "os/store.h"

static bool see(void *ctx, const struct sp_mapping *m) {
    *(struct sp_mapping *)ctx = *m;
    return false;
}

/* The mapping that holds `address`. */
static struct sp_mapping mapping_at(const void *address) {
    struct sp_mapping m = {0};
    assert_int_equal(sp_proc_mappings((uintptr_t)address, (uintptr_t)address + 1, see, &m), 0);
    assert_true(m.start <= (uintptr_t)address && m.end > (uintptr_t)address);
    return m;
}

#define N 8

/* A mapping that does not grow together with its neighbours. */
static char *alone(int prot, int flags, int fd) {
    char *p = mmap(NULL, (N + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_ptr_not_equal(mmap(p + PAGE, N * PAGE, prot, flags | MAP_FIXED, fd, 0), MAP_FAILED);
    return p + PAGE;
}

static void drop(char *p) {
    munmap(p - PAGE, (N + 2) * PAGE);
}

#define RW   (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static enum sp_eligible why(char *p) {
    struct sp_mapping m = mapping_at(p);
    drop(p);
    return m.eligible;
}

static void ordinary_memory_is_eligible(void **state) {
    char *p = alone(RW, ANON, -1);
    struct sp_mapping m = mapping_at(p);
    assert_int_equal(m.start, (uintptr_t)p);
    assert_int_equal(m.end, (uintptr_t)p + N * PAGE);
    assert_int_equal(m.prot, RW);
    assert_int_equal(m.attributes, 0);
    assert_int_equal(m.eligible, SP_ELIGIBLE);
    drop(p);
}

static void kinds_are_told_apart(void **state) {
    int memfd = memfd_create("x", MFD_CLOEXEC);
    int local;
    assert_int_equal(ftruncate(memfd, N * PAGE), 0);
    assert_int_equal(why(alone(PROT_READ, ANON, -1)), SP_PROTECTION);
    assert_int_equal(why(alone(RW | PROT_EXEC, ANON, -1)), SP_EXECUTABLE);
    assert_int_equal(why(alone(RW, MAP_SHARED | MAP_ANONYMOUS, -1)), SP_SHARED);
    assert_int_equal(why(alone(RW, MAP_SHARED, memfd)), SP_SHARED);
    assert_int_equal(why(alone(RW, MAP_PRIVATE, memfd)), SP_FILE);
    assert_int_equal(why(alone(RW, ANON | MAP_GROWSDOWN, -1)), SP_SPECIAL);
    assert_int_equal(mapping_at(&local).eligible, SP_SPECIAL);
    assert_int_equal(mapping_at((void *)(uintptr_t)&mapping_at).eligible, SP_FILE);
    close(memfd);

    char *p = alone(RW, ANON, -1);
    assert_int_equal(lock_pages(p, N), 0);
    assert_int_equal(why(p), SP_LOCKED);
    p = alone(RW, ANON, -1);
    assert_int_equal(sp_advise((uintptr_t)p, N * PAGE, MADV_WIPEONFORK), 0);
    assert_int_equal(why(p), SP_WIPEONFORK);
}

static void a_userfaultfd_is_seen(void **state) {
    char *p = alone(RW, ANON, -1);
    int uffd = uffd_new(0);
    assert_int_equal(sp_uffd_register(uffd, (uintptr_t)p, N * PAGE, SP_UFFD_MODE_WP), 0);
    assert_int_equal(mapping_at(p).eligible, SP_USERFAULTFD);
    assert_int_equal(sp_uffd_unregister(uffd, (uintptr_t)p, N * PAGE), 0);
    assert_int_equal(mapping_at(p).eligible, SP_ELIGIBLE);
    assert_int_equal(sp_uffd_register(uffd, (uintptr_t)p, N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(why(p), SP_USERFAULTFD);
    close(uffd);
}

static void a_protection_key_is_seen(void **state) {
    char *p = alone(RW, ANON, -1);
    int key = pkey_alloc(0, 0);
    if (key < 0) {
        drop(p);
        NOT_HERE("no protection keys: %s", strerror(errno));
    }
    assert_int_equal(pkey_mprotect(p, N * PAGE, RW, key), 0);
    assert_int_equal(why(p), SP_PKEY);
    pkey_free(key);
}

static void a_policy_is_seen(void **state) {
    char *p = alone(RW, ANON, -1);
    unsigned long node0 = 1;
    long r = sp_syscall(SYS_mbind, p, N * PAGE, MPOL_BIND, &node0, 64, 0);
    if (r == -ENOSYS) {
        drop(p);
        NOT_HERE("a kernel without NUMA");
    }
    assert_int_equal(r, 0);
    assert_int_equal(why(p), SP_POLICY);
    /* The thread's own policy is none of the mapping's. */
    assert_int_equal(sp_syscall(SYS_set_mempolicy, MPOL_BIND, &node0, 64), 0);
    assert_int_equal(why(alone(RW, ANON, -1)), SP_ELIGIBLE);
    assert_int_equal(sp_syscall(SYS_set_mempolicy, MPOL_DEFAULT, 0, 0), 0);
}

static void a_name_is_seen(void **state) {
    char *p = alone(RW, ANON, -1);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, N * PAGE, "a name with ] and spaces") < 0) {
        drop(p);
        NOT_HERE("a kernel without names");
    }
    assert_int_equal(why(p), SP_NAMED);
}

static void attributes_are_seen(void **state) {
    char *p = alone(RW, ANON, -1);
    uintptr_t a = (uintptr_t)p;
    assert_int_equal(sp_advise(a, N * PAGE, MADV_DONTFORK), 0);
    assert_int_equal(sp_advise(a, N * PAGE, MADV_DONTDUMP), 0);
    assert_int_equal(sp_advise(a, N * PAGE, MADV_HUGEPAGE), 0);
    struct sp_mapping m = mapping_at(p);
    assert_int_equal(m.attributes, SP_ATTR_DONTFORK | SP_ATTR_DONTDUMP | SP_ATTR_HUGEPAGE);
    assert_int_equal(m.eligible, SP_ELIGIBLE);
    assert_int_equal(sp_advise(a, N * PAGE, MADV_NOHUGEPAGE), 0);
    assert_int_equal(sp_advise(a, N * PAGE, MADV_DODUMP), 0);
    assert_int_equal(mapping_at(p).attributes, SP_ATTR_DONTFORK | SP_ATTR_NOHUGEPAGE);
    drop(p);
}

struct walk {
    uint64_t last_end, start, end;
    int n;
};

static bool in_order(void *ctx, const struct sp_mapping *m) {
    struct walk *w = ctx;
    assert_true(m->start < m->end);
    assert_true(m->start >= w->last_end);
    assert_true(m->end > w->start && m->start < w->end);
    w->last_end = m->end;
    w->n++;
    return true;
}

static void a_range_is_walked_in_order(void **state) {
    struct walk w = {.end = UINT64_MAX};
    uint64_t count;
    assert_int_equal(sp_proc_mappings(0, UINT64_MAX, in_order, &w), 0);
    assert_int_equal(sp_proc_map_count(&count), 0);
    assert_int_equal(w.n, count);

    char *p = alone(RW, ANON, -1);
    must(sp_protect(AT(p, 2), PAGE, PROT_READ), "protect");
    w = (struct walk){.start = AT(p, 1), .end = AT(p, 4)};
    assert_int_equal(sp_proc_mappings(w.start, w.end, in_order, &w), 0);
    assert_int_equal(w.n, 3);
    w = (struct walk){.start = AT(p, 2), .end = AT(p, 3)};
    assert_int_equal(sp_proc_mappings(w.start, w.end, in_order, &w), 0);
    assert_int_equal(w.n, 1);
    drop(p);
    w = (struct walk){.start = AT(p, 1), .end = AT(p, 4)};
    assert_int_equal(sp_proc_mappings(w.start, w.end, in_order, &w), 0);
    assert_int_equal(w.n, 0);
}

/* Of mappings with nothing particular about them both tell the same. */
static void maps_tell_as_much_as_smaps(void **state) {
    struct sp_segment s;
    must(sp_segment_init(&s), "segment");
    char *p[] = {
        alone(RW, ANON, -1),
        alone(PROT_READ, ANON, -1),
        alone(RW | PROT_EXEC, ANON, -1),
        alone(RW, MAP_SHARED | MAP_ANONYMOUS, -1),
        alone(RW, MAP_PRIVATE, s.fd_shared),
        alone(PROT_READ, MAP_SHARED, s.fd_shared),
    };
    for (size_t i = 0; i < sizeof(p) / sizeof(*p); i++) {
        struct sp_mapping m = {0}, full = mapping_at(p[i]);
        assert_int_equal(sp_proc_maps((uintptr_t)p[i], (uintptr_t)p[i] + 1, see, &m), 0);
        assert_true(m.start == full.start && m.end == full.end && m.prot == full.prot);
        assert_int_equal(m.eligible, full.eligible);
        assert_int_equal(m.attributes, full.attributes);
        drop(p[i]);
    }
    sp_segment_deinit(&s);
}

static void counts_follow(void **state) {
    uint64_t before, after, limit, shown = 0;
    char *p = alone(RW, ANON, -1);
    assert_int_equal(sp_proc_map_count(&before), 0);
    must(sp_protect(AT(p, 2), PAGE, PROT_READ), "protect");
    assert_int_equal(sp_proc_map_count(&after), 0);
    assert_int_equal(after, before + 2);
    drop(p);
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &shown), 1);
    fclose(f);
    assert_int_equal(sp_proc_max_map_count(&limit), 0);
    assert_int_equal(limit, shown);
}

static void *wait_for_end(void *end) {
    return (void *)(uintptr_t)read(*(int *)end, &(char){0}, 1);
}

static int threads(void *arg) {
    pthread_t thread;
    int end[2];
    uint64_t count = 9;
    CHILD_CHECK(sp_proc_threads(&count) == 0 && count == 1);
    CHILD_CHECK(pipe(end) == 0 && pthread_create(&thread, NULL, wait_for_end, &end[0]) == 0);
    CHILD_CHECK(sp_proc_threads(&count) == 0 && count == 2);
    return 0;
}

static void threads_are_counted(void **state) {
    if (SANITIZED)
        NOT_HERE("some sanitizers have a thread of their own");
    assert_int_equal(in_child(threads, NULL), 0);
}

static int filtered(void *arg) {
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    int mode = 9;
    CHILD_CHECK(sp_proc_seccomp(&mode) == 0 && mode == 0);
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHILD_CHECK(sp_proc_seccomp(&mode) == 0 && mode == 2);
    return 0;
}

static void filters_are_seen(void **state) {
    assert_int_equal(in_child(filtered, NULL), 0);
}

static unsigned dump_filter(void) {
    unsigned filter = 0;
    FILE *f = fopen("/proc/self/coredump_filter", "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%x", &filter), 1);
    fclose(f);
    return filter;
}

static int widen_dump(void *arg) {
    unsigned before = dump_filter();
    CHILD_CHECK(sp_proc_dump_private_files() == 0);
    CHILD_CHECK(dump_filter() == (before | 4));
    CHILD_CHECK(sp_proc_dump_private_files() == 0);
    CHILD_CHECK(dump_filter() == (before | 4));
    return 0;
}

static void core_dumps_are_widened(void **state) {
    assert_int_equal(in_child(widen_dump, NULL), 0);
}

static int lock_some(void *arg) {
    bool locked;
    CHILD_CHECK(sp_proc_locked(&locked) == 0 && !locked);
    char *p = pages_new(1);
    CHILD_CHECK(lock_pages(p, 1) == 0);
    CHILD_CHECK(sp_proc_locked(&locked) == 0 && locked);
    CHILD_CHECK(sp_syscall(SYS_munlock, p, PAGE) == 0);
    CHILD_CHECK(sp_proc_locked(&locked) == 0 && !locked);
    CHILD_CHECK(sp_syscall(SYS_mlockall, MCL_FUTURE) == 0);
    CHILD_CHECK(sp_proc_locked(&locked) == 0 && locked);
    CHILD_CHECK(sp_syscall(SYS_munlockall) == 0);
    CHILD_CHECK(sp_proc_locked(&locked) == 0 && !locked);
    return 0;
}

static void locked_programs_are_known(void **state) {
    assert_int_equal(in_child(lock_some, NULL), 0);
}

static void machine_facts(void **state) {
    uint64_t available, total;
    struct sysinfo info;
    struct utsname name;
    unsigned major, minor, patch = 0;
    uint32_t version;
    bool swap_on, safe;
    assert_int_equal(sp_proc_memory(&available, &total), 0);
    assert_int_equal(sysinfo(&info), 0);
    assert_int_equal(total / 1024, (uint64_t)info.totalram * info.mem_unit / 1024);
    assert_true(available > 0 && available <= total);
    assert_int_equal(uname(&name), 0);
    assert_true(sscanf(name.release, "%u.%u.%u", &major, &minor, &patch) >= 2);
    assert_int_equal(sp_proc_kernel(&version, &swap_on), 0);
    assert_int_equal(version, major << 16 | minor << 8 | patch);
    assert_int_equal(swap_on, info.totalswap > 0);
    assert_int_equal(sp_proc_move_is_safe(&safe), 0);
    assert_int_equal(safe, sp_move_is_safe(version, swap_on));
}

/* With nobody at its other end. */
static void a_fifo_is_no_pressure(void **state) {
    char path[64];
    uint64_t share;
    snprintf(path, sizeof path, "/tmp/samepage-test-fifo-%d", (int)getpid());
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    int r = sp_proc_pressure(path, &share);
    alarm(0);
    unlink(path);
    assert_int_equal(r, -EBADMSG);
}

static void names_of_programs(void **state) {
    char name[16], own[16];
    assert_int_equal(prctl(PR_GET_NAME, own), 0);
    sp_proc_name(getpid(), name);
    assert_string_equal(name, own);
    sp_proc_name(1 << 30, name);
    assert_string_equal(name, "?");
}

static int open_self(void) {
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int another_process(void *parents) {
    CHILD_CHECK(!sp_proc_pidfd_is_self(*(int *)parents));
    CHILD_CHECK(sp_proc_pidfd_is_self(open_self()));
    return 0;
}

static void pidfds_are_told_apart(void **state) {
    int own = open_self(), file = open("/proc/self/maps", O_RDONLY);
    assert_true(own >= 0 && file >= 0);
    assert_true(sp_proc_pidfd_is_self(own));
    assert_int_equal(in_child(another_process, &own), 0);
    assert_false(sp_proc_pidfd_is_self(file));
    assert_false(sp_proc_pidfd_is_self(-1));
    close(own);
    close(file);
    assert_false(sp_proc_pidfd_is_self(own));
}

/* "Pid:" is -1 then. */
static void a_pidfd_outlives_its_process(void **state) {
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    assert_true(pid > 0);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(pidfd >= 0);
    assert_false(sp_proc_pidfd_is_self(pidfd));
    close(pidfd);
}

static void random_bytes(void **state) {
    uint8_t a[32] = {0}, b[32] = {0};
    assert_int_equal(sp_random(a), 0);
    assert_int_equal(sp_random(b), 0);
    assert_memory_not_equal(a, b, 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ordinary_memory_is_eligible),
        cmocka_unit_test(kinds_are_told_apart),
        cmocka_unit_test(a_userfaultfd_is_seen),
        cmocka_unit_test(a_protection_key_is_seen),
        cmocka_unit_test(a_policy_is_seen),
        cmocka_unit_test(a_name_is_seen),
        cmocka_unit_test(attributes_are_seen),
        cmocka_unit_test(a_fifo_is_no_pressure),
        cmocka_unit_test(a_range_is_walked_in_order),
        cmocka_unit_test(maps_tell_as_much_as_smaps),
        cmocka_unit_test(counts_follow),
        cmocka_unit_test(threads_are_counted),
        cmocka_unit_test(filters_are_seen),
        cmocka_unit_test(core_dumps_are_widened),
        cmocka_unit_test(locked_programs_are_known),
        cmocka_unit_test(machine_facts),
        cmocka_unit_test(names_of_programs),
        cmocka_unit_test(pidfds_are_told_apart),
        cmocka_unit_test(a_pidfd_outlives_its_process),
        cmocka_unit_test(random_bytes),
    };
    require_uffd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
