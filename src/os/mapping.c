/* SPDX-License-Identifier: MIT */
/*
 * Mappings of this process: thin wrappers around the system calls, see the header for why they go around the
 * C library.
 */
#include "os/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/proc.h"
#include "os/syscall.h"

/* mmap returns an address or a negative errno, told apart by its last page of values. */
static int map(uintptr_t address, size_t bytes, int prot, int flags, int fd, uint64_t offset, void **ret) {
    long r = sp_syscall(SYS_mmap, address, bytes, prot, flags, fd, offset);

    if (r < 0 && r >= -4095)
        return (int)r;
    *ret = (void *)(uintptr_t)r;
    return 0;
}

static void trim(uintptr_t start, uintptr_t end) {
    if (end > start)
        sp_syscall(SYS_munmap, start, end - start);
}

int sp_map_new(size_t bytes, size_t align, void **ret_address) {
    int fault = sp_fault("map_new");
    if (fault)
        return fault;
    if (align < SP_PAGE_SIZE)
        align = SP_PAGE_SIZE;

    size_t room = align - SP_PAGE_SIZE;
    if (!bytes || bytes > SIZE_MAX - room)
        return -ENOMEM;
    void *got;
    int r = map(0, bytes + room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &got);
    if (r < 0)
        return r;
    uintptr_t base = (uintptr_t)got;
    uintptr_t start = (base + align - 1) & ~(uintptr_t)(align - 1);
    trim(base, start);
    trim(start + bytes, base + bytes + room);
    *ret_address = (void *)start;
    return 0;
}

int sp_map_mark(void *address, size_t bytes) {
    sp_syscall(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, bytes, "samepage");
    return (int)sp_syscall(SYS_madvise, address, bytes, MADV_RANDOM);
}

int sp_map_own(size_t bytes, size_t align, void **ret_address) {
    void *address;
    int error = sp_map_new(bytes, align, &address);
    if (error)
        return error;
    error = sp_map_mark(address, bytes);
    if (error) {
        sp_syscall(SYS_munmap, address, bytes);
        return error;
    }
    *ret_address = address;
    return 0;
}

static int map_store(uintptr_t address, size_t bytes, int fixed, int fd, uint64_t offset_bytes) {
    void *got;
    return map(address, bytes, PROT_READ | PROT_WRITE, fixed | MAP_PRIVATE | MAP_NORESERVE, fd, offset_bytes,
               &got);
}

