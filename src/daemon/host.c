/* SPDX-License-Identifier: MIT */
/* See host.h. */
#include "daemon/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "os/kernel.h"
#include "os/socket.h"

#define EVENTS_MAX 64
/* Threads that may be stuck in close(2) at a time. Beyond that foreign descriptors wait for one of them:
 * being short of descriptors is better than waiting for a client. */
#define CLOSERS_MAX         64
#define CLOSERS_STACK_BYTES (64 * 1024)
#define NS_PER_MS           UINT64_C(1000000)

static int result(long r) {
    return r < 0 ? -errno : (int)r;
}

int host_poll_new(int *ret_fd) {
    int r = result(epoll_create1(EPOLL_CLOEXEC));
    if (r < 0)
        return r;
    *ret_fd = r;
    return 0;
}

int host_poll_add(int poll_fd, struct source *s, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = s};
    return result(epoll_ctl(poll_fd, EPOLL_CTL_ADD, s->fd, &e));
}

int host_poll_change(int poll_fd, struct source *s, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = s};
    return result(epoll_ctl(poll_fd, EPOLL_CTL_MOD, s->fd, &e));
}

void host_poll_remove(int poll_fd, struct source *s) {
    (void)epoll_ctl(poll_fd, EPOLL_CTL_DEL, s->fd, NULL);
}

static int timeout_ms(uint64_t timeout_ns) {
    uint64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return timeout_ns == UINT64_MAX ? -1 : ms > 1000000 ? 1000000 : (int)ms;
}

int host_poll_run(int poll_fd, uint64_t timeout_ns) {
    struct epoll_event events[EVENTS_MAX];
    int n = result(epoll_wait(poll_fd, events, EVENTS_MAX, timeout_ms(timeout_ns)));
    if (n < 0)
        return n == -EINTR ? 0 : n;
    for (int i = 0; i < n; i++) {
        struct source *s = events[i].data.ptr;
        s->ready(s, events[i].events);
    }
    return 0;
}

uint64_t host_raise_descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 1024;
    struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    return setrlimit(RLIMIT_NOFILE, &raised) ? limit.rlim_cur : raised.rlim_cur;
}

void host_raise_file_size(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_FSIZE, &limit);
}

int host_signals(int *ret_fd) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGIO, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return -errno;
    int r = result(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (r < 0)
        return r;
    *ret_fd = r;
    return 0;
}

int host_process(pid_t pid, int *ret_fd) {
    int r = result(syscall(SYS_pidfd_open, pid, 0));
    if (r < 0)
        return r;
    *ret_fd = r;
    return 0;
}

static bool has_our_users(pid_t pid) {
    char path[40];
    struct stat own, its;
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    return !stat("/proc/self/ns/user", &own) && !stat(path, &its) && own.st_dev == its.st_dev &&
           own.st_ino == its.st_ino;
}

bool host_peer_has_our_users(int fd, pid_t pid) {
    int process;
    socklen_t bytes = sizeof process;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &process, &bytes))
        return false;
    /* Still there afterwards, so that its number was nobody else's. */
    bool ours = has_our_users(pid) && !syscall(SYS_pidfd_send_signal, process, 0, NULL, 0);
    (void)sp_close(process);
    return ours;
}

