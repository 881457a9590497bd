/* SPDX-License-Identifier: MIT */
/*
 * /dev/ksm as include/samepage/ksm_2008.h promises it, by a program under `samepage run --advised`. No kernel
 * has it to be compared with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "calls.h"
#include "samepage/ksm_2008.h"

#define assert_fails(error, call)                                                                            \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        assert_int_equal((call), -1);                                                                        \
        assert_int_equal(errno, (error));                                                                    \
    } while (0)

static int device_new(void) {
    int fd = open("/dev/ksm", O_RDWR | O_TRUNC, (mode_t)0600);
    assert_true(fd >= 0);
    return fd;
}

static int area_descriptor(void) {
    int device = device_new(), fd = ioctl(device, KSM_CREATE_SHARED_MEMORY_AREA);
    assert_true(fd >= 0);
    close(device);
    return fd;
}

static int add(int fd, const void *p, size_t pages) {
    struct ksm_memory_region region = {.npages = (__u32)pages, .addr = (uintptr_t)p};
    return ioctl(fd, KSM_REGISTER_MEMORY_REGION, &region);
}

static void assert_private(const unsigned char *p, size_t pages) {
    assert_int_equal(private_pages(p, pages), pages);
    assert_int_equal(count_filled(p, pages), pages);
}

/* ---- descriptors ---- */

int __open_2(const char *path, int flags);
int __openat64_2(int at, const char *path, int flags);

static void assert_link(int fd, const char *expected) {
    char path[64], link[64] = "";
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    assert_true(readlink(path, link, sizeof(link) - 1) > 0);
    assert_string_equal(link, expected);
}

static void test_open(void **state) {
    const char *path = "/dev/ksm";
    int fds[] = {
        open(path, O_RDWR),           open64(path, O_RDONLY), openat(AT_FDCWD, path, O_RDWR | O_CLOEXEC),
        openat64(9999, path, O_RDWR), __open_2(path, O_RDWR), __openat64_2(AT_FDCWD, path, O_RDWR)};
    for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
        assert_true(fds[i] >= 0);
        assert_int_equal(ioctl(fds[i], KSM_GET_API_VERSION), 1);
        assert_int_equal(fcntl(fds[i], F_GETFD), i == 2 ? FD_CLOEXEC : 0);
        assert_link(fds[i], "/memfd:ksm (deleted)");
        assert_int_equal(close(fds[i]), 0);
        assert_fails(EBADF, ioctl(fds[i], KSM_GET_API_VERSION));
    }
}

