/* SPDX-License-Identifier: MIT */
/*
 * A number in decimal digits, without stdio: for the worker and interposed calls, which must not use it, and
 * for a status of a thousand clients, for which it is too slow.
 */
#ifndef SP_CORE_DECIMAL_H
#define SP_CORE_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

/* Of the largest number, without an end. */
#define SP_DECIMAL_BYTES 20

/* Writes n, without a '\0' behind it. Returns its end. */
static inline char *sp_decimal(char *to, uint64_t n) {
    char reversed[SP_DECIMAL_BYTES];
    size_t count = 0;
    do
        reversed[count++] = (char)('0' + n % 10);
    while (n /= 10);
    while (count)
        *to++ = reversed[--count];
    return to;
}

#endif
