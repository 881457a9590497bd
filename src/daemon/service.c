/* SPDX-License-Identifier: MIT */
/* See service.h. */
#include "daemon/service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/policy.h"
#include "daemon/scans.h"
#include "merge/engine.h"
#include "os/mapping.h"
#include "os/proc.h"
#include "os/thread.h"

#define SWEEP_BUCKETS 16384
#define GUARD_NS      UINT64_C(1000000000)
/* Families looked at before the clients have their turn. */
#define LOOKS_TURN 64
/* Time for giving store pages back before the clients have their turn; one range takes what it takes. */
#define PUNCH_TURN_NS UINT64_C(200000)

/* Of the machine's memory, for the index of one domain. Honest clients, all of whose pages are in it, stay
 * far below, unless there is hardly any memory. */
#define HEAP_SHARE     20
#define HEAP_MIN_BYTES (UINT64_C(64) << 20)

/* The index of a domain takes memory for whatever its clients ask about, whether they have such pages or not.
 */
static void *heap_get(void *ctx, size_t bytes) {
    struct domain *d = ctx;
    uint64_t max = d->service->heap_max_bytes;
    void *memory = bytes <= max && d->heap_bytes <= max - bytes ? calloc(1, bytes) : NULL;
    if (memory)
        d->heap_bytes += bytes;
    return memory;
}

static void heap_put(void *ctx, void *memory, size_t bytes) {
    struct domain *d = ctx;
    if (memory)
        d->heap_bytes -= bytes;
    free(memory);
}

static void punch_now(struct domain *d, sp_store_page first, uint64_t n) {
    int r = store_punch(&d->store, first, n);
    if (r)
        log_client("giving %llu pages of the store back failed: %s; their memory stays taken",
                   (unsigned long long)n, strerror(-r));
}

/* The index tells: memory can be given back. */
static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
    struct domain *d = ctx;
    if (punches_add(&d->service->punches, d, first, n, sp_now_ns()))
        punch_now(d, first, n);
}

#define HINTS_BYTES ((sizeof(struct sp_hint_queue) + SP_PAGE_SIZE - 1) / SP_PAGE_SIZE * SP_PAGE_SIZE)

/* A mapping of its own: only what is used of it takes memory, which a heap would not promise, and all of that
 * is given back. */
static struct sp_hint_queue *member_hints(struct member *m) {
    void *memory;
    if (!m->hints && !sp_map_new(HINTS_BYTES, SP_PAGE_SIZE, &memory))
        m->hints = memory;
    return m->hints;
}

static void hints_free(struct member *m) {
    if (m->hints)
        (void)!sp_unmap(m->hints, HINTS_BYTES);
    m->hints = NULL;
}

/* The index tells: the page is worth asking about again. */
static void on_hint(void *ctx, sp_client client, sp_page page) {
    struct domain *d = ctx;
    struct member *m = client < d->by_client_size ? d->by_client[client] : NULL;
    if (m)
        m->settled = false;
    if (!m || !m->session || !member_hints(m)) /* without memory: a merge that comes later, or never */
        return;
    sp_hint_queue_add_page(m->hints, page);
    if (m->hinted)
        return;
    m->hinted = true;
    m->hinted_next = d->service->hinted;
    d->service->hinted = m;
}

static void domain_limit(const struct domain *d) {
    const uint64_t *v = d->settings.v;
    sp_domain_limit(d->index, (v[SP_SETTING_store_max_mbytes] << 20) / SP_PAGE_SIZE,
                    d->service->paused || v[SP_SETTING_run] != 1);
    sp_domain_limit_sharing(d->index, v[SP_SETTING_max_page_sharing]);
}

void domain_settings_changed(struct domain *d) {
    if (!++d->settings_number)
        d->settings_number = 1;
    domain_limit(d);
    policy_changed(d, sp_now_ns());
}

void service_settings_changed(struct service *s) {
    bool guard = s->settings.v[SP_SETTING_exposure_max_percent] != 0;
    s->guard_ns = guard ? 0 : UINT64_MAX;
    if (guard || !s->paused)
        return;
    s->paused = false;
    s->pause_changed = true;
    for (const struct domain *d = s->domains; d; d = d->next)
        domain_limit(d);
}

static int domain_new(struct service *s, uid_t uid, struct domain **ret_domain) {
    uint8_t random[32];
    struct domain *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    *d = (struct domain){.service = s, .uid = uid, .settings = s->settings, .settings_number = 1};
    struct sp_alloc heap = {.get = heap_get, .put = heap_put, .ctx = d};
    struct sp_domain_events events = {.punch = on_punch, .hint = on_hint, .ctx = d};
    int r = sp_random(random);
    if (!r)
        r = sp_domain_new(&heap, &events, &d->index);
    if (r) {
        free(d);
        return r;
    }
    sp_key_init(&d->key, random);
    explicit_bzero(random, sizeof random);
    domain_limit(d);
    *ret_domain = d;
    return 0;
}

