/* SPDX-License-Identifier: MIT */
/*
 * What a daemon costs and how long it keeps its clients waiting, by the number of clients.
 *
 *   clients SOCKET CLIENTS [SECONDS [USERS]]
 *
 * goes through the phases below, SECONDS (2) for each that lasts, and prints one JSON object on a line for
 * each. After the phase "ready" it waits for its input to end, so that whoever started it can look at the
 * daemon (bench/scale.py does); once there is input, its clients ask at the rate until then. The daemon
 * should serve nobody else.
 *
 * Two kinds of load. Saturated: each client has a question under way at any moment, so that the daemon is
 * never idle; that tells its CPU for each. At a rate: as many questions in a second however many clients
 * there are, the clients in turn; that tells how long an answer takes, and what a client costs that does
 * nothing. The daemon's CPU is that of its process, by the scheduler's clock.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/domain.h"
#include "crowd.h"
#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"

#define NS              UINT64_C(1000000000)
#define QUESTION_PAGES  64
#define RATE            2000 /* questions in a second, of all clients together */
#define RELEASE_RATE    500
#define PUBLISHED_PAGES 65536 /* of all clients together */
#define FLOOD_AHEAD     32
/* Windows of clients: that which all have, those that are published, those asked about and shared with
 * nobody. */
#define WINDOW_COMMON    1
#define WINDOW_PUBLISHED 1000
#define WINDOW_OWN       1000000

static struct crowd crowd;
static uint64_t seconds = 2;

/* ---- telling ---- */

struct phase {
    const char *name;
    uint64_t began_ns, cpu_ns, answered;
};

static struct phase phase_begin(const char *name) {
    memset(&crowd.latency, 0, sizeof crowd.latency);
    return (struct phase){name, sp_now_ns(), crowd_daemon_ns(&crowd), crowd.answered};
}

/* `each`: what the daemon's CPU is divided by besides the answers, 0: nothing; counted in `unit`. */
static void phase_end(const struct phase *p, uint64_t each, const char *unit) {
    double wall = (double)(sp_now_ns() - p->began_ns), cpu = (double)(crowd_daemon_ns(&crowd) - p->cpu_ns);
    uint64_t answers = crowd.answered - p->answered;
    printf("{\"phase\": \"%s\", \"clients\": %zu, \"seconds\": %.4f, \"daemon_cpu_seconds\": %.5f", p->name,
           crowd.n, wall / 1e9, cpu / 1e9);
    if (answers)
        printf(", \"answers\": %" PRIu64 ", \"cpu_us_per_answer\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f"
               ", \"max_us\": %.1f",
               answers, cpu / 1e3 / (double)answers,
               (double)sp_histogram_percentile(&crowd.latency, 50) / 1e3,
               (double)sp_histogram_percentile(&crowd.latency, 99) / 1e3, (double)crowd.latency.max_ns / 1e3);
    if (each)
        printf(", \"cpu_us_per_%s\": %.4f", unit, cpu / 1e3 / (double)each);
    printf(", \"daemon_rss_mib\": %.1f}\n", crowd_daemon_rss_mib(&crowd));
    (void)fflush(stdout);
}

/* ---- messages ---- */

/* splitmix64, as a probe: even, and not 0. */
static uint64_t made_up(uint64_t i) {
    uint64_t x = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    x = (x ^ x >> 31) & ~UINT64_C(1);
    return x ? x : 2;
}

union queries {
    struct sp_wire_queries head;
    _Alignas(
        8) uint8_t room[sizeof(struct sp_wire_queries) + SP_WIRE_QUERIES_MAX * sizeof(struct sp_wire_query)];
};

/* Questions about pages of a window, which nobody has asked about unless `seed` is the same. */
static bool ask_made_up(struct crowd_client *client, uint64_t window, size_t n, uint64_t seed) {
    union queries q;
    q.head.n = (uint32_t)n;
    q.head.guessed_wrong = 0;
    for (size_t i = 0; i < n; i++)
        q.head.query[i] = (struct sp_wire_query){.page = window * SP_WINDOW_PAGES + i,
                                                 .fp = made_up(seed * SP_WINDOW_PAGES + i)};
    return crowd_send(&crowd, client, SP_WIRE_ASK, &q, sizeof q.head + n * sizeof q.head.query[0], NULL, 0,
                      -1);
}

/* The pages that client `index` has and nobody else, asked about again and again. */
static bool ask_own(size_t index) {
    return ask_made_up(&crowd.clients[index], WINDOW_OWN + index, QUESTION_PAGES, WINDOW_OWN + index);
}

