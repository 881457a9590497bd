/* SPDX-License-Identifier: MIT */
/*
 * What the program sees of the shim: the C library's names (names.c, fork.c), each given to a function of
 * ours by an assembler label, so that the headers' own declarations are not in the way.
 */
#ifndef SP_PRELOAD_NAMES_H
#define SP_PRELOAD_NAMES_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_NAME(name) __asm__(name) __attribute__((visibility("default")))

/*
 * Defines next_NAME, by which a name of ours goes on to what comes after it: another preloaded library's
 * function, or the C library's. ENOSYS until SHIM_FIND has looked it up, which is done by the constructor and
 * not when it is called: that would end what dlerror has to say to the program, and a signal handler may be
 * who calls.
 */
#define SHIM_NEXT(type, name, failed, parameters, arguments)                                                 \
    static type(*real_##name) parameters;                                                                    \
    static type next_##name parameters {                                                                     \
        if (real_##name)                                                                                     \
            return real_##name arguments;                                                                    \
        errno = ENOSYS;                                                                                      \
        return failed;                                                                                       \
    }
#define SHIM_FIND(name, version) real_##name = (__typeof__(real_##name))names_next(#name, version)
/* The version is for names that the C library does not give out without (those that it has only for programs
 * built long ago); NULL otherwise. */
void *names_next(const char *name, const char *version);

int names_Fork(void) SHIM_NAME("_Fork");
int names_clone(int (*fn)(void *), void *stack, int flags, void *arg, void *parent_tid, void *tls,
                void *child_tid) SHIM_NAME("clone");

/* For syscall.S: a bit for each number that names_syscall is to be called for; and whether, after all, the
 * call must be made by the assembler code itself. */
extern const uint64_t names_taken[8];
long names_syscall(long number, long a, long b, long c, long d, long e, long f);
bool names_syscall_is_raw(long number, long a, long b, long c, long d, long e);

#endif
