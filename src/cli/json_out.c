/* SPDX-License-Identifier: MIT */
/* See json_out.h. */
#include "cli/json_out.h"

#include <string.h>

#include "cli/output.h"
#include "cli/put.h"
#include "core/decimal.h"

static char *line_begin(char *to, unsigned depth) {
    *to++ = '\n';
    memset(to, ' ', 2 * (size_t)depth);
    return to + 2 * (size_t)depth;
}

static void new_line(unsigned depth) {
    sp_put_done(line_begin(sp_put_room(1 + 2 * (size_t)depth), depth));
}

/* What is before a value, and room for `more` after it. */
static char *value_room(struct sp_json_out *o, const char *key, size_t more) {
    size_t key_bytes = key ? strlen(key) : 0;
    char *to = sp_put_room(2 * (size_t)o->depth + key_bytes + 6 + more);
    if (o->begun)
        *to++ = ',';
    if (o->depth)
        to = line_begin(to, o->depth);
    if (key) {
        *to++ = '"';
        to = mempcpy(mempcpy(to, key, key_bytes), "\": ", 3);
    }
    o->begun = true;
    return to;
}

static void value_begin(struct sp_json_out *o, const char *key) {
    sp_put_done(value_room(o, key, 0));
}

void sp_json_out_begin(struct sp_json_out *o, const char *key, char bracket) {
    value_begin(o, key);
    sp_put_char(bracket);
    o->depth++;
    o->begun = false;
}

void sp_json_out_end(struct sp_json_out *o, char bracket) {
    o->depth--;
    if (o->begun)
        new_line(o->depth);
    sp_put_char(bracket);
    o->begun = true;
}

void sp_json_out_number(struct sp_json_out *o, const char *key, uint64_t n) {
    sp_put_done(sp_decimal(value_room(o, key, SP_DECIMAL_BYTES), n));
}

/* jansson writes each newline, and the spaces after it, apart from the rest. */
static int put_inner(const char *text, size_t bytes, void *ctx) {
    const struct sp_json_out *o = ctx;
    if (bytes == 1 && *text == '\n')
        new_line(o->depth);
    else
        sp_put(text, bytes);
    return 0;
}

void sp_json_out_value(struct sp_json_out *o, const char *key, json_t *value) {
    value_begin(o, key);
    if (!value || json_dump_callback(value, put_inner, o, JSON_INDENT(2) | JSON_ENCODE_ANY))
        sp_put_text("null");
    json_decref(value);
}

/* Printable ASCII but for what JSON escapes. */
static bool is_plain(const char *text) {
    for (; *text; text++)
        if (*text < ' ' || *text > '~' || *text == '"' || *text == '\\')
            return false;
    return true;
}

void sp_json_out_text(struct sp_json_out *o, const char *key, const char *text) {
    if (!is_plain(text)) {
        sp_json_out_value(o, key, sp_json_name(text));
        return;
    }
    value_begin(o, key);
    sp_put_char('"');
    sp_put_text(text);
    sp_put_char('"');
}

void sp_json_out_bool(struct sp_json_out *o, const char *key, bool value) {
    value_begin(o, key);
    sp_put_text(value ? "true" : "false");
}

void sp_json_out_finish(struct sp_json_out *o) {
    sp_put_char('\n');
    sp_put_end();
    o->begun = false;
}