static void report(size_t index) {
    struct sp_wire_report m = {.state = 1, .settled = 1, .hints = (uint32_t)crowd.clients[index].hints};
    memset(&m.counters, 0, sizeof m.counters);
    m.counters.v[SP_COUNTER_resident_pages] = index;
    (void)crowd_send(&crowd, &crowd.clients[index], SP_WIRE_REPORT, &m, sizeof m, NULL, 0, -1);
}

/* ---- pages that are shared ---- */

static uint8_t contents[SP_WINDOW_PAGES][SP_PAGE_SIZE];
static struct sp_wire_answer answers[SP_WIRE_QUERIES_MAX]; /* to the question asked last */
static unsigned kinds[8];                                  /* and how many of each kind */

static void answers_keep(struct crowd *c, struct crowd_client *client, const void *message) {
    const struct sp_wire_answers *m = message;
    if (m->header.type != SP_WIRE_ANSWERS)
        return;
    memcpy(answers, m->answer, m->n * sizeof m->answer[0]);
    memset(kinds, 0, sizeof kinds);
    for (size_t i = 0; i < m->n; i++)
        kinds[answers[i].kind]++;
}

static void contents_make(uint64_t number) {
    for (size_t i = 0; i < SP_WINDOW_PAGES; i++) {
        uint64_t words[SP_PAGE_SIZE / 8];
        for (size_t w = 0; w < SP_PAGE_SIZE / 8; w++)
            words[w] = (number * SP_WINDOW_PAGES + i + 1) * UINT64_C(0x9e3779b97f4a7c15) + w;
        memcpy(contents[i], words, sizeof words);
    }
}

static void ask_contents(struct crowd_client *client, uint64_t window, size_t n,
                         enum sp_answer_kind expected) {
    union queries q;
    q.head.n = (uint32_t)n;
    q.head.guessed_wrong = 0;
    for (size_t i = 0; i < n; i++)
        q.head.query[i] = (struct sp_wire_query){.page = window * SP_WINDOW_PAGES + i,
                                                 .fp = sp_probe(&crowd.key, contents[i]).v};
    if (!crowd_send(&crowd, client, SP_WIRE_ASK, &q, sizeof q.head + n * sizeof q.head.query[0], NULL, 0, -1))
        crowd_fail("no room for a question");
    crowd_wait(&crowd);
    if (kinds[expected] != n)
        crowd_fail("%u answers instead of all are of kind %d", kinds[expected], expected);
}

static void publish_contents(struct crowd_client *client, uint64_t window, size_t n) {
    union {
        struct sp_wire_publish head;
        _Alignas(8)
            uint8_t room[sizeof(struct sp_wire_publish) + SP_WIRE_PUBLISH_MAX * sizeof(struct sp_wire_item)];
    } m;
    for (size_t at = 0; at < n; at += SP_WIRE_PUBLISH_MAX) {
        m.head.n = m.head.contents = SP_WIRE_PUBLISH_MAX;
        for (size_t i = 0; i < SP_WIRE_PUBLISH_MAX; i++)
            m.head.item[i] = (struct sp_wire_item){.page = window * SP_WINDOW_PAGES + at + i,
                                                   .fp = sp_probe(&crowd.key, contents[at + i]).v,
                                                   .flags = SP_WIRE_ITEM_CONTENT};
        if (!crowd_send(&crowd, client, SP_WIRE_PUBLISH, &m, sizeof m, contents[at],
                        SP_WIRE_PUBLISH_MAX * SP_PAGE_SIZE, -1))
            crowd_fail("no room for contents");
        crowd_wait(&crowd);
        if (kinds[SP_ANSWER_SHARE] != SP_WIRE_PUBLISH_MAX)
            crowd_fail("not all was published");
    }
}

/* Two clients come to share `n` pages of a window, a multiple of SP_WIRE_PUBLISH_MAX. */
static void share_window(struct crowd_client *a, struct crowd_client *b, uint64_t window, size_t n) {
    contents_make(window);
    ask_contents(a, window, n, SP_ANSWER_UNKNOWN);
    ask_contents(b, window, n, SP_ANSWER_SEND);
    publish_contents(b, window, n);
    ask_contents(a, window, n, SP_ANSWER_SHARE);
}

