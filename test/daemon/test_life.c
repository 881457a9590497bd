/* SPDX-License-Identifier: MIT */
/*
 * How a daemon begins and ends: options, the socket, private mode, and what its death means for clients (I7).
 */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/socket.h"
#include "os/thread.h"

static struct daemon d;

static void test_bad_options(void **state) {
    static const char *const cases[][6] = {
        {"--no-such-option", NULL},
        {"argument", NULL},
        {"--socket", "", NULL},
        {"--socket", NULL},
        {"--set", "no_such_key=1", NULL},
        {"--set", "map_percent", NULL},
        {"--set", "map_percent=1000", NULL},
        {"--config", NULL},
        {"--config", "/no/such/file", NULL},
        {"--only-uid", "root", NULL},
        {"--only-uid", "-1", NULL},
        {"--owner-pid", "0", NULL},
        {"--owner-pid", "12x", NULL},
        {"--alive", "/tmp/x", NULL},
        {"--ready-fd", "", NULL},
        {"--socket",
         "/tmp/"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aa"
         "aaaaaaaaaa",
         NULL},
    };
    char text[4096];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(daemon_run(cases[i], text, sizeof text), 2);
        assert_non_null(strstr(text, "samepaged"));
        assert_non_null(strstr(text, "--help"));
    }
}

static void test_help_and_version(void **state) {
    static const char *const help[] = {"--help", NULL}, *const version[] = {"--version", NULL};
    char text[8192];
    assert_int_equal(daemon_run(help, text, sizeof text), 0);
    assert_non_null(strstr(text, "--socket PATH"));
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        assert_non_null(strstr(text, sp_setting_info[i].name));
    assert_int_equal(daemon_run(version, text, sizeof text), 0);
    assert_int_equal(strncmp(text, "samepaged ", 10), 0);
    assert_true(text[10] >= '0' && text[10] <= '9');
}

static void test_second_daemon(void **state) {
    struct sp_welcome w;
    char text[4096];
    daemon_start(&d, NULL);
    const char *arguments[] = {"--socket", d.socket, NULL};
    assert_int_equal(daemon_run(arguments, text, sizeof text), 1);
    assert_non_null(strstr(text, "another daemon"));
    /* The first one goes on, at its socket. */
    link_close(link_open(d.socket, &w));
    daemon_stop(&d);
}

static void test_bad_places(void **state) {
    static const char *const cases[] = {"/proc/socket", "/no/such/directory/socket", "/etc/passwd"};
    char text[4096];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *arguments[] = {"--socket", cases[i], NULL};
        assert_int_equal(daemon_run(arguments, text, sizeof text), 1);
        assert_non_null(strstr(text, cases[i]));
    }
    assert_int_equal(access("/etc/passwd", F_OK), 0);
}

/* The daemon dies; the link says so, the memory stays, and a new daemon at the same place is joined. */
static void test_killed_daemon(void **state) {
    struct sp_welcome w, w2;
    sp_store_page store[8];
    struct sp_query query;
    struct sp_answer answer;
    struct sp_hint hint;
    struct sp_status *s;
    struct sp_report *report = calloc(1, sizeof *report);
    struct sp_store_run run;
    const void *content;
    uint8_t *pages = pages_new(8, 0);
    int fd;
    bool flag;
    size_t n;
    assert_non_null(report);
    daemon_start(&d, NULL);
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    share_pages(a, b, &w, pages, 8, store);
    assert_int_equal(a->ops->segment(a, 0, &fd), 0);
    uint8_t *mapping = mmap(NULL, 8 * SP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
                            (off_t)(store[0].v * SP_PAGE_SIZE));
    assert_ptr_not_equal(mapping, MAP_FAILED);
    daemon_kill(&d);

    queries_of(&w, pages, 1, 0, &query);
    content = pages;
    run = (struct sp_store_run){store[0], 1};
    assert_int_equal(a->ops->ask(a, &query, 1, &answer), -ENOTCONN);
    assert_int_equal(a->ops->ask(a, &query, 1, &answer), -ENOTCONN);
    assert_int_equal(a->ops->publish(a, &query, &content, 1, &answer), -ENOTCONN);
    assert_int_equal(a->ops->forget(a, &query, 1), -ENOTCONN);
    assert_int_equal(a->ops->release(a, &run, 1), -ENOTCONN);
    assert_int_equal(a->ops->segment(a, 1, &fd), -ENOTCONN);
    assert_int_equal(a->ops->report(a, report, &flag), -ENOTCONN);
    assert_int_equal(a->ops->hints(a, &hint, 1, &n), -ENOTCONN);
    assert_int_equal(a->ops->hint_fd(a), -1);
    /* Each kind of call is the first to find out. */
    assert_int_equal(b->ops->hints(b, &hint, 1, &n), -ENOTCONN);
    assert_memory_equal(mapping, pages, 8 * SP_PAGE_SIZE);
    assert_int_equal(a->ops->open(a, &w2), -ECONNREFUSED);
    assert_int_equal(sp_control_status(d.socket, 1000, &s), -ECONNREFUSED);

    /* The stale socket is replaced, and the new daemon has a key of its own. */
    daemon_start_again(&d, NULL);
    assert_int_equal(a->ops->open(a, &w2), 0);
    assert_memory_not_equal(&w.key, &w2.key, sizeof w.key);
    assert_int_equal(b->ops->open(b, &w2), 0);
    share_pages(a, b, &w2, pages, 8, store);
    assert_memory_equal(mapping, pages, 8 * SP_PAGE_SIZE);
    link_close(a);
    link_close(b);
    free(report);
    daemon_stop(&d);
}

