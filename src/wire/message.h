/* SPDX-License-Identifier: MIT */
/*
 * The messages between a client and its daemon: one SEQPACKET datagram each, a fixed header and a fixed
 * layout for each type, in native byte order (both ends run on the same machine). In the answer to STATUS,
 * which can be thousands of messages, a datagram holds one or several of them, one after the other.
 *
 * Nothing of a message may be used before sp_wire_check has accepted it. It works from one table of types:
 * direction, least and greatest size, how many descriptors come along, and a look at the fields. After it,
 * counts fit the size, pages and store runs are in range, reserved fields are 0, strings are terminated.
 *
 * Every request is answered by exactly one message that carries the request's sequence number (STATUS: by a
 * series that ends with STATUS_END), so that requests may be sent ahead. HINT, PAUSE, REFUSED and, but for
 * GET, SETTINGS come unasked, with sequence 0. Layouts, the counters' table and the settings' table are part
 * of the version.
 */
#ifndef SP_WIRE_MESSAGE_H
#define SP_WIRE_MESSAGE_H

#include "core/counters.h"
#include "core/fingerprint.h"
#include "core/histogram.h"
#include "core/settings.h"
#include "core/types.h"

#define SP_WIRE_MAGIC   UINT32_C(0x47504d53) /* "SMPG" */
#define SP_WIRE_VERSION 9

/* Most of everything that comes in numbers, in one message. */
#define SP_WIRE_QUERIES_MAX SP_WINDOW_PAGES
#define SP_WIRE_PUBLISH_MAX 32
#define SP_WIRE_RUNS_MAX    512
#define SP_WIRE_HINTS_MAX   64
#define SP_WIRE_CLIENTS_MAX 24
#define SP_WIRE_NAME_BYTES  16
#define SP_WIRE_TEXT_BYTES  112
#define SP_WIRE_STATES_MAX  64
/* The state of a client that has gone while its family still maps the store, unless the last that it reported
 * was the reason for which merging ended there; never sent by a client. */
#define SP_WIRE_STATE_FAMILY UINT32_MAX

/* Pages have 44 bits, and so have places in the store, with room to spare. */
#define SP_WIRE_PAGE_LIMIT (UINT64_C(1) << 44)

enum sp_wire_direction { SP_WIRE_TO_DAEMON, SP_WIRE_TO_CLIENT };

enum sp_wire_type {
    /* client to daemon */
    SP_WIRE_HELLO = 1,       /* with the family's first token; answered by WELCOME */
    SP_WIRE_ASK = 2,         /* ANSWERS */
    SP_WIRE_PUBLISH = 3,     /* ANSWERS */
    SP_WIRE_FORGET = 4,      /* RESULT */
    SP_WIRE_RELEASE = 5,     /* with the next token when the epoch ends; RELEASED */
    SP_WIRE_SEGMENT = 6,     /* SEGMENT_FD */
    SP_WIRE_REPORT = 7,      /* REPORTED */
    SP_WIRE_UFFD_ENABLE = 8, /* with a userfaultfd; RESULT */
    SP_WIRE_STATUS = 9,      /* STATUS_DAEMON, (STATUS_DOMAIN, STATUS_CLIENTS...)..., STATUS_END */
    SP_WIRE_SET = 10,        /* RESULT */
    SP_WIRE_FILES = 11,      /* with a descriptor of /dev/fuse that is mounted; RESULT */
    SP_WIRE_GET = 12,        /* SETTINGS: those of the sender's domain, or of one that it would get */
    /* daemon to client */
    SP_WIRE_WELCOME = 32, /* with /dev/userfaultfd where the daemon has it */
    SP_WIRE_ANSWERS = 33,
    SP_WIRE_RESULT = 34,
    SP_WIRE_RELEASED = 35,
    SP_WIRE_SEGMENT_FD = 36, /* with the read-only descriptor when result is 0 */
    SP_WIRE_REPORTED = 37,
    SP_WIRE_HINT = 38,    /* unasked */
    SP_WIRE_PAUSE = 39,   /* unasked */
    SP_WIRE_REFUSED = 40, /* the last message of a session that the daemon ends, where it can still be sent */
    SP_WIRE_STATUS_DAEMON = 41,
    SP_WIRE_STATUS_DOMAIN = 42,
    SP_WIRE_STATUS_CLIENTS = 43,
    SP_WIRE_STATUS_END = 44,
    SP_WIRE_SETTINGS =
        45, /* unasked: they are others than in WELCOME, or in the last such message; answer to GET */
};