static void test_open_wrong(void **state) {
    struct stat st;
    const char *volatile nowhere = NULL;
    assert_fails(ENOTDIR, open("/dev/ksm", O_RDONLY | O_DIRECTORY));
    assert_fails(ENOENT, open("/dev/ksm", O_PATH));
    assert_fails(ENOENT, open("/dev/ksmx", O_RDWR));
    assert_fails(ENOENT, open("/dev/ksm/", O_RDWR));
    assert_fails(ENOENT, open("dev/ksm", O_RDWR));
    assert_fails(ENOENT, open("", O_RDWR));
    assert_fails(EFAULT, open(nowhere, O_RDWR));
    assert_fails(EFAULT, openat(AT_FDCWD, (const char *)8, O_RDWR));
    assert_fails(EBADF, openat(9999, "ksm", O_RDWR));
    assert_fails(ENOENT, access("/dev/ksm", F_OK));
    assert_fails(ENOENT, stat("/dev/ksm", &st));

    struct rlimit old, few = {0};
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    few.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_fails(EMFILE, open("/dev/ksm", O_RDWR));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

/* A file that others have made as ours are made, but for what is in it. */
static int alike(void) {
    char other[16] = "samepage KSM\1";
    int fd = memfd_create("ksm", MFD_ALLOW_SEALING);
    assert_int_equal(write(fd, other, sizeof(other)), sizeof(other));
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
    return fd;
}

static void test_requests_wrong(void **state) {
    int device = device_new(), area = area_descriptor(), null = open("/dev/null", O_RDWR), other = alike();
    struct ksm_memory_region region = {0};
    assert_link(area, "/memfd:ksm-sma (deleted)");
    for (unsigned long number = 5; number < 256; number++)
        assert_fails(EINVAL, ioctl(device, _IO(KSMIO, number), &region));
    assert_fails(EINVAL, ioctl(device, _IO(KSMIO, 0x02)));
    assert_fails(EINVAL, ioctl(device, _IOWR(KSMIO, 0x03, struct ksm_kthread_info), &region));
    assert_fails(EINVAL, ioctl(device, _IOC(_IOC_WRITE, KSMIO, 0x02, 24), &region)); /* as of 2009 */
    assert_fails(EINVAL, ioctl(device, KSM_REGISTER_MEMORY_REGION, &region));
    assert_fails(EINVAL, ioctl(device, KSM_REMOVE_MEMORY_REGION));
    assert_fails(EINVAL, ioctl(area, KSM_GET_API_VERSION));
    assert_fails(EINVAL, ioctl(area, KSM_CREATE_SHARED_MEMORY_AREA));
    assert_fails(EINVAL, ioctl(area, KSM_START_STOP_KTHREAD, &region));
    assert_fails(ENOTTY, ioctl(null, KSM_GET_API_VERSION));
    assert_fails(ENOTTY, ioctl(other, KSM_GET_API_VERSION));
    assert_fails(EBADF, ioctl(-1, KSM_GET_API_VERSION));
    /* What the kernel does with other requests on such a file. */
    assert_fails(ENOTTY, ioctl(device, 0x5401, &region));
    assert_fails(EPERM, write(device, "x", 1));
    assert_int_equal(ftruncate(device, 0), -1);
    assert_int_equal(ioctl(device, KSM_GET_API_VERSION), 1);
    close(device);
    close(area);
    close(null);
    close(other);
}

/* ---- regions ---- */

static void test_register(void **state) {
    int fd = area_descriptor();
    unsigned char *p = area_new(), *q = area_new();
    assert_int_equal(add(fd, p, PAGES), 0);
    wait_merged(p, AREA);
    assert_int_equal(mapped_from_store(q, AREA), 0);
    assert_int_equal(add(fd, q + 64 * PAGE, 64), 0);
    wait_merged(q + 64 * PAGE, 64 * PAGE);
    assert_int_equal(count_filled(p, PAGES), PAGES);
    assert_int_equal(ioctl(fd, KSM_REMOVE_MEMORY_REGION), 0);
    assert_private(p, PAGES);
    assert_private(q, PAGES);
    assert_int_equal(ioctl(fd, KSM_REMOVE_MEMORY_REGION), 0);
    close(fd);
}

static void test_register_wrong(void **state) {
    int fd = area_descriptor();
    unsigned char *p = area_new();
    const unsigned char *end = (unsigned char *)(uintptr_t)-PAGE;
    assert_fails(EFAULT, ioctl(fd, KSM_REGISTER_MEMORY_REGION, NULL));
    assert_fails(EFAULT, ioctl(fd, KSM_REGISTER_MEMORY_REGION, p - PAGE));
    assert_fails(EINVAL, add(fd, end, 1));
    assert_fails(EINVAL, add(fd, end, UINT32_MAX));
    assert_int_equal(add(fd, p, 0), 0);
    assert_int_equal(add(fd, end, 0), 0);
    assert_int_equal(add(fd, NULL, 1), 0);
    assert_int_equal(add(fd, p - PAGE, UINT32_MAX), 0); /* most of it is not there */
    assert_int_equal(add(fd, p + 5, 64), 0);            /* inside a page */
    wait_merged(p, AREA);
    assert_int_equal(ioctl(fd, KSM_REMOVE_MEMORY_REGION), 0);
    assert_private(p, PAGES);
    close(fd);
}

static void test_limits(void **state) {
    int fds[65], fd = area_descriptor();
    unsigned char *p = area_new();
    for (int i = 0; i < 1024; i++)
        assert_int_equal(add(fd, p + (i % 500) * PAGE, 1), 0);
    assert_fails(ENOMEM, add(fd, p, 1));
    assert_int_equal(ioctl(fd, KSM_REMOVE_MEMORY_REGION), 0);
    assert_private(p, PAGES);
    for (int i = 0; i < 65; i++) {
        fds[i] = area_descriptor();
        errno = 0;
        assert_int_equal(add(fds[i], p + i * PAGE, 1), i < 64 ? 0 : -1);
        assert_int_equal(errno, i < 64 ? 0 : ENOMEM);
    }
    close(fds[0]);
    assert_int_equal(add(fds[64], p, 1), 0);
    assert_int_equal(close_range((unsigned)fds[1], (unsigned)fds[64], 0), 0);
    assert_int_equal(add(fd, p, 1), 0);
    close(fd);
    assert_private(p, PAGES);
}

/* What two areas have is registered until both have gone. */
static void test_overlap(void **state) {
    int first = area_descriptor(), second = area_descriptor();
    unsigned char *p = area_new();
    assert_int_equal(add(first, p, 300), 0);
    assert_int_equal(add(second, p + 64 * PAGE, 64), 0);
    assert_int_equal(add(second, p + 100 * PAGE, 92), 0);
    assert_int_equal(add(second, p + 256 * PAGE, 256), 0);
    wait_merged(p, AREA);
    assert_int_equal(ioctl(first, KSM_REMOVE_MEMORY_REGION), 0);
    assert_private(p, 64);
    assert_private(p + 192 * PAGE, 64);
    assert_int_equal(shared_pages(p + 64 * PAGE, 128), 128);
    assert_int_equal(shared_pages(p + 256 * PAGE, 256), 256);
    close(second);
    assert_private(p, PAGES);
    close(first);
}

/* ---- closing ---- */

static void close_by_close(int fd) {
    assert_int_equal(close(fd), 0);
}

static void close_by_dup2(int fd) {
    assert_int_equal(dup2(1, fd), fd);
    close(fd);
}

static void close_by_dup3(int fd) {
    assert_int_equal(dup3(1, fd, O_CLOEXEC), fd);
    close(fd);
}

static void close_by_range(int fd) {
    assert_int_equal(close_range((unsigned)fd, (unsigned)fd, 0), 0);
}

static void close_by_closefrom(int fd) {
    closefrom(fd);
}

/* Unseen until the next call that has to do with such descriptors. */
static void close_by_number(int fd) {
    int device = device_new();
    assert_int_equal(syscall(SYS_close, fd), 0);
    assert_int_equal(ioctl(device, KSM_GET_API_VERSION), 1);
    close(device);
}

static void close_by_stdio(int fd) {
    FILE *f = fdopen(fd, "r");
    assert_int_equal(fclose(f), 0);
    close(area_descriptor());
    close_range(~0U, ~0U, 0);
}

static void test_close(void **state) {
    static void (*const ways[])(int) = {close_by_close,     close_by_dup2,   close_by_dup3, close_by_range,
                                        close_by_closefrom, close_by_number, close_by_stdio};
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        int fd = area_descriptor(), copy = dup(fd);
        unsigned char *p = area_new();
        assert_int_equal(add(fd, p, PAGES / 2), 0);
        assert_int_equal(add(copy, p + AREA / 2, PAGES / 2), 0);
        wait_merged(p, AREA);
        assert_int_equal(close(fd), 0);
        assert_int_equal(shared_pages(p, PAGES), PAGES);
        ways[i](copy);
        assert_private(p, PAGES);
        munmap(p, AREA);
    }
}

