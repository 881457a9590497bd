/* SPDX-License-Identifier: MIT */
/*
 * Validation of messages: one table of types, and a function for each layout that has fields to look at. The
 * sizes are checked by the table before such a function runs; it may read the fixed part of its message, and
 * reads the counted part only after it has found that the count fits.
 *
 * Pure: nothing here makes a system call, allocates or logs. Runs in the daemon and in the worker.
 */
#include "wire/message.h"

#include <errno.h>
#include <string.h>

#include "core/domain.h"

_Static_assert(sizeof(struct sp_wire_header) == 16, "layout");
_Static_assert(sizeof(struct sp_wire_hello) == 40, "layout");
_Static_assert(sizeof(struct sp_wire_item) == 24, "layout");
_Static_assert(sizeof(struct sp_wire_answer) == 16, "layout");
_Static_assert(sizeof(struct sp_wire_hint) == 72, "layout");
_Static_assert(SP_WIRE_TO_DAEMON_MAX <= (size_t)136 * 1024, "fits SP_SOCKET_MESSAGE_MAX");
_Static_assert(SP_WIRE_TO_CLIENT_MAX >= sizeof(struct sp_wire_status_domain), "fits the client's buffer");
_Static_assert(SP_WIRE_TO_CLIENT_MAX >= sizeof(struct sp_wire_status_clients) +
                                            SP_WIRE_CLIENTS_MAX * sizeof(struct sp_wire_client),
               "the same");
_Static_assert(SP_WIRE_TO_CLIENT_MAX >= sizeof(struct sp_wire_hints) + SP_WIRE_HINTS_MAX * 72, "the same");

/* Returns NULL, or what is wrong. */
typedef const char *(*check_fn)(const void *message, size_t bytes, size_t n_fds);

struct type_info {
    const char *name; /* NULL: no such type */
    enum sp_wire_direction direction;
    size_t bytes_min, bytes_max;
    size_t fds_min, fds_max;
    check_fn check; /* NULL: no fields to look at */
};

static const char bad_reserved[] = "a reserved field is not 0";
static const char bad_count[] = "a count does not fit the size";
static const char bad_page[] = "a page is out of range";
static const char bad_fp[] = "a fingerprint is 0";
static const char bad_result[] = "a result is not 0 and no error number";
static const char bad_bool[] = "a flag is neither 0 nor 1";
static const char bad_text[] = "a string is not terminated";
static const char bad_setting[] = "a setting is out of range";
static const char bad_state[] = "an unknown state";

static bool result_ok(int32_t result) {
    return result <= 0 && result > -4096;
}

static bool text_ok(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (!text[i])
            return true;
    return false;
}

/* Whether `n` elements of `each` bytes fill the message after its fixed part exactly. */
static bool count_ok(size_t bytes, size_t fixed, size_t n, size_t each, size_t n_max) {
    return n >= 1 && n <= n_max && bytes == fixed + n * each;
}

static const char *check_hello(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_hello *m = message;
    if (m->reserved)
        return bad_reserved;
    if (m->state >= SP_WIRE_STATES_MAX)
        return bad_state;
    return text_ok(m->name, sizeof m->name) ? NULL : bad_text;
}

static const char *check_values(uint32_t number, uint32_t reserved, const uint64_t *settings) {
    struct sp_settings s;
    if (reserved)
        return bad_reserved;
    if (!number)
        return "settings without a number";
    memcpy(s.v, settings, sizeof s.v);
    return sp_settings_check(&s) ? bad_setting : NULL;
}

static const char *check_welcome(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_welcome *m = message;
    if (m->client == 0 || m->client >= SP_CLIENTS_MAX)
        return "a client number out of range";
    if (m->pause > 1)
        return bad_bool;
    return check_values(m->settings_number, m->reserved, m->settings);
}

static const char *check_settings(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_settings *m = message;
    return check_values(m->number, m->reserved, m->settings);
}

static const char *check_set(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_set *m = message;
    struct sp_settings s;
    if (m->all > 1)
        return bad_bool;
    if (m->all && m->uid)
        return bad_reserved;
    if (m->given >> SP_SETTING_COUNT)
        return "an unknown setting";
    sp_settings_init(&s);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        if (m->given >> i & 1)
            s.v[i] = m->settings[i];
        else if (m->settings[i])
            return bad_reserved;
    }
    return sp_settings_check(&s) ? bad_setting : NULL;
}

