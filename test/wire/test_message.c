/* SPDX-License-Identifier: MIT */
/*
 * Validation of messages: for each type one valid message is accepted as it is and refused with each of its
 * fields made wrong, one at a time; then random damage, in a buffer of exactly the message's size, so that a
 * sanitizer sees every read beyond it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/domain.h"
#include "wire/message.h"

#define BUFFER_BYTES (160 * 1024)

struct sample {
    enum sp_wire_type type;
    enum sp_wire_direction direction;
    size_t bytes, n_fds;
    _Alignas(16) uint8_t data[BUFFER_BYTES];
};

static uint64_t random_state;

static uint64_t random_next(void) {
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void begin(struct sample *s, enum sp_wire_type type, size_t bytes, size_t n_fds) {
    memset(s->data, 0, sizeof s->data);
    s->type = type;
    s->direction = type < SP_WIRE_WELCOME ? SP_WIRE_TO_DAEMON : SP_WIRE_TO_CLIENT;
    s->bytes = bytes;
    s->n_fds = n_fds;
    sp_wire_header_init((struct sp_wire_header *)s->data, type, bytes, 7);
}

static void sample_queries(struct sample *s, enum sp_wire_type type, uint32_t n) {
    begin(s, type, sizeof(struct sp_wire_queries) + n * sizeof(struct sp_wire_query), 0);
    struct sp_wire_queries *m = (struct sp_wire_queries *)s->data;
    m->n = n;
    for (uint32_t i = 0; i < n; i++)
        m->query[i] = (struct sp_wire_query){.page = 1000 + i, .fp = 77 + i};
}

static void sample_publish(struct sample *s, uint32_t n, uint32_t contents) {
    begin(s, SP_WIRE_PUBLISH,
          sizeof(struct sp_wire_publish) + n * sizeof(struct sp_wire_item) + contents * SP_PAGE_SIZE, 0);
    struct sp_wire_publish *m = (struct sp_wire_publish *)s->data;
    m->n = n;
    m->contents = contents;
    for (uint32_t i = 0; i < n; i++)
        m->item[i] = (struct sp_wire_item){
            .page = 5 + i, .fp = 9 + i, .flags = i < contents ? SP_WIRE_ITEM_CONTENT : 0};
}

static void sample_release(struct sample *s, uint32_t n, size_t n_fds) {
    begin(s, SP_WIRE_RELEASE, sizeof(struct sp_wire_release) + n * sizeof(struct sp_wire_run), n_fds);
    struct sp_wire_release *m = (struct sp_wire_release *)s->data;
    m->epoch = 1;
    m->n = n;
    for (uint32_t i = 0; i < n; i++)
        m->run[i] = (struct sp_wire_run){.first = 10 * i, .pages = 3};
}

static void sample_answers(struct sample *s, uint32_t n) {
    begin(s, SP_WIRE_ANSWERS, sizeof(struct sp_wire_answers) + n * sizeof(struct sp_wire_answer), 0);
    struct sp_wire_answers *m = (struct sp_wire_answers *)s->data;
    m->n = n;
    for (uint32_t i = 0; i < n; i++)
        m->answer[i] =
            (struct sp_wire_answer){.kind = i % 4, .store = i % 4 == SP_ANSWER_SHARE ? i : UINT64_MAX};
}

static void sample_hints(struct sample *s, uint32_t n) {
    begin(s, SP_WIRE_HINT, sizeof(struct sp_wire_hints) + n * sizeof(struct sp_wire_hint), 0);
    struct sp_wire_hints *m = (struct sp_wire_hints *)s->data;
    m->n = n;
    for (uint32_t i = 0; i < n; i++)
        m->hint[i].window = i;
}

static void settings_fill(uint64_t *ret) {
    struct sp_settings settings;
    sp_settings_init(&settings);
    memcpy(ret, settings.v, sizeof settings.v);
}

static void sample_welcome(struct sample *s) {
    begin(s, SP_WIRE_WELCOME, sizeof(struct sp_wire_welcome), 1);
    struct sp_wire_welcome *m = (struct sp_wire_welcome *)s->data;
    m->client = 3;
    m->settings_number = 1;
    settings_fill(m->settings);
}

static void sample_settings(struct sample *s) {
    begin(s, SP_WIRE_SETTINGS, sizeof(struct sp_wire_settings), 0);
    struct sp_wire_settings *m = (struct sp_wire_settings *)s->data;
    m->number = 1;
    settings_fill(m->settings);
}

static void sample_set(struct sample *s) {
    begin(s, SP_WIRE_SET, sizeof(struct sp_wire_set), 0);
    struct sp_wire_set *m = (struct sp_wire_set *)s->data;
    m->uid = 1000;
    m->given = (uint64_t)1 << SP_SETTING_run | (uint64_t)1 << SP_SETTING_map_percent;
    m->settings[SP_SETTING_run] = 2;
    m->settings[SP_SETTING_map_percent] = 10;
}

static void sample_refused(struct sample *s) {
    begin(s, SP_WIRE_REFUSED, sizeof(struct sp_wire_refused), 0);
    ((struct sp_wire_refused *)s->data)->error = -EACCES;
}

/* One valid message of each type. Returns false beyond the last. */
static bool sample_make(struct sample *s, unsigned which) {
    switch (which) {
    case 0:
        begin(s, SP_WIRE_HELLO, sizeof(struct sp_wire_hello), 1);
        return true;
    case 1:
        sample_queries(s, SP_WIRE_ASK, SP_WIRE_QUERIES_MAX);
        return true;
    case 2:
        sample_publish(s, SP_WIRE_PUBLISH_MAX, SP_WIRE_PUBLISH_MAX);
        return true;
    case 3:
        sample_queries(s, SP_WIRE_FORGET, 1);
        return true;
    case 4:
        sample_release(s, SP_WIRE_RUNS_MAX, 1);
        return true;
    case 5:
        begin(s, SP_WIRE_SEGMENT, sizeof(struct sp_wire_segment), 0);
        return true;
    case 6:
        begin(s, SP_WIRE_REPORT, sizeof(struct sp_wire_report), 0);
        return true;
    case 7:
        begin(s, SP_WIRE_UFFD_ENABLE, sizeof(struct sp_wire_empty), 1);
        return true;
    case 8:
        begin(s, SP_WIRE_STATUS, sizeof(struct sp_wire_empty), 0);
        return true;
    case 9:
        sample_welcome(s);
        return true;
    case 10:
        sample_answers(s, SP_WIRE_QUERIES_MAX);
        return true;
    case 11:
        begin(s, SP_WIRE_RESULT, sizeof(struct sp_wire_result), 0);
        return true;
    case 12:
        begin(s, SP_WIRE_RELEASED, sizeof(struct sp_wire_released), 0);
        return true;
    case 13:
        begin(s, SP_WIRE_SEGMENT_FD, sizeof(struct sp_wire_segment_fd), 1);
        return true;
    case 14:
        begin(s, SP_WIRE_REPORTED, sizeof(struct sp_wire_reported), 0);
        return true;
    case 15:
        sample_hints(s, SP_WIRE_HINTS_MAX);
        return true;
    case 16:
        begin(s, SP_WIRE_PAUSE, sizeof(struct sp_wire_pause), 0);
        return true;
    case 17:
        sample_refused(s);
        return true;
    case 18:
        begin(s, SP_WIRE_STATUS_DAEMON, sizeof(struct sp_wire_status_daemon), 0);
        settings_fill(((struct sp_wire_status_daemon *)s->data)->settings);
        return true;
    case 19:
        begin(s, SP_WIRE_STATUS_DOMAIN, sizeof(struct sp_wire_status_domain), 0);
        settings_fill(((struct sp_wire_status_domain *)s->data)->settings);
        ((struct sp_wire_status_domain *)s->data)->settings_number = 1;
        return true;
    case 20:
        begin(s, SP_WIRE_STATUS_CLIENTS,
              sizeof(struct sp_wire_status_clients) + 2 * sizeof(struct sp_wire_client), 0);
        ((struct sp_wire_status_clients *)s->data)->n = 2;
        return true;
    case 21:
        begin(s, SP_WIRE_STATUS_END, sizeof(struct sp_wire_empty), 0);
        return true;
    case 22:
        sample_set(s);
        return true;
    case 23:
        sample_settings(s);
        return true;
    case 24:
        begin(s, SP_WIRE_FILES, sizeof(struct sp_wire_empty), 1);
        return true;
    case 25:
        begin(s, SP_WIRE_GET, sizeof(struct sp_wire_empty), 0);
        return true;
    default:
        return false;
    }
}

