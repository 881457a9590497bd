/* SPDX-License-Identifier: MIT */
/* See put.h. */
#include "cli/put.h"

#include <stdio.h>
#include <string.h>

static char buffer[SP_PUT_ROOM_MAX];
static size_t used;

void sp_put_end(void) {
    (void)!fwrite(buffer, 1, used, stdout);
    used = 0;
}

char *sp_put_room(size_t bytes) {
    if (bytes > sizeof buffer - used)
        sp_put_end();
    return buffer + used;
}

void sp_put_done(const char *end) {
    used = (size_t)(end - buffer);
}

void sp_put(const char *text, size_t bytes) {
    while (bytes > sizeof buffer - used) {
        size_t part = sizeof buffer - used;
        memcpy(buffer + used, text, part);
        used += part;
        sp_put_end();
        text += part;
        bytes -= part;
    }
    memcpy(buffer + used, text, bytes);
    used += bytes;
}

void sp_put_char(char c) {
    if (used == sizeof buffer)
        sp_put_end();
    buffer[used++] = c;
}

void sp_put_text(const char *text) {
    sp_put(text, strlen(text));
}

/* No more than fit in a line. */
static void put_spaces(size_t n) {
    char *to = sp_put_room(n);
    memset(to, ' ', n);
    sp_put_done(to + n);
}

void sp_put_padded(const char *text, int width) {
    size_t bytes = strlen(text), wanted = (size_t)(width < 0 ? -width : width);
    size_t spaces = bytes < wanted ? wanted - bytes : 0;
    if (width > 0)
        put_spaces(spaces);
    sp_put(text, bytes);
    if (width < 0)
        put_spaces(spaces);
}