/* Calls under way when the daemon is killed, many times over, come back with -ENOTCONN. */
static void test_killed_at_random(void **state) {
    unsigned seed = 5;
    daemon_start(&d, NULL);
    uint8_t *pages = pages_new(SP_WINDOW_PAGES, 0);
    struct sp_query queries[SP_WINDOW_PAGES];
    struct sp_answer answers[SP_WINDOW_PAGES];
    const void *contents[SP_WINDOW_PAGES];
    for (size_t i = 0; i < SP_WINDOW_PAGES; i++)
        contents[i] = pages + i * SP_PAGE_SIZE;
    for (int round = 0; round < 30; round++) {
        struct sp_welcome w;
        struct sp_link *a = link_open(d.socket, &w);
        queries_of(&w, pages, SP_WINDOW_PAGES, 0, queries);
        pid_t killer = fork();
        assert_true(killer >= 0);
        if (!killer) {
            sp_sleep_ns((uint64_t)(rand_r(&seed) % 20000) * 1000);
            kill(d.pid, SIGKILL);
            _exit(0);
        }
        (void)rand_r(&seed);
        int r = 0;
        for (uint64_t since = 0; !r;) {
            r = a->ops->ask(a, queries, SP_WINDOW_PAGES, answers);
            if (!r)
                r = a->ops->publish(a, queries, contents, SP_WINDOW_PAGES, answers);
            if (!since)
                wait_step(&since);
        }
        assert_int_equal(r, -ENOTCONN);
        waitpid(killer, NULL, 0);
        waitpid(d.pid, NULL, 0);
        daemon_start_again(&d, NULL);
        link_close(a);
    }
    pages_free(pages, SP_WINDOW_PAGES);
    daemon_stop(&d);
}

/* Something else listens there. */
static void test_other_peers(void **state) {
    struct sp_link *l;
    struct sp_welcome w;
    char directory[] = "/tmp/samepage-test-XXXXXX", path[64], request[256];
    int listener, fd;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/socket", directory);
    assert_int_equal(sp_remote_link_new(path, &l), 0);
    assert_int_equal(l->ops->open(l, &w), -ENOENT);
    assert_int_equal(sp_socket_listen(path, false, &listener), 0);
    for (int kind = 0; kind < 3; kind++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            struct sp_wire_refused m = {.error = -EACCES};
            sp_wire_header_init(&m.header, SP_WIRE_REFUSED, sizeof m, 0);
            m.header.version = (uint16_t)(SP_WIRE_VERSION + (kind == 1));
            struct iovec part = {.iov_base = kind ? (void *)&m : (void *)request, .iov_len = sizeof m};
            alarm(60);
            while (sp_socket_accept(listener, &fd))
                (void)!sp_wait_readable(&listener, 1, UINT64_MAX);
            if (sp_socket_receive(fd, request, sizeof request, NULL, NULL, -1) <= 0)
                _exit(1);
            memset(request, 'x', sizeof request);
            _exit(sp_socket_send(fd, &part, 1, NULL, 0, true) ? 1 : 0);
        }
        assert_int_equal(l->ops->open(l, &w), kind == 0 ? -ENOTCONN : kind == 1 ? -EPROTO : -EACCES);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
    l->ops->free(l);
    close(listener);
    unlink(path);
    rmdir(directory);
    char longer[200];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(sp_remote_link_new(longer, &l), -ENAMETOOLONG);
}

static pid_t sleeper(void) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        alarm(120);
        for (;;)
            pause();
    }
    return pid;
}

