/* SPDX-License-Identifier: MIT */
/*
 * Formatting and the end of the output. The rotating buffers are static: the command line has one thread.
 */
#include "cli/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/decimal.h"
#include "core/settings.h"

#define TEXT_BYTES 40

/* The next of a function's four buffers. */
struct ring {
    char text[4][TEXT_BYTES];
    unsigned next;
};

static char *ring_next(struct ring *r) {
    return r->text[r->next++ % 4];
}

/* n / 2^shift in tenths, rounded as printf does. */
static uint64_t tenths(uint64_t n, unsigned shift) {
    unsigned __int128 scaled = (unsigned __int128)n * 10;
    uint64_t whole = (uint64_t)(scaled >> shift);
    unsigned __int128 rest = scaled - ((unsigned __int128)whole << shift),
                      half = (unsigned __int128)1 << shift >> 1;
    return whole + (rest > half || (rest == half && whole & 1));
}

/* Without floating point: a status of a thousand clients has thousands of these. */
const char *sp_text_bytes(uint64_t bytes) {
    static struct ring ring;
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    char *text = ring_next(&ring);
    size_t unit = 0;
    if (bytes < 1024) {
        strcpy(sp_decimal(text, bytes), " bytes");
        return text;
    }
    /* 1023.95 would be printed as 1024.0. */
    while (unit == 0 ||
           (tenths(bytes, (unsigned)unit * 10) >= 10240 && unit + 1 < sizeof units / sizeof *units))
        unit++;
    uint64_t value = tenths(bytes, (unsigned)unit * 10);
    char *to = sp_decimal(text, value / 10);
    *to++ = '.';
    *to++ = (char)('0' + value % 10);
    *to++ = ' ';
    strcpy(to, units[unit]);
    return text;
}

const char *sp_text_number(uint64_t n) {
    static struct ring ring;
    char *to = ring_next(&ring) + TEXT_BYTES - 1;
    unsigned digits = 0;
    *to = 0;
    do {
        if (digits && digits % 3 == 0)
            *--to = ',';
        *--to = (char)('0' + n % 10);
        digits++;
    } while (n /= 10);
    return to;
}

const char *sp_text_duration(uint64_t ns) {
    static struct ring ring;
    char *text = ring_next(&ring);
    if (ns < 1000)
        strcpy(sp_decimal(text, ns), " ns");
    else if (ns < 1000000)
        snprintf(text, TEXT_BYTES, "%.0f us", (double)ns / 1e3);
    else if (ns < 1000000000)
        snprintf(text, TEXT_BYTES, "%.1f ms", (double)ns / 1e6);
    else
        snprintf(text, TEXT_BYTES, "%.1f s", (double)ns / 1e9);
    return text;
}

const char *sp_text_seconds(uint64_t ns) {
    static struct ring ring;
    char *text = ring_next(&ring);
    uint64_t hundredths = ns / 10000000 + (ns % 10000000 >= 5000000);
    char *to = sp_decimal(text, hundredths / 100);
    *to++ = '.';
    *to++ = (char)('0' + hundredths / 10 % 10);
    *to++ = (char)('0' + hundredths % 10);
    strcpy(to, " s");
    return text;
}

json_t *sp_json_name(const char *name) {
    json_t *good = json_string(name);
    char *ascii = good ? NULL : strdup(name);
    if (!ascii)
        return good;
    for (char *c = ascii; *c; c++)
        if (*c & (char)0x80)
            *c = '?';
    good = json_string(ascii);
    free(ascii);
    return good;
}

json_t *sp_json_setting(size_t setting, uint64_t value) {
    return sp_setting_names(setting) ? json_string(sp_setting_text(setting, value).text)
                                     : json_integer((json_int_t)value);
}

static bool want_colour(void) {
    static int wanted = -1;
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    if (wanted < 0)
        wanted = isatty(STDOUT_FILENO) && !(no && *no) && term && strcmp(term, "dumb") != 0;
    return wanted;
}

const char *sp_colour_begin(enum sp_colour colour) {
    static const char *const codes[] = {
        [SP_GREEN] = "\033[32m", [SP_YELLOW] = "\033[33m", [SP_RED] = "\033[31m", [SP_BOLD] = "\033[1m"};
    return want_colour() ? codes[colour] : "";
}

const char *sp_colour_end(void) {
    return want_colour() ? "\033[0m" : "";
}

void sp_print_coloured(enum sp_colour colour, int width, const char *text) {
    printf("%s%-*s%s", sp_colour_begin(colour), width, text, sp_colour_end());
}

int sp_output_finish(int status) {
    int error = 0;
    if (fflush(stdout) || ferror(stdout))
        error = errno ? errno : EIO;
    /* Some file systems report a failed write only when a descriptor is closed. */
    int copy = dup(STDOUT_FILENO);
    if (copy >= 0 && close(copy) && !error)
        error = errno;
    if (!error)
        return status;
    sp_complain(NULL, "cannot write to standard output: %s", strerror(error));
    return SP_EXIT_FAILURE;
}
