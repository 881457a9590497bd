/* SPDX-License-Identifier: MIT */
/* The requests of /dev/ksm. See device.h, and for what they mean include/samepage/ksm_2008.h. */
#include "preload/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/stat.h>

#include "os/kernel.h"
#include "os/mapping.h"
#include "preload/shim.h"
#include "samepage/ksm_2008.h"

enum kind { NONE, DEVICE, AREA };

/* What is written in the memfd. */
struct mark {
    char text[12];
    uint32_t kind;
};

#define TEXT  "samepage ksm"
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* Under this name it stands in /proc/PID/fd, as "/memfd:NAME (deleted)". */
static long descriptor_new(enum kind kind, const char *name, bool close_on_exec) {
    struct mark mark = {TEXT, kind};
    long fd = sp_syscall(SYS_memfd_create, name, MFD_ALLOW_SEALING | (close_on_exec ? MFD_CLOEXEC : 0));
    if (fd < 0)
        return fd;
    long r = sp_syscall(SYS_pwrite64, fd, &mark, sizeof(mark), 0);
    if (r == (long)sizeof(mark))
        r = sp_syscall(SYS_fcntl, fd, F_ADD_SEALS, SEALS);
    else if (r >= 0)
        r = -ENOSPC;
    if (r >= 0)
        return fd;
    sp_syscall(SYS_close, fd);
    return r;
}

/* Only memfds have seals, so nothing is read from anything else. Where vm.memfd_noexec is set the kernel adds
 * one of its own. */
static enum kind kind_of(int fd) {
    struct mark mark;
    long seals = sp_syscall(SYS_fcntl, fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS ||
        sp_syscall(SYS_pread64, fd, &mark, sizeof(mark), 0) != (long)sizeof(mark) ||
        memcmp(mark.text, TEXT, sizeof(mark.text)))
        return NONE;
    return mark.kind == DEVICE || mark.kind == AREA ? (enum kind)mark.kind : NONE;
}

static uint64_t inode_of(int fd) {
    struct stat st;
    return sp_syscall(SYS_fstat, fd, &st) ? 0 : st.st_ino;
}

uint64_t device_area(int fd) {
    return kind_of(fd) == AREA ? inode_of(fd) : 0;
}

long device_open(int flags) {
    return flags & O_DIRECTORY ? -ENOTDIR : descriptor_new(DEVICE, "ksm", flags & O_CLOEXEC);
}

/* ---- requests ---- */

static long region_register(uint64_t area, const void *argument) {
    struct ksm_memory_region region;
    if (sp_peek(&region, (uintptr_t)argument, sizeof(region)))
        return -EFAULT;
    uint64_t start = page_down(region.addr), end;
    if (__builtin_add_overflow(start, (uint64_t)region.npages * SP_PAGE_SIZE, &end))
        return -EINVAL;
    return start < end ? areas_register(area, start, end) : 0;
}

static long ask_device(unsigned request, void *argument) {
    switch (request) {
    case KSM_GET_API_VERSION:
        return KSM_API_VERSION;
    case KSM_CREATE_SHARED_MEMORY_AREA:
        return descriptor_new(AREA, "ksm-sma", false);
    case KSM_START_STOP_KTHREAD:
        return thread_start_stop(argument);
    case KSM_GET_INFO_KTHREAD:
        return thread_info(argument);
    default:
        return -EINVAL;
    }
}

static long ask_area(int fd, unsigned request, const void *argument) {
    uint64_t area = inode_of(fd);
    switch (request) {
    case KSM_REGISTER_MEMORY_REGION:
        return region_register(area, argument);
    case KSM_REMOVE_MEMORY_REGION:
        return areas_remove(area);
    default:
        return -EINVAL;
    }
}

bool device_ioctl(int fd, unsigned request, void *argument, long *ret_result) {
    enum kind kind = shim.engine ? kind_of(fd) : NONE;
    if (kind == NONE)
        return false;
    areas_sweep();
    *ret_result = kind == DEVICE ? ask_device(request, argument) : ask_area(fd, request, argument);
    return true;
}
