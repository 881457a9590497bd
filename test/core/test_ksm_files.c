/* SPDX-License-Identifier: MIT */
/* The files of KSM: which there are, what they say, what they take. */
#include "core_test.h"

#include "core/ksm_files.h"

#include <errno.h>

static struct sp_ksm_file file_named(const char *name) {
    struct sp_ksm_file f;
    for (size_t i = 0; sp_ksm_file(i, &f); i++)
        if (strcmp(f.name, name) == 0)
            return f;
    fail_msg("no file %s", name);
    return f;
}

static void each_is_there_once(void **state) {
    static const char *const names[] = {
        "run",
        "sleep_millisecs",
        "pages_to_scan",
        "max_page_sharing",
        "merge_across_nodes",
        "use_zero_pages",
        "smart_scan",
        "advisor_mode",
        "advisor_max_cpu",
        "advisor_target_scan_time",
        "advisor_min_pages_to_scan",
        "advisor_max_pages_to_scan",
        "stable_node_chains_prune_millisecs",
        "pages_shared",
        "pages_sharing",
        "pages_unshared",
        "pages_volatile",
        "pages_skipped",
        "pages_scanned",
        "full_scans",
        "ksm_zero_pages",
        "stable_node_chains",
        "stable_node_dups",
        "general_profit",
    };
    struct sp_ksm_file f;
    size_t n = 0;
    while (sp_ksm_file(n, &f)) {
        size_t times = 0;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            times += strcmp(names[i], f.name) == 0;
        assert_int_equal(times, 1);
        n++;
    }
    assert_int_equal(n, sizeof names / sizeof *names);
    assert_false(sp_ksm_file(n + 1, &f) || sp_ksm_file(SIZE_MAX, &f));
}

static void texts_are_numbers_and_line_ends(void **state) {
    struct sp_settings s;
    struct sp_counters c = {{0}};
    char text[SP_KSM_TEXT_BYTES];
    struct sp_ksm_file f = file_named("run");
    sp_settings_init(&s);
    assert_int_equal(sp_ksm_text(&f, &s, &c, text), 2);
    assert_string_equal(text, "1\n");
    f = file_named("pages_sharing");
    c.v[SP_COUNTER_pages_sharing] = UINT64_MAX;
    assert_int_equal(sp_ksm_text(&f, &s, &c, text), 21);
    assert_string_equal(text, "18446744073709551615\n");
    f = file_named("advisor_mode");
    assert_int_equal(sp_ksm_text(&f, &s, &c, text), 17);
    assert_string_equal(text, "[none] scan-time\n");
    s.v[SP_SETTING_advisor_mode] = SP_ADVISOR_SCAN_TIME;
    assert_int_equal(sp_ksm_text(&f, &s, &c, text), 17);
    assert_string_equal(text, "none [scan-time]\n");
    f = file_named("general_profit");
    c.v[SP_COUNTER_pages_sharing] = 3;
    assert_int_equal(sp_ksm_text(&f, &s, &c, text), 6);
    assert_string_equal(text, "12288\n");
}

static void what_is_written_is_read_as_the_kernel_does(void **state) {
    static const struct {
        const char *file, *text;
        int result;
        uint64_t value;
    } cases[] = {
        {"run", "0", 0, 0},
        {"run", "2\n", 0, 2},
        {"run", "+1", 0, 1},
        {"run", "001", 0, 1},
        {"run", "3", -EINVAL, 0},
        {"run", "", -EINVAL, 0},
        {"run", "\n", -EINVAL, 0},
        {"run", "+", -EINVAL, 0},
        {"run", "-0", -EINVAL, 0},
        {"run", " 1", -EINVAL, 0},
        {"run", "1 ", -EINVAL, 0},
        {"run", "1\n\n", -EINVAL, 0},
        {"run", "0x1", -EINVAL, 0},
        {"run", "1 2", -EINVAL, 0},
        {"pages_to_scan", "4294967295", 0, UINT32_MAX},
        {"pages_to_scan", "4294967296", -EINVAL, 0},
        {"pages_to_scan", "99999999999999999999999", -EINVAL, 0},
        {"max_page_sharing", "2", 0, 2},
        {"max_page_sharing", "1", -EINVAL, 0},
        {"max_page_sharing", "2147483647", 0, INT32_MAX},
        {"max_page_sharing", "2147483648", -ERANGE, 0},
        {"max_page_sharing", "99999999999999999999999", -ERANGE, 0},
        {"max_page_sharing", "99999999999999999999999x", -EINVAL, 0},
        {"max_page_sharing", "-5", -EINVAL, 0},
        {"max_page_sharing", "-2147483648", -EINVAL, 0},
        {"max_page_sharing", "-2147483649", -ERANGE, 0},
        {"max_page_sharing", "-", -EINVAL, 0},
        {"use_zero_pages", "yes", 0, 1},
        {"use_zero_pages", "Nonsense", 0, 0},
        {"smart_scan", "on", 0, 1},
        {"smart_scan", "oFf\n", 0, 0},
        {"smart_scan", "o", -EINVAL, 0},
        {"smart_scan", "2", -EINVAL, 0},
        {"smart_scan", "", -EINVAL, 0},
        {"smart_scan", "1x", 0, 1},
        {"merge_across_nodes", "0", 0, 0},
        {"merge_across_nodes", "+1\n", 0, 1},
        {"merge_across_nodes", "2", -EINVAL, 0},
        {"merge_across_nodes", "-1", -EINVAL, 0},
        {"merge_across_nodes", "yes", -EINVAL, 0},
        {"merge_across_nodes", "", -EINVAL, 0},
        {"merge_across_nodes", "18446744073709551615", -EINVAL, 0},
        {"merge_across_nodes", "18446744073709551616", -ERANGE, 0},
        {"advisor_mode", "none", 0, 0},
        {"advisor_mode", "scan-time\n", 0, 1},
        {"advisor_mode", "scan-time\n\n", -EINVAL, 0},
        {"advisor_mode", "scan-time ", -EINVAL, 0},
        {"advisor_mode", "[none]", -EINVAL, 0},
        {"advisor_mode", "1", -EINVAL, 0},
        {"advisor_mode", "", -EINVAL, 0},
        {"advisor_max_cpu", "4294967295", 0, UINT32_MAX},
        {"advisor_target_scan_time", "0", -EINVAL, 0},
        {"advisor_target_scan_time", "1", 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sp_ksm_file f = file_named(cases[i].file);
        uint64_t v = 77;
        int r = sp_ksm_parse(&f, cases[i].text, strlen(cases[i].text), &v);
        if (r != cases[i].result || v != (r ? 77 : cases[i].value))
            fail_msg("%s <- '%s': %d, %llu", cases[i].file, cases[i].text, r, (unsigned long long)v);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_there_once),
        cmocka_unit_test(texts_are_numbers_and_line_ends),
        cmocka_unit_test(what_is_written_is_read_as_the_kernel_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
