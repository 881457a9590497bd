/* SPDX-License-Identifier: MIT */
/* See families.h. When in doubt (a token about which the kernel gives an error), it counts as mapped. */
#include "daemon/families.h"

#include <errno.h>
#include <stdlib.h>

#include "os/socket.h"
#include "os/store.h"

#define LOOK_FIRST_NS UINT64_C(20000000)
#define LOOK_LAST_NS  UINT64_C(2000000000)
/* Looking at one token takes about a microsecond: many are looked at less often. */
#define LOOK_TOKEN_NS UINT64_C(100000)

static int token_add(struct family *f, int fd, uint64_t epoch) {
    if (f->n == f->room) {
        size_t room = f->room ? 2 * f->room : 2;
        struct family_token *tokens = reallocarray(f->tokens, room, sizeof *tokens);
        if (!tokens)
            return -ENOMEM;
        f->tokens = tokens;
        f->room = room;
    }
    f->tokens[f->n++] = (struct family_token){.fd = fd, .epoch = epoch};
    f->epoch = epoch;
    return 0;
}

int family_init(struct family *f, int token_fd) {
    *f = (struct family){.look_ns = UINT64_MAX};
    int r = sp_token_check(token_fd);
    return r ? r : token_add(f, token_fd, 1);
}

void family_deinit(struct family *f) {
    for (size_t i = 0; i < f->n; i++)
        (void)sp_close(f->tokens[i].fd);
    free(f->tokens);
    *f = (struct family){.look_ns = UINT64_MAX};
}

/* Never later than it was due: a client that releases all the time would never be looked at. */
static void look_soon(struct family *f, uint64_t now_ns) {
    f->pause_ns = LOOK_FIRST_NS + f->n * LOOK_TOKEN_NS;
    if (f->look_ns > now_ns + f->pause_ns)
        f->look_ns = now_ns + f->pause_ns;
}

int family_next(struct family *f, int token_fd, uint64_t now_ns) {
    int r = sp_token_check(token_fd);
    if (!r && f->n >= FAMILY_TOKENS_MAX)
        r = -EMFILE;
    if (!r)
        r = token_add(f, token_fd, f->epoch + 1);
    if (!r)
        look_soon(f, now_ns);
    return r;
}

void family_gone(struct family *f, uint64_t now_ns) {
    f->gone = true;
    f->pause_ns = LOOK_FIRST_NS / 2;
    f->look_ns = now_ns;
}

uint64_t family_look(struct family *f, uint64_t now_ns) {
    if (now_ns >= f->look_ns) {
        size_t kept = 0;
        for (size_t i = 0; i < f->n; i++) {
            struct family_token t = f->tokens[i];
            bool current = t.epoch == f->epoch && !f->gone;
            if (!current && sp_token_gone(t.fd) == 1)
                (void)sp_close(t.fd);
            else
                f->tokens[kept++] = t;
        }
        f->n = kept;
        f->pause_ns = 2 * f->pause_ns > LOOK_LAST_NS ? LOOK_LAST_NS : 2 * f->pause_ns;
        f->look_ns = f->n > (f->gone ? 0 : 1) ? now_ns + f->pause_ns : UINT64_MAX;
    }
    return f->n ? f->tokens[0].epoch - 1 : f->epoch;
}
