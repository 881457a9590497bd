/* SPDX-License-Identifier: MIT */
/* What `samepage status` shares with other commands that show clients. */
#ifndef SP_CLI_STATUS_H
#define SP_CLI_STATUS_H

#include "core/types.h"

/* What a client's state means, a static text. */
const char *sp_status_state_text(uint32_t state);

#endif
