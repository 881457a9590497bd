/* SPDX-License-Identifier: MIT */
/* See json_out.h. Unlocked: there is one thread, and the lock of each word would cost more than the word. */
#include "cli/json_out.h"

#include <stdio.h>
#include <string.h>

static void put(const char *text, size_t bytes) {
    (void)!fwrite_unlocked(text, 1, bytes, stdout);
}

static void put_text(const char *text) {
    put(text, strlen(text));
}

static void new_line(unsigned depth) {
    static const char spaces[] = "                                ";
    putc_unlocked('\n', stdout);
    for (size_t left = 2 * (size_t)depth; left;) {
        size_t part = left < sizeof spaces - 1 ? left : sizeof spaces - 1;
        put(spaces, part);
        left -= part;
    }
}

static void value_begin(struct sp_json_out *o, const char *key) {
    if (o->begun)
        putc_unlocked(',', stdout);
    if (o->depth)
        new_line(o->depth);
    if (key) {
        putc_unlocked('"', stdout);
        put_text(key);
        put_text("\": ");
    }
    o->begun = true;
}

void sp_json_out_begin(struct sp_json_out *o, const char *key, char bracket) {
    value_begin(o, key);
    putc_unlocked(bracket, stdout);
    o->depth++;
    o->begun = false;
}

void sp_json_out_end(struct sp_json_out *o, char bracket) {
    o->depth--;
    if (o->begun)
        new_line(o->depth);
    putc_unlocked(bracket, stdout);
    o->begun = true;
}

void sp_json_out_number(struct sp_json_out *o, const char *key, uint64_t n) {
    char digits[20], *first = digits + sizeof digits;
    do
        *--first = (char)('0' + n % 10);
    while (n /= 10);
    value_begin(o, key);
    put(first, (size_t)(digits + sizeof digits - first));
}

/* jansson writes each newline, and the spaces after it, apart from the rest. */
static int put_inner(const char *text, size_t bytes, void *ctx) {
    const struct sp_json_out *o = ctx;
    if (bytes == 1 && *text == '\n')
        new_line(o->depth);
    else
        put(text, bytes);
    return 0;
}

void sp_json_out_value(struct sp_json_out *o, const char *key, json_t *value) {
    value_begin(o, key);
    if (!value || json_dump_callback(value, put_inner, o, JSON_INDENT(2) | JSON_ENCODE_ANY))
        put_text("null");
    json_decref(value);
}

void sp_json_out_finish(struct sp_json_out *o) {
    putc_unlocked('\n', stdout);
    o->begun = false;
}