int host_uffd_device(int *ret_fd) {
    int r = result(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (r < 0)
        return r;
    *ret_fd = r;
    return 0;
}

static bool is_of_kernel(int fd) {
    struct statfs fs;
    return !fstatfs(fd, &fs) && (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC);
}

int host_pressure_trigger(const char *path, unsigned stall_us, unsigned window_us, int *ret_fd) {
    char text[64];
    int fd = result(open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (fd < 0)
        return fd;
    int n = snprintf(text, sizeof text, "some %u %u", stall_us, window_us);
    int r = is_of_kernel(fd) ? (int)result(write(fd, text, (size_t)n + 1)) : -EOPNOTSUPP;
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int fuse_device(int *ret_fd) {
    int r = result(open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (r < 0)
        return r;
    *ret_fd = r;
    return 0;
}

/* A kernel that has this call makes whoever clones, polls or reads such a descriptor wait until it is
 * mounted. */
static bool fuse_waits_for_mount(void) {
    int fd;
    if (fuse_device(&fd))
        return true;
    bool waits = !ioctl(fd, FUSE_DEV_IOC_SYNC_INIT);
    (void)sp_close(fd);
    return waits;
}

/* Such a kernel, and some before it, say so where it is mounted; asking never waits. */
static bool fuse_is_mounted(int fd) {
    char path[40], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = info < 0 ? 0 : read(info, text, sizeof text - 1);
    if (info >= 0)
        (void)sp_close(info);
    text[n > 0 ? n : 0] = '\0';
    return strstr(text, "\nfuse_connection:");
}

int host_fuse_clone(int fd, int *ret_fd) {
    int own;
    uint32_t from = (uint32_t)fd;
    if (!fuse_is_mounted(fd) && fuse_waits_for_mount())
        return -EINVAL;
    int r = fuse_device(&own);
    if (r)
        return r;
    r = result(ioctl(own, FUSE_DEV_IOC_CLONE, &from));
    if (r)
        (void)sp_close(own);
    else
        *ret_fd = own;
    return r;
}

bool host_is_userfaultfd(int fd) {
    /* A path on any file system begins with a slash, so no file can pretend (fs/anon_inodes.c names it). */
    static const char expected[] = "anon_inode:[userfaultfd]";
    char path[40], target[sizeof expected + 1];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof target);
    return n == (ssize_t)sizeof expected - 1 && !memcmp(target, expected, (size_t)n);
}

int host_no_blocking(int fd) {
    int flags = result(fcntl(fd, F_GETFL));
    return flags < 0 ? flags : result(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

int host_duplicate(int fd, int *ret_fd) {
    int r = result(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (r < 0)
        return r;
    *ret_fd = r;
    return 0;
}

struct foreign {
    struct foreign *next;
    size_t n;
    int fds[];
};

static pthread_mutex_t closers_lock = PTHREAD_MUTEX_INITIALIZER; /* held for no system call */
static unsigned closers;
static struct foreign *foreign_waiting;

static void close_now(int fd) {
    /* A socket shall not wait for its peer. What else it is cannot be helped, hence the thread. */
    struct linger none = {.l_onoff = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    (void)sp_close(fd);
}

/* What is to be closed next; NULL: nothing, and the closer ends. */
static struct foreign *foreign_next(void) {
    pthread_mutex_lock(&closers_lock);
    struct foreign *f = foreign_waiting;
    if (f)
        foreign_waiting = f->next;
    else
        closers--;
    pthread_mutex_unlock(&closers_lock);
    return f;
}

static void *closer(void *arg) {
    for (struct foreign *f = arg; f; f = foreign_next()) {
        for (size_t i = 0; i < f->n; i++)
            close_now(f->fds[i]);
        free(f);
    }
    return NULL;
}

static bool closer_start(struct foreign *f) {
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes))
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, CLOSERS_STACK_BYTES);
    int r = pthread_create(&thread, &attributes, closer, f);
    pthread_attr_destroy(&attributes);
    return r == 0;
}

static bool closer_reserve(void) {
    pthread_mutex_lock(&closers_lock);
    bool room = closers < CLOSERS_MAX;
    closers += room;
    pthread_mutex_unlock(&closers_lock);
    return room;
}

static void foreign_wait(struct foreign *f, bool reserved) {
    pthread_mutex_lock(&closers_lock);
    f->next = foreign_waiting;
    foreign_waiting = f;
    closers -= reserved;
    pthread_mutex_unlock(&closers_lock);
}

void host_close_foreign(const int *fds, size_t n) {
    struct foreign *f = malloc(sizeof *f + n * sizeof *fds);
    if (!f)
        return;
    f->n = n;
    memcpy(f->fds, fds, n * sizeof *fds);
    bool reserved = closer_reserve();
    if (!reserved || !closer_start(f))
        foreign_wait(f, reserved);
}

int host_file_unused(const char *path) {
    int fd = result(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0)
        return fd;
    /* A write lease is given only when no other open file of it exists, a mapping's included (fcntl(2)). */
    int r = result(fcntl(fd, F_SETLEASE, F_WRLCK));
    if (r >= 0)
        (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    (void)sp_close(fd);
    return r >= 0 ? 1 : r == -EAGAIN ? 0 : r;
}

/* Reads up to `bytes`; returns how many there were, or a negative errno. */
static ssize_t read_up_to(int fd, char *text, size_t bytes) {
    size_t n = 0;
    while (n < bytes) {
        ssize_t r = read(fd, text + n, bytes - n);
        if (r < 0 && errno != EINTR)
            return -errno;
        if (r == 0)
            break;
        n += r > 0 ? (size_t)r : 0;
    }
    return (ssize_t)n;
}

int host_read_file(const char *path, size_t bytes_max, char **ret_text) {
    int fd = result(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0)
        return fd;
    char *text = calloc(1, bytes_max + 2);
    ssize_t n = text ? read_up_to(fd, text, bytes_max + 1) : -ENOMEM;
    close(fd);
    int error = n < 0 ? (int)n : (size_t)n > bytes_max ? -EFBIG : 0;
    if (!error && strlen(text) != (size_t)n)
        error = -EBADMSG;
    if (error)
        free(text);
    else
        *ret_text = text;
    return error;
}

uint64_t host_resident_bytes(void) {
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

int host_make_directory(const char *path, mode_t mode) {
    char directory[4096];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return 0;
    if ((size_t)(slash - path) >= sizeof directory)
        return -ENAMETOOLONG;
    memcpy(directory, path, (size_t)(slash - path));
    directory[slash - path] = '\0';
    if (!mkdir(directory, mode))
        /* Not less open than asked: the umask is for files that users make. */
        return chmod(directory, mode) ? -errno : 0;
    return errno == EEXIST ? 0 : -errno;
}

int host_file_identify(const char *path, struct host_file *ret_file) {
    struct stat st;
    if (lstat(path, &st))
        return -errno;
    *ret_file = (struct host_file){.device = st.st_dev, .inode = st.st_ino};
    return 0;
}

void host_file_remove(const char *path, const struct host_file *file) {
    struct host_file now;
    if (host_file_identify(path, &now) || now.device != file->device || now.inode != file->inode)
        return;
    (void)unlink(path);
}