static const char *check_queries(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_queries *m = message;
    if (m->guessed_wrong && m->header.type != SP_WIRE_ASK)
        return bad_reserved;
    if (!count_ok(bytes, sizeof *m, m->n, sizeof m->query[0], SP_WIRE_QUERIES_MAX))
        return bad_count;
    for (size_t i = 0; i < m->n; i++) {
        if (m->query[i].page >= SP_WIRE_PAGE_LIMIT)
            return bad_page;
        if (!m->query[i].fp || sp_fp_whole((sp_fp){m->query[i].probe}))
            return bad_fp;
    }
    return NULL;
}

static const char *check_item(const struct sp_wire_item *item) {
    if (item->reserved)
        return bad_reserved;
    if (item->page >= SP_WIRE_PAGE_LIMIT)
        return bad_page;
    if (!item->fp)
        return bad_fp;
    return item->flags & ~(SP_WIRE_ITEM_CONTENT | SP_WIRE_ITEM_WHOLE) ? "an unknown flag" : NULL;
}

static const char *check_publish(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_publish *m = message;
    size_t contents = 0;
    if (m->n < 1 || m->n > SP_WIRE_PUBLISH_MAX || m->contents > m->n)
        return bad_count;
    if (bytes != sizeof *m + m->n * sizeof m->item[0] + m->contents * SP_PAGE_SIZE)
        return bad_count;
    for (size_t i = 0; i < m->n; i++) {
        const char *reason = check_item(&m->item[i]);
        if (reason)
            return reason;
        contents += m->item[i].flags & SP_WIRE_ITEM_CONTENT;
    }
    return contents == m->contents ? NULL : "the number of contents is not that of the items";
}

static const char *check_answers(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_answers *m = message;
    if (m->reserved)
        return bad_reserved;
    if (!count_ok(bytes, sizeof *m, m->n, sizeof m->answer[0], SP_WIRE_QUERIES_MAX))
        return bad_count;
    for (size_t i = 0; i < m->n; i++) {
        const struct sp_wire_answer *a = &m->answer[i];
        if (a->reserved)
            return bad_reserved;
        if (a->kind > SP_ANSWER_REFINE)
            return "an unknown answer";
        if (a->kind == SP_ANSWER_SHARE ? a->store >= SP_WIRE_PAGE_LIMIT : a->store != UINT64_MAX)
            return "a store page is out of range";
    }
    return NULL;
}

static const char *check_result(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_result *m = message;
    if (m->reserved)
        return bad_reserved;
    return result_ok(m->result) ? NULL : bad_result;
}

static const char *check_release(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_release *m = message;
    if (m->reserved)
        return bad_reserved;
    if (!m->epoch)
        return "epochs begin at 1";
    if (!count_ok(bytes, sizeof *m, m->n, sizeof m->run[0], SP_WIRE_RUNS_MAX))
        return bad_count;
    for (size_t i = 0; i < m->n; i++) {
        const struct sp_wire_run *r = &m->run[i];
        if (r->first >= SP_WIRE_PAGE_LIMIT || r->pages < 1 || r->pages > SP_WIRE_PAGE_LIMIT - r->first)
            return "a run of store pages is out of range";
    }
    return NULL;
}

static const char *check_released(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_released *m = message;
    if (m->epoch_end > 1)
        return bad_bool;
    return result_ok(m->result) ? NULL : bad_result;
}

static const char *check_segment(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_segment *m = message;
    return m->segment < SP_WIRE_PAGE_LIMIT / SP_SEGMENT_PAGES ? NULL : "a segment is out of range";
}

static const char *check_segment_fd(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_segment_fd *m = message;
    if (m->reserved)
        return bad_reserved;
    if (m->segment >= SP_WIRE_PAGE_LIMIT / SP_SEGMENT_PAGES)
        return "a segment is out of range";
    if (!result_ok(m->result))
        return bad_result;
    return (m->result == 0) == (n_fds == 1) ? NULL : "a descriptor without success, or success without one";
}

static const char *check_report(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_report *m = message;
    if (m->settled > 1)
        return bad_bool;
    return m->state < SP_WIRE_STATES_MAX ? NULL : bad_state;
}

/* Both begin the same. */
static const char *check_pause(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_pause *m = message;
    if (m->reserved)
        return bad_reserved;
    return m->pause <= 1 ? NULL : bad_bool;
}