static void end_process(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* The directory's name has to be known before the daemon starts. */
static void start_private(pid_t owner) {
    char number[16], path[] = "/tmp/samepage-alive-XXXXXX";
    snprintf(number, sizeof number, "%d", (int)owner);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    const char *options[] = {"--owner-pid", number, "--alive", path, NULL};
    daemon_start(&d, options);
    strcpy(d.alive, path);
}

static bool running(void) {
    int status;
    return waitpid(d.pid, &status, WNOHANG) == 0;
}

static void assert_stays(void) {
    for (int i = 0; i < 100; i++) {
        assert_true(running());
        sp_sleep_ns(10000000);
    }
}

static void assert_ends(void) {
    int status;
    assert_int_equal(waitpid(d.pid, &status, 0), d.pid);
    assert_int_equal(status, 0);
    assert_int_equal(access(d.socket, F_OK), -1);
    assert_int_equal(access(d.alive, F_OK), -1);
    assert_int_equal(access(d.directory, F_OK), -1);
}

static void test_private_owner(void **state) {
    pid_t owner = sleeper();
    start_private(owner);
    assert_stays();
    end_process(owner);
    assert_ends();
}

static void test_private_owner_gone_already(void **state) {
    pid_t owner = sleeper();
    end_process(owner);
    start_private(owner);
    assert_ends();
}

/* A process that maps the file is one that may still connect. */
static void test_private_alive(void **state) {
    pid_t owner = sleeper();
    start_private(owner);
    int fd = open(d.alive, O_RDONLY);
    assert_true(fd >= 0);
    void *mapping = mmap(NULL, SP_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(mapping, MAP_FAILED);
    close(fd);
    pid_t child = sleeper(); /* has the mapping too */
    munmap(mapping, SP_PAGE_SIZE);
    end_process(owner);
    assert_stays();
    end_process(child);
    assert_ends();
}

static void test_private_client(void **state) {
    struct sp_welcome w;
    pid_t owner = sleeper();
    start_private(owner);
    struct sp_link *l = link_open(d.socket, &w);
    end_process(owner);
    assert_stays();
    link_close(l);
    assert_ends();
}

static void test_private_family(void **state) {
    struct sp_welcome w;
    sp_store_page store[4];
    pid_t owner = sleeper();
    start_private(owner);
    int ready[2];
    char c;
    assert_int_equal(pipe(ready), 0);
    pid_t client = fork();
    assert_true(client >= 0);
    if (!client) {
        struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
        share_pages(a, b, &w, pages_new(4, 0), 4, store);
        link_close(a);
        link_close(b);
        _exit(write(ready[1], "", 1) == 1 ? (pause(), 0) : 1);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    end_process(owner);
    assert_stays();
    end_process(client);
    assert_ends();
    close(ready[0]);
    close(ready[1]);
}

static void test_signals(void **state) {
    daemon_start(&d, NULL);
    assert_int_equal(kill(d.pid, SIGHUP), 0);
    struct sp_welcome w;
    link_close(link_open(d.socket, &w));
    struct stat st;
    assert_int_equal(stat(d.socket, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666);
    daemon_stop(&d);
    static const char *const options[] = {"--only-uid", "0", NULL};
    daemon_start(&d, options);
    assert_int_equal(stat(d.socket, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    daemon_stop(&d);
}

/* A daemon that ends must not take away the socket of another that has taken its place. */
static void test_other_socket_stays(void **state) {
    daemon_start(&d, NULL);
    struct daemon second = d;
    assert_int_equal(unlink(d.socket), 0);
    daemon_start_again(&second, NULL);
    assert_int_equal(kill(d.pid, SIGTERM), 0);
    assert_int_equal(waitpid(d.pid, NULL, 0), d.pid);
    struct sp_welcome w;
    link_close(link_open(second.socket, &w));
    daemon_stop(&second);
}

/* With no descriptors left nobody new is let in for a while; who is there is served, and it recovers. */
static void test_out_of_descriptors(void **state) {
    int held[64];
    struct sp_welcome w;
    sp_store_page store[4];
    daemon_start(&d, NULL);
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    char command[96];
    snprintf(command, sizeof command, "prlimit --nofile=40:40 --pid %d", (int)d.pid);
    if (system(command) != 0) {
        link_close(a);
        link_close(b);
        daemon_stop(&d);
        skip();
    }
    for (size_t i = 0; i < 64; i++)
        held[i] = raw_connect(&d);
    uint8_t *pages = pages_new(4, 0);
    for (size_t i = 0; i < 64; i++)
        close(held[i]);
    /* Descriptors are free again: segments can be made, new clients are let in. */
    clients_wait(&d, 2, 0);
    share_pages(a, b, &w, pages, 4, store);
    link_close(link_open(d.socket, &w));
    link_close(a);
    link_close(b);
    daemon_stop(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_second_daemon),
        cmocka_unit_test(test_bad_places),
        cmocka_unit_test(test_killed_daemon),
        cmocka_unit_test(test_killed_at_random),
        cmocka_unit_test(test_other_peers),
        cmocka_unit_test(test_private_owner),
        cmocka_unit_test(test_private_owner_gone_already),
        cmocka_unit_test(test_private_alive),
        cmocka_unit_test(test_private_client),
        cmocka_unit_test(test_private_family),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_other_socket_stays),
        cmocka_unit_test(test_out_of_descriptors),
    };
    return cmocka_run_group_tests_name("daemon/life", tests, NULL, NULL);
}
