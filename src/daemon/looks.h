/* SPDX-License-Identifier: MIT */
/*
 * Whose family is looked at next: the members that have anything to be looked for, ordered by when that is
 * due (families.h). One of a thousand being due must not mean that all of them are gone through, and a
 * thousand that are due at a thousand different moments must not wake the daemon a thousand times.
 */
#ifndef SP_DAEMON_LOOKS_H
#define SP_DAEMON_LOOKS_H

#include <bsd/sys/tree.h>

#include "core/types.h"

struct member;
RB_HEAD(looks, member);

/* The member's family has changed when it is to be looked at next. */
void looks_set(struct looks *l, struct member *m);
/* The member goes. */
void looks_remove(struct looks *l, struct member *m);
/* A member that is due, or NULL: none is. It stays until looks_set. */
struct member *looks_due(struct looks *l, uint64_t now_ns);
/* When the next will be; UINT64_MAX: never. */
uint64_t looks_next_ns(struct looks *l);

#endif
