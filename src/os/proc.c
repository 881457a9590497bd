/* SPDX-License-Identifier: MIT */
/*
 * Facts about this process and this machine. Files of /proc are read in pieces into a small buffer on the
 * stack, which may be that of an application's thread. /proc/thread-self where the calling thread's own
 * state is asked for.
 */
#include "os/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "core/decimal.h"
#include "os/fault.h"
#include "os/smaps.h"
#include "os/syscall.h"
#include "os/text.h"

#define PIECE_BYTES 4096

static int open_read(const char *path) {
    return (int)sp_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

static void close_fd(int fd) {
    sp_syscall(SYS_close, fd);
}

static long read_piece(int fd, char *buffer, size_t bytes) {
    long r;
    do
        r = sp_syscall(SYS_read, fd, buffer, bytes);
    while (r == -EINTR);
    return r;
}

/* Reads the start of an open file, at most `room` - 1 bytes, ends it with a NUL, and closes it. Returns the
 * length. */
static int read_start_of(int fd, char *buffer, size_t room) {
    size_t n = 0;
    long r = 1;
    while (r > 0 && n < room - 1) {
        r = read_piece(fd, buffer + n, room - 1 - n);
        if (r > 0)
            n += (size_t)r;
    }
    close_fd(fd);
    if (r < 0)
        return (int)r;
    buffer[n] = '\0';
    return (int)n;
}

static int read_start(const char *path, char *buffer, size_t room) {
    int fd = open_read(path);
    return fd < 0 ? fd : read_start_of(fd, buffer, room);
}

/* The same of a file that a user names: what is no plain file is not waited for. -EBADMSG. */
static int read_start_named(const char *path, char *buffer, size_t room) {
    struct stat st;
    int fd = (int)sp_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    int r = (int)sp_syscall(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH);
    if (!r && S_ISREG(st.st_mode))
        return read_start_of(fd, buffer, room);
    close_fd(fd);
    return r ? r : -EBADMSG;
}

static uint64_t read_decimal(const char *s) {
    uint64_t v;
    while (*s == ' ' || *s == '\t')
        s++;
    (void)sp_read_decimal(s, &v);
    return v;
}

/* The number after "Key:" at the start of a line. */
static int find_value(const char *text, const char *key, uint64_t *ret) {
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, key, n) == 0) {
            *ret = read_decimal(line + n);
            return 0;
        }
    }
    return -ENODATA;
}

/* What sp_proc_mappings hands through the parser. */
struct walk {
    uint64_t start, end;
    bool (*visit)(void *ctx, const struct sp_mapping *m);
    void *ctx;
};

/* Whether the mapping has a NUMA policy of its own: get_mempolicy(2) answers MPOL_DEFAULT for one that has
 * not, whatever the thread's policy is. A kernel without NUMA has no policies. */
static bool has_policy(uint64_t address) {
    int mode = MPOL_DEFAULT;
    long r = sp_syscall(SYS_get_mempolicy, &mode, NULL, 0, address, MPOL_F_ADDR);
    return r == 0 && mode != MPOL_DEFAULT;
}

static bool walk_visit(void *ctx, const struct sp_mapping *m) {
    const struct walk *w = ctx;
    if (m->start >= w->end)
        return false;
    if (m->end <= w->start)
        return true;
    struct sp_mapping found = *m;
    bool eligible = found.eligible == SP_ELIGIBLE || found.eligible == SP_USERFAULTFD;
    if (eligible && has_policy(found.start))
        found.eligible = SP_POLICY;
    return w->visit(w->ctx, &found) && found.end < w->end;
}

static int walk(const char *path, bool headers_only, struct walk *w) {
    int fault = sp_fault("proc_mappings");
    if (fault)
        return fault;
    int fd = open_read(path);
    if (fd < 0)
        return fd;
    struct sp_smaps parser;
    sp_smaps_init(&parser, walk_visit, w);
    parser.headers_only = headers_only;
    char piece[PIECE_BYTES];
    long r;
    do
        r = read_piece(fd, piece, sizeof(piece));
    while (r > 0 && sp_smaps_feed(&parser, piece, (size_t)r));
    close_fd(fd);
    return r < 0 ? (int)r : 0;
}

int sp_proc_mappings(uint64_t start, uint64_t end, bool (*visit)(void *ctx, const struct sp_mapping *m),
                     void *ctx) {
    struct walk w = {start, end, visit, ctx};
    return walk("/proc/thread-self/smaps", false, &w);
}

int sp_proc_maps(uint64_t start, uint64_t end, bool (*visit)(void *ctx, const struct sp_mapping *m),
                 void *ctx) {
    struct walk w = {start, end, visit, ctx};
    return walk("/proc/thread-self/maps", true, &w);
}