/* `keep`: the token of the epoch that ends stays mapped, as by a child that lives on. */
static bool release_one(size_t index, uint64_t store, bool keep) {
    struct crowd_client *client = &crowd.clients[index];
    union {
        struct sp_wire_release head;
        _Alignas(8) uint8_t room[sizeof(struct sp_wire_release) + sizeof(struct sp_wire_run)];
    } m = {.head = {.epoch = client->epoch, .n = 1}};
    m.head.run[0] = (struct sp_wire_run){store, 1};
    void *token;
    int token_fd;
    if (client->under_way)
        return false;
    if (sp_token_new(&token_fd, &token))
        crowd_fail("no token");
    if (!crowd_send(&crowd, client, SP_WIRE_RELEASE, &m, sizeof m, NULL, 0, token_fd))
        crowd_fail("no room for a release");
    (void)sp_close(token_fd);
    /* The daemon takes it: there is nothing else that this could be about. */
    while (client->under_way)
        crowd_take(&crowd, sp_now_ns() + NS);
    if (!keep && sp_token_drop(client->token))
        crowd_fail("dropping a token failed");
    client->token = token;
    client->epoch++;
    return true;
}

/* ---- phases ---- */

static void phase_join(const char *socket, size_t n) {
    uint64_t began_ns = sp_now_ns(), slab_kib = crowd_meminfo_kib("Slab");
    crowd_join(&crowd, socket, n);
    struct phase p = {"join", began_ns, 0, 0};
    phase_end(&p, n, "client");
    printf("{\"phase\": \"kernel\", \"clients\": %zu, \"slab_kib_per_client\": %.2f}\n", n,
           ((double)crowd_meminfo_kib("Slab") - (double)slab_kib) / (double)n);
}

static void phase_publish(void) {
    struct phase p = phase_begin("publish");
    size_t pairs = crowd.n / 2, each = PUBLISHED_PAGES / pairs / SP_WIRE_PUBLISH_MAX * SP_WIRE_PUBLISH_MAX;
    if (each > SP_WINDOW_PAGES)
        each = SP_WINDOW_PAGES;
    size_t windows = PUBLISHED_PAGES / each;
    for (size_t i = 0; i < windows; i++) {
        size_t pair = i % pairs;
        share_window(&crowd.clients[2 * pair], &crowd.clients[2 * pair + 1], WINDOW_PUBLISHED + i, each);
    }
    phase_end(&p, windows * each, "page");
}

static uint64_t common_first; /* in the store */

static void phase_share(void) {
    share_window(&crowd.clients[0], &crowd.clients[1], WINDOW_COMMON, SP_WINDOW_PAGES);
    struct phase p = phase_begin("share");
    for (size_t i = 2; i < crowd.n; i++)
        ask_contents(&crowd.clients[i], WINDOW_COMMON, SP_WINDOW_PAGES, SP_ANSWER_SHARE);
    common_first = answers[0].store;
    phase_end(&p, (crowd.n - 2) * SP_WINDOW_PAGES, "page");
}

/* Each client asks about its own pages for the first time. */
static void phase_first(void) {
    struct phase p = phase_begin("first");
    for (size_t i = 0; i < crowd.n; i++)
        if (!ask_own(i))
            crowd_fail("no room for a question");
    crowd_wait(&crowd);
    phase_end(&p, crowd.n * QUESTION_PAGES, "page");
}

static void ask_next(struct crowd *c, struct crowd_client *client, const void *message) {
    (void)ask_own((size_t)(client - c->clients));
}

static void phase_saturated(void) {
    struct phase p = phase_begin("saturated");
    crowd.on_answer = ask_next;
    for (size_t i = 0; i < crowd.n; i++)
        (void)ask_own(i);
    for (uint64_t end_ns = p.began_ns + seconds * NS; sp_now_ns() < end_ns;)
        crowd_take(&crowd, end_ns);
    crowd.on_answer = NULL;
    crowd_wait(&crowd);
    phase_end(&p, 0, NULL);
}

/* `rate` times in a second, the clients in turn. From `first` on. */
static void at_rate(const struct phase *p, uint64_t rate, size_t first, void (*act)(size_t index)) {
    uint64_t end_ns = p->began_ns + seconds * NS;
    size_t index = first;
    for (uint64_t i = 0; sp_now_ns() < end_ns; i++) {
        uint64_t due_ns = p->began_ns + i * NS / rate;
        while (sp_now_ns() < due_ns)
            crowd_take(&crowd, due_ns);
        act(index);
        index = index + 1 < crowd.n ? index + 1 : first;
    }
}

