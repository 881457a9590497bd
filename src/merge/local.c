/* SPDX-License-Identifier: MIT */
/*
 * The link to a domain in this process, with an index of either kind (index.h). The worker is its only client
 * and only caller, so there is no lock; the DOMAIN counters are copied out under a small one for statistics.
 *
 * A child forked from the process maps the store too, and is no client of anybody: what is given back takes
 * effect when the family's token of that time has no mapping left (H6, os/store.h).
 */
#include "merge/local.h"

#include <errno.h>
#include <string.h>

#include "core/advisor.h"
#include "os/filling.h"
#include "os/lock.h"
#include "os/mapping.h"
#include "os/memory.h"
#include "os/proc.h"
#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"
#include "os/uffd.h"

#define SEGMENTS_MAX  4096
#define EPOCHS_MAX    256
#define HINTS_MAX     1024
#define EPOCH_POLL_NS UINT64_C(100000000)
/* Some task waited for memory for 5 % of the last ten seconds. */
#define PRESSED 500

/* An epoch that has ended: children forked before may still map what was given back in it. */
struct epoch {
    uint64_t number;
    int fd; /* its token */
};

struct local {
    struct sp_link link;
    struct sp_memory *memory; /* holds this struct */
    struct sp_alloc alloc;
    struct sp_settings settings;
    struct sp_memory *domain_memory; /* the index */
    struct sp_domain *domain;        /* NULL: not open */
    enum sp_index_kind kind;
    struct sp_index *index;
    sp_client client;
    struct sp_key key;
    struct sp_segment *segments; /* [SEGMENTS_MAX]; fd 0: none (never a valid one: see segment_get) */
    bool *segment_there;         /* [SEGMENTS_MAX] */
    struct sp_filling filling;
    struct epoch epochs[EPOCHS_MAX];
    size_t n_epochs;
    uint64_t epoch; /* the current one */
    int token;
    void *token_mapping;
    uint64_t next_poll_ns;
    struct sp_hint hints[HINTS_MAX];
    size_t n_hints;
    bool hints_lost; /* more than fit */
    struct sp_budget budget;
    struct sp_allowance allowance;
    struct sp_advisor advisor;
    uint64_t scans;      /* of the worker, when the advisor looked last */
    struct sp_lock lock; /* guards `copied` */
    struct sp_counters copied;
};

static struct local *local_of(struct sp_link *l) {
    return (struct local *)(void *)l;
}

/* ---- the domain's callbacks ---- */

static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
    struct local *l = ctx;
    uint64_t number = first.v / SP_SEGMENT_PAGES;
    if (l->index && l->index->ops->punched)
        l->index->ops->punched(l->index, first, n);
    if (number >= SEGMENTS_MAX || !l->segment_there[number])
        return;
    /* A page that stays costs memory, nothing else. */
    int unused = sp_segment_punch(&l->segments[number], first.v % SP_SEGMENT_PAGES, n);
    (void)unused;
}

static void on_hint(void *ctx, sp_client client, sp_page page) {
    struct local *l = ctx;
    uint64_t window = sp_page_window(page);
    for (size_t i = l->n_hints; i-- > 0 && l->n_hints - i <= 8;)
        if (l->hints[i].window == window) {
            sp_bits_set(&l->hints[i].pages, sp_page_slot(page));
            return;
        }
    for (size_t i = 0; l->n_hints == HINTS_MAX && i < HINTS_MAX; i++)
        if (l->hints[i].window == window) {
            sp_bits_set(&l->hints[i].pages, sp_page_slot(page));
            return;
        }
    if (l->n_hints == HINTS_MAX) {
        l->hints_lost = true;
        return;
    }
    struct sp_hint *h = &l->hints[l->n_hints++];
    memset(h, 0, sizeof(*h));
    h->window = window;
    sp_bits_set(&h->pages, sp_page_slot(page));
}

static void copy_counters(struct local *l) {
    struct sp_counters now = {0};
    sp_domain_counters(l->domain, &now);
    sp_lock_acquire(&l->lock);
    l->copied = now;
    sp_lock_release(&l->lock);
}

/* ---- the store ---- */

static int segment_get(struct local *l, uint64_t number, struct sp_segment **ret) {
    if (number >= SEGMENTS_MAX)
        return -ENOSPC;
    if (!l->segment_there[number]) {
        int error = sp_segment_init(&l->segments[number]);
        if (error)
            return error;
        l->segment_there[number] = true;
    }
    *ret = &l->segments[number];
    return 0;
}

