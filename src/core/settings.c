/* SPDX-License-Identifier: MIT */
/*
 * See settings.h. The text is parsed into a copy, which is taken over when all of it was right. Values are
 * plain decimal digits, or names where they have such: a sign, a blank or a unit is malformed rather than
 * guessed at.
 */
#include "core/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/counters.h"

const struct sp_setting_info sp_setting_info[SP_SETTING_COUNT] = {
#define X(name, unit, def, min, max, scope, origin, meaning)                                                 \
    {#name, #unit, def, min, max, SP_SETTING_OF_##scope, SP_ORIGIN_##origin, meaning},
    SP_SETTINGS(X)
#undef X
};

#define N(name, ...) static const char *const name##_names[] = {__VA_ARGS__, NULL};
SP_SETTING_NAMES(N)
#undef N

static const char *const *const value_names[SP_SETTING_COUNT] = {
#define N(name, ...) [SP_SETTING_##name] = name##_names,
    SP_SETTING_NAMES(N)
#undef N
};

struct error_text {
    char *text; /* or NULL */
    size_t bytes;
};

/* A stretch of the text that is parsed; not terminated. */
struct piece {
    const char *at;
    size_t length;
};

static __attribute__((format(printf, 3, 4))) int fail(const struct error_text *error, int code,
                                                      const char *format, ...) {
    if (!error->text || error->bytes == 0)
        return code;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->text, error->bytes, format, args);
    va_end(args);
    return code;
}

/* Prints at most this much of what somebody wrote, without what would break the line or the terminal. */
#define SHOWN_BYTES 40

struct shown {
    char text[SHOWN_BYTES + 4];
};

static struct shown show(struct piece p) {
    struct shown s = {0};
    size_t n = p.length < SHOWN_BYTES ? p.length : SHOWN_BYTES;
    for (size_t i = 0; i < n; i++)
        s.text[i] = p.at[i] >= ' ' && p.at[i] <= '~' ? p.at[i] : '?';
    if (n < p.length)
        memcpy(s.text + n, "...", 4);
    return s;
}

static bool is_word(struct piece p, const char *word) {
    return strlen(word) == p.length && memcmp(word, p.at, p.length) == 0;
}

static bool is_counter(struct piece key) {
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        if (is_word(key, sp_counter_info[i].name))
            return true;
    return is_word(key, "general_profit");
}

static int fail_unknown(const struct error_text *error, struct piece key) {
    if (is_counter(key))
        return fail(error, -EROFS, "'%s' is a counter: it can be read, not set", show(key).text);
    char known[1024] = "";
    size_t used = 0;
    for (size_t i = 0; i < SP_SETTING_COUNT && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 sp_setting_info[i].name);
    return fail(error, -ENOENT, "unknown setting '%s'; settings: %s", show(key).text, known);
}

static int setting_find(struct piece key) {
    for (int i = 0; i < SP_SETTING_COUNT; i++)
        if (is_word(key, sp_setting_info[i].name))
            return i;
    return -ENOENT;
}

int sp_setting_find(const char *name) {
    return setting_find((struct piece){name, strlen(name)});
}

const char *const *sp_setting_names(size_t setting) {
    return value_names[setting];
}

struct sp_setting_text sp_setting_text(size_t setting, uint64_t value) {
    struct sp_setting_text t = {0};
    if (value_names[setting] && value <= sp_setting_info[setting].value_max)
        strncat(t.text, value_names[setting][value], sizeof t.text - 1);
    else
        (void)snprintf(t.text, sizeof t.text, "%" PRIu64, value);
    return t;
}

struct sp_setting_text sp_setting_allowed(size_t setting) {
    const struct sp_setting_info *info = &sp_setting_info[setting];
    struct sp_setting_text t = {""};
    size_t used = 0;
    if (!value_names[setting])
        (void)snprintf(t.text, sizeof t.text, "%" PRIu64 " to %" PRIu64, info->value_min, info->value_max);
    for (size_t i = 0; value_names[setting] && value_names[setting][i] && used < sizeof t.text; i++)
        used += (size_t)snprintf(t.text + used, sizeof t.text - used, "%s%s", i ? ", " : "",
                                 value_names[setting][i]);
    return t;
}

/* 0 or -EINVAL. */
static int name_parse(struct piece text, const char *const *names, uint64_t *ret) {
    for (uint64_t i = 0; names[i]; i++) {
        if (!is_word(text, names[i]))
            continue;
        *ret = i;
        return 0;
    }
    return -EINVAL;
}

/* 0, -EINVAL, or -ERANGE when the number does not fit. */
static int number_parse(struct piece text, uint64_t *ret) {
    uint64_t v = 0;
    int r = text.length ? 0 : -EINVAL;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return -EINVAL;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(text.at[i] - '0'), &v))
            r = -ERANGE;
    }
    if (r == 0)
        *ret = v;
    return r;
}