int sp_proc_map_count(uint64_t *ret_count) {
    int fault = sp_fault("proc_map_count");
    if (fault)
        return fault;
    int fd = open_read("/proc/thread-self/maps");
    if (fd < 0)
        return fd;
    char piece[PIECE_BYTES];
    uint64_t count = 0;
    long r;
    while ((r = read_piece(fd, piece, sizeof(piece))) > 0)
        for (long i = 0; i < r; i++)
            count += piece[i] == '\n';
    close_fd(fd);
    if (r < 0)
        return (int)r;
    *ret_count = count;
    return 0;
}

int sp_proc_max_map_count(uint64_t *ret_count) {
    int fault = sp_fault("proc_max_map_count");
    if (fault)
        return fault;
    char text[32];
    int r = read_start("/proc/sys/vm/max_map_count", text, sizeof(text));
    if (r < 0)
        return r;
    *ret_count = read_decimal(text);
    return 0;
}

static int status_value(const char *key, uint64_t *ret) {
    char text[PIECE_BYTES];
    int r = read_start("/proc/thread-self/status", text, sizeof(text));
    if (r < 0)
        return r;
    return find_value(text, key, ret);
}

int sp_proc_threads(uint64_t *ret_threads) {
    int fault = sp_fault("proc_threads");
    return fault ? fault : status_value("Threads:", ret_threads);
}

int sp_proc_seccomp(int *ret_mode) {
    int fault = sp_fault("proc_seccomp");
    if (fault)
        return fault;
    uint64_t mode;
    int r = status_value("Seccomp:", &mode);
    if (r < 0)
        return r == -ENODATA ? (*ret_mode = 0) : r; /* a kernel without seccomp has no such line */
    *ret_mode = (int)mode;
    return 0;
}

#define DUMP_PRIVATE_FILES UINT64_C(4) /* core(5) */

bool sp_proc_filtered(void) {
    return sp_fault("proc_filtered") || sp_syscall(SYS_prctl, PR_GET_SECCOMP) != 0;
}

int sp_proc_dump_private_files(void) {
    int fault = sp_fault("proc_dump_private_files");
    if (fault)
        return fault;
    static const char path[] = "/proc/self/coredump_filter";
    char text[32];
    int r = read_start(path, text, sizeof(text));
    if (r < 0)
        return r;
    uint64_t filter;
    (void)sp_read_hex(text, &filter);
    if (filter & DUMP_PRIVATE_FILES)
        return 0;

    filter |= DUMP_PRIVATE_FILES;
    char out[19] = "0x";
    size_t n = 2;
    for (int shift = 60; shift >= 0; shift -= 4)
        out[n++] = "0123456789abcdef"[filter >> shift & 15];
    int fd = (int)sp_syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    long wrote = sp_syscall(SYS_write, fd, out, n);
    close_fd(fd);
    return wrote < 0 ? (int)wrote : 0;
}

int sp_proc_memory(uint64_t *ret_available_bytes, uint64_t *ret_total_bytes) {
    int fault = sp_fault("proc_memory");
    if (fault)
        return fault;
    char text[PIECE_BYTES];
    uint64_t available_kib, total_kib;
    int r = read_start("/proc/meminfo", text, sizeof(text));
    if (r >= 0)
        r = find_value(text, "MemAvailable:", &available_kib);
    if (r >= 0)
        r = find_value(text, "MemTotal:", &total_kib);
    if (r < 0)
        return r;
    *ret_available_bytes = available_kib * 1024;
    *ret_total_bytes = total_kib * 1024;
    return 0;
}

int sp_proc_pressure(const char *path, uint64_t *ret_share) {
    static const char start[] = "some avg10=";
    char text[PIECE_BYTES];
    int r = read_start_named(path, text, sizeof(text));
    if (r < 0)
        return r;
    const char *fraction = text + sizeof(start) - 1 + strspn(text + sizeof(start) - 1, "0123456789");
    if (strncmp(text, start, sizeof(start) - 1) != 0 || *fraction != '.')
        return -EBADMSG;
    *ret_share = read_decimal(text + sizeof(start) - 1) * 100 + read_decimal(fraction + 1) % 100;
    return 0;
}

static uint32_t parse_version(const char *s) {
    uint32_t version = 0;
    for (int shift = 16; shift >= 0; shift -= 8) {
        uint64_t part = read_decimal(s);
        version |= (uint32_t)(part < 255 ? part : 255) << shift;
        s += strspn(s, "0123456789");
        if (*s++ != '.')
            break;
    }
    return version;
}