static int store_write(void *ctx, sp_store_page store, const void *content, int node) {
    struct local *l = ctx;
    struct sp_segment *s;
    int error = segment_get(l, store.v / SP_SEGMENT_PAGES, &s);
    if (error)
        return error;
    sp_filling_place(&l->filling, store, l->link.whole);
    error = sp_segment_write_on(s, store.v % SP_SEGMENT_PAGES, content, 1, node);
    if (!error)
        sp_filling_wrote(&l->filling, s, store);
    return error;
}

static int store_read(void *ctx, sp_store_page store, void *ret_content) {
    struct sp_segment *s;
    int error = segment_get(ctx, store.v / SP_SEGMENT_PAGES, &s);
    return error ? error : sp_segment_read(s, store.v % SP_SEGMENT_PAGES, ret_content);
}

/* ---- opening and closing ---- */

static int index_open(struct local *l) {
    struct sp_index_uses uses = {.domain = l->domain,
                                 .client = l->client,
                                 .key = &l->key,
                                 .apart = !l->settings.v[SP_SETTING_merge_across_nodes],
                                 .read = store_read,
                                 .write = store_write,
                                 .hint = on_hint,
                                 .ctx = l};
    return sp_index_new(l->kind, &uses, &l->index);
}

static void index_close(struct local *l) {
    l->index = sp_index_free(l->index);
    l->domain = sp_domain_free(l->domain);
    l->domain_memory = sp_memory_free(l->domain_memory);
}

static void local_close(struct sp_link *link) {
    struct local *l = local_of(link);
    int unused = 0;
    if (!l->domain)
        return;
    index_close(l);
    sp_filling_end(&l->filling);
    for (size_t i = 0; i < SEGMENTS_MAX; i++)
        if (l->segment_there[i]) {
            sp_segment_deinit(&l->segments[i]);
            l->segment_there[i] = false;
        }
    for (size_t i = 0; i < l->n_epochs; i++)
        unused = sp_close(l->epochs[i].fd);
    unused = sp_close(l->token);
    unused = sp_token_drop(l->token_mapping);
    (void)unused;
    l->n_epochs = l->n_hints = 0;
}

/* The budget and the advisor: what samepaged does for a domain of its own (daemon/policy.c). */
static void steer_begin(struct local *l, uint64_t now_ns) {
    l->budget = (struct sp_budget){0};
    l->allowance = (struct sp_allowance){0};
    l->advisor = (struct sp_advisor){0};
    l->scans = 0;
    l->link.cpu_bounded = false;
    sp_budget_set(&l->budget, sp_budget_wanted(&l->settings, true), now_ns);
    sp_advisor_set(&l->advisor, &l->settings, now_ns, 0);
}

static int local_open(struct sp_link *link, struct sp_welcome *ret_welcome) {
    struct local *l = local_of(link);
    uint8_t random[32];
    int error = sp_random(random);
    if (error)
        return error;
    sp_key_init(&l->key, random);
    error = sp_memory_new(false, &l->domain_memory);
    if (error)
        return error;
    struct sp_alloc alloc = sp_memory_alloc(l->domain_memory);
    struct sp_domain_events events = {.punch = on_punch, .hint = on_hint, .ctx = l};
    error = sp_domain_new(&alloc, &events, &l->domain);
    if (!error) {
        sp_domain_limit(l->domain, l->settings.v[SP_SETTING_store_max_mbytes] * 256, false);
        sp_domain_limit_sharing(l->domain, l->settings.v[SP_SETTING_max_page_sharing]);
        error = sp_domain_client_add(l->domain, &l->client);
    }
    if (!error)
        error = index_open(l);
    if (!error)
        error = sp_token_new(&l->token, &l->token_mapping);
    if (error) {
        index_close(l);
        return error;
    }
    l->epoch = 1;
    steer_begin(l, sp_now_ns());
    *ret_welcome = (struct sp_welcome){.key = l->key, .settings = l->settings};
    sp_advisor_apply(&l->advisor, &ret_welcome->settings);
    return 0;
}

static void local_free(struct sp_link *link) {
    struct local *l = local_of(link);
    local_close(link);
    struct sp_memory *memory = l->memory;
    sp_memory_free(memory); /* the link itself lies in it */
}

/* The copy of the index is of no use in the child; its token mapping stays and holds what the parent holds.
 */
static void local_forked(struct sp_link *link) {
    struct local *l = local_of(link);
    if (!l->domain)
        return;
    l->domain = NULL;
    l->index = NULL;
    l->domain_memory = sp_memory_free(l->domain_memory);
    memset(l->segment_there, 0, SEGMENTS_MAX * sizeof(*l->segment_there));
    memset(&l->copied, 0, sizeof(l->copied));
    memset(&l->filling, 0, sizeof(l->filling)); /* the parent's */
    memset(&l->lock, 0, sizeof(l->lock));
    l->n_epochs = l->n_hints = 0;
}

