/* SPDX-License-Identifier: MIT */
/* Lines to stderr, each with one write, so that lines of several daemons on one terminal do not mix. */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "os/thread.h"

#define LINES_PER_SECOND 20
#define NS_PER_S         UINT64_C(1000000000)

static void vlog(const char *format, va_list arguments) {
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    fprintf(stderr, "samepaged: %s\n", text);
}

void log_line(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vlog(format, arguments);
    va_end(arguments);
}

void log_client(const char *format, ...) {
    static uint64_t second, lines, left_out;
    uint64_t now = sp_now_ns() / NS_PER_S;
    if (now != second) {
        if (left_out)
            log_line("%llu more lines about clients left out", (unsigned long long)left_out);
        second = now;
        lines = left_out = 0;
    }
    if (++lines > LINES_PER_SECOND) {
        left_out++;
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vlog(format, arguments);
    va_end(arguments);
}