static void member_free(struct member *m) {
    struct domain *d = m->domain;
    if (m->previous)
        m->previous->next = m->next;
    else
        d->members = m->next;
    if (m->next)
        m->next->previous = m->previous;
    d->by_client[m->client] = NULL;
    sp_filling_end(&m->filling);
    looks_remove(&d->service->looks, m);
    store_writer_gone(&d->store, m->segment);
    d->tokens -= m->family.n;
    family_deinit(&m->family);
    hints_free(m);
    free(m);
}

static void domain_free(struct domain *d) {
    while (d->members)
        member_free(d->members);
    sp_domain_free(d->index);
    store_deinit(&d->store);
    free(d->by_client);
    explicit_bzero(&d->key, sizeof d->key);
    free(d);
}

void service_init(struct service *s, const struct sp_settings *settings, uint64_t tokens_max) {
    uint64_t available, total = 0;
    *s = (struct service){.settings = *settings};
    service_settings_changed(s);
    s->tokens_max = tokens_max;
    s->heap_max_bytes = !sp_proc_memory(&available, &total) && total / HEAP_SHARE > HEAP_MIN_BYTES
                            ? total / HEAP_SHARE
                            : HEAP_MIN_BYTES;
}

void service_deinit(struct service *s) {
    while (s->domains) {
        struct domain *d = s->domains;
        s->domains = d->next;
        domain_free(d);
    }
    punches_deinit(&s->punches);
}

struct domain *service_domain_find(struct service *s, uid_t uid) {
    struct domain *d = s->domains;
    while (d && d->uid != uid)
        d = d->next;
    return d;
}

int service_domain(struct service *s, uid_t uid, struct domain **ret_domain) {
    struct domain *d = service_domain_find(s, uid);
    if (!d) {
        int r = domain_new(s, uid, &d);
        if (r)
            return r;
        d->next = s->domains;
        s->domains = d;
        policy_changed(d, sp_now_ns());
    }
    *ret_domain = d;
    return 0;
}

uint64_t service_waiting(const struct service *s) {
    uint64_t waiting = 0;
    for (const struct domain *d = s->domains; d; d = d->next)
        waiting += d->waiting;
    return waiting;
}

/* Everybody of a family that holds on without its client has gone. */
static void member_over(struct member *m) {
    struct domain *d = m->domain;
    sp_domain_client_remove(d->index, m->client);
    d->service->sweeping += !d->sweeping;
    d->sweeping = true;
    d->waiting--;
    member_free(m);
}

static void member_look(struct member *m, uint64_t now_ns) {
    size_t tokens = m->family.n;
    uint64_t done = family_look(&m->family, now_ns);
    m->domain->tokens -= tokens - m->family.n;
    if (m->family.gone && !m->family.n) {
        member_over(m);
        return;
    }
    if (done)
        sp_domain_release_done(m->domain->index, m->client, done);
    looks_set(&m->domain->service->looks, m);
}

/* Some of those that are due, so that clients wait for no more than that. */
static void families_work(struct service *s, uint64_t now_ns) {
    struct member *m;
    for (int i = 0; i < LOOKS_TURN && (m = looks_due(&s->looks, now_ns)); i++)
        member_look(m, now_ns);
}

/* One step for each domain, so that clients wait for no more than that. True: there is more. */
static bool sweep_work(struct service *s) {
    for (struct domain *d = s->domains; d && s->sweeping; d = d->next) {
        if (!d->sweeping)
            continue;
        d->sweeping = sp_domain_sweep(d->index, SWEEP_BUCKETS);
        s->sweeping -= !d->sweeping;
    }
    return s->sweeping != 0;
}

/* What a turn has time for. True: there is more. */
static bool punch_work(struct service *s, uint64_t now_ns) {
    struct punch p;
    while (punches_take(&s->punches, now_ns, &p)) {
        punch_now(p.owner, (sp_store_page){p.first}, p.n);
        if (sp_now_ns() - now_ns >= PUNCH_TURN_NS)
            break;
    }
    return punches_next_ns(&s->punches) <= now_ns;
}

static bool exposure_too_high(const struct service *s) {
    uint64_t available, total, exposure = 0;
    if (sp_proc_memory(&available, &total))
        return s->paused;
    for (const struct domain *d = s->domains; d; d = d->next) {
        struct sp_counters c = {{0}};
        sp_domain_counters(d->index, &c);
        exposure += c.v[SP_COUNTER_exposure_bytes];
    }
    return exposure * 100 > available * s->settings.v[SP_SETTING_exposure_max_percent];
}

