/* SPDX-License-Identifier: MIT */
/*
 * Segments and tokens, all on memfds.
 *
 * A segment has its whole size from the start and is sparse; its file mode 0400 is what keeps other users
 * from reopening it for writing. It cannot be sealed: F_SEAL_FUTURE_WRITE would forbid punching too. Its
 * owner's user and root can reopen it for writing (H24).
 */
#include "os/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/stat.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/nodes.h"
#include "os/proc.h"
#include "os/syscall.h"

#define SEGMENT_NAME "samepage"
#define TOKEN_NAME   "samepage-family"

static void close_fd(int fd) {
    sp_syscall(SYS_close, fd);
}

static int reopen_readonly(int fd) {
    char path[SP_PROC_FD_PATH_BYTES];
    (void)sp_proc_fd_path(fd, path);
    return (int)sp_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

int sp_segment_init(struct sp_segment *s) {
    int fault = sp_fault("segment_init");
    if (fault)
        return fault;
    int fd = (int)sp_syscall(SYS_memfd_create, SEGMENT_NAME, MFD_CLOEXEC);
    if (fd < 0)
        return fd;
    int r = (int)sp_syscall(SYS_ftruncate, fd, SP_SEGMENT_PAGES * SP_PAGE_SIZE);
    if (r == 0)
        r = (int)sp_syscall(SYS_fchmod, fd, 0400);
    if (r == 0)
        r = reopen_readonly(fd);
    if (r < 0) {
        close_fd(fd);
        return r;
    }
    s->fd = fd;
    s->fd_shared = r;
    return 0;
}

void sp_segment_deinit(struct sp_segment *s) {
    if (s->fd >= 0)
        close_fd(s->fd);
    if (s->fd_shared >= 0)
        close_fd(s->fd_shared);
    s->fd = s->fd_shared = -1;
}

static int write_all(int fd, const char *from, size_t bytes, uint64_t offset) {
    while (bytes) {
        long r = sp_syscall(SYS_pwrite64, fd, from, bytes, offset);
        if (r == -EINTR)
            continue;
        if (r < 0)
            return (int)r;
        if (r == 0)
            return -EIO;
        from += r;
        bytes -= (size_t)r;
        offset += (uint64_t)r;
    }
    return 0;
}

static bool inside(uint64_t index, uint64_t n) {
    return index < SP_SEGMENT_PAGES && n <= SP_SEGMENT_PAGES - index;
}

int sp_segment_write_many(const struct sp_segment *s, uint64_t index, const void *pages, size_t n) {
    int fault = sp_fault("segment_write");
    if (fault)
        return fault;
    if (!inside(index, n))
        return -EINVAL;
    return write_all(s->fd, pages, n * SP_PAGE_SIZE, index * SP_PAGE_SIZE);
}

int sp_segment_write_on(const struct sp_segment *s, uint64_t index, const void *pages, size_t n, int node) {
    struct sp_nodes_policy before;
    bool placed = node >= 0 && sp_nodes_many() && !sp_nodes_prefer(node, &before);
    int r = sp_segment_write_many(s, index, pages, n);
    if (placed)
        sp_nodes_restore(&before);
    return r;
}

int sp_segment_write(const struct sp_segment *s, uint64_t index, const void *page) {
    return sp_segment_write_many(s, index, page, 1);
}

/*
 * MADV_COLLAPSE, through a mapping that is there for that call only (H14). It asks for none of the settings
 * under /sys/kernel/mm/transparent_hugepage but "deny", and for no privilege. The kernel copies what is there
 * and clears the rest, so it comes before the contents. Room to align it in is of the file, too: anonymous
 * memory that nobody has marked might be registered for merging (H2).
 */
int sp_segment_huge(const struct sp_segment *s, uint64_t index) {
    int fault = sp_fault("segment_huge");
    if (fault)
        return fault;
    if (!inside(index, SP_WINDOW_PAGES) || index % SP_WINDOW_PAGES)
        return -EINVAL;
    void *room;
    int r = sp_map_file(s->fd, 0, 2 * SP_WINDOW_SIZE, true, &room);
    if (r)
        return r;
    uintptr_t place = ((uintptr_t)room + SP_WINDOW_SIZE - 1) / SP_WINDOW_SIZE * SP_WINDOW_SIZE;
    long mapped = sp_syscall(SYS_mmap, place, SP_WINDOW_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                             s->fd, index * SP_PAGE_SIZE);
    if (mapped < 0 && mapped >= -4095)
        r = (int)mapped;
    else
        r = (int)sp_syscall(SYS_madvise, place, SP_WINDOW_SIZE, MADV_COLLAPSE);
    sp_syscall(SYS_munmap, room, 2 * SP_WINDOW_SIZE);
    return r;
}

int sp_store_read(int fd, uint64_t index, void *ret_pages, size_t n) {
    int fault = sp_fault("segment_read");
    if (fault)
        return fault;
    if (!inside(index, n))
        return -EINVAL;
    char *to = ret_pages;
    uint64_t offset = index * SP_PAGE_SIZE;
    for (size_t bytes = n * SP_PAGE_SIZE; bytes;) {
        long r = sp_syscall(SYS_pread64, fd, to, bytes, offset);
        if (r == -EINTR)
            continue;
        if (r <= 0)
            return r ? (int)r : -EIO;
        to += r;
        bytes -= (size_t)r;
        offset += (uint64_t)r;
    }
    return 0;
}

int sp_segment_read(const struct sp_segment *s, uint64_t index, void *ret_page) {
    return sp_store_read(s->fd, index, ret_page, 1);
}

int sp_segment_punch(const struct sp_segment *s, uint64_t index, uint64_t n) {
    int fault = sp_fault("segment_punch");
    if (fault)
        return fault;
    if (!inside(index, n) || !n)
        return -EINVAL;
    long r;
    do
        r = sp_syscall(SYS_fallocate, s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, index * SP_PAGE_SIZE,
                       n * SP_PAGE_SIZE);
    while (r == -EINTR);
    return (int)r;
}

int sp_segment_memory(const struct sp_segment *s, uint64_t *ret_bytes) {
    int fault = sp_fault("segment_memory");
    if (fault)
        return fault;
    struct stat st;
    long r = sp_syscall(SYS_fstat, s->fd, &st);
    if (r < 0)
        return (int)r;
    *ret_bytes = (uint64_t)st.st_blocks * 512;
    return 0;
}

int sp_token_new(int *ret_fd, void **ret_mapping) {
    int fault = sp_fault("token_new");
    if (fault)
        return fault;
    int fd = (int)sp_syscall(SYS_memfd_create, TOKEN_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return fd;
    long r = sp_syscall(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_GROW);
    /* Nobody reads or writes it: what counts for the seal is that the mapping could be made writable. */
    if (r == 0)
        r = sp_syscall(SYS_mmap, 0, SP_PAGE_SIZE, PROT_NONE, MAP_SHARED, fd, 0);
    if (r < 0 && r >= -4095) {
        close_fd(fd);
        return (int)r;
    }
    *ret_fd = fd;
    *ret_mapping = (void *)(uintptr_t)r;
    return 0;
}

int sp_token_drop(void *mapping) {
    int fault = sp_fault("token_drop");
    if (fault)
        return fault;
    return (int)sp_syscall(SYS_munmap, mapping, SP_PAGE_SIZE);
}

int sp_token_check(int fd) {
    int fault = sp_fault("token_check");
    if (fault)
        return fault;
    struct stat st;
    /* Sealed first, so that it stays what is seen then. Pages beyond the end count in st_blocks. */
    if (sp_syscall(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_GROW) || sp_syscall(SYS_fstat, fd, &st) || st.st_size ||
        st.st_blocks)
        return -EINVAL;
    int gone = sp_token_gone(fd);
    return gone == 0 ? 0 : gone == 1 ? -ESRCH : -EINVAL;
}

int sp_token_gone(int fd) {
    int fault = sp_fault("token_gone");
    if (fault)
        return fault;
    /* Sealing what is sealed already succeeds, fcntl(2) and mm/memfd.c. */
    int r = (int)sp_syscall(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE);
    if (r == 0)
        return 1;
    return r == -EBUSY ? 0 : r;
}