/* Checks a copy that ends where the message ends. */
static int check_exact(const struct sample *s) {
    const char *reason = NULL;
    size_t bytes = s->bytes <= BUFFER_BYTES ? s->bytes : BUFFER_BYTES;
    void *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, s->data, bytes);
    int r = sp_wire_check(copy, bytes, s->n_fds, s->direction, &reason);
    free(copy);
    if (r) {
        assert_true(r == -EBADMSG || r == -EPROTONOSUPPORT);
        assert_non_null(reason);
    }
    return r;
}

static struct sample sample;

#define SET(type, field, value) (((struct type *)sample.data)->field = (value))
#define REFUSED()                                                                                            \
    do {                                                                                                     \
        assert_int_equal(check_exact(&sample), -EBADMSG);                                                    \
    } while (0)

static void test_valid(void **state) {
    unsigned n = 0;
    for (; sample_make(&sample, n); n++) {
        if (check_exact(&sample))
            fail_msg("a valid %s was refused", sp_wire_type_name(sample.type));
        assert_string_not_equal(sp_wire_type_name(sample.type), "unknown");
    }
    assert_int_equal(n, 26);
    assert_string_equal(sp_wire_type_name(0), "unknown");
    assert_string_equal(sp_wire_type_name(9999), "unknown");
}