static int move(uintptr_t source, size_t bytes, uintptr_t target) {
    long r = sp_syscall(SYS_mremap, source, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    return r < 0 && r >= -4095 ? (int)r : 0;
}

int sp_map_store(uintptr_t address, size_t bytes, int fd, uint64_t offset_bytes) {
    int fault = sp_fault("map_store");
    return fault ? fault : map_store(address, bytes, MAP_FIXED, fd, offset_bytes);
}

int sp_map_fresh(uintptr_t address, size_t bytes, int prot) {
    int fault = sp_fault("map_fresh");
    if (fault)
        return fault;
    void *got;
    return map(address, bytes, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &got);
}

int sp_map_file(int fd, uint64_t offset_bytes, size_t bytes, bool writable, void **ret_address) {
    int fault = sp_fault("map_file");
    if (fault)
        return fault;
    return map(0, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, offset_bytes, ret_address);
}

/* A fault maps its neighbours, too, as far as they are in memory: an aligned stretch of so many bytes, unless
 * the machine was told otherwise (fault_around_bytes in debugfs). */
#define FAULT_AROUND_BYTES 65536
/* Stretches of one call: 2 MiB that begin in the middle of one. */
#define STRETCHES_MAX 33

/* Populates one page of each stretch, as far as that goes. A fault for each page costs a quarter more of the
 * whole view: each is looked up, and marked as accessed, once more. */
static void populate_stretches(uintptr_t address, uintptr_t end) {
    struct iovec stretch[STRETCHES_MAX];
    while (address < end) {
        size_t n = 0;
        for (; address < end && n < STRETCHES_MAX;
             address = (address / FAULT_AROUND_BYTES + 1) * FAULT_AROUND_BYTES)
            stretch[n++] = (struct iovec){(void *)address, SP_PAGE_SIZE};
        sp_syscall(SYS_process_madvise, PIDFD_SELF_THREAD_GROUP, stretch, n, MADV_POPULATE_READ, 0);
    }
}

int sp_map_view(uintptr_t address, size_t bytes, int fd, uint64_t offset_bytes) {
    int fault = sp_fault("map_view");
    if (fault)
        return fault;
    int r = map_store(address, bytes, MAP_FIXED_NOREPLACE, fd, offset_bytes);
    if (r)
        return r;
    r = (int)sp_syscall(SYS_madvise, address, bytes, MADV_DONTFORK);
    if (!r)
        populate_stretches(address, address + bytes);
    else
        sp_syscall(SYS_munmap, address, bytes);
    return r;
}

int sp_map_from_view(uintptr_t view, size_t bytes, uintptr_t target) {
    int fault = sp_fault("map_from_view");
    return fault ? fault : move(view, bytes, target);
}

int sp_unmap(void *address, size_t bytes) {
    int fault = sp_fault("unmap");
    if (fault)
        return fault;
    return (int)sp_syscall(SYS_munmap, address, bytes);
}

int sp_advise(uintptr_t address, size_t bytes, int advice) {
    int fault = sp_fault("advise");
    if (fault)
        return fault;
    return (int)sp_syscall(SYS_madvise, address, bytes, advice);
}

int sp_map_attributes(uintptr_t address, size_t bytes, unsigned attributes) {
    static const struct {
        unsigned attribute;
        int advice;
    } table[] = {
        {SP_ATTR_DONTFORK, MADV_DONTFORK},
        {SP_ATTR_DONTDUMP, MADV_DONTDUMP},
        {SP_ATTR_HUGEPAGE, MADV_HUGEPAGE},
        {SP_ATTR_NOHUGEPAGE, MADV_NOHUGEPAGE},
    };
    int first = 0;
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        int error = attributes & table[i].attribute ? sp_advise(address, bytes, table[i].advice) : 0;
        first = first ? first : error;
    }
    return first;
}

int sp_peek(void *to, uintptr_t from, size_t bytes) {
    int fault = sp_fault("peek");
    if (fault)
        return fault;
    struct iovec local = {to, bytes}, remote = {(void *)from, bytes};
    long r = sp_syscall(SYS_process_vm_readv, sp_syscall(SYS_getpid), &local, 1, &remote, 1, 0);
    return r < 0 ? (int)r : (size_t)r == bytes ? 0 : -EFAULT;
}

int sp_protect(uintptr_t address, size_t bytes, int prot) {
    int fault = sp_fault("protect");
    if (fault)
        return fault;
    return (int)sp_syscall(SYS_mprotect, address, bytes, prot);
}

int sp_remap(uintptr_t source, size_t bytes, uintptr_t target) {
    int fault = sp_fault("remap");
    return fault ? fault : move(source, bytes, target);
}

int sp_maps_open(int *ret_fd) {
    int fault = sp_fault("maps_open");
    if (fault)
        return fault;
    long fd = sp_syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return (int)fd;
    *ret_fd = (int)fd;
    return 0;
}

int sp_maps_file(int fd, uintptr_t address, struct sp_file_mapping *ret_mapping) {
    int fault = sp_fault("maps_file");
    if (fault)
        return fault;
    struct procmap_query query = {
        .size = sizeof(query), .query_flags = PROCMAP_QUERY_FILE_BACKED_VMA, .query_addr = address};
    long r = sp_syscall(SYS_ioctl, fd, PROCMAP_QUERY, &query);
    if (r < 0)
        return (int)r;
    *ret_mapping = (struct sp_file_mapping){
        .start = query.vma_start,
        .end = query.vma_end,
        .offset_bytes = query.vma_offset,
        .shared = query.vma_flags & PROCMAP_QUERY_VMA_SHARED,
    };
    return 0;
}
