/* SPDX-License-Identifier: MIT */
/*
 * SEQPACKET Unix sockets with descriptors. Every call is non-blocking in the kernel where the caller wants a
 * time limit, and ppoll does the waiting.
 *
 * Received descriptors are the caller's only when the whole message is good; on every other way out they are
 * closed here.
 */
#include "os/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "os/fault.h"
#include "os/syscall.h"
#include "os/thread.h"

/* Room for the descriptors of one message, aligned for its header. */
union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(SP_SOCKET_FDS * sizeof(int))];
};

/* As many as a message can have (SCM_MAX_FD, net/scm.h). */
#define FDS_POSSIBLE 253
/* Room for all of them: what does not fit the kernel closes in the thread that receives, which may wait there
 * for as long as the sender likes (a socket with SO_LINGER). */
union control_received {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(FDS_POSSIBLE * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

static int address_init(struct sockaddr_un *a, const char *path) {
    size_t n = strlen(path);
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!n)
        return -ENOENT;
    if (n >= sizeof(a->sun_path))
        return -ENAMETOOLONG;
    memcpy(a->sun_path, path, n);
    return 0;
}

static int socket_new(int type) {
    return (int)sp_syscall(SYS_socket, AF_UNIX, type | SOCK_CLOEXEC, 0);
}

static int connect_to(const struct sockaddr_un *a, int flags, int *ret_fd) {
    int fd = socket_new(SOCK_SEQPACKET | flags);
    if (fd < 0)
        return fd;
    int r;
    do
        r = (int)sp_syscall(SYS_connect, fd, a, sizeof(*a));
    while (r == -EINTR);
    if (r < 0) {
        sp_close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

/* -EADDRINUSE unless `a` is a socket file that nobody listens on. Connecting to a file that is no socket is
 * refused as well, so the kind is asked first: nobody's file may be removed. */
static int remove_stale(const struct sockaddr_un *a) {
    struct stat st;
    int r = (int)sp_syscall(SYS_newfstatat, AT_FDCWD, a->sun_path, &st, AT_SYMLINK_NOFOLLOW);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (!S_ISSOCK(st.st_mode))
        return -EADDRINUSE;
    int fd;
    r = connect_to(a, SOCK_NONBLOCK, &fd);
    if (r == 0)
        sp_close(fd);
    if (r != -ECONNREFUSED)
        return -EADDRINUSE;
    return (int)sp_syscall(SYS_unlinkat, AT_FDCWD, a->sun_path, 0);
}

#define LOCK_TRIES   200
#define LOCK_WAIT_NS 10000000

/*
 * Between bind and listen a socket looks as stale as one whose daemon was killed, and a file found stale may
 * be somebody's new one when it is removed: so those who begin in the same directory do it one after the
 * other. Returns a descriptor that holds the lock, or -1: no such right, or somebody keeps it (anybody who
 * may read the directory can). Then it goes on without: a daemon that does not start would be worse.
 */
static int directory_lock(const struct sockaddr_un *a) {
    struct sockaddr_un directory = *a;
    char *slash = strrchr(directory.sun_path, '/');
    if (slash)
        slash[slash == directory.sun_path] = '\0';
    else
        memcpy(directory.sun_path, ".", 2);
    int fd = (int)sp_syscall(SYS_openat, AT_FDCWD, directory.sun_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    for (int i = 0; i < LOCK_TRIES; i++) {
        struct timespec wait = {.tv_nsec = LOCK_WAIT_NS};
        if (sp_syscall(SYS_flock, fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        (void)sp_syscall(SYS_nanosleep, &wait, NULL);
    }
    sp_close(fd);
    return -1;
}

static int bind_and_listen(int fd, const struct sockaddr_un *a, bool everybody) {
    /* The socket file gets the mode of the socket's inode less the umask (unix(7), net/unix/af_unix.c), so
     * there is no moment at which it is more open than asked. */
    int r = (int)sp_syscall(SYS_fchmod, fd, everybody ? 0666 : 0600);
    if (r < 0)
        return r;
    r = (int)sp_syscall(SYS_bind, fd, a, sizeof(*a));
    if (r == -EADDRINUSE) {
        r = remove_stale(a);
        if (r == 0)
            r = (int)sp_syscall(SYS_bind, fd, a, sizeof(*a));
    }
    if (r == 0)
        r = (int)sp_syscall(SYS_fchmodat, AT_FDCWD, a->sun_path, everybody ? 0666 : 0600);
    if (r == 0)
        r = (int)sp_syscall(SYS_listen, fd, SOMAXCONN);
    return r;
}

static int listen_at(const char *path, int type, bool everybody, int *ret_fd) {
    int fault = sp_fault("socket_listen");
    if (fault)
        return fault;
    struct sockaddr_un a;
    int r = address_init(&a, path);
    if (r < 0)
        return r;
    int fd = socket_new(type | SOCK_NONBLOCK);
    if (fd < 0)
        return fd;
    int lock = directory_lock(&a);
    r = bind_and_listen(fd, &a, everybody);
    if (lock >= 0)
        sp_close(lock);
    if (r < 0) {
        sp_close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int sp_socket_listen(const char *path, bool everybody, int *ret_fd) {
    return listen_at(path, SOCK_SEQPACKET, everybody, ret_fd);
}

int sp_socket_listen_stream(const char *path, int *ret_fd) {
    return listen_at(path, SOCK_STREAM, false, ret_fd);
}

int sp_socket_accept(int fd, int *ret_fd) {
    int fault = sp_fault("socket_accept");
    if (fault)
        return fault;
    long r;
    do
        r = sp_syscall(SYS_accept4, fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (r == -EINTR || r == -ECONNABORTED);
    if (r < 0)
        return (int)r;
    *ret_fd = (int)r;
    return 0;
}

/* Without waiting: a stopped daemon whose queue is full would hold up a worker, and with it every fork of its
 * program, for as long as it is stopped. */
int sp_socket_connect(const char *path, int *ret_fd) {
    int fault = sp_fault("socket_connect");
    if (fault)
        return fault;
    struct sockaddr_un a;
    int r = address_init(&a, path);
    if (r < 0)
        return r;
    int fd;
    r = connect_to(&a, SOCK_NONBLOCK, &fd);
    if (r < 0)
        return r;
    r = (int)sp_syscall(SYS_fcntl, fd, F_SETFL, O_RDWR);
    if (r < 0) {
        sp_close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int sp_socket_peer(int fd, pid_t *ret_pid, uid_t *ret_uid, gid_t *ret_gid) {
    int fault = sp_fault("socket_peer");
    if (fault)
        return fault;
    struct ucred peer;
    socklen_t bytes = sizeof(peer);
    long r = sp_syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes);
    if (r < 0)
        return (int)r;
    *ret_pid = peer.pid;
    *ret_uid = peer.uid;
    *ret_gid = peer.gid;
    return 0;
}

int sp_socket_trusted(int fd) {
    pid_t pid;
    uid_t uid = (uid_t)-1;
    gid_t gid;
    int r = sp_socket_peer(fd, &pid, &uid, &gid);
    if (r < 0)
        return r;
    return uid == 0 || uid == (uid_t)sp_syscall(SYS_geteuid) ? 0 : -EACCES;
}

static void control_fill(struct msghdr *m, union control *c, const int *fds, size_t n_fds) {
    memset(c, 0, sizeof(*c));
    m->msg_control = c;
    m->msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
    struct cmsghdr *h = CMSG_FIRSTHDR(m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
    memcpy(CMSG_DATA(h), fds, n_fds * sizeof(int));
}

int sp_socket_send(int fd, const struct iovec *parts, size_t n, const int *fds, size_t n_fds, bool wait) {
    int fault = sp_fault("socket_send");
    if (fault)
        return fault;
    if (n_fds > SP_SOCKET_FDS)
        return -EINVAL;
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].iov_len > SP_SOCKET_MESSAGE_MAX - bytes)
            return -EMSGSIZE;
        bytes += parts[i].iov_len;
    }
    union {
        const struct iovec *in;
        struct iovec *out;
    } vec = {.in = parts}; /* msghdr is for receiving too and has no const */
    struct msghdr m = {.msg_iov = vec.out, .msg_iovlen = n};
    union control c;
    if (n_fds)
        control_fill(&m, &c, fds, n_fds);
    long r;
    do
        r = sp_syscall(SYS_sendmsg, fd, &m, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
    while (r == -EINTR);
    return r < 0 ? (int)r : 0;
}

/* Collects what came with a message. */
static size_t control_read(struct msghdr *m, int *fds) {
    size_t n = 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t came = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds + n, CMSG_DATA(h), came * sizeof(int));
        n += came;
    }
    return n;
}

void (*sp_socket_close_hook)(const int *fds, size_t n);

static void close_all(const int *fds, size_t n) {
    if (n && sp_socket_close_hook)
        sp_socket_close_hook(fds, n);
    else
        for (size_t i = 0; i < n; i++)
            sp_close(fds[i]);
}

/* One message without waiting. */
static ssize_t receive_now(int fd, void *buffer, size_t bytes, int *ret_fds, size_t *ret_n_fds) {
    struct iovec part = {buffer, bytes};
    union control_received c;
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c.bytes)};
    long r;
    do
        r = sp_syscall(SYS_recvmsg, fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (r == -EINTR);
    /* A peer that ended without reading all that we sent. Nothing was received: `c` holds nothing. */
    if (r == -ECONNRESET) {
        if (ret_n_fds)
            *ret_n_fds = 0;
        return 0;
    }
    if (r < 0)
        return r;
    int fds[FDS_POSSIBLE];
    size_t n = control_read(&m, fds);
    bool truncated = m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || n > SP_SOCKET_FDS;
    if (truncated || r == 0 || !ret_fds) {
        close_all(fds, n);
        n = 0;
    }
    if (truncated)
        return -EMSGSIZE;
    if (ret_fds)
        memcpy(ret_fds, fds, n * sizeof(int));
    if (ret_n_fds)
        *ret_n_fds = n;
    return r;
}

ssize_t sp_socket_receive(int fd, void *buffer, size_t bytes, int *ret_fds, size_t *ret_n_fds,
                          int timeout_ms) {
    int fault = sp_fault("socket_receive");
    if (fault)
        return fault;
    uint64_t start_ns = sp_now_ns();
    uint64_t limit_ns = timeout_ms < 0 ? UINT64_MAX : (uint64_t)timeout_ms * 1000000;

    for (;;) {
        ssize_t r = receive_now(fd, buffer, bytes, ret_fds, ret_n_fds);
        if (r != -EAGAIN)
            return r;
        uint64_t passed_ns = sp_now_ns() - start_ns;
        if (passed_ns >= limit_ns)
            return -EAGAIN;
        int ready = sp_wait_readable(&fd, 1, limit_ns == UINT64_MAX ? UINT64_MAX : limit_ns - passed_ns);
        if (ready < 0)
            return ready;
    }
}

#define WAIT_MAX 31 /* bits of the answer */

int sp_wait_readable(const int *fds, size_t n, uint64_t timeout_ns) {
    int fault = sp_fault("wait_readable");
    if (fault)
        return fault;
    if (n > WAIT_MAX)
        return -EINVAL;
    struct pollfd polled[WAIT_MAX];
    for (size_t i = 0; i < n; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN | POLLRDHUP};

    /* The kernel counts the timeout down, so that a retry after -EINTR waits for the rest only. */
    struct timespec left = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                            .tv_nsec = (long)(timeout_ns % 1000000000)};
    long r;
    do
        r = sp_syscall(SYS_ppoll, polled, n, timeout_ns == UINT64_MAX ? NULL : &left, NULL, 8);
    while (r == -EINTR);
    if (r < 0)
        return (int)r;
    int ready = 0;
    for (size_t i = 0; i < n; i++)
        if (polled[i].revents)
            ready |= 1 << i;
    return ready;
}

int sp_close(int fd) {
    return (int)sp_syscall(SYS_close, fd);
}

/* Takes one message that waits and throws it away; false: there is none. With SO_PASSCRED every message has
 * the sender's credentials, which tells an empty one from the end. */
static bool discard_one(int fd) {
    char byte;
    struct iovec part = {&byte, 1};
    union control_received c;
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c.bytes)};
    long r = sp_syscall(SYS_recvmsg, fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (r < 0)
        return r == -EINTR || r == -ECONNRESET; /* told once, then comes what was sent before */
    int fds[FDS_POSSIBLE];
    close_all(fds, control_read(&m, fds));
    return m.msg_controllen > 0;
}

void sp_socket_end(int fd) {
    int on = 1;
    /* From here on nothing can be sent to us: what is there can be received to its end. */
    sp_syscall(SYS_shutdown, fd, SHUT_RDWR);
    if (sp_syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0)
        while (discard_one(fd))
            ;
    sp_close(fd);
}