int sp_uffd_for_worker(int dev_fd, int *ret_fd, bool *ret_fork_events) {
    for (unsigned fork_events = 1;; fork_events--) {
        int fd;
        int error = sp_uffd_new(dev_fd, &fd);
        if (error)
            return error;
        error = sp_uffd_enable(fd, SP_UFFD_NEEDED | (fork_events ? SP_UFFD_EVENT_FORK : 0));
        if (!error) {
            *ret_fd = fd;
            *ret_fork_events = fork_events;
            return 0;
        }
        int unused = sp_close(fd);
        (void)unused;
        if (!fork_events)
            return error;
    }
}

static int local_userfaultfd(struct sp_link *link, int *ret_fd, bool *ret_fork_events) {
    return sp_uffd_for_worker(-1, ret_fd, ret_fork_events);
}

/* ---- questions ---- */

static int local_ask(struct sp_link *link, const struct sp_query *queries, size_t n,
                     struct sp_answer *ret_answers) {
    struct local *l = local_of(link);
    sp_domain_guessed_wrong(l->domain, link->guessed_wrong);
    link->guessed_wrong = 0;
    l->index->ops->ask(l->index, queries, n, ret_answers);
    copy_counters(l);
    return 0;
}

/* The application may write to the page meanwhile, or unmap it: what is checked and written is a copy. */
static struct sp_answer publish_one(struct local *l, const struct sp_query *q, const void *content) {
    _Alignas(64) uint8_t copy[SP_PAGE_SIZE];
    bool there = content && !sp_peek(copy, (uintptr_t)content, SP_PAGE_SIZE);
    return l->index->ops->publish(l->index, q, there ? copy : NULL);
}

static int local_publish(struct sp_link *link, const struct sp_query *queries, const void *const *contents,
                         size_t n, struct sp_answer *ret_answers) {
    struct local *l = local_of(link);
    for (size_t i = 0; i < n; i++)
        ret_answers[i] = publish_one(l, &queries[i], contents[i]);
    copy_counters(l);
    return 0;
}

static int local_forget(struct sp_link *link, const struct sp_query *queries, size_t n) {
    struct local *l = local_of(link);
    l->index->ops->forget(l->index, queries, n);
    return 0;
}

static void local_scanned(struct sp_link *link) {
    struct local *l = local_of(link);
    if (l->index->ops->scanned && l->index->ops->scanned(l->index))
        l->hints_lost = true; /* as if each had been hinted at */
}

/* ---- giving back ---- */

/* Epochs end in order: a later one counts as ended only when all before it have. */
static void poll_epochs(struct local *l) {
    size_t done = 0;
    while (done < l->n_epochs && sp_token_gone(l->epochs[done].fd) == 1)
        done++;
    if (!done)
        return;
    sp_domain_release_done(l->domain, l->client, l->epochs[done - 1].number);
    for (size_t i = 0; i < done; i++) {
        int unused = sp_close(l->epochs[i].fd);
        (void)unused;
    }
    memmove(l->epochs, &l->epochs[done], (l->n_epochs - done) * sizeof(*l->epochs));
    l->n_epochs -= done;
    copy_counters(l);
}

static int local_release(struct sp_link *link, const struct sp_store_run *runs, size_t n) {
    struct local *l = local_of(link);
    for (size_t i = 0; i < n; i++) {
        int error = sp_domain_release(l->domain, l->client, runs[i].first, runs[i].pages, l->epoch);
        if (error && error != -ENOMEM) /* -ENOMEM: kept for good */
            return error;
    }
    int token;
    void *mapping;
    /* Without a new token the epoch simply goes on, and what was given back waits with it. */
    if (l->n_epochs < EPOCHS_MAX && !sp_token_new(&token, &mapping)) {
        int unused = sp_token_drop(l->token_mapping);
        (void)unused;
        l->epochs[l->n_epochs++] = (struct epoch){l->epoch++, l->token};
        l->token = token;
        l->token_mapping = mapping;
    }
    poll_epochs(l);
    copy_counters(l);
    return 0;
}

/* ---- the rest ---- */

static int local_segment(struct sp_link *link, uint64_t segment, int *ret_fd) {
    struct local *l = local_of(link);
    if (segment >= SEGMENTS_MAX || !l->segment_there[segment])
        return -ENOENT;
    *ret_fd = l->segments[segment].fd_shared;
    return 0;
}

static void settings_tell(struct local *l) {
    l->link.settings = l->settings;
    sp_advisor_apply(&l->advisor, &l->link.settings);
    l->link.settings_number++;
}

