/* SPDX-License-Identifier: MIT */
/* See ksm_files.h. */
#include "core/ksm_files.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Counters that KSM has: the first block of the table, up to this one. */
#define LAST_OF_KSM SP_COUNTER_stable_node_dups

bool sp_ksm_file(size_t i, struct sp_ksm_file *ret_file) {
    for (int k = 0; k < SP_SETTING_COUNT; k++) {
        if (sp_setting_info[k].origin != SP_ORIGIN_KSM || i-- > 0)
            continue;
        *ret_file = (struct sp_ksm_file){sp_setting_info[k].name, k, -1};
        return true;
    }
    if (i > LAST_OF_KSM + 1)
        return false;
    *ret_file = i > LAST_OF_KSM ? (struct sp_ksm_file){"general_profit", -1, -1}
                                : (struct sp_ksm_file){sp_counter_info[i].name, -1, (int)i};
    return true;
}

/* All values, that which it has in brackets. */
static size_t names_text(const char *const *names, uint64_t v, char ret_text[SP_KSM_TEXT_BYTES]) {
    size_t used = 0;
    for (uint64_t i = 0; names[i] && used < SP_KSM_TEXT_BYTES; i++)
        used += (size_t)snprintf(ret_text + used, SP_KSM_TEXT_BYTES - used, i == v ? "%s[%s]" : "%s%s",
                                 i ? " " : "", names[i]);
    return used + (size_t)snprintf(ret_text + used, SP_KSM_TEXT_BYTES - used, "\n");
}

size_t sp_ksm_text(const struct sp_ksm_file *f, const struct sp_settings *s, const struct sp_counters *c,
                   char ret_text[SP_KSM_TEXT_BYTES]) {
    const char *const *names = f->setting >= 0 ? sp_setting_names((size_t)f->setting) : NULL;
    if (names)
        return names_text(names, s->v[f->setting], ret_text);
    uint64_t v = f->setting >= 0   ? s->v[f->setting]
                 : f->counter >= 0 ? c->v[f->counter]
                                   : sp_counters_general_profit(c);
    return (size_t)snprintf(ret_text, SP_KSM_TEXT_BYTES, "%" PRIu64 "\n", v);
}

/* 0, -EINVAL, or -ERANGE when it does not fit. */
static int parse_number(const char *text, size_t bytes, uint64_t *ret) {
    uint64_t v = 0;
    bool fits = true;
    if (bytes && text[bytes - 1] == '\n')
        bytes--;
    if (bytes && *text == '+') {
        text++;
        bytes--;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        fits &=
            !__builtin_mul_overflow(v, 10, &v) && !__builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v);
    }
    *ret = v;
    return !bytes ? -EINVAL : fits ? 0 : -ERANGE;
}

/* max_page_sharing is an int there, and alone tells what is no int from what is too small. */
static int parse_sharing(const char *text, size_t bytes, uint64_t *ret) {
    bool negative = bytes > 0 && *text == '-';
    int r = parse_number(text + negative, bytes - negative, ret);
    if (r == 0 && *ret > (uint64_t)INT32_MAX + negative)
        return -ERANGE;
    return r == 0 && negative ? -EINVAL : r;
}

static bool is_one_of(char c, const char *letters) {
    return c && strchr(letters, c);
}

static int parse_switch(const char *text, size_t bytes, uint64_t *ret) {
    char first = bytes > 0 ? text[0] : 0, second = bytes > 1 ? text[1] : 0;
    bool o = is_one_of(first, "oO");
    bool on = is_one_of(first, "eEyYtT1") || (o && is_one_of(second, "nN"));
    bool off = is_one_of(first, "dDnNfF0") || (o && is_one_of(second, "fF"));
    *ret = on;
    return on || off ? 0 : -EINVAL;
}

/* As sysfs_streq(): up to a 0, with a line's end or without. */
static int parse_name(const char *text, size_t bytes, const char *const *names, uint64_t *ret) {
    size_t n = strnlen(text, bytes);
    if (n && text[n - 1] == '\n')
        n--;
    for (uint64_t i = 0; names[i]; i++) {
        if (strlen(names[i]) != n || memcmp(names[i], text, n) != 0)
            continue;
        *ret = i;
        return 0;
    }
    return -EINVAL;
}

/* merge_across_nodes is a number there, too. */
static bool is_switch(int setting) {
    return strcmp(sp_setting_info[setting].unit, "bool") == 0 && setting != SP_SETTING_merge_across_nodes;
}

/* For the others what does not fit is as wrong as anything. */
static bool tells_range(int setting) {
    return setting == SP_SETTING_max_page_sharing || setting == SP_SETTING_merge_across_nodes;
}

int sp_ksm_parse(const struct sp_ksm_file *f, const char *text, size_t bytes, uint64_t *ret_value) {
    const struct sp_setting_info *info = &sp_setting_info[f->setting];
    const char *const *names = sp_setting_names((size_t)f->setting);
    uint64_t v;
    int r = names                                       ? parse_name(text, bytes, names, &v)
            : is_switch(f->setting)                     ? parse_switch(text, bytes, &v)
            : f->setting == SP_SETTING_max_page_sharing ? parse_sharing(text, bytes, &v)
                                                        : parse_number(text, bytes, &v);
    if (r == -ERANGE && tells_range(f->setting))
        return r;
    if (r < 0 || v < info->value_min || v > info->value_max)
        return -EINVAL;
    *ret_value = v;
    return 0;
}
