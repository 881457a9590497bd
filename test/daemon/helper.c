/* SPDX-License-Identifier: MIT */
/* See helper.h. Works in forked children too, where a failed assertion ends the child with a status. */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"

#define WAIT_NS     UINT64_C(60000000000)
#define ARGUMENTS   24
#define REPLY_BYTES 16384

static const char *program(void) {
    const char *path = getenv("SAMEPAGED");
    if (!path)
        fail_msg("SAMEPAGED does not say where the daemon is");
    return path;
}

static void child_exec(const char *const *arguments) {
    union {
        const char *const *in;
        char *const *out;
    } argv = {.in = arguments};
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves no daemon behind */
    execv(arguments[0], argv.out);
    _exit(127);
}

static void start(struct daemon *d, const char *const *options) {
    const char *arguments[ARGUMENTS] = {program(), "--socket", d->socket, "--ready-fd"};
    size_t n = 4;
    int ready[2];
    char number[12], c;
    assert_int_equal(pipe(ready), 0);
    fcntl(ready[0], F_SETFD, FD_CLOEXEC);
    snprintf(number, sizeof number, "%d", ready[1]);
    arguments[n++] = number;
    while (options && *options && n < ARGUMENTS - 1)
        arguments[n++] = *options++;
    d->pid = fork();
    assert_true(d->pid >= 0);
    if (!d->pid)
        child_exec(arguments);
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
}

void daemon_start(struct daemon *d, const char *const *options) {
    strcpy(d->directory, "/tmp/samepage-test-XXXXXX");
    assert_non_null(mkdtemp(d->directory));
    assert_int_equal(chmod(d->directory, 0755), 0);
    snprintf(d->socket, sizeof d->socket, "%s/socket", d->directory);
    snprintf(d->alive, sizeof d->alive, "%s/alive", d->directory);
    start(d, options);
}

void daemon_start_again(struct daemon *d, const char *const *options) {
    start(d, options);
}

void daemon_stop(struct daemon *d) {
    int status;
    assert_int_equal(kill(d->pid, SIGTERM), 0);
    assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
    assert_int_equal(status, 0);
    assert_int_equal(access(d->socket, F_OK), -1);
    rmdir(d->directory);
}

void daemon_kill(struct daemon *d) {
    int status;
    assert_int_equal(kill(d->pid, SIGKILL), 0);
    assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
}

int daemon_run(const char *const *arguments, char *text, size_t bytes) {
    const char *all[ARGUMENTS] = {program()};
    int out[2], status;
    for (size_t n = 1; arguments[n - 1] && n < ARGUMENTS - 1; n++)
        all[n] = arguments[n - 1];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        dup2(out[1], 1);
        dup2(out[1], 2);
        child_exec(all);
    }
    close(out[1]);
    size_t at = 0;
    for (ssize_t n; at < bytes - 1 && (n = read(out[0], text + at, bytes - 1 - at)) > 0;)
        at += (size_t)n;
    text[at] = '\0';
    close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

int daemon_set(const struct daemon *d, const uid_t *uid, const char *settings) {
    struct sp_settings_change c = {0};
    for (char copy[256], *rest = strcpy(copy, settings), *one; (one = strsep(&rest, ","));)
        assert_int_equal(sp_settings_change_add(&c, one, NULL, 0), 0);
    return sp_control_set(d->socket, 30000, uid, &c);
}

struct sp_link *link_open(const char *socket, struct sp_welcome *ret_welcome) {
    struct sp_link *l;
    assert_int_equal(sp_remote_link_new(socket, &l), 0);
    assert_int_equal(l->ops->open(l, ret_welcome), 0);
    return l;
}

void link_close(struct sp_link *l) {
    l->ops->close(l);
    l->ops->free(l);
}

void told(struct sp_link *l, enum sp_setting which, uint64_t value) {
    struct sp_hint hints[16];
    size_t n;
    for (uint64_t since = 0; !l->settings_number || l->settings.v[which] != value; wait_step(&since))
        assert_int_equal(l->ops->hints(l, hints, 16, &n), 0);
}