/* ---- other processes ---- */

static int child_main(int fd, unsigned char *p) {
    if (ioctl(fd, KSM_REMOVE_MEMORY_REGION) || count_filled(p, PAGES) != (int)PAGES)
        return 1;
    /* A child that ends soon is not worth a worker. */
    usleep(300000);
    unsigned char *q = area_new();
    if (add(fd, q, PAGES))
        return 2;
    wait_merged(q, AREA);
    close(fd);
    return private_pages(q, PAGES) == PAGES ? 0 : 3;
}

static void test_fork(void **state) {
    int fd = area_descriptor();
    unsigned char *p = area_new();
    assert_int_equal(add(fd, p, PAGES), 0);
    wait_merged(p, AREA);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid)
        _exit(child_main(fd, p));
    assert_int_equal(reap(pid), 0);
    assert_int_equal(shared_pages(p, PAGES), PAGES);
    pid = vfork();
    if (!pid) {
        close(fd);
        close_range(3, ~0U, 0);
        _exit(0);
    }
    assert_int_equal(reap(pid), 0);
    assert_int_equal(shared_pages(p, PAGES), PAGES);
    assert_int_equal(ioctl(fd, KSM_REMOVE_MEMORY_REGION), 0);
    assert_private(p, PAGES);
    close(fd);
}