struct sp_wire_header {
    uint32_t magic;
    uint16_t version;
    uint16_t type;     /* enum sp_wire_type */
    uint32_t bytes;    /* of the whole message, this header included */
    uint32_t sequence; /* requests: the client's choice, not 0; replies: the request's */
};

struct sp_wire_hello {
    struct sp_wire_header header;
    uint32_t state; /* enum sp_engine_state */
    uint32_t reserved;
    char name[SP_WIRE_NAME_BYTES]; /* for people; may be empty */
};

struct sp_wire_welcome {
    struct sp_wire_header header;
    uint32_t client;
    uint32_t pause;
    struct sp_key key;
    uint32_t settings_number; /* not 0; another one each time that the settings change */
    uint32_t reserved;
    uint64_t settings[SP_SETTING_COUNT];
};

struct sp_wire_settings {
    struct sp_wire_header header;
    uint32_t number; /* as in WELCOME */
    uint32_t reserved;
    uint64_t settings[SP_SETTING_COUNT];
};

/* Changes settings: of the user's domain, or with `all` of all domains that the sender controls. All of it is
 * done or nothing. Clients are told in any case, so that where none is given they say where they stand. */
struct sp_wire_set {
    struct sp_wire_header header;
    uint32_t all;                        /* 0 or 1 */
    uint32_t uid;                        /* 0 when `all` */
    uint64_t given;                      /* one bit for each setting */
    uint64_t settings[SP_SETTING_COUNT]; /* 0 for those that are not given */
};

struct sp_wire_query {
    uint64_t page;
    uint64_t fp;
    uint64_t probe; /* ASK by a whole fingerprint, or about a window (SP_PROBE_WINDOW*); else 0 */
};

/* ASK and FORGET. */
struct sp_wire_queries {
    struct sp_wire_header header;
    uint32_t n;
    uint32_t
        guessed_wrong; /* ASK: pages that differed from what they were told to share, since the last one */
    struct sp_wire_query query[];
};

/* The item's content follows; without it the page changed and is refused. */
#define SP_WIRE_ITEM_CONTENT 1u
/* It is of a window that is a huge page, and all of which is being published. */
#define SP_WIRE_ITEM_WHOLE 2u

struct sp_wire_item {
    uint64_t page;
    uint64_t fp;
    uint32_t flags; /* SP_WIRE_ITEM_* */
    uint32_t reserved;
};

/* After the items: SP_PAGE_SIZE bytes for each item that has content, in the items' order. */
struct sp_wire_publish {
    struct sp_wire_header header;
    uint32_t n;
    uint32_t contents; /* how many items have content */
    struct sp_wire_item item[];
};

struct sp_wire_answer {
    uint32_t kind; /* enum sp_answer_kind */
    uint32_t reserved;
    uint64_t store; /* UINT64_MAX unless SP_ANSWER_SHARE */
};

struct sp_wire_answers {
    struct sp_wire_header header;
    uint32_t n;
    uint32_t reserved;
    struct sp_wire_answer answer[];
};

struct sp_wire_result {
    struct sp_wire_header header;
    int32_t result; /* 0 or a negative errno */
    uint32_t reserved;
};

struct sp_wire_run {
    uint64_t first;
    uint64_t pages;
};

/* References given back in `epoch`. With a descriptor, the epoch ends: it is the token of the next one. */
struct sp_wire_release {
    struct sp_wire_header header;
    uint64_t epoch;
    uint32_t n;
    uint32_t reserved;
    struct sp_wire_run run[];
};

struct sp_wire_released {
    struct sp_wire_header header;
    int32_t result;     /* the first error among the runs; the others were given back */
    uint32_t epoch_end; /* 1: the token was taken over and the epoch has ended */
};

struct sp_wire_segment {
    struct sp_wire_header header;
    uint64_t segment;
};

struct sp_wire_segment_fd {
    struct sp_wire_header header;
    uint64_t segment;
    int32_t result; /* 0 or a negative errno */
    uint32_t reserved;
};

struct sp_wire_report {
    struct sp_wire_header header;
    uint32_t state;           /* enum sp_engine_state */
    uint32_t settled;         /* 0 or 1 */
    uint32_t settings_number; /* of the settings that were carried out last; 0: none yet */
    uint32_t hints;           /* HINT messages received so far: what is on its way is not settled */
    struct sp_counters counters;
    struct sp_histogram freezes;
};

struct sp_wire_pause {
    struct sp_wire_header header;
    uint32_t pause; /* 0 or 1 */
    uint32_t reserved;
};