int sp_proc_kernel(uint32_t *ret_version, bool *ret_swap_on) {
    int fault = sp_fault("proc_kernel");
    if (fault)
        return fault;
    struct utsname name;
    struct sysinfo info;
    long r = sp_syscall(SYS_uname, &name);
    if (r == 0)
        r = sp_syscall(SYS_sysinfo, &info);
    if (r < 0)
        return (int)r;
    *ret_version = parse_version(name.release);
    *ret_swap_on = info.totalswap != 0;
    return 0;
}

#define VERSION(major, minor, patch) ((uint32_t)(major) << 16 | (uint32_t)(minor) << 8 | (uint32_t)(patch))

bool sp_move_is_safe(uint32_t version, bool swap_on) {
    if (!swap_on || version >= VERSION(6, 16, 0))
        return true;
    uint32_t series = version & ~UINT32_C(0xff);
    if (series == VERSION(6, 15, 0))
        return version >= VERSION(6, 15, 3);
    if (series == VERSION(6, 12, 0))
        return version >= VERSION(6, 12, 34);
    return false;
}

bool sp_remap_is_safe(uint32_t version) {
    uint32_t series = version & ~UINT32_C(0xff);
    if (series == VERSION(6, 11, 0))
        return version >= VERSION(6, 11, 4);
    if (series == VERSION(6, 6, 0))
        return version >= VERSION(6, 6, 57);
    return version < VERSION(6, 6, 0) || version >= VERSION(6, 12, 0);
}

int sp_proc_move_is_safe(bool *ret_safe) {
    uint32_t version;
    bool swap_on;
    int r = sp_proc_kernel(&version, &swap_on);
    if (r < 0)
        return r;
    *ret_safe = sp_move_is_safe(version, swap_on);
    return 0;
}

/* Writes `start` and the number of a process or a descriptor. Returns the end. */
static char *path_of(char *to, const char *start, int number) {
    size_t bytes = strlen(start);
    memcpy(to, start, bytes);
    return sp_decimal(to + bytes, (unsigned)number);
}

void sp_proc_name(int pid, char ret_name[16]) {
    char path[32];
    memcpy(path_of(path, "/proc/", pid), "/comm", sizeof("/comm"));
    if (read_start(path, ret_name, 16) < 0)
        memcpy(ret_name, "?", 2);
    ret_name[strcspn(ret_name, "\n")] = '\0';
}

bool sp_proc_pidfd_is_self(int pidfd) {
    char path[SP_PROC_FD_PATH_BYTES], text[512];
    uint64_t pid;
    if (pidfd < 0)
        return false;
    *path_of(path, "/proc/thread-self/fdinfo/", pidfd) = '\0';
    return read_start(path, text, sizeof(text)) >= 0 && !find_value(text, "Pid:", &pid) &&
           (long)pid == sp_syscall(SYS_getpid);
}

int sp_proc_locked(bool *ret_locked) {
    int fault = sp_fault("proc_locked");
    if (fault)
        return fault;
    /* Nothing in /proc tells of MCL_FUTURE, but a mapping made now is locked by it, or refused when that
     * would exceed RLIMIT_MEMLOCK (mlockall(2)). */
    long probe = sp_syscall(SYS_mmap, 0, SP_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe == -EAGAIN) {
        *ret_locked = true;
        return 0;
    }
    if (probe < 0 && probe >= -4095)
        return (int)probe;
    uint64_t locked_kib;
    int r = status_value("VmLck:", &locked_kib);
    sp_syscall(SYS_munmap, probe, SP_PAGE_SIZE);
    if (r < 0)
        return r;
    *ret_locked = locked_kib > 0;
    return 0;
}

/* "size resident shared ...", in pages: proc_pid_statm(5). */
int sp_proc_anonymous(uint64_t *ret_bytes) {
    int fault = sp_fault("proc_anonymous");
    if (fault)
        return fault;
    char text[128];
    int r = read_start("/proc/self/statm", text, sizeof(text));
    if (r < 0)
        return r;
    const char *resident = text + strcspn(text, " "), *shared = resident + 1 + strcspn(resident + 1, " ");
    uint64_t all = read_decimal(resident), files = read_decimal(shared);
    *ret_bytes = all > files ? (all - files) * SP_PAGE_SIZE : 0;
    return 0;
}

int sp_random(uint8_t ret[32]) {
    int fault = sp_fault("random");
    if (fault)
        return fault;
    for (size_t done = 0; done < 32;) {
        long r = sp_syscall(SYS_getrandom, ret + done, 32 - done, 0);
        if (r == -EINTR)
            continue;
        if (r < 0)
            return (int)r;
        done += (size_t)r;
    }
    return 0;
}

size_t sp_proc_fd_path(int fd, char ret_path[SP_PROC_FD_PATH_BYTES]) {
    char *end = path_of(ret_path, "/proc/thread-self/fd/", fd);
    *end = '\0';
    return (size_t)(end - ret_path);
}
