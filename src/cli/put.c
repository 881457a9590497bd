/* SPDX-License-Identifier: MIT */
/* See put.h. */
#include "cli/put.h"

#include <stdio.h>
#include <string.h>

#define BUFFER_BYTES 65536

static char buffer[BUFFER_BYTES];
static size_t used;

void sp_put_end(void) {
    (void)!fwrite(buffer, 1, used, stdout);
    used = 0;
}

void sp_put(const char *text, size_t bytes) {
    while (bytes > BUFFER_BYTES - used) {
        size_t part = BUFFER_BYTES - used;
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
    if (used == BUFFER_BYTES)
        sp_put_end();
    buffer[used++] = c;
}

void sp_put_text(const char *text) {
    sp_put(text, strlen(text));
}

void sp_put_padded(const char *text, int width) {
    int bytes = (int)strlen(text);
    for (int i = bytes; i < width; i++)
        sp_put_char(' ');
    sp_put(text, (size_t)bytes);
    for (int i = bytes; i < -width; i++)
        sp_put_char(' ');
}
