/* SPDX-License-Identifier: MIT */
/*
 * The C library's names: arguments in, errno out. And the numbers of syscall(2) that are theirs.
 */
#include "preload/names.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "preload/shim.h"

void *names_next(const char *name, const char *version) {
    return version ? dlvsym(RTLD_NEXT, name, version) : dlsym(RTLD_NEXT, name);
}

/* As the C library: a value from -4095 to -1 is an error. errno is left alone otherwise. */
static long finish(long r) {
    if (!is_error(r))
        return r;
    errno = (int)-r;
    return -1;
}

#define ADDRESS(p) ((uint64_t)(uintptr_t)(p))

void *names_mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset) SHIM_NAME("mmap");
void *names_mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset) {
    /* An offset that is no multiple of a page is the kernel's to refuse. */
    return (void *)finish(call_mmap(ADDRESS(address), bytes, prot, flags, fd, offset));
}

void *names_mmap64(void *, size_t, int, int, int, off_t) SHIM_NAME("mmap64") __attribute__((alias("mmap")));

int names_munmap(void *start, size_t bytes) SHIM_NAME("munmap");
int names_munmap(void *start, size_t bytes) {
    return (int)finish(call_munmap(ADDRESS(start), bytes));
}

/* The fifth argument is there only with MREMAP_FIXED or MREMAP_DONTUNMAP; otherwise the register holds
 * anything, and nobody looks at it. */
void *names_mremap(void *old, size_t old_bytes, size_t new_bytes, int flags, void *target)
    SHIM_NAME("mremap");
void *names_mremap(void *old, size_t old_bytes, size_t new_bytes, int flags, void *target) {
    return (void *)finish(call_mremap(ADDRESS(old), old_bytes, new_bytes, flags, ADDRESS(target)));
}

int names_mprotect(void *start, size_t bytes, int prot) SHIM_NAME("mprotect");
int names_mprotect(void *start, size_t bytes, int prot) {
    return (int)finish(call_mprotect(ADDRESS(start), bytes, prot, -1, false));
}

/* Key -1 is mprotect, also where the kernel knows no keys: pkey_mprotect(2). */
int names_pkey_mprotect(void *start, size_t bytes, int prot, int pkey) SHIM_NAME("pkey_mprotect");
int names_pkey_mprotect(void *start, size_t bytes, int prot, int pkey) {
    return (int)finish(call_mprotect(ADDRESS(start), bytes, prot, pkey, pkey != -1));
}

int names_madvise(void *start, size_t bytes, int advice) SHIM_NAME("madvise");
int names_madvise(void *start, size_t bytes, int advice) {
    return (int)finish(call_madvise(ADDRESS(start), bytes, advice));
}

ssize_t names_process_madvise(int pidfd, const struct iovec *v, size_t n, int advice, unsigned flags)
    SHIM_NAME("process_madvise");
ssize_t names_process_madvise(int pidfd, const struct iovec *v, size_t n, int advice, unsigned flags) {
    const long a[6] = {pidfd, (long)v, (long)n, advice, (long)flags};
    return finish(call_process_madvise(a));
}

int names_mlock(const void *start, size_t bytes) SHIM_NAME("mlock");
int names_mlock(const void *start, size_t bytes) {
    return (int)finish(call_mlock(ADDRESS(start), bytes, 0, false));
}

int names_mlock2(const void *start, size_t bytes, unsigned flags) SHIM_NAME("mlock2");
int names_mlock2(const void *start, size_t bytes, unsigned flags) {
    return (int)finish(call_mlock(ADDRESS(start), bytes, (int)flags, flags != 0));
}

int names_munlock(const void *start, size_t bytes) SHIM_NAME("munlock");
int names_munlock(const void *start, size_t bytes) {
    return (int)finish(call_munlock(ADDRESS(start), bytes));
}

int names_mlockall(int flags) SHIM_NAME("mlockall");
int names_mlockall(int flags) {
    return (int)finish(call_mlockall(flags));
}

int names_munlockall(void) SHIM_NAME("munlockall");
int names_munlockall(void) {
    return (int)finish(call_munlockall());
}

/* libnuma has this name too; a program that calls it through libnuma.so binds to ours. */
long names_mbind(void *start, unsigned long bytes, int mode, const unsigned long *nodes, unsigned long max,
                 unsigned flags) SHIM_NAME("mbind");
long names_mbind(void *start, unsigned long bytes, int mode, const unsigned long *nodes, unsigned long max,
                 unsigned flags) {
    const long a[6] = {(long)start, (long)bytes, mode, (long)nodes, (long)max, (long)flags};
    return finish(call_mbind(a));
}

