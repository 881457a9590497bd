/* SPDX-License-Identifier: MIT */
/* Settings and counters: the two tables. */
#include "core_test.h"

#include "core/counters.h"
#include "core/settings.h"

#include <errno.h>
#include <stdio.h>

static void defaults_are_in_range(void **state) {
    struct sp_settings s;
    sp_settings_init(&s);
    assert_int_equal(sp_settings_check(&s), 0);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const struct sp_setting_info *info = &sp_setting_info[i];
        assert_true(s.v[i] == info->value_default);
        assert_true(info->value_min <= info->value_max);
        assert_true(strlen(info->name) > 0 && strlen(info->unit) > 0 && strlen(info->meaning) > 0);
        assert_null(strpbrk(info->name, "=, "));
    }
}

static void each_setting_is_parsed_at_its_limits(void **state) {
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const struct sp_setting_info *info = &sp_setting_info[i];
        const uint64_t good[] = {info->value_min, info->value_default, info->value_max};
        for (size_t k = 0; k < 3; k++) {
            struct sp_settings s;
            char text[128];
            sp_settings_init(&s);
            (void)snprintf(text, sizeof text, "%s=%s", info->name, sp_setting_text(i, good[k]).text);
            assert_int_equal(sp_settings_parse(&s, text, NULL, 0), 0);
            assert_true(s.v[i] == good[k]);
            assert_int_equal(sp_settings_check(&s), 0);
        }
        struct sp_settings s;
        sp_settings_init(&s);
        s.v[i] = info->value_max + 1;
        assert_int_equal(sp_settings_check(&s), -ERANGE);
        s.v[i] = info->value_min - 1; /* wraps when the minimum is 0 */
        assert_int_equal(sp_settings_check(&s), -ERANGE);
    }
}

static void lists_are_parsed_and_the_last_wins(void **state) {
    struct sp_settings s;
    sp_settings_init(&s);
    assert_int_equal(sp_settings_parse(&s, "map_percent=10,use_zero_pages=0,map_percent=020", NULL, 0), 0);
    assert_true(s.v[SP_SETTING_map_percent] == 20);
    assert_true(s.v[SP_SETTING_use_zero_pages] == 0);
    assert_true(s.v[SP_SETTING_freeze_micros] == 150);
}

/* Names, ranges: as /sys/kernel/mm/ksm has them (mm/ksm.c of Linux 6.18). */
static void settings_of_ksm_have_its_ranges(void **state) {
    static const struct {
        enum sp_setting setting;
        uint64_t min, max;
    } ksm[] = {
        {SP_SETTING_run, 0, 2},
        {SP_SETTING_sleep_millisecs, 0, UINT32_MAX},
        {SP_SETTING_pages_to_scan, 0, UINT32_MAX},
        {SP_SETTING_max_page_sharing, 2, INT32_MAX},
        {SP_SETTING_use_zero_pages, 0, 1},
        {SP_SETTING_smart_scan, 0, 1},
        {SP_SETTING_advisor_mode, 0, 1},
        /* Three of these are an unsigned long there, but what they bound is 32 bits wide. */
        {SP_SETTING_advisor_max_cpu, 0, UINT32_MAX},
        {SP_SETTING_advisor_target_scan_time, 1, UINT32_MAX},
        {SP_SETTING_advisor_min_pages_to_scan, 0, UINT32_MAX},
        {SP_SETTING_advisor_max_pages_to_scan, 0, UINT32_MAX},
        {SP_SETTING_merge_across_nodes, 0, 1},
        {SP_SETTING_stable_node_chains_prune_millisecs, 0, UINT32_MAX},
    };
    size_t found = 0;
    for (size_t i = 0; i < sizeof ksm / sizeof *ksm; i++) {
        const struct sp_setting_info *info = &sp_setting_info[ksm[i].setting];
        assert_int_equal(info->origin, SP_ORIGIN_KSM);
        assert_true(info->value_min == ksm[i].min && info->value_max == ksm[i].max);
    }
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        found += sp_setting_info[i].origin == SP_ORIGIN_KSM;
    assert_int_equal(found, sizeof ksm / sizeof *ksm);
}