static void test_envelope(void **state) {
    for (unsigned i = 0; sample_make(&sample, i); i++) {
        SET(sp_wire_header, magic, 1);
        REFUSED();
        sample_make(&sample, i);
        SET(sp_wire_header, version, SP_WIRE_VERSION + 1);
        assert_int_equal(check_exact(&sample), -EPROTONOSUPPORT);
        sample_make(&sample, i);
        SET(sp_wire_header, type, 31);
        REFUSED();
        SET(sp_wire_header, type, 0);
        REFUSED();
        SET(sp_wire_header, type, UINT16_MAX);
        REFUSED();
        sample_make(&sample, i);
        SET(sp_wire_header, bytes, (uint32_t)sample.bytes + 1);
        REFUSED();
        sample_make(&sample, i);
        sample.direction = sample.direction == SP_WIRE_TO_DAEMON ? SP_WIRE_TO_CLIENT : SP_WIRE_TO_DAEMON;
        REFUSED();
        sample_make(&sample, i);
        sample.n_fds = 2;
        REFUSED();
    }
}

static void test_sizes(void **state) {
    for (unsigned i = 0; sample_make(&sample, i); i++) {
        size_t right = sample.bytes;
        for (size_t bytes = 0; bytes < right + 4; bytes += bytes < 64 || bytes + 64 > right ? 1 : 61) {
            sample_make(&sample, i);
            sample.bytes = bytes;
            SET(sp_wire_header, bytes, (uint32_t)bytes);
            if (bytes != right)
                REFUSED();
        }
    }
}

static void test_requests_have_sequences(void **state) {
    for (unsigned i = 0; sample_make(&sample, i); i++) {
        SET(sp_wire_header, sequence, 0);
        assert_int_equal(check_exact(&sample), sample.direction == SP_WIRE_TO_DAEMON ? -EBADMSG : 0);
    }
}

static void test_descriptors(void **state) {
    sample_make(&sample, 0);
    sample.n_fds = 0;
    REFUSED();
    sample_queries(&sample, SP_WIRE_ASK, 1);
    sample.n_fds = 1;
    REFUSED();
    sample_release(&sample, 1, 0);
    assert_int_equal(check_exact(&sample), 0);
    sample_make(&sample, 7);
    sample.n_fds = 0;
    REFUSED();
    sample_make(&sample, 13);
    sample.n_fds = 0; /* success without a descriptor */
    REFUSED();
    SET(sp_wire_segment_fd, result, -ENOENT);
    assert_int_equal(check_exact(&sample), 0);
    sample.n_fds = 1; /* failure with one */
    REFUSED();
}

static void test_hello(void **state) {
    sample_make(&sample, 0);
    SET(sp_wire_hello, reserved, 1);
    REFUSED();
    sample_make(&sample, 0);
    SET(sp_wire_hello, state, SP_WIRE_STATE_FAMILY);
    REFUSED();
    sample_make(&sample, 0);
    memset(((struct sp_wire_hello *)sample.data)->name, 'x', SP_WIRE_NAME_BYTES);
    REFUSED();
}