void *names_shmat(int id, const void *address, int flags) SHIM_NAME("shmat");
void *names_shmat(int id, const void *address, int flags) {
    return (void *)finish(call_shmat(id, ADDRESS(address), flags));
}

int names_prctl(int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
    SHIM_NAME("prctl");
int names_prctl(int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d) {
    const long args[6] = {what, (long)a, (long)b, (long)c, (long)d};
    return (int)finish(call_prctl(args));
}

int names_unshare(int flags) SHIM_NAME("unshare");
int names_unshare(int flags) {
    const struct call c = {SYS_unshare, {flags}};
    return (int)finish(call_single(&c));
}

int names_setns(int fd, int type) SHIM_NAME("setns");
int names_setns(int fd, int type) {
    const struct call c = {SYS_setns, {fd, type}};
    return (int)finish(call_single(&c));
}

#define BIT(number) (UINT64_C(1) << ((number) % 64))
#define TAKEN(X)                                                                                             \
    X(SYS_mmap)                                                                                              \
    X(SYS_munmap)                                                                                            \
    X(SYS_mremap)                                                                                            \
    X(SYS_mprotect)                                                                                          \
    X(SYS_pkey_mprotect)                                                                                     \
    X(SYS_madvise)                                                                                           \
    X(SYS_process_madvise)                                                                                   \
    X(SYS_mlock)                                                                                             \
    X(SYS_mlock2)                                                                                            \
    X(SYS_munlock)                                                                                           \
    X(SYS_mlockall)                                                                                          \
    X(SYS_munlockall)                                                                                        \
    X(SYS_mbind)                                                                                             \
    X(SYS_shmat)                                                                                             \
    X(SYS_prctl) X(SYS_seccomp) X(SYS_fork) X(SYS_clone) X(SYS_clone3) X(SYS_unshare) X(SYS_setns)
#define IN(word, number) ((number) / 64 == (word) ? BIT(number) : 0)
#define WORD_0(number)   | IN(0, number)
#define WORD_1(number)   | IN(1, number)
#define WORD_2(number)   | IN(2, number)
#define WORD_3(number)   | IN(3, number)
#define WORD_4(number)   | IN(4, number)
#define WORD_5(number)   | IN(5, number)
#define WORD_6(number)   | IN(6, number)
#define WORD_7(number)   | IN(7, number)
const uint64_t names_taken[8] = {0 TAKEN(WORD_0), 0 TAKEN(WORD_1), 0 TAKEN(WORD_2), 0 TAKEN(WORD_3),
                                 0 TAKEN(WORD_4), 0 TAKEN(WORD_5), 0 TAKEN(WORD_6), 0 TAKEN(WORD_7)};

static long dispatch(const struct call *c) {
    const long *a = c->a;
    const uint64_t start = (uint64_t)a[0], bytes = (uint64_t)a[1];

    switch (c->number) {
    case SYS_mmap:
        return call_mmap(start, bytes, (int)a[2], (int)a[3], (int)a[4], a[5]);
    case SYS_munmap:
        return call_munmap(start, bytes);
    case SYS_mremap:
        return call_mremap(start, bytes, (uint64_t)a[2], (int)a[3], (uint64_t)a[4]);
    case SYS_mprotect:
        return call_mprotect(start, bytes, (int)a[2], -1, false);
    case SYS_pkey_mprotect:
        return call_mprotect(start, bytes, (int)a[2], (int)a[3], true);
    case SYS_madvise:
        return call_madvise(start, bytes, (int)a[2]);
    case SYS_process_madvise:
        return call_process_madvise(a);
    case SYS_mlock:
        return call_mlock(start, bytes, 0, false);
    case SYS_mlock2:
        return call_mlock(start, bytes, (int)a[2], true);
    case SYS_munlock:
        return call_munlock(start, bytes);
    case SYS_mlockall:
        return call_mlockall((int)a[0]);
    case SYS_munlockall:
        return call_munlockall();
    case SYS_mbind:
        return call_mbind(a);
    case SYS_shmat:
        return call_shmat((int)a[0], (uint64_t)a[1], (int)a[2]);
    case SYS_prctl:
        return call_prctl(a);
    case SYS_seccomp:
        return call_seccomp(a);
    case SYS_unshare:
    case SYS_setns:
        return call_single(c);
    case SYS_fork:
    case SYS_clone:
    case SYS_clone3:
        return fork_call(c);
    default:
        return call_make(c);
    }
}

long names_syscall(long number, long a, long b, long c, long d, long e, long f) {
    const struct call made = {number, {a, b, c, d, e, f}};
    return finish(dispatch(&made));
}
