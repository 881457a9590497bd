/* SPDX-License-Identifier: MIT */
/*
 * The parser of /proc/PID/smaps on text of our own making, in pieces of every size, and the rule for kernels
 * on which UFFDIO_MOVE is not to be trusted.
 */
#include "os_test.h"

#include "os/smaps.h"

#define MAX 32

struct seen {
    struct sp_mapping m[MAX];
    size_t n, stop_after;
};

static bool see(void *ctx, const struct sp_mapping *m) {
    struct seen *s = ctx;
    assert_true(s->n < MAX);
    s->m[s->n++] = *m;
    return s->n != s->stop_after;
}

#define LINES "Size:   4 kB\nRss:   4 kB\nTHPeligible:    0\n"
#define ANON  "00000000 00:00 0 "

static struct sp_mapping one(const char *header, const char *pkey, const char *flags) {
    char text[1024];
    struct seen s = {0};
    struct sp_smaps p;
    snprintf(text, sizeof(text), "7f0000001000-7f0000003000 %s\n" LINES "%sVmFlags: %s \n", header, pkey,
             flags);
    sp_smaps_init(&p, see, &s);
    assert_true(sp_smaps_feed(&p, text, strlen(text)));
    assert_int_equal(s.n, 1);
    assert_int_equal(s.m[0].start, 0x7f0000001000);
    assert_int_equal(s.m[0].end, 0x7f0000003000);
    return s.m[0];
}

static void eligibility_follows_flags_and_names(void **state) {
    static const struct {
        const char *header, *pkey, *flags;
        enum sp_eligible want;
    } cases[] = {
        {"rw-p " ANON, "", "rd wr mr mw me ac", SP_ELIGIBLE},
        {"rw-p " ANON, "", "rd wr mr mw me nr ac sd mg", SP_ELIGIBLE},
        {"rw-p " ANON "      [heap]", "", "rd wr mr mw me ac", SP_ELIGIBLE},
        {"rw-p " ANON, "ProtectionKey:         0\n", "rd wr mr mw me ac", SP_ELIGIBLE},
        {"rw-p " ANON, "ProtectionKey:         3\n", "rd wr mr mw me ac", SP_PKEY},
        {"rw-p " ANON "      [stack]", "", "rd wr mr mw me gd ac", SP_SPECIAL},
        {"rw-p " ANON "      [stack]", "", "rd wr mr mw me ac", SP_SPECIAL},
        {"rw-p " ANON, "", "rd wr mr mw me gd ac", SP_SPECIAL},
        {"r-xp " ANON "      [vdso]", "", "rd ex mr mw me de sd", SP_SPECIAL},
        {"r--p " ANON "      [vvar]", "", "rd mr pf io de dd sd", SP_SPECIAL},
        {"rw-s 00000000 00:06 12   /dev/dri/card0", "", "rd wr sh mr mw me ms pf io de dd", SP_SPECIAL},
        {"rw-p " ANON, "", "rd wr mr mw me ac sl", SP_SPECIAL},
        {"rw-p " ANON, "", "rd wr mr mw me ac dp", SP_SPECIAL},
        {"rw-s 00000000 00:01 1027   /dev/zero (deleted)", "", "rd wr sh mr mw me ms sd", SP_SHARED},
        {"r--s 00000000 fe:00 99   /etc/x y", "", "rd mr me ms sd", SP_SHARED},
        {"rw-p 00000000 fe:00 99   /lib/x.so", "", "rd wr mr mw me ac", SP_FILE},
        {"rw-p 00000000 00:0f 99   /anon_hugepage (deleted)", "", "rd wr mr mw me de ht", SP_HUGETLB},
        {"rwxp " ANON, "", "rd wr ex mr mw me ac", SP_EXECUTABLE},
        {"r-xp " ANON, "", "rd ex mr mw me ac", SP_EXECUTABLE},
        {"r--p " ANON, "", "rd mr mw me ac", SP_PROTECTION},
        {"-w-p " ANON, "", "wr mr mw me ac", SP_PROTECTION},
        {"---p " ANON, "", "mr mw me ac", SP_PROTECTION},
        {"rw-p " ANON, "", "rd wr mr mw me lo ac", SP_LOCKED},
        {"rw-p " ANON, "", "rd wr mr mw me um ac", SP_USERFAULTFD},
        {"rw-p " ANON, "", "rd wr mr mw me uw ac", SP_USERFAULTFD},
        {"rw-p " ANON, "", "rd wr mr mw me ui ac", SP_USERFAULTFD},
        {"rw-p " ANON, "", "rd wr mr mw me wf ac", SP_WIPEONFORK},
        /* Every other reason comes before a userfaultfd, which may be our own. */
        {"rw-p " ANON, "", "rd wr mr mw me wf uw ac", SP_WIPEONFORK},
        {"r--p " ANON, "", "rd mr mw me uw ac", SP_PROTECTION},
        {"rw-p " ANON "      [anon:dalvik main space]", "", "rd wr mr mw me ac", SP_NAMED},
        {"rw-p " ANON "      [anon: x]", "", "rd wr mr mw me lo ac", SP_LOCKED},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct sp_mapping m = one(cases[i].header, cases[i].pkey, cases[i].flags);
        if (m.eligible != cases[i].want)
            print_message("# case %zu: %s\n", i, sp_eligible_text(m.eligible));
        assert_int_equal(m.eligible, cases[i].want);
    }
}