static void test_queries(void **state) {
    static const enum sp_wire_type types[] = {SP_WIRE_ASK, SP_WIRE_FORGET};
    for (size_t i = 0; i < 2; i++) {
        sample_queries(&sample, types[i], 4);
        SET(sp_wire_queries, n, 3);
        REFUSED();
        SET(sp_wire_queries, n, 5);
        REFUSED();
        SET(sp_wire_queries, n, UINT32_MAX);
        REFUSED();
        sample_queries(&sample, types[i], 0);
        REFUSED();
        sample_queries(&sample, types[i], SP_WIRE_QUERIES_MAX + 1);
        REFUSED();
        sample_queries(&sample, types[i], 4);
        SET(sp_wire_queries, guessed_wrong, 1);
        assert_int_equal(check_exact(&sample), types[i] == SP_WIRE_ASK ? 0 : -EBADMSG);
        sample_queries(&sample, types[i], 4);
        SET(sp_wire_queries, query[3].page, SP_WIRE_PAGE_LIMIT);
        REFUSED();
        sample_queries(&sample, types[i], 4);
        SET(sp_wire_queries, query[3].fp, 0);
        REFUSED();
        sample_queries(&sample, types[i], 4);
        SET(sp_wire_queries, query[3].probe, 2);
        assert_int_equal(check_exact(&sample), 0);
        SET(sp_wire_queries, query[3].probe, 3);
        REFUSED();
    }
}

static void test_publish(void **state) {
    sample_publish(&sample, 4, 2);
    assert_int_equal(check_exact(&sample), 0);
    assert_ptr_equal(sp_wire_publish_contents((struct sp_wire_publish *)sample.data),
                     sample.data + sample.bytes - 2 * SP_PAGE_SIZE);
    SET(sp_wire_publish, n, 3);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, contents, 3);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, contents, UINT32_MAX);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, item[3].flags, SP_WIRE_ITEM_CONTENT); /* one more than there are contents */
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, item[0].flags, 0);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, item[0].flags, SP_WIRE_ITEM_CONTENT | 4);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, item[2].reserved, 1);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, item[2].page, SP_WIRE_PAGE_LIMIT);
    REFUSED();
    sample_publish(&sample, 4, 2);
    SET(sp_wire_publish, item[2].fp, 0);
    REFUSED();
    sample_publish(&sample, 0, 0);
    REFUSED();
    sample_publish(&sample, SP_WIRE_PUBLISH_MAX + 1, 1);
    REFUSED();
}

static void test_release(void **state) {
    sample_release(&sample, 3, 1);
    SET(sp_wire_release, epoch, 0);
    REFUSED();
    sample_release(&sample, 3, 1);
    SET(sp_wire_release, n, 4);
    REFUSED();
    sample_release(&sample, 3, 1);
    SET(sp_wire_release, reserved, 4);
    REFUSED();
    sample_release(&sample, 0, 1);
    REFUSED();
    sample_release(&sample, SP_WIRE_RUNS_MAX + 1, 1);
    REFUSED();
    sample_release(&sample, 3, 1);
    SET(sp_wire_release, run[2].pages, 0);
    REFUSED();
    SET(sp_wire_release, run[2].pages, UINT64_MAX);
    REFUSED();
    SET(sp_wire_release, run[2].pages, SP_WIRE_PAGE_LIMIT);
    REFUSED();
    SET(sp_wire_release, run[2].pages, 1);
    SET(sp_wire_release, run[2].first, UINT64_MAX);
    REFUSED();
}

static void test_replies(void **state) {
    sample_answers(&sample, 8);
    SET(sp_wire_answers, answer[0].kind, SP_ANSWER_REFINE + 1);
    REFUSED();
    sample_answers(&sample, 8);
    SET(sp_wire_answers, answer[1].store, SP_WIRE_PAGE_LIMIT);
    REFUSED();
    sample_answers(&sample, 8);
    SET(sp_wire_answers, answer[0].store, 1); /* a place without a reference */
    REFUSED();
    sample_answers(&sample, 8);
    SET(sp_wire_answers, answer[7].reserved, 1);
    REFUSED();
    sample_answers(&sample, 8);
    SET(sp_wire_answers, n, 9);
    REFUSED();
    sample_answers(&sample, 8);
    SET(sp_wire_answers, reserved, 9);
    REFUSED();
    sample_make(&sample, 11);
    SET(sp_wire_result, result, 1);
    REFUSED();
    SET(sp_wire_result, result, -4096);
    REFUSED();
    sample_make(&sample, 11);
    SET(sp_wire_result, reserved, 1);
    REFUSED();
    sample_make(&sample, 12);
    SET(sp_wire_released, epoch_end, 2);
    REFUSED();
    sample_make(&sample, 12);
    SET(sp_wire_released, result, 2);
    REFUSED();
    for (unsigned i = 14; i <= 16; i += 2) {
        sample_make(&sample, i);
        SET(sp_wire_pause, pause, 2);
        REFUSED();
        sample_make(&sample, i);
        SET(sp_wire_pause, reserved, 2);
        REFUSED();
    }
}