/* By what the kernel says now: nobody waits here to be told. */
static void look_at_pressure(struct local *l, uint64_t now_ns) {
    uint64_t share = 0;
    if (!l->settings.v[SP_SETTING_lazy_max_cpu])
        return;
    int unused = sp_proc_pressure(SP_PROC_PRESSURE, &share); /* none */
    (void)unused;
    sp_budget_set(&l->budget, sp_budget_wanted(&l->settings, share < PRESSED), now_ns);
}

static void steer(struct local *l, const struct sp_report *report, uint64_t now_ns) {
    look_at_pressure(l, now_ns);
    const uint64_t *v = report->counters.v;
    uint64_t advice = l->advisor.pages;
    if (v[SP_COUNTER_full_scans] != l->scans)
        sp_advisor_scanned(&l->advisor, &l->settings, now_ns, v[SP_COUNTER_cpu_ns]);
    l->scans = v[SP_COUNTER_full_scans];
    if (l->advisor.pages != advice)
        settings_tell(l);
    l->link.cpu_until_ns = sp_budget_report(&l->budget, &l->allowance, v[SP_COUNTER_cpu_ns], now_ns);
    l->link.cpu_bounded = l->link.cpu_until_ns != SP_BUDGET_NONE;
}

static int local_report(struct sp_link *link, const struct sp_report *report, bool *ret_pause) {
    struct local *l = local_of(link);
    uint64_t limit = l->settings.v[SP_SETTING_exposure_max_percent], available, total;
    struct sp_counters now = {0};
    sp_domain_counters(l->domain, &now);
    *ret_pause = limit && !sp_proc_memory(&available, &total) &&
                 now.v[SP_COUNTER_exposure_bytes] / 100 * 100 > available / 100 * limit;
    steer(l, report, sp_now_ns());
    return 0;
}

static int local_hint_fd(struct sp_link *link) {
    return -1;
}

static int local_hints(struct sp_link *link, struct sp_hint *ret_hints, size_t max, size_t *ret_n) {
    struct local *l = local_of(link);
    uint64_t now = sp_now_ns();
    if (l->n_epochs && now >= l->next_poll_ns) {
        l->next_poll_ns = now + EPOCH_POLL_NS;
        poll_epochs(l);
    }
    if (l->hints_lost && max) {
        ret_hints[0] = (struct sp_hint){.window = SP_HINT_ALL};
        *ret_n = 1;
        l->hints_lost = false;
        l->n_hints = 0;
        return 0;
    }
    size_t n = l->n_hints < max ? l->n_hints : max;
    memcpy(ret_hints, l->hints, n * sizeof(*ret_hints));
    memmove(l->hints, &l->hints[n], (l->n_hints - n) * sizeof(*l->hints));
    l->n_hints -= n;
    *ret_n = n;
    return 0;
}

static const struct sp_link_ops local_ops = {
    .open = local_open,
    .close = local_close,
    .free = local_free,
    .userfaultfd = local_userfaultfd,
    .ask = local_ask,
    .publish = local_publish,
    .forget = local_forget,
    .scanned = local_scanned,
    .release = local_release,
    .segment = local_segment,
    .report = local_report,
    .hint_fd = local_hint_fd,
    .hints = local_hints,
    .forked = local_forked,
};

int sp_local_link_new(const struct sp_settings *settings, enum sp_index_kind kind,
                      struct sp_link **ret_link) {
    struct sp_memory *memory;
    int error = sp_memory_new(false, &memory);
    if (error)
        return error;
    struct sp_alloc alloc = sp_memory_alloc(memory);
    struct local *l = sp_alloc_get(&alloc, sizeof(*l));
    if (l) {
        l->segments = sp_alloc_get(&alloc, SEGMENTS_MAX * sizeof(*l->segments));
        l->segment_there = sp_alloc_get(&alloc, SEGMENTS_MAX * sizeof(*l->segment_there));
    }
    if (!l || !l->segments || !l->segment_there) {
        sp_memory_free(memory);
        return -ENOMEM;
    }
    l->memory = memory;
    l->alloc = alloc;
    l->settings = *settings;
    l->kind = kind;
    l->link = (struct sp_link){
        .ops = &local_ops, .idle_fd = -1, .windows = kind == SP_INDEX_HASH, .ordered = kind == SP_INDEX_TREE};
    *ret_link = &l->link;
    return 0;
}

void sp_local_link_counters(struct sp_link *link, struct sp_counters *into) {
    struct local *l = local_of(link);
    sp_lock_acquire(&l->lock);
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        if (sp_counter_info[i].owner == SP_COUNTER_DOMAIN)
            into->v[i] = l->copied.v[i];
    sp_lock_release(&l->lock);
}
