/* SPDX-License-Identifier: MIT */
/*
 * Whether a client and everybody forked from it still map the store (H6). A client's life is cut into epochs,
 * each with a token that it maps while the epoch lasts; a child inherits the mapping of the epoch that it was
 * forked in. What was given back in an epoch may still be mapped by whoever was forked in it or before, so it
 * takes effect when the tokens up to that epoch have gone. A token that nobody maps can be sealed, and only
 * then; nobody tells us, so we look, less and less often.
 */
#ifndef SP_DAEMON_FAMILIES_H
#define SP_DAEMON_FAMILIES_H

#include "core/types.h"

struct family_token {
    int fd;
    uint64_t epoch;
};

struct family {
    struct family_token
        *tokens; /* not known to have gone, ascending epochs; the last may be the current one */
    size_t n, room;
    uint64_t epoch;    /* the current one */
    bool gone;         /* the client's session has ended: its last epoch as well */
    uint64_t look_ns;  /* when to look next; UINT64_MAX: nothing to look for */
    uint64_t pause_ns; /* between looks, doubling */
};

/* Most tokens of one client that may be waited for. */
#define FAMILY_TOKENS_MAX 4096

/* Begins with epoch 1. Takes over the descriptor on success. -EINVAL: that is no token; -ESRCH: nobody maps
 * it (any more); -ENOMEM. */
SP_WARN_UNUSED int family_init(struct family *f, int token_fd);
void family_deinit(struct family *f);
/* The current epoch ends, the next begins with its token, taken over on success. -EINVAL, -ESRCH and
 * -ENOMEM as above, -EMFILE: too many. */
SP_WARN_UNUSED int family_next(struct family *f, int token_fd, uint64_t now_ns);
/* The client's session has ended: the current epoch too may end now. */
void family_gone(struct family *f, uint64_t now_ns);
/* Looks, when it is time. Returns the epoch up to which everybody has gone. */
uint64_t family_look(struct family *f, uint64_t now_ns);

#endif