static void test_unasked(void **state) {
    sample_hints(&sample, 4);
    SET(sp_wire_hints, n, 3);
    REFUSED();
    sample_hints(&sample, 4);
    SET(sp_wire_hints, reserved, 3);
    REFUSED();
    sample_hints(&sample, SP_WIRE_HINTS_MAX + 1);
    REFUSED();
    sample_hints(&sample, 4);
    SET(sp_wire_hints, hint[3].window, SP_WIRE_HINT_ALL);
    assert_int_equal(check_exact(&sample), 0);
    SET(sp_wire_hints, hint[3].window, SP_WIRE_HINT_ALL - 1);
    REFUSED();
    sample_refused(&sample);
    SET(sp_wire_refused, error, 0);
    REFUSED();
    sample_refused(&sample);
    SET(sp_wire_refused, reserved, 1);
    REFUSED();
    sample_refused(&sample);
    memset(((struct sp_wire_refused *)sample.data)->text, 'x', SP_WIRE_TEXT_BYTES);
    REFUSED();
}

static void test_welcome(void **state) {
    sample_welcome(&sample);
    SET(sp_wire_welcome, client, 0);
    REFUSED();
    SET(sp_wire_welcome, client, SP_CLIENTS_MAX);
    REFUSED();
    sample_welcome(&sample);
    SET(sp_wire_welcome, pause, 2);
    REFUSED();
    sample_welcome(&sample);
    SET(sp_wire_welcome, settings_number, 0);
    REFUSED();
    sample_welcome(&sample);
    SET(sp_wire_welcome, reserved, 1);
    REFUSED();
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        sample_welcome(&sample);
        SET(sp_wire_welcome, settings[i], UINT64_MAX);
        REFUSED();
    }
}

static void test_set(void **state) {
    sample_set(&sample);
    SET(sp_wire_set, all, 2);
    REFUSED();
    SET(sp_wire_set, all, 1); /* all, and one of them */
    REFUSED();
    SET(sp_wire_set, uid, 0);
    assert_int_equal(check_exact(&sample), 0);
    SET(sp_wire_set, given, 0);
    REFUSED(); /* there are values */
    SET(sp_wire_set, settings[SP_SETTING_run], 0);
    SET(sp_wire_set, settings[SP_SETTING_map_percent], 0);
    assert_int_equal(check_exact(&sample), 0);
    sample_set(&sample);
    SET(sp_wire_set, given, (uint64_t)1 << SP_SETTING_COUNT | 1);
    REFUSED();
    SET(sp_wire_set, given, UINT64_MAX);
    REFUSED();
    sample_set(&sample);
    SET(sp_wire_set, settings[SP_SETTING_run], 3);
    REFUSED();
    sample_set(&sample);
    SET(sp_wire_set, settings[SP_SETTING_freeze_micros], 100); /* a value for what is not given */
    REFUSED();
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        sample_set(&sample);
        SET(sp_wire_set, given, ((struct sp_wire_set *)sample.data)->given | (uint64_t)1 << i);
        SET(sp_wire_set, settings[i], sp_setting_info[i].value_max + 1);
        REFUSED();
        SET(sp_wire_set, settings[i], sp_setting_info[i].value_max);
        assert_int_equal(check_exact(&sample), 0);
    }
}

static void test_settings(void **state) {
    sample_settings(&sample);
    SET(sp_wire_settings, number, 0);
    REFUSED();
    sample_settings(&sample);
    SET(sp_wire_settings, reserved, 1);
    REFUSED();
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        sample_settings(&sample);
        SET(sp_wire_settings, settings[i], UINT64_MAX);
        REFUSED();
        sample_make(&sample, 18);
        SET(sp_wire_status_daemon, settings[i], UINT64_MAX);
        REFUSED();
        sample_make(&sample, 19);
        SET(sp_wire_status_domain, settings[i], UINT64_MAX);
        REFUSED();
    }
    sample_make(&sample, 18);
    SET(sp_wire_status_daemon, control, 2);
    REFUSED();
    sample_make(&sample, 19);
    SET(sp_wire_status_domain, settings_number, 0);
    REFUSED();
    sample_make(&sample, 20);
    SET(sp_wire_status_clients, client[1].settled, 2);
    REFUSED();
    sample_make(&sample, 20);
    SET(sp_wire_status_clients, client[0].reserved, 1);
    REFUSED();
    sample_make(&sample, 20);
    SET(sp_wire_status_clients, reserved, 1);
    REFUSED();
    sample_make(&sample, 6);
    SET(sp_wire_report, settled, 2);
    REFUSED();
}