static const char *check_hints(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_hints *m = message;
    if (m->reserved)
        return bad_reserved;
    if (!count_ok(bytes, sizeof *m, m->n, sizeof m->hint[0], SP_WIRE_HINTS_MAX))
        return bad_count;
    for (size_t i = 0; i < m->n; i++)
        if (m->hint[i].window >= SP_WIRE_PAGE_LIMIT / SP_WINDOW_PAGES &&
            m->hint[i].window != SP_WIRE_HINT_ALL)
            return bad_page;
    return NULL;
}

static const char *check_refused(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_refused *m = message;
    if (m->reserved)
        return bad_reserved;
    if (!result_ok(m->error) || !m->error)
        return bad_result;
    return text_ok(m->text, sizeof m->text) ? NULL : bad_text;
}

static const char *check_status_daemon(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_status_daemon *m = message;
    return m->control > 1 ? bad_bool : check_values(1, m->reserved, m->settings);
}

static const char *check_status_domain(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_status_domain *m = message;
    return check_values(m->settings_number, m->reserved, m->settings);
}

static const char *check_client(const struct sp_wire_client *m) {
    if (m->state >= SP_WIRE_STATES_MAX && m->state != SP_WIRE_STATE_FAMILY)
        return bad_state;
    if (m->settled > 1)
        return bad_bool;
    if (m->reserved)
        return bad_reserved;
    return text_ok(m->name, sizeof m->name) ? NULL : bad_text;
}

static const char *check_status_clients(const void *message, size_t bytes, size_t n_fds) {
    const struct sp_wire_status_clients *m = message;
    if (m->reserved)
        return bad_reserved;
    if (!count_ok(bytes, sizeof *m, m->n, sizeof m->client[0], SP_WIRE_CLIENTS_MAX))
        return bad_count;
    const char *reason = NULL;
    for (size_t i = 0; !reason && i < m->n; i++)
        reason = check_client(&m->client[i]);
    return reason;
}

