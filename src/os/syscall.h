/* SPDX-License-Identifier: MIT */
/*
 * System calls without the C library: a shim may interpose every function of it, syscall(2) too, and some of
 * them are cancellation points, take locks or set errno, none of which may happen in a worker or inside an
 * interposed call. Returns what the kernel returns: a negative errno is a failure.
 */
#ifndef SP_OS_SYSCALL_H
#define SP_OS_SYSCALL_H

#include <sys/syscall.h>

static inline long sp_syscall6(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "system calls are written for x86-64 and aarch64"
#endif
}

/* sp_syscall(SYS_xxx, up to six integers or pointers) */
#define sp_syscall(...) SP_SYSCALL_PADDED(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define SP_SYSCALL_PADDED(number, a, b, c, d, e, f, ...)                                                     \
    sp_syscall6((long)(number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