static void values_that_have_names(void **state) {
    struct sp_settings s;
    char error[256];
    sp_settings_init(&s);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const char *const *names = sp_setting_names(i);
        uint64_t n = 0;
        while (names && names[n])
            n++;
        assert_true(!names || (sp_setting_info[i].value_min == 0 && sp_setting_info[i].value_max + 1 == n));
        assert_true(strlen(sp_setting_allowed(i).text) < sizeof(struct sp_setting_text) - 1);
    }
    assert_int_equal(sp_settings_parse(&s, "advisor_mode=scan-time,run=0", NULL, 0), 0);
    assert_true(s.v[SP_SETTING_advisor_mode] == SP_ADVISOR_SCAN_TIME && s.v[SP_SETTING_run] == 0);
    static const char *const wrong[] = {"", "1", "scan-tim", "scan-timex", "None", "none ", "[none]"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "advisor_mode=%s", wrong[i]);
        assert_int_equal(sp_settings_parse(&s, text, error, sizeof error), -EINVAL);
        assert_non_null(strstr(error, "allowed: none, scan-time"));
    }
    assert_string_equal(sp_setting_text(SP_SETTING_advisor_mode, 0).text, "none");
    assert_string_equal(sp_setting_text(SP_SETTING_run, 2).text, "2");
    assert_string_equal(sp_setting_text(SP_SETTING_advisor_mode, 7).text, "7"); /* from a broken peer */
    assert_string_equal(sp_setting_allowed(SP_SETTING_run).text, "0 to 2");
}

static void names_are_found(void **state) {
    for (int i = 0; i < SP_SETTING_COUNT; i++)
        assert_int_equal(sp_setting_find(sp_setting_info[i].name), i);
    assert_int_equal(sp_setting_find(""), -ENOENT);
    assert_int_equal(sp_setting_find("run="), -ENOENT);
    assert_int_equal(sp_setting_find("pages_shared"), -ENOENT);
}

static void changes_take_each_key_once(void **state) {
    struct sp_settings_change c = {0}, before;
    struct sp_settings s;
    char error[256];
    assert_int_equal(sp_settings_change_add(&c, "run=0", NULL, 0), 0);
    assert_int_equal(sp_settings_change_add(&c, "map_percent=7", NULL, 0), 0);
    before = c;
    assert_int_equal(sp_settings_change_add(&c, "run=0", error, sizeof error), -EEXIST);
    assert_non_null(strstr(error, "run is given twice"));
    assert_int_equal(sp_settings_change_add(&c, "use_zero_pages=2", error, sizeof error), -ERANGE);
    assert_int_equal(sp_settings_change_add(&c, "sleep_millisecs=1,freeze_micros=50", NULL, 0), -EINVAL);
    assert_int_equal(sp_settings_change_add(&c, "pages_shared=1", error, sizeof error), -EROFS);
    assert_non_null(strstr(error, "counter"));
    assert_int_equal(sp_settings_change_add(&c, "general_profit=1", NULL, 0), -EROFS);
    assert_memory_equal(&c, &before, sizeof c);
    sp_settings_init(&s);
    sp_settings_apply(&s, &c);
    assert_true(s.v[SP_SETTING_run] == 0 && s.v[SP_SETTING_map_percent] == 7);
    assert_true(s.v[SP_SETTING_freeze_micros] == 150);
}

static void files_are_lines(void **state) {
    struct sp_settings_change c = {0};
    unsigned line = 0;
    assert_int_equal(sp_settings_change_lines(&c, "", &line, NULL, 0), 0);
    assert_int_equal(sp_settings_change_lines(&c,
                                              "# of the machine\n\n  run = 0\t\r\n"
                                              "\tmap_percent\t=\t12\n  # no = comment\nfreeze_micros=99",
                                              &line, NULL, 0),
                     0);
    assert_true(c.given[SP_SETTING_run] && c.values.v[SP_SETTING_run] == 0);
    assert_true(c.given[SP_SETTING_map_percent] && c.values.v[SP_SETTING_map_percent] == 12);
    assert_true(c.given[SP_SETTING_freeze_micros] && c.values.v[SP_SETTING_freeze_micros] == 99);
    assert_false(c.given[SP_SETTING_sleep_millisecs]);
}