/* A type with a fixed size, and one with a counted part. */
#define FIXED(NAME, dir, type, fds_lo, fds_hi, fn)                                                           \
    [SP_WIRE_##NAME] = {#NAME, dir, sizeof(struct type), sizeof(struct type), fds_lo, fds_hi, fn}
#define COUNTED(NAME, dir, type, most, each, fds_hi, fn)                                                     \
    [SP_WIRE_##NAME] = {#NAME, dir, sizeof(struct type), sizeof(struct type) + (most) * (each), 0, fds_hi, fn}

static const struct type_info types[] = {
    FIXED(HELLO, SP_WIRE_TO_DAEMON, sp_wire_hello, 1, 1, check_hello),
    COUNTED(ASK, SP_WIRE_TO_DAEMON, sp_wire_queries, SP_WIRE_QUERIES_MAX, sizeof(struct sp_wire_query), 0,
            check_queries),
    COUNTED(PUBLISH, SP_WIRE_TO_DAEMON, sp_wire_publish, SP_WIRE_PUBLISH_MAX,
            sizeof(struct sp_wire_item) + SP_PAGE_SIZE, 0, check_publish),
    COUNTED(FORGET, SP_WIRE_TO_DAEMON, sp_wire_queries, SP_WIRE_QUERIES_MAX, sizeof(struct sp_wire_query), 0,
            check_queries),
    COUNTED(RELEASE, SP_WIRE_TO_DAEMON, sp_wire_release, SP_WIRE_RUNS_MAX, sizeof(struct sp_wire_run), 1,
            check_release),
    FIXED(SEGMENT, SP_WIRE_TO_DAEMON, sp_wire_segment, 0, 0, check_segment),
    FIXED(REPORT, SP_WIRE_TO_DAEMON, sp_wire_report, 0, 0, check_report),
    FIXED(UFFD_ENABLE, SP_WIRE_TO_DAEMON, sp_wire_empty, 1, 1, NULL),
    FIXED(FILES, SP_WIRE_TO_DAEMON, sp_wire_empty, 1, 1, NULL),
    FIXED(STATUS, SP_WIRE_TO_DAEMON, sp_wire_empty, 0, 0, NULL),
    FIXED(GET, SP_WIRE_TO_DAEMON, sp_wire_empty, 0, 0, NULL),
    FIXED(SET, SP_WIRE_TO_DAEMON, sp_wire_set, 0, 0, check_set),
    FIXED(WELCOME, SP_WIRE_TO_CLIENT, sp_wire_welcome, 0, 1, check_welcome),
    COUNTED(ANSWERS, SP_WIRE_TO_CLIENT, sp_wire_answers, SP_WIRE_QUERIES_MAX, sizeof(struct sp_wire_answer),
            0, check_answers),
    FIXED(RESULT, SP_WIRE_TO_CLIENT, sp_wire_result, 0, 0, check_result),
    FIXED(RELEASED, SP_WIRE_TO_CLIENT, sp_wire_released, 0, 0, check_released),
    FIXED(SEGMENT_FD, SP_WIRE_TO_CLIENT, sp_wire_segment_fd, 0, 1, check_segment_fd),
    FIXED(REPORTED, SP_WIRE_TO_CLIENT, sp_wire_reported, 0, 0, check_pause),
    COUNTED(HINT, SP_WIRE_TO_CLIENT, sp_wire_hints, SP_WIRE_HINTS_MAX, sizeof(struct sp_wire_hint), 0,
            check_hints),
    FIXED(PAUSE, SP_WIRE_TO_CLIENT, sp_wire_pause, 0, 0, check_pause),
    FIXED(REFUSED, SP_WIRE_TO_CLIENT, sp_wire_refused, 0, 0, check_refused),
    FIXED(STATUS_DAEMON, SP_WIRE_TO_CLIENT, sp_wire_status_daemon, 0, 0, check_status_daemon),
    FIXED(STATUS_DOMAIN, SP_WIRE_TO_CLIENT, sp_wire_status_domain, 0, 0, check_status_domain),
    COUNTED(STATUS_CLIENTS, SP_WIRE_TO_CLIENT, sp_wire_status_clients, SP_WIRE_CLIENTS_MAX,
            sizeof(struct sp_wire_client), 0, check_status_clients),
    FIXED(STATUS_END, SP_WIRE_TO_CLIENT, sp_wire_empty, 0, 0, NULL),
    FIXED(SETTINGS, SP_WIRE_TO_CLIENT, sp_wire_settings, 0, 0, check_settings),
};

static const struct type_info *type_find(unsigned type) {
    if (type >= sizeof types / sizeof types[0] || !types[type].name)
        return NULL;
    return &types[type];
}

void sp_wire_header_init(struct sp_wire_header *h, enum sp_wire_type type, size_t bytes, uint32_t sequence) {
    *h = (struct sp_wire_header){.magic = SP_WIRE_MAGIC,
                                 .version = SP_WIRE_VERSION,
                                 .type = (uint16_t)type,
                                 .bytes = (uint32_t)bytes,
                                 .sequence = sequence};
}

/* The part that is the same for all types, except the version. */
static const char *check_envelope(const struct sp_wire_header *h, size_t bytes, size_t n_fds,
                                  enum sp_wire_direction direction) {
    const struct type_info *t = type_find(h->type);
    if (!t)
        return "an unknown type";
    if (t->direction != direction)
        return "a type of the other direction";
    if (h->bytes != bytes)
        return "the size in the header is not that of the message";
    if (bytes < t->bytes_min || bytes > t->bytes_max)
        return "a size that its type cannot have";
    if (n_fds < t->fds_min)
        return "a descriptor is missing";
    if (n_fds > t->fds_max)
        return "a descriptor that does not belong there";
    if (direction == SP_WIRE_TO_DAEMON && !h->sequence)
        return "a request without a sequence number";
    return t->check ? t->check(h, bytes, n_fds) : NULL;
}

int sp_wire_check(const void *message, size_t bytes, size_t n_fds, enum sp_wire_direction direction,
                  const char **ret_reason) {
    const struct sp_wire_header *h = message;
    if (bytes < sizeof *h) {
        *ret_reason = "shorter than a header";
        return -EBADMSG;
    }
    if (h->magic != SP_WIRE_MAGIC) {
        *ret_reason = "not a message of samepage";
        return -EBADMSG;
    }
    if (h->version != SP_WIRE_VERSION) {
        *ret_reason = "another version of samepage";
        return -EPROTONOSUPPORT;
    }
    const char *reason = check_envelope(h, bytes, n_fds, direction);
    if (reason) {
        *ret_reason = reason;
        return -EBADMSG;
    }
    return 0;
}

size_t sp_wire_first_bytes(const void *packet, size_t bytes) {
    const struct sp_wire_header *h = packet;
    bool more = bytes > sizeof *h && h->bytes >= sizeof *h && h->bytes < bytes && h->bytes % 8 == 0;
    return more ? h->bytes : bytes;
}

const char *sp_wire_type_name(unsigned type) {
    const struct type_info *t = type_find(type);
    return t ? t->name : "unknown";
}

const uint8_t *sp_wire_publish_contents(const struct sp_wire_publish *m) {
    return (const uint8_t *)&m->item[m->n];
}
