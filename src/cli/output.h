/* SPDX-License-Identifier: MIT */
/*
 * What people read: amounts with their units, colours where they are wanted, and the check that what was
 * printed has really been written. The texts of functions that return them live until the same function is
 * called four more times, so that several fit into one printf.
 */
#ifndef SP_CLI_OUTPUT_H
#define SP_CLI_OUTPUT_H

#include <jansson.h>

#include "core/types.h"

const char *sp_text_bytes(uint64_t bytes); /* "123.4 MiB" */
const char *sp_text_number(uint64_t n);    /* "31,234" */
const char *sp_text_duration(uint64_t ns); /* "183 us" */
const char *sp_text_seconds(uint64_t ns);  /* "0.42 s" */

enum sp_colour { SP_GREEN, SP_YELLOW, SP_RED, SP_BOLD };

/* What begins and ends a colour; nothing unless standard output is a terminal and NO_COLOR is not set. */
const char *sp_colour_begin(enum sp_colour colour);
const char *sp_colour_end(void);
/* Prints `text`, padded to `width`, coloured when standard output is a terminal and NO_COLOR is not set. */
void sp_print_coloured(enum sp_colour colour, int width, const char *text);

/* A text for JSON, which is UTF-8, while programs and files are named freely: letters that are none become
 * '?'. */
json_t *sp_json_name(const char *name);
/* The value of a setting: a number, or its name where its values have names. */
json_t *sp_json_setting(size_t setting, uint64_t value);

/* Ends the output on stdout: returns `status`, or 1 with a message when something could not be written
 * (/dev/full). */
SP_WARN_UNUSED int sp_output_finish(int status);

#endif