static void wrong_files_change_nothing(void **state) {
    static const struct {
        const char *text;
        int result;
        unsigned line;
        const char *says;
    } wrong[] = {
        {"run", -EINVAL, 1, "'run' is not KEY=VALUE"},
        {"\n\nrun=3\n", -ERANGE, 3, "0 to 2"},
        {"run=1\nrun=1\n", -EEXIST, 2, "run is given twice"},
        {"run=1 # on\n", -EINVAL, 1, "'1 # on'"},
        {"map_percent=1,run=1\n", -EINVAL, 1, "'1,run=1'"},
        {"[section]\n", -EINVAL, 1, "'[section]'"},
        {"run=1\n = 5\n", -EINVAL, 2, "KEY=VALUE"},
        {"run=\n", -EINVAL, 1, "0 to 2"},
        {"ran=1\n", -ENOENT, 1, "'ran'"},
        {"pages_sharing=1\n", -EROFS, 1, "counter"},
        {"run=1\n\xef\xbb\xbfmap_percent=1\n", -ENOENT, 2, "'???map_percent'"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sp_settings_change c = {0}, before = {0};
        char error[1024] = "";
        unsigned line = 0;
        assert_int_equal(sp_settings_change_lines(&c, wrong[i].text, &line, error, sizeof error),
                         wrong[i].result);
        assert_int_equal(line, wrong[i].line);
        assert_memory_equal(&c, &before, sizeof c);
        if (!strstr(error, wrong[i].says))
            fail_msg("'%s': '%s' does not say '%s'", wrong[i].text, error, wrong[i].says);
    }
    char text[600];
    struct sp_settings_change c = {0};
    unsigned line;
    memset(text, '1', sizeof text);
    memcpy(text, "run=", 4);
    text[sizeof text - 1] = '\0';
    assert_int_equal(sp_settings_change_lines(&c, text, &line, NULL, 0), -ERANGE);
}

static void wrong_texts_are_refused_and_change_nothing(void **state) {
    static const struct {
        const char *text;
        int result;
        const char *says;
    } wrong[] = {
        {"", -EINVAL, "KEY=VALUE"},
        {",", -EINVAL, "KEY=VALUE"},
        {"=", -EINVAL, "KEY=VALUE"},
        {"=5", -EINVAL, "KEY=VALUE"},
        {"map_percent", -EINVAL, "'map_percent'"},
        {"map_percent=10,", -EINVAL, "KEY=VALUE"},
        {"map_percent=10,,map_percent=11", -EINVAL, "KEY=VALUE"},
        {"map_percent=", -EINVAL, "0 to 95"},
        {"map_percent=ten", -EINVAL, "0 to 95"},
        {"map_percent=10x", -EINVAL, "'10x'"},
        {"map_percent= 10", -EINVAL, "' 10'"},
        {"map_percent=+10", -EINVAL, "'+10'"},
        {"map_percent=0x10", -EINVAL, "'0x10'"},
        {"map_percent=10=10", -EINVAL, "'10=10'"},
        {"map_percent=-1", -EINVAL, "0 to 95"},
        {"map_percent=96", -ERANGE, "0 to 95 (percent)"},
        {"map_percent=18446744073709551616", -ERANGE, "0 to 95"},
        {"map_percent=99999999999999999999999999x", -EINVAL, "0 to 95"},
        {"freeze_micros=19", -ERANGE, "20 to 100000 (us)"},
        {"use_zero_pages=2", -ERANGE, "0 to 1"},
        {"map_percen=10", -ENOENT, "map_percent"},
        {"map_percents=10", -ENOENT, "'map_percents'"},
        {"MAP_PERCENT=10", -ENOENT, "unknown"},
        {" map_percent=10", -ENOENT, "unknown"},
        {"map_percent=10,nonsense=1", -ENOENT, "'nonsense'"},
        {"\033[2J\n=1", -ENOENT, "'?[2J?'"},
        {"pages_shared=1", -EROFS, "counter"},
        {"run=3", -ERANGE, "0 to 2"},
        {"max_page_sharing=1", -ERANGE, "2 to 2147483647"},
        {"pages_to_scan=4294967296", -ERANGE, "0 to 4294967295"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sp_settings s, before;
        char error[1024] = "untouched";
        sp_settings_init(&s);
        before = s;
        assert_int_equal(sp_settings_parse(&s, wrong[i].text, error, sizeof error), wrong[i].result);
        assert_memory_equal(&s, &before, sizeof s);
        if (!strstr(error, wrong[i].says))
            fail_msg("'%s': '%s' does not say '%s'", wrong[i].text, error, wrong[i].says);
        assert_null(strchr(error, '\n'));
        assert_int_equal(sp_settings_parse(&s, wrong[i].text, NULL, 0), wrong[i].result);
    }
}

static void error_text_fits(void **state) {
    char long_text[4096], error[64];
    struct sp_settings s;
    sp_settings_init(&s);
    memset(long_text, 'k', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    for (size_t bytes = 0; bytes <= 40; bytes++) {
        memset(error, '#', sizeof error);
        assert_int_equal(sp_settings_parse(&s, long_text, error, bytes), -EINVAL);
        for (size_t i = bytes; i < sizeof error; i++)
            assert_int_equal(error[i], '#');
        assert_true(bytes == 0 || memchr(error, '\0', bytes) != NULL);
    }
    memcpy(long_text + 100, "=1", 3);
    assert_int_equal(sp_settings_parse(&s, long_text, error, sizeof error), -ENOENT);
    assert_non_null(strstr(error, "..."));
}

static void counters_add_only_what_clients_own(void **state) {
    struct sp_counters into, from;
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++) {
        into.v[i] = 1000 + i;
        from.v[i] = 7 * i + 1;
    }
    sp_counters_add(&into, &from);
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++) {
        bool client = sp_counter_info[i].owner == SP_COUNTER_CLIENT;
        assert_true(into.v[i] == 1000 + i + (client ? 7 * i + 1 : 0));
    }
    assert_string_equal(sp_counter_info[SP_COUNTER_pages_sharing].name, "pages_sharing");
    assert_int_equal(sp_counter_info[SP_COUNTER_pages_sharing].owner, SP_COUNTER_DOMAIN);
    assert_int_equal(sp_counter_info[SP_COUNTER_cpu_ns].owner, SP_COUNTER_CLIENT);
}

static void profit_is_never_negative(void **state) {
    struct sp_counters c = {0};
    assert_true(sp_counters_general_profit(&c) == 0);
    c.v[SP_COUNTER_pages_sharing] = 10;
    c.v[SP_COUNTER_ksm_zero_pages] = 5;
    assert_true(sp_counters_saved_bytes(&c) == 15 * 4096);
    assert_true(sp_counters_general_profit(&c) == 15 * 4096);
    c.v[SP_COUNTER_index_bytes] = 4096;
    c.v[SP_COUNTER_own_bytes] = 4096;
    assert_true(sp_counters_general_profit(&c) == 13 * 4096);
    c.v[SP_COUNTER_mappings] = 1;
    assert_true(sp_counters_general_profit(&c) < 13 * 4096);
    c.v[SP_COUNTER_own_bytes] = UINT64_C(1) << 40;
    assert_true(sp_counters_general_profit(&c) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_in_range),
        cmocka_unit_test(each_setting_is_parsed_at_its_limits),
        cmocka_unit_test(lists_are_parsed_and_the_last_wins),
        cmocka_unit_test(settings_of_ksm_have_its_ranges),
        cmocka_unit_test(values_that_have_names),
        cmocka_unit_test(names_are_found),
        cmocka_unit_test(changes_take_each_key_once),
        cmocka_unit_test(files_are_lines),
        cmocka_unit_test(wrong_files_change_nothing),
        cmocka_unit_test(wrong_texts_are_refused_and_change_nothing),
        cmocka_unit_test(error_text_fits),
        cmocka_unit_test(counters_add_only_what_clients_own),
        cmocka_unit_test(profit_is_never_negative),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