void page_fill(void *page, uint64_t number) {
    uint64_t *words = page;
    for (size_t i = 0; i < SP_PAGE_SIZE / sizeof *words; i++)
        words[i] = (number + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

uint8_t *pages_new(size_t n, uint64_t first) {
    uint8_t *pages = mmap(NULL, n * SP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pages, MAP_FAILED);
    for (size_t i = 0; i < n; i++)
        page_fill(pages + i * SP_PAGE_SIZE, first + i);
    return pages;
}

void pages_free(uint8_t *pages, size_t n) {
    munmap(pages, n * SP_PAGE_SIZE);
}

void queries_of(const struct sp_welcome *w, const uint8_t *pages, size_t n, uint64_t at,
                struct sp_query *ret_queries) {
    for (size_t i = 0; i < n; i++)
        ret_queries[i] = (struct sp_query){{at + i}, sp_fingerprint(&w->key, pages + i * SP_PAGE_SIZE)};
}

void share_pages(struct sp_link *a, struct sp_link *b, const struct sp_welcome *w, const uint8_t *pages,
                 size_t n, sp_store_page *ret_store) {
    struct sp_query *queries = calloc(n, sizeof *queries);
    struct sp_answer *answers = calloc(n, sizeof *answers);
    const void **contents = calloc(n, sizeof *contents);
    assert_true(queries && answers && contents);
    queries_of(w, pages, n, 4096, queries);
    for (size_t i = 0; i < n; i++)
        contents[i] = pages + i * SP_PAGE_SIZE;
    assert_int_equal(a->ops->ask(a, queries, n, answers), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_UNKNOWN);
    assert_int_equal(b->ops->ask(b, queries, n, answers), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_SEND);
    assert_int_equal(b->ops->publish(b, queries, contents, n, answers), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(answers[i].kind, SP_ANSWER_SHARE);
        ret_store[i] = answers[i].store;
    }
    assert_int_equal(a->ops->ask(a, queries, n, answers), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(answers[i].kind, SP_ANSWER_SHARE);
        assert_int_equal(answers[i].store.v, ret_store[i].v);
    }
    free(queries);
    free(answers);
    free(contents);
}

static struct sp_status *status(const struct daemon *d) {
    struct sp_status *s;
    assert_int_equal(sp_control_status(d->socket, 30000, &s), 0);
    return s;
}

uint64_t counter(const struct daemon *d, uid_t uid, enum sp_counter which) {
    struct sp_status *s = status(d);
    uint64_t value = UINT64_MAX;
    for (size_t i = 0; i < s->n_domains; i++)
        if (s->domains[i].uid == uid)
            value = s->domains[i].counters.v[which];
    sp_status_free(s);
    return value;
}

void wait_step(uint64_t *since) {
    uint64_t now = sp_now_ns();
    if (!*since)
        *since = now;
    if (now - *since > WAIT_NS)
        fail_msg("waited for something that does not happen");
    sp_sleep_ns(2000000);
}

void counter_wait(const struct daemon *d, enum sp_counter which, uint64_t value) {
    for (uint64_t since = 0; counter(d, geteuid(), which) != value;)
        wait_step(&since);
}

void clients_count(const struct daemon *d, uint64_t *ret_connected, uint64_t *ret_waiting) {
    struct sp_status *s = status(d);
    *ret_connected = *ret_waiting = 0;
    for (size_t i = 0; i < s->n_domains; i++) {
        for (size_t c = 0; c < s->domains[i].n_clients; c++)
            *ret_connected += s->domains[i].clients[c].state != UINT32_MAX;
        *ret_waiting += s->domains[i].families_waiting;
    }
    sp_status_free(s);
}

void clients_wait(const struct daemon *d, uint64_t connected, uint64_t waiting) {
    uint64_t since = 0, c, w;
    for (clients_count(d, &c, &w); c != connected || w != waiting; clients_count(d, &c, &w))
        wait_step(&since);
}

int raw_connect(const struct daemon *d) {
    int fd;
    assert_int_equal(sp_socket_connect(d->socket, &fd), 0);
    return fd;
}

int raw_join(const struct daemon *d) {
    int fd = raw_connect(d), token;
    void *mapping;
    uint8_t reply[REPLY_BYTES];
    struct sp_wire_hello m = {.name = "raw"};
    assert_int_equal(sp_token_new(&token, &mapping), 0);
    sp_wire_header_init(&m.header, SP_WIRE_HELLO, sizeof m, 1);
    assert_int_equal(raw_send(fd, &m, sizeof m, token), 0);
    close(token);
    assert_int_equal(raw_receive(fd, reply, sizeof reply, NULL), SP_WIRE_WELCOME);
    return fd;
}

int raw_send(int fd, const void *message, size_t bytes, int with_fd) {
    union {
        const void *in;
        void *out;
    } base = {.in = message};
    struct iovec part = {.iov_base = base.out, .iov_len = bytes};
    return sp_socket_send(fd, &part, 1, &with_fd, with_fd >= 0, true);
}

unsigned raw_receive(int fd, void *buffer, size_t bytes, int *ret_fd) {
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 0;
    const char *reason = "";
    ssize_t n = sp_socket_receive(fd, buffer, bytes, fds, &n_fds, 60000);
    if (n == 0)
        return 0;
    if (n < 0)
        fail_msg("receiving failed: %s", strerror((int)-n));
    if (sp_wire_check(buffer, (size_t)n, n_fds, SP_WIRE_TO_CLIENT, &reason))
        fail_msg("the daemon sent a bad message: %s", reason);
    for (size_t i = 0; i < n_fds; i++) {
        if (ret_fd)
            *ret_fd = fds[i];
        else
            close(fds[i]);
    }
    return ((const struct sp_wire_header *)buffer)->type;
}

int raw_refused(int fd) {
    _Alignas(16) uint8_t reply[REPLY_BYTES];
    int error = 0;
    unsigned ends = 0;
    /* The first end may be the news that something we sent was not read; what it sent lies behind that. */
    while (ends < 2) {
        unsigned type = raw_receive(fd, reply, sizeof reply, NULL);
        if (type == SP_WIRE_REFUSED)
            error = ((const struct sp_wire_refused *)reply)->error;
        ends += type == 0;
    }
    close(fd);
    return error;
}