static void test_others(void **state) {
    sample_make(&sample, 5);
    SET(sp_wire_segment, segment, UINT64_MAX);
    REFUSED();
    sample_make(&sample, 6);
    SET(sp_wire_report, state, SP_WIRE_STATES_MAX);
    REFUSED();
    sample_make(&sample, 13);
    SET(sp_wire_segment_fd, segment, UINT64_MAX);
    REFUSED();
    sample_make(&sample, 13);
    SET(sp_wire_segment_fd, reserved, 1);
    REFUSED();
    sample_make(&sample, 13);
    SET(sp_wire_segment_fd, result, 1);
    REFUSED();
    sample_make(&sample, 20);
    SET(sp_wire_status_clients, client[1].state, SP_WIRE_STATES_MAX);
    REFUSED();
    SET(sp_wire_status_clients, client[1].state, SP_WIRE_STATE_FAMILY);
    assert_int_equal(check_exact(&sample), 0);
    memset(((struct sp_wire_status_clients *)sample.data)->client[1].name, 'x', SP_WIRE_NAME_BYTES);
    REFUSED();
}

/* What was accepted after damage must still be safe to use: counts fit. */
static void assert_usable(const struct sample *s) {
    const struct sp_wire_header *h = (const struct sp_wire_header *)s->data;
    if (h->type == SP_WIRE_PUBLISH) {
        const struct sp_wire_publish *m = (const void *)s->data;
        size_t contents = 0;
        for (size_t i = 0; i < m->n; i++)
            contents += m->item[i].flags & SP_WIRE_ITEM_CONTENT;
        assert_ptr_equal(sp_wire_publish_contents(m) + contents * SP_PAGE_SIZE, s->data + s->bytes);
    }
    if (h->type == SP_WIRE_ASK)
        assert_int_equal(sizeof(struct sp_wire_queries) +
                             ((const struct sp_wire_queries *)h)->n * sizeof(struct sp_wire_query),
                         s->bytes);
    if (h->type == SP_WIRE_STATUS_CLIENTS)
        assert_int_equal(sizeof(struct sp_wire_status_clients) +
                             ((const struct sp_wire_status_clients *)h)->n * sizeof(struct sp_wire_client),
                         s->bytes);
}

static void test_fuzz(void **state) {
    size_t accepted = 0, refused = 0;
    random_state = 1;
    for (unsigned round = 0; round < 60000; round++) {
        sample_make(&sample, (unsigned)(random_next() % 26));
        if (sample.bytes > 4096 && random_next() % 8)
            continue;
        for (uint64_t n = 1 + random_next() % 4; n; n--) {
            /* Mostly the head, where the fields are. */
            size_t at = random_next() % (random_next() % 2 && sample.bytes > 64 ? 64 : sample.bytes);
            sample.data[at] = (uint8_t)(random_next() % 2 ? random_next() : 1u << random_next() % 8);
        }
        if (random_next() % 4 == 0) {
            sample.bytes = random_next() % (sample.bytes + 32);
            SET(sp_wire_header, bytes, (uint32_t)sample.bytes);
        }
        if (check_exact(&sample) == 0) {
            assert_usable(&sample);
            accepted++;
        } else {
            refused++;
        }
    }
    assert_true(accepted > 100 && refused > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),       cmocka_unit_test(test_envelope),
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_requests_have_sequences),
        cmocka_unit_test(test_descriptors), cmocka_unit_test(test_hello),
        cmocka_unit_test(test_queries),     cmocka_unit_test(test_publish),
        cmocka_unit_test(test_release),     cmocka_unit_test(test_replies),
        cmocka_unit_test(test_unasked),     cmocka_unit_test(test_welcome),
        cmocka_unit_test(test_set),         cmocka_unit_test(test_settings),
        cmocka_unit_test(test_others),      cmocka_unit_test(test_fuzz),
    };
    return cmocka_run_group_tests_name("wire/message", tests, NULL, NULL);
}
