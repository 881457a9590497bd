/* SPDX-License-Identifier: MIT */
/* The two forms of `samepage status`, and what it shares with other commands that show clients. */
#ifndef SP_CLI_STATUS_H
#define SP_CLI_STATUS_H

#include "cli/json_out.h"
#include "cli/places.h"
#include "wire/control.h"

/* What a client's state means, a static text. */
const char *sp_status_state_text(uint32_t state);

/* status_text.c, status_json.c: what a daemon answered. */
void sp_status_text(const struct sp_socket_place *place, const struct sp_status *s);
void sp_status_json(struct sp_json_out *o, const struct sp_socket_place *place, const struct sp_status *s);

#endif