/* A filter that kills for what it takes to find out what a descriptor is. */
static int filtered(int fd) {
    static const int killers[] = {SYS_openat, SYS_fcntl, SYS_pread64, SYS_getdents64};
    struct sock_filter code[10];
    unsigned short n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < sizeof(killers) / sizeof(*killers); i++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)killers[i], 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 1;
    return close(fd) || dup2(1, fd) != fd || close_range((unsigned)fd, ~0U, 0);
}

static void test_filter(void **state) {
    int fd = area_descriptor();
    unsigned char *p = area_new();
    assert_int_equal(add(fd, p, PAGES), 0);
    wait_merged(p, AREA);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid)
        _exit(filtered(fd));
    assert_int_equal(reap(pid), 0);
    close(fd);
    assert_private(p, PAGES);
}

/* An area is its descriptors, wherever they are; its regions are the process's that registered them. */
static void test_exec_and_send(void **state) {
    int fd = area_descriptor(), ends[2];
    char number[16];
    snprintf(number, sizeof(number), "%d", fd);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        execl("/proc/self/exe", "ksm_device", number, (char *)NULL);
        _exit(7);
    }
    assert_int_equal(reap(pid), 0);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    unsigned char *p = area_new();
    assert_int_equal(add(fd, p, PAGES), 0);
    assert_int_equal(sendmsg(ends[0], &m, 0), 1);
    assert_int_equal(recvmsg(ends[1], &m, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
    wait_merged(p, AREA);
    assert_int_equal(ioctl(fd, KSM_REMOVE_MEMORY_REGION), 0);
    assert_private(p, PAGES);
    close_range(3, ~0U, 0);
}

/* After exec: the same area, with no regions. */
static int executed(int fd) {
    unsigned char *p = area_new();
    if (ioctl(fd, KSM_REMOVE_MEMORY_REGION) || add(fd, p, PAGES))
        return 1;
    wait_merged(p, AREA);
    return 0;
}

/* ---- the thread ---- */

static void set(int device, __u32 sleep_micros, __u32 scan, __u32 merge, __u32 flags) {
    struct ksm_kthread_info info = {sleep_micros, scan, merge, flags}, got = {0};
    assert_int_equal(ioctl(device, KSM_START_STOP_KTHREAD, &info), 0);
    assert_int_equal(ioctl(device, KSM_GET_INFO_KTHREAD, &got), 0);
    assert_memory_equal(&info, &got, sizeof(info));
}

static void test_thread_wrong(void **state) {
    int device = device_new();
    struct ksm_kthread_info info = {0}, got = {0};
    assert_int_equal(ioctl(device, KSM_GET_INFO_KTHREAD, &got), 0);
    assert_int_equal(got.flags, ksm_control_flags_run);
    assert_int_equal(got.pages_to_scan, UINT32_MAX);
    assert_int_equal(got.max_pages_to_merge, UINT32_MAX);
    assert_true(got.sleep > 0);
    info.flags = ksm_control_flags_run;
    assert_fails(EPERM, ioctl(device, KSM_START_STOP_KTHREAD, &info));
    assert_fails(EFAULT, ioctl(device, KSM_START_STOP_KTHREAD, NULL));
    assert_fails(EFAULT, ioctl(device, KSM_GET_INFO_KTHREAD, NULL));
    assert_fails(EFAULT, ioctl(device, KSM_GET_INFO_KTHREAD, "read-only memory, long enough"));
    assert_int_equal(ioctl(device, KSM_GET_INFO_KTHREAD, &info), 0);
    assert_memory_equal(&info, &got, sizeof(info));
    close(device);
}

static void assert_nothing_merged(const unsigned char *p) {
    usleep(400000);
    assert_int_equal(mapped_from_store(p, AREA), 0);
}

/* An area that is not merged: the worker hears a little later of what was set. */
static unsigned char *area_that_rests(int fd) {
    for (int i = 0; i < 100; i++) {
        unsigned char *p = area_new();
        assert_int_equal(add(fd, p, PAGES), 0);
        usleep(400000);
        if (!mapped_from_store(p, AREA))
            return p;
    }
    fail();
    return NULL;
}

/* One program sets the thread going or stops it, and another has its memory merged. */
static void by_another(__u32 sleep_micros, __u32 scan, __u32 merge, __u32 flags) {
    struct ksm_kthread_info info = {sleep_micros, scan, merge, flags};
    fflush(stdout);
    pid_t pid = fork();
    if (!pid)
        _exit(ioctl(open("/dev/ksm", O_RDWR), KSM_START_STOP_KTHREAD, &info) != 0);
    assert_int_equal(reap(pid), 0);
}

static struct ksm_kthread_info told(int device) {
    struct ksm_kthread_info info = {0};
    assert_int_equal(ioctl(device, KSM_GET_INFO_KTHREAD, &info), 0);
    return info;
}

static void test_thread_of_all(void **state) {
    int device = device_new(), fd = area_descriptor();
    const __u32 run = ksm_control_flags_run, much = UINT32_MAX;
    unsigned char *p = area_new();
    struct ksm_kthread_info before = told(device);
    by_another(0, 0, 0, 0);
    assert_int_equal(told(device).flags, 0);
    assert_int_equal(told(device).pages_to_scan, before.pages_to_scan);
    assert_int_equal(add(fd, p, PAGES), 0);
    assert_nothing_merged(p);
    by_another(1500, much, 100, run);
    wait_merged(p, AREA);
    struct ksm_kthread_info info = told(device);
    assert_true(info.flags == run && info.sleep == 2000 && info.max_pages_to_merge == 100);
    /* Who set it is told microseconds, as long as it is so. */
    set(device, 1500, much, much, run);
    by_another(3000, much, much, run);
    assert_int_equal(told(device).sleep, 3000);
    /* More microseconds than there is room for do not wrap. */
    by_another(much, 100, much, run);
    assert_int_equal(told(device).sleep, much);
    set(device, 1000, much, much, run);
    close(fd);
    close(device);
}

static void test_thread(void **state) {
    int device = device_new(), fd = area_descriptor();
    const __u32 hour = 3600000000U, run = ksm_control_flags_run, much = UINT32_MAX;
    unsigned char *p = area_new(), *q = area_new(), *r;
    assert_int_equal(add(fd, p, PAGES), 0);
    wait_merged(p, AREA);
    set(device, 1000, 100, 100, 0);
    assert_int_equal(add(fd, q, PAGES), 0);
    assert_nothing_merged(q);
    assert_int_equal(shared_pages(p, PAGES), PAGES);
    set(device, 1000, much, 0, run);
    assert_nothing_merged(q);
    set(device, 0, much, much, run);
    wait_merged(q, AREA);
    /* A pass that reads more than it may is followed by a pause as much longer; and the next of them reads.
     */
    set(device, hour, 1, much, run);
    r = area_that_rests(fd);
    set(device, 1000, 1000, 100, run);
    wait_merged(r, AREA);
    close(fd);
    close(device);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),           cmocka_unit_test(test_open_wrong),
        cmocka_unit_test(test_requests_wrong), cmocka_unit_test(test_register),
        cmocka_unit_test(test_register_wrong), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_overlap),        cmocka_unit_test(test_close),
        cmocka_unit_test(test_fork),           cmocka_unit_test(test_exec_and_send),
        cmocka_unit_test(test_filter),         cmocka_unit_test(test_thread_wrong),
        cmocka_unit_test(test_thread),         cmocka_unit_test(test_thread_of_all),
    };
    with_shim = true;
    if (argc > 1)
        return executed(atoi(argv[1]));
    if (!getenv("SAMEPAGE_SOCKET")) {
        printf("1..0 # SKIP to be run by: samepage run --advised\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
