/* SPDX-License-Identifier: MIT */
/*
 * What the program sees of the shim: the C library's names (names.c, fork.c), each given to a function of
 * ours by an assembler label, so that the headers' own declarations are not in the way.
 */
#ifndef SP_PRELOAD_NAMES_H
#define SP_PRELOAD_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_NAME(name) __asm__(name) __attribute__((visibility("default")))

int names_Fork(void) SHIM_NAME("_Fork");
int names_clone(int (*fn)(void *), void *stack, int flags, void *arg, void *parent_tid, void *tls,
                void *child_tid) SHIM_NAME("clone");

/* For syscall.S: a bit for each number that names_syscall is to be called for; and whether, after all, the
 * call must be made by the assembler code itself. */
extern const uint64_t names_taken[8];
long names_syscall(long number, long a, long b, long c, long d, long e, long f);
bool names_syscall_is_raw(long number, long a, long b, long c, long d, long e);

#endif