struct sp_wire_reported {
    struct sp_wire_header header;
    uint32_t pause; /* 0 or 1 */
    uint32_t reserved;
    uint64_t cpu_until_ns; /* CPU time up to which the worker may work, counted as in its reports; UINT64_MAX:
                              no bound */
};

/* As a window: hints were lost, every page that waits for a twin is worth asking about. */
#define SP_WIRE_HINT_ALL UINT64_MAX

struct sp_wire_hint {
    uint64_t window;
    sp_bits pages;
};

struct sp_wire_hints {
    struct sp_wire_header header;
    uint32_t n;
    uint32_t reserved;
    struct sp_wire_hint hint[];
};

struct sp_wire_refused {
    struct sp_wire_header header;
    int32_t error; /* negative errno */
    uint32_t reserved;
    char text[SP_WIRE_TEXT_BYTES]; /* English, for people */
};

/* UFFD_ENABLE, STATUS, FILES, GET, STATUS_END. */
struct sp_wire_empty {
    struct sp_wire_header header;
};

struct sp_wire_status_daemon {
    struct sp_wire_header header;
    uint64_t pid;
    uint64_t cpu_ns;
    uint64_t rss_bytes;
    uint64_t uptime_ns;
    uint64_t n_domains; /* how many STATUS_DOMAIN follow */
    uint32_t control;   /* 1: the asker controls the daemon, and all its domains */
    uint32_t reserved;
    uint64_t settings[SP_SETTING_COUNT]; /* of domains to come */
};

struct sp_wire_status_domain {
    struct sp_wire_header header;
    uint32_t uid;
    uint32_t n_clients; /* how many there are in the STATUS_CLIENTS that follow, before the next domain */
    uint64_t saved_bytes;
    uint64_t saved_peak_bytes;
    uint64_t store_bytes;
    uint64_t families_waiting;
    uint32_t settings_number;
    uint32_t reserved;
    uint64_t settings[SP_SETTING_COUNT];
    struct sp_counters counters;
    struct sp_durations freezes;
};

struct sp_wire_client {
    uint32_t pid;
    uint32_t state; /* enum sp_engine_state, or SP_WIRE_STATE_FAMILY */
    uint32_t settled;
    uint32_t settings_number; /* as in REPORT */
    uint32_t client;          /* its number, which no other client of the domain has now */
    uint32_t reserved;
    uint64_t reported_ns;  /* when its last report came in, by the daemon's uptime; 0: none yet */
    uint64_t shared_pages; /* that it, or a child of its family, maps from the store */
    char name[SP_WIRE_NAME_BYTES];
    struct sp_counters counters;
    struct sp_durations freezes;
};

/* Many in one: with a thousand clients a message for each would fill the socket again and again, and each
 * time both sides wait for the scheduler. */
struct sp_wire_status_clients {
    struct sp_wire_header header;
    uint32_t n;
    uint32_t reserved;
    struct sp_wire_client client[];
};

/* Longest message to a client: its receive buffer. */
#define SP_WIRE_TO_CLIENT_MAX                                                                                \
    (sizeof(struct sp_wire_answers) + SP_WIRE_QUERIES_MAX * sizeof(struct sp_wire_answer))
/* Longest message to the daemon. */
#define SP_WIRE_TO_DAEMON_MAX                                                                                \
    (sizeof(struct sp_wire_publish) + SP_WIRE_PUBLISH_MAX * (sizeof(struct sp_wire_item) + SP_PAGE_SIZE))

/* Fills in the header of a message of `bytes`. */
void sp_wire_header_init(struct sp_wire_header *h, enum sp_wire_type type, size_t bytes, uint32_t sequence);

/*
 * Whether `bytes` at `message` (8-byte aligned), come with `n_fds` descriptors, are a valid message in that
 * direction. 0; -EPROTONOSUPPORT: another version; -EBADMSG: anything else. On failure *ret_reason is a
 * constant English text. Pure.
 */
SP_WARN_UNUSED int sp_wire_check(const void *message, size_t bytes, size_t n_fds,
                                 enum sp_wire_direction direction, const char **ret_reason);

/* The size of the first message of `bytes` of a packet (8-byte aligned); all of them when that cannot be
 * told, which sp_wire_check refuses then. Pure. */
size_t sp_wire_first_bytes(const void *packet, size_t bytes);

/* The type's name, "unknown" for what is no type. */
const char *sp_wire_type_name(unsigned type);

/* Where the contents of a (checked) PUBLISH begin. */
const uint8_t *sp_wire_publish_contents(const struct sp_wire_publish *m);

#endif