/* What would be needed if everybody wrote at once, against what is there (H15). The memory is the machine's,
 * so the domains' exposures add up. */
static void guard_work(struct service *s, uint64_t now_ns) {
    if (now_ns < s->guard_ns)
        return;
    s->guard_ns = now_ns + GUARD_NS;
    bool paused = exposure_too_high(s);
    if (paused == s->paused)
        return;
    s->paused = paused;
    s->pause_changed = true;
    log_line(paused ? "exposure is above its limit: nothing new is shared until it has come down"
                    : "exposure is below its limit again: sharing goes on");
    for (const struct domain *d = s->domains; d; d = d->next)
        domain_limit(d);
}

static uint64_t earliest(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t service_work(struct service *s, uint64_t now_ns) {
    families_work(s, now_ns);
    guard_work(s, now_ns);
    bool more = punch_work(s, now_ns);
    more |= sweep_work(s);
    if (more)
        return now_ns;
    return earliest(earliest(looks_next_ns(&s->looks), s->guard_ns), punches_next_ns(&s->punches));
}

static int by_client_room(struct domain *d, sp_client client) {
    if (client < d->by_client_size)
        return 0;
    size_t size = d->by_client_size ? d->by_client_size : 16;
    while (size <= client)
        size *= 2;
    struct member **table = reallocarray(d->by_client, size, sizeof(struct member *));
    if (!table)
        return -ENOMEM;
    memset(table + d->by_client_size, 0, (size - d->by_client_size) * sizeof(struct member *));
    d->by_client = table;
    d->by_client_size = size;
    return 0;
}

static int client_add(struct domain *d, sp_client *ret_client) {
    sp_client client;
    int r = sp_domain_client_add(d->index, &client);
    if (r == -EUSERS) {
        while (sp_domain_sweep(d->index, SIZE_MAX))
            ;
        r = sp_domain_client_add(d->index, &client);
    }
    if (r)
        return r;
    r = by_client_room(d, client);
    if (r) {
        sp_domain_client_remove(d->index, client);
        return r;
    }
    *ret_client = client;
    return 0;
}

/* Names end up on terminals. */
static void name_copy(char *into, const char *from) {
    size_t i = 0;
    for (; i < SP_WIRE_NAME_BYTES - 1 && from[i]; i++)
        into[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
    memset(into + i, 0, SP_WIRE_NAME_BYTES - i);
}

int member_new(struct domain *d, const struct sp_wire_hello *hello, pid_t pid, int token_fd,
               struct session *session, struct member **ret_member) {
    struct member *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    *m = (struct member){
        .domain = d, .session = session, .pid = pid, .state = hello->state, .segment = STORE_SEGMENT_NONE};
    name_copy(m->name, hello->name);
    int r = d->tokens < d->service->tokens_max ? client_add(d, &m->client) : -EUSERS;
    if (!r)
        r = family_init(&m->family, token_fd);
    if (r) {
        if (m->client)
            sp_domain_client_remove(d->index, m->client);
        free(m);
        return r;
    }
    d->by_client[m->client] = m;
    m->next = d->members;
    if (m->next)
        m->next->previous = m;
    d->members = m;
    d->connected++;
    d->service->shares_ns = 0;
    d->tokens++;
    scans_joined(m);
    *ret_member = m;
    return 0;
}

/* Counters that only grow stay with the domain; what describes a state goes with the client. */
static void counters_keep(struct domain *d, const struct member *m) {
    for (int i = 0; i < SP_COUNTER_COUNT; i++)
        if (sp_counter_info[i].owner == SP_COUNTER_CLIENT && sp_counter_is_total(i))
            d->gone_counters.v[i] += m->counters.v[i];
    sp_histogram_merge(&d->gone_freezes, &m->freezes);
}

static void hinted_remove(struct member *m) {
    struct member **at = &m->domain->service->hinted;
    while (m->hinted && *at && *at != m)
        at = &(*at)->hinted_next;
    if (m->hinted && *at)
        *at = m->hinted_next;
    m->hinted = false;
}

void member_gone(struct member *m, uint64_t now_ns) {
    struct domain *d = m->domain;
    domain_note_saved(d);
    policy_left(m, now_ns);
    counters_keep(d, m);
    sp_counters_subtract(&d->sum, &m->counters);
    hinted_remove(m);
    sp_filling_end(&m->filling);
    hints_free(m);
    m->session = NULL;
    if (!sp_engine_state_is_end(m->state)) /* or it is to be seen why it is merged no more */
        m->state = SP_WIRE_STATE_FAMILY;
    memset(&m->counters, 0, sizeof m->counters);
    memset(&m->freezes, 0, sizeof m->freezes);
    m->durations = (struct sp_durations){0};
    d->connected--;
    d->service->shares_ns = 0;
    d->waiting++;
    scans_left(m);
    family_gone(&m->family, now_ns);
    member_look(m, now_ns);
}

static struct sp_query query_of(const struct sp_wire_query *q) {
    return (struct sp_query){.page = {q->page}, .fp = {q->fp}, .probe = {q->probe}};
}

void member_ask(struct member *m, const struct sp_wire_queries *q, struct sp_wire_answer *ret_answers) {
    struct sp_query queries[SP_WIRE_QUERIES_MAX];
    struct sp_answer answers[SP_WIRE_QUERIES_MAX];
    for (size_t i = 0; i < q->n; i++)
        queries[i] = query_of(&q->query[i]);
    sp_domain_guessed_wrong(m->domain->index, q->guessed_wrong);
    sp_domain_ask(m->domain->index, m->client, queries, q->n, answers);
    for (size_t i = 0; i < q->n; i++)
        ret_answers[i] =
            (struct sp_wire_answer){.kind = (uint32_t)answers[i].kind, .store = answers[i].store.v};
}

void member_forget(struct member *m, const struct sp_wire_queries *q) {
    struct sp_query queries[SP_WIRE_QUERIES_MAX];
    for (size_t i = 0; i < q->n; i++)
        queries[i] = query_of(&q->query[i]);
    sp_domain_forget(m->domain->index, m->client, queries, q->n);
}

/* Half of the room is for those who join. */
static bool tokens_full(const struct domain *d) {
    return d->tokens >= d->connected + (d->service->tokens_max - d->connected) / 2;
}

int member_release(struct member *m, const struct sp_wire_release *release, int token_fd, uint64_t now_ns,
                   bool *ret_taken) {
    struct domain *d = m->domain;
    int error = release->epoch == m->family.epoch ? 0 : -ESTALE;
    *ret_taken = false;
    domain_note_saved(d);
    for (size_t i = 0; !error && i < release->n; i++) {
        sp_store_page first = {release->run[i].first};
        int r = sp_domain_release(d->index, m->client, first, release->run[i].pages, release->epoch);
        error = error ? error : r;
    }
    if (token_fd < 0 || error == -ESTALE)
        return error;
    if (tokens_full(d)) {
        m->family.look_ns = now_ns;
        member_look(m, now_ns);
        /* Too many: the epoch goes on, and ends with a later release. */
        if (tokens_full(d))
            return error;
    }
    int r = family_next(&m->family, token_fd, now_ns);
    *ret_taken = r == 0;
    d->tokens += r == 0;
    looks_set(&d->service->looks, m);
    return error ? error : r;
}

void member_report(struct member *m, const struct sp_wire_report *report, uint64_t now_ns) {
    struct domain *d = m->domain;
    sp_counters_subtract(&d->sum, &m->counters);
    m->counters = report->counters;
    m->reported_ns = now_ns;
    sp_counters_add(&d->sum, &m->counters);
    m->freezes = report->freezes;
    m->durations = sp_histogram_durations(&m->freezes);
    m->state = report->state;
    bool waiting = m->hints && !sp_hint_queue_empty(m->hints);
    m->settled = report->settled && !waiting && report->hints == m->hints_sent;
    if (m->settled) /* none will come soon */
        hints_free(m);
    m->settings_obeyed = report->settings_number;
    scans_reported(m);
    domain_note_saved(d);
}

void domain_note_saved(struct domain *d) {
    struct sp_counters c = {{0}};
    sp_domain_counters(d->index, &c);
    c.v[SP_COUNTER_ksm_zero_pages] = d->sum.v[SP_COUNTER_ksm_zero_pages];
    uint64_t saved = sp_counters_saved_bytes(&c);
    if (saved > d->saved_peak_bytes)
        d->saved_peak_bytes = saved;
}

void domain_counters(const struct domain *d, struct sp_counters *ret_counters,
                     struct sp_histogram *ret_freezes) {
    struct sp_counters c = {{0}};
    sp_counters_add(&c, &d->gone_counters);
    sp_counters_add(&c, &d->sum);
    sp_domain_counters(d->index, &c);
    c.v[SP_COUNTER_full_scans] = d->full_scans;
    *ret_counters = c;
    if (!ret_freezes)
        return;
    *ret_freezes = d->gone_freezes;
    for (const struct member *m = d->members; m; m = m->next)
        sp_histogram_merge(ret_freezes, &m->freezes);
}