static bool in_range(const struct sp_setting_info *info, uint64_t v) {
    return v >= info->value_min && v <= info->value_max;
}

static int value_parse(int setting, struct piece text, uint64_t *ret, const struct error_text *error) {
    const struct sp_setting_info *info = &sp_setting_info[setting];
    const char *const *names = sp_setting_names((size_t)setting);
    uint64_t v = 0;
    int r = names ? name_parse(text, names, &v) : number_parse(text, &v);
    if (r == 0 && !in_range(info, v))
        r = -ERANGE;
    if (r < 0)
        return fail(error, r, "%s '%s' for %s; allowed: %s (%s)",
                    r == -ERANGE ? "value out of range"
                    : names      ? "unknown value"
                                 : "malformed value",
                    show(text).text, info->name, sp_setting_allowed((size_t)setting).text, info->unit);
    *ret = v;
    return 0;
}

static int assignment_parse(struct piece text, int *ret_setting, uint64_t *ret_value,
                            const struct error_text *error) {
    const char *equals = memchr(text.at, '=', text.length);
    if (!equals || equals == text.at)
        return fail(error, -EINVAL, "'%s' is not KEY=VALUE", show(text).text);
    struct piece key = {text.at, (size_t)(equals - text.at)};
    struct piece value = {equals + 1, text.length - key.length - 1};
    int setting = setting_find(key);
    if (setting < 0)
        return fail_unknown(error, key);
    int r = value_parse(setting, value, ret_value, error);
    if (r == 0)
        *ret_setting = setting;
    return r;
}

static int change_add(struct sp_settings_change *c, struct piece text, const struct error_text *error) {
    int setting;
    uint64_t value;
    int r = assignment_parse(text, &setting, &value, error);
    if (r < 0)
        return r;
    if (c->given[setting])
        return fail(error, -EEXIST, "%s is given twice", sp_setting_info[setting].name);
    c->given[setting] = true;
    c->values.v[setting] = value;
    return 0;
}

void sp_settings_init(struct sp_settings *s) {
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        s->v[i] = sp_setting_info[i].value_default;
}

int sp_settings_parse(struct sp_settings *s, const char *text, char *error, size_t error_bytes) {
    struct sp_settings parsed = *s;
    struct error_text out = {error, error_bytes};
    for (const char *at = text;; at++) {
        struct piece piece = {at, strcspn(at, ",")};
        int setting;
        uint64_t value;
        int r = assignment_parse(piece, &setting, &value, &out);
        if (r < 0)
            return r;
        parsed.v[setting] = value;
        at += piece.length;
        if (*at == '\0')
            break;
    }
    *s = parsed;
    return 0;
}

int sp_settings_change_add(struct sp_settings_change *c, const char *text, char *error, size_t error_bytes) {
    return change_add(c, (struct piece){text, strlen(text)}, &(struct error_text){error, error_bytes});
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

static struct piece trimmed(struct piece p) {
    while (p.length && is_blank(*p.at)) {
        p.at++;
        p.length--;
    }
    while (p.length && is_blank(p.at[p.length - 1]))
        p.length--;
    return p;
}

/* One line of a file. Blanks around '=' are taken away in a copy, which is longer than any line that is
 * right; what does not fit is shown as wrong as it stands. */
static int line_add(struct sp_settings_change *c, struct piece line, const struct error_text *error) {
    char copy[128];
    line = trimmed(line);
    if (line.length == 0 || *line.at == '#')
        return 0;
    const char *equals = memchr(line.at, '=', line.length);
    if (!equals || line.length > sizeof copy)
        return change_add(c, line, error);
    struct piece key = trimmed((struct piece){line.at, (size_t)(equals - line.at)});
    struct piece value = trimmed((struct piece){equals + 1, line.length - (size_t)(equals - line.at) - 1});
    memcpy(copy, key.at, key.length);
    copy[key.length] = '=';
    memcpy(copy + key.length + 1, value.at, value.length);
    return change_add(c, (struct piece){copy, key.length + 1 + value.length}, error);
}

int sp_settings_change_lines(struct sp_settings_change *c, const char *text, unsigned *ret_line, char *error,
                             size_t error_bytes) {
    struct sp_settings_change all = *c;
    struct error_text out = {error, error_bytes};
    for (unsigned number = 1; *text; number++) {
        struct piece line = {text, strcspn(text, "\n")};
        int r = line_add(&all, line, &out);
        if (r < 0) {
            *ret_line = number;
            return r;
        }
        text += line.length + (text[line.length] == '\n');
    }
    *c = all;
    return 0;
}

void sp_settings_apply(struct sp_settings *s, const struct sp_settings_change *c) {
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        if (c->given[i])
            s->v[i] = c->values.v[i];
}

int sp_settings_check(const struct sp_settings *s) {
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        if (!in_range(&sp_setting_info[i], s->v[i]))
            return -ERANGE;
    return 0;
}
