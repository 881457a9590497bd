/* SPDX-License-Identifier: MIT */
/*
 * What the daemon's tests share: a real daemon in a directory of its own, links to it, raw connections that
 * may send anything, and waiting for something to become true. Waiting has a limit that no machine reaches
 * unless the thing never happens.
 */
#ifndef SP_TEST_DAEMON_HELPER_H
#define SP_TEST_DAEMON_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <sys/types.h>

#include <cmocka.h>

#include "client/remote.h"
#include "wire/control.h"
#include "wire/message.h"

struct daemon {
    pid_t pid;
    char directory[40];
    char socket[64];
    char alive[64];
};

/* Starts a daemon with more options (NULL-terminated, may be NULL) and waits until it listens. */
void daemon_start(struct daemon *d, const char *const *options);
/* Starts one on the same socket again. */
void daemon_start_again(struct daemon *d, const char *const *options);
/* SIGTERM; it must end with status 0 and leave no socket. Removes the directory. */
void daemon_stop(struct daemon *d);
/* SIGKILL. The directory and the stale socket stay. */
void daemon_kill(struct daemon *d);
/* Runs the daemon's program with these arguments until it ends; returns its exit status, what it wrote in
 * `text`. */
int daemon_run(const char *const *arguments, char *text, size_t bytes);

/* Changes settings, KEY=VALUE,KEY=VALUE, as sp_control_set does for `uid`; returns what it does. */
int daemon_set(const struct daemon *d, const uid_t *uid, const char *settings);

/* A link that is open. */
struct sp_link *link_open(const char *socket, struct sp_welcome *ret_welcome);
void link_close(struct sp_link *l);
/* Reads what the daemon has sent, until the client has been told that value. */
void told(struct sp_link *l, enum sp_setting which, uint64_t value);

/* Makes the content of a page: the same for the same number, never zeros. */
void page_fill(void *page, uint64_t number);
/* `n` pages of memory, filled with page_fill(first + i). */
uint8_t *pages_new(size_t n, uint64_t first);
void pages_free(uint8_t *pages, size_t n);
/* Questions about pages at `pages`, as if they were at page number `at`. */
void queries_of(const struct sp_welcome *w, const uint8_t *pages, size_t n, uint64_t at,
                struct sp_query *ret_queries);
/*
 * Gets `n` pages shared by two clients: `a` asks, `b` asks and publishes, `a` asks again. All answers must be
 * what they have to be; the store pages are in `ret_store`, and each client has a reference to each.
 */
void share_pages(struct sp_link *a, struct sp_link *b, const struct sp_welcome *w, const uint8_t *pages,
                 size_t n, sp_store_page *ret_store);

/* A counter of the domain of `uid` (UINT64_MAX when there is no such domain). */
uint64_t counter(const struct daemon *d, uid_t uid, enum sp_counter which);
/* Waits until the counter has the value. */
void counter_wait(const struct daemon *d, enum sp_counter which, uint64_t value);
/* Clients connected and families waiting, in all domains. */
void clients_count(const struct daemon *d, uint64_t *ret_connected, uint64_t *ret_waiting);
void clients_wait(const struct daemon *d, uint64_t connected, uint64_t waiting);
/* One step of waiting for something; fails the test after a minute. Begin with *since == 0. */
void wait_step(uint64_t *since);

/* A raw connection. */
int raw_connect(const struct daemon *d);
/* The same with HELLO done; the token stays mapped until the process ends. */
int raw_join(const struct daemon *d);
/* Sends bytes as they are; 0 or a negative errno. */
int raw_send(int fd, const void *message, size_t bytes, int with_fd);
/* Receives a message, which must be valid; returns its type, 0 when the peer has hung up. */
unsigned raw_receive(int fd, void *buffer, size_t bytes, int *ret_fd);
/* The daemon must have ended this session: reads until it hangs up. Returns the error of REFUSED, 0 if none
 * came. */
int raw_refused(int fd);

#endif