static void protection_and_attributes(void **state) {
    struct sp_mapping m = one("rw-p " ANON, "", "rd wr mr mw me dc dd hg ac");
    assert_int_equal(m.prot, PROT_READ | PROT_WRITE);
    assert_int_equal(m.attributes, SP_ATTR_DONTFORK | SP_ATTR_DONTDUMP | SP_ATTR_HUGEPAGE);
    m = one("r-xp " ANON, "", "rd ex nh");
    assert_int_equal(m.prot, PROT_READ | PROT_EXEC);
    assert_int_equal(m.attributes, SP_ATTR_NOHUGEPAGE);
    m = one("---p " ANON, "", "mr");
    assert_int_equal(m.prot, PROT_NONE);
    assert_int_equal(m.attributes, 0);
}

static void stores_are_known(void **state) {
    struct sp_mapping m = one("rw-p 00002000 00:01 1029       /memfd:samepage (deleted)", "", "rd wr dc ac");
    assert_int_equal(m.eligible, SP_FILE);
    assert_int_equal(m.attributes, SP_ATTR_STORE | SP_ATTR_DONTFORK);
    m = one("rw-s 00002000 00:01 1029       /memfd:samepage (deleted)", "", "rd wr sh ac");
    assert_int_equal(m.eligible, SP_SHARED);
    assert_int_equal(m.attributes, 0);
    m = one("r--s 00002000 00:01 1029       /memfd:samepage-family (deleted)", "", "rd sh");
    assert_int_equal(m.attributes, 0);
    m = one("rw-p 00002000 00:01 1029       /memfd:samepage2 (deleted)", "", "rd wr ac");
    assert_int_equal(m.attributes, 0);
    m = one("rw-p 00002000 00:01 1029       /tmp/memfd:samepage (deleted)", "", "rd wr ac");
    assert_int_equal(m.attributes, 0);
}

struct named {
    struct sp_mapping m;
    char name[300];
};

static bool see_name(void *ctx, const struct sp_mapping *m) {
    struct named *s = ctx;
    s->m = *m;
    strcpy(s->name, m->name);
    return true;
}

static void amounts_and_names(void **state) {
    static const char text[] =
        "7f0000001000-7f0000003000 rw-p " ANON "      [heap]\n"
        "Size:  8 kB\nRss:             123 kB\nPss:  7 kB\nAnonymous:  98765432100 kB\n"
        "AnonHugePages:    2048 kB\nSwap:  16 kB\nSwapPss: 5 kB\nVmFlags: rd wr \n"
        "7f0000003000-7f0000004000 r--p 00000000 fe:00 99   /a file\\012 (deleted)\n"
        "Rss:  0 kB\nVmFlags: rd \n";
    struct named s = {.name = "?"};
    struct sp_smaps p;
    size_t first = (size_t)(strstr(text, "7f0000003000-7f0000004000") - text);
    sp_smaps_init(&p, see_name, &s);
    assert_true(sp_smaps_feed(&p, text, first));
    assert_string_equal(s.name, "[heap]");
    assert_true(s.m.resident_bytes == 123 * 1024 && s.m.anonymous_bytes == UINT64_C(98765432100) * 1024);
    assert_true(s.m.huge_bytes == 2048 * 1024 && s.m.swap_bytes == 16 * 1024);
    assert_true(sp_smaps_feed(&p, text + first, sizeof(text) - 1 - first));
    assert_string_equal(s.name, "/a file\\012 (deleted)");
    assert_true(!s.m.resident_bytes && !s.m.anonymous_bytes && !s.m.huge_bytes && !s.m.swap_bytes);
}

static const char *long_text(void) {
    static char text[16384];
    char path[6000];
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    snprintf(text, sizeof(text),
             "00001000-00002000 rw-p 00000000 fe:00 99   /%s\n" LINES "VmFlags: rd wr ac \n"
             "00002000-00004000 rw-p " ANON "\n" LINES "ProtectionKey: 1\nVmFlags: rd wr ac \n"
             "00004000-00005000 rw-p " ANON "\n" LINES "ProtectionKey: 0\nVmFlags: rd wr ac dd \n"
             "ffffffffff600000-ffffffffff601000 --xp " ANON "       [vsyscall]\n" LINES "VmFlags: ex \n",
             path);
    return text;
}