static void act_ask(size_t index) {
    (void)ask_own(index);
}

static void phase_rate(const char *name, uint64_t rate, void (*act)(size_t index)) {
    struct phase p = phase_begin(name);
    at_rate(&p, rate, 0, act);
    crowd_wait(&crowd);
    phase_end(&p, 0, NULL);
}

static void flood_more(struct crowd *c, struct crowd_client *client, const void *message) {
    size_t index = (size_t)(client - c->clients);
    while (index < c->n_apart && client->under_way < FLOOD_AHEAD)
        if (!ask_made_up(client, WINDOW_OWN + index, SP_WINDOW_PAGES, WINDOW_OWN + index))
            break;
}

/* The first `n` clients keep as many of the longest questions under way as their sockets take; the others ask
 * at the usual rate, and it is their answers that are timed. */
static void phase_flood(const char *name, size_t n) {
    struct phase p = phase_begin(name);
    crowd.n_apart = n;
    crowd.on_answer = flood_more;
    for (size_t i = 0; i < n; i++)
        flood_more(&crowd, &crowd.clients[i], NULL);
    at_rate(&p, RATE, n, act_ask);
    crowd.on_answer = NULL;
    crowd_wait(&crowd);
    phase_end(&p, 0, NULL);
    crowd.n_apart = 0;
}

static uint64_t released; /* how many so far */

static void act_release(size_t index) {
    if (release_one(index, common_first + 1 + released / crowd.n, false))
        released++;
}

/* Each client gives something back, and a child of it lives on: one after the other, so that they are looked
 * after at different times. */
static void hold_all(void) {
    for (size_t i = 0; i < crowd.n; i++) {
        (void)release_one(i, common_first, true);
        sp_sleep_ns(2 * NS / crowd.n);
    }
}

/* After what was begun has come to its end. */
static void phase_quiet(const char *name) {
    sp_sleep_ns(5 * NS);
    struct phase p = phase_begin(name);
    sp_sleep_ns(2 * seconds * NS);
    phase_end(&p, 0, NULL);
}

static bool input_ended(int timeout_ms) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char c;
    return poll(&input, 1, timeout_ms) > 0 && read(STDIN_FILENO, &c, 1) <= 0;
}

static void wait_for_end(void) {
    if (input_ended(-1))
        return;
    seconds += !seconds;
    do {
        struct phase p = phase_begin("busy");
        at_rate(&p, RATE, 0, act_ask);
        crowd_wait(&crowd);
    } while (!input_ended(0));
}

static void phase_leave(void) {
    struct phase p = phase_begin("leave");
    crowd_leave(&crowd);
    phase_end(&p, crowd.n, "client");
}

static void phases_of_sharing(void) {
    crowd.on_answer = answers_keep;
    phase_publish();
    phase_share();
    crowd.on_answer = NULL;
}

static void phases_of_giving_back(void) {
    phase_rate("releases", RELEASE_RATE, act_release);
    hold_all();
    phase_quiet("held");
}

static void phases(void) {
    if (crowd.users == 1)
        phases_of_sharing();
    phase_first();
    phase_saturated();
    phase_rate("rate", RATE, act_ask);
    phase_rate("reports", RATE, report);
    phase_flood("flood by one", 1);
    phase_flood("flood by a tenth", (crowd.n + 9) / 10);
    phase_quiet("idle");
    if (crowd.users == 1)
        phases_of_giving_back();
}

/* A number among the arguments. */
static uint64_t argument(int argc, char **argv, int i, uint64_t otherwise, uint64_t least) {
    char *end = NULL;
    uint64_t value = argc > i ? strtoull(argv[i], &end, 10) : otherwise;
    if (argc <= 2 || argc > 5 || value < least || (end && (end == argv[i] || *end))) {
        fprintf(stderr,
                "usage: clients SOCKET CLIENTS [SECONDS [USERS]]   (at least 4 clients; 0 seconds: they join "
                "and are there;\n       more than one user: as root)\n");
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    size_t n = argument(argc, argv, 2, 0, 4);
    seconds = argument(argc, argv, 3, 2, 0);
    crowd.users = (unsigned)argument(argc, argv, 4, 1, 1);
    phase_join(argv[1], n);
    if (seconds)
        phases();
    printf("{\"phase\": \"ready\", \"clients\": %zu}\n", n);
    (void)fflush(stdout);
    wait_for_end();
    phase_leave();
    return 0;
}
