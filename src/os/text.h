/* SPDX-License-Identifier: MIT */
/*
 * Numbers in what the kernel writes and in the environment, read without the C library: its functions want a
 * locale, which is not there yet when some of this runs. More digits than fit wrap.
 */
#ifndef SP_OS_TEXT_H
#define SP_OS_TEXT_H

#include <stdint.h>

/* Both return what comes behind the digits: `s` itself where there are none, and *ret is 0. */
static inline const char *sp_read_decimal(const char *s, uint64_t *ret) {
    uint64_t v = 0;
    for (; *s >= '0' && *s <= '9'; s++)
        v = v * 10 + (uint64_t)(*s - '0');
    *ret = v;
    return s;
}

/* Lower-case letters only. */
static inline const char *sp_read_hex(const char *s, uint64_t *ret) {
    uint64_t v = 0;
    for (;; s++) {
        if (*s >= '0' && *s <= '9')
            v = v << 4 | (uint64_t)(*s - '0');
        else if (*s >= 'a' && *s <= 'f')
            v = v << 4 | (uint64_t)(*s - 'a' + 10);
        else
            break;
    }
    *ret = v;
    return s;
}

#endif