static void pieces_of_any_size_make_no_difference(void **state) {
    const char *text = long_text();
    size_t length = strlen(text);
    for (size_t piece = 1; piece < 600; piece += piece < 20 ? 1 : 37) {
        struct seen s = {0};
        struct sp_smaps p;
        sp_smaps_init(&p, see, &s);
        for (size_t at = 0; at < length; at += piece)
            assert_true(sp_smaps_feed(&p, text + at, at + piece < length ? piece : length - at));
        assert_int_equal(s.n, 4);
        assert_int_equal(s.m[0].eligible, SP_FILE);
        assert_int_equal(s.m[1].eligible, SP_PKEY);
        assert_int_equal(s.m[2].eligible, SP_ELIGIBLE);
        assert_int_equal(s.m[2].attributes, SP_ATTR_DONTDUMP);
        assert_int_equal(s.m[3].eligible, SP_SPECIAL);
        assert_int_equal(s.m[3].end, 0xffffffffff601000);
    }
}

static void stops_when_told(void **state) {
    struct seen s = {.stop_after = 2};
    struct sp_smaps p;
    sp_smaps_init(&p, see, &s);
    assert_false(sp_smaps_feed(&p, long_text(), strlen(long_text())));
    assert_int_equal(s.n, 2);
    assert_false(sp_smaps_feed(&p, long_text(), strlen(long_text())));
    assert_int_equal(s.n, 2);
}

static void rubbish_reports_nothing(void **state) {
    static const char *const texts[] = {
        "",
        "\n\n\n",
        "VmFlags: rd wr\n",
        "1000\nVmFlags: rd wr\n",
        "1000-2000 rw-p\n", /* no flags */
        "zzz\nVmFlags:\n",
        "1000-2000 rw-p 0 0:0 0\nVmFlags: rd wr", /* the line does not end */
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct seen s = {0};
        struct sp_smaps p;
        sp_smaps_init(&p, see, &s);
        assert_true(sp_smaps_feed(&p, texts[i], strlen(texts[i])));
        assert_int_equal(s.n, 0);
    }
    /* Odd ones must not confuse the reader's place. */
    assert_int_equal(one("", "", "").prot, 0);
    assert_int_equal(one("rw", "", "rd wr x").prot, PROT_READ | PROT_WRITE);
}

static void every_reason_has_a_text(void **state) {
    assert_string_equal(sp_eligible_text(SP_ELIGIBLE), "eligible");
    for (int i = SP_ELIGIBLE; i <= SP_UNTRACKED; i++)
        assert_true(strlen(sp_eligible_text((enum sp_eligible)i)) > 3);
}

#define V(a, b, c) ((uint32_t)(a) << 16 | (uint32_t)(b) << 8 | (uint32_t)(c))

static void old_kernels_move_safely_without_swap_only(void **state) {
    assert_true(sp_move_is_safe(V(6, 8, 0), false));
    assert_false(sp_move_is_safe(V(6, 8, 0), true));
    assert_false(sp_move_is_safe(V(6, 12, 33), true));
    assert_true(sp_move_is_safe(V(6, 12, 34), true));
    assert_true(sp_move_is_safe(V(6, 12, 90), true));
    assert_false(sp_move_is_safe(V(6, 13, 99), true));
    assert_false(sp_move_is_safe(V(6, 14, 11), true));
    assert_false(sp_move_is_safe(V(6, 15, 2), true));
    assert_true(sp_move_is_safe(V(6, 15, 3), true));
    assert_true(sp_move_is_safe(V(6, 16, 0), true));
    assert_true(sp_move_is_safe(V(7, 0, 0), true));
}

static void some_kernels_must_not_move_page_tables(void **state) {
    static const struct {
        uint32_t version;
        bool safe;
    } kernels[] = {{V(6, 5, 13), true}, {V(6, 6, 0), false},   {V(6, 6, 56), false}, {V(6, 6, 57), true},
                   {V(6, 8, 0), false}, {V(6, 10, 14), false}, {V(6, 11, 3), false}, {V(6, 11, 4), true},
                   {V(6, 12, 0), true}, {V(6, 18, 44), true}};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        assert_int_equal(sp_remap_is_safe(kernels[i].version), kernels[i].safe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eligibility_follows_flags_and_names),
        cmocka_unit_test(protection_and_attributes),
        cmocka_unit_test(stores_are_known),
        cmocka_unit_test(amounts_and_names),
        cmocka_unit_test(pieces_of_any_size_make_no_difference),
        cmocka_unit_test(stops_when_told),
        cmocka_unit_test(rubbish_reports_nothing),
        cmocka_unit_test(every_reason_has_a_text),
        cmocka_unit_test(old_kernels_move_safely_without_swap_only),
        cmocka_unit_test(some_kernels_must_not_move_page_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
