/* SPDX-License-Identifier: MIT */
/*
 * Writes a JSON document on stdout from its beginning to its end, without a tree of it: for answers that name
 * thousands of clients, of which building and writing the tree was nine tenths of the time. Looks as
 * jansson's json_dumpf does with JSON_INDENT(2). Failures of stdout are found by sp_output_finish.
 *
 * `key` is that of the value in its object; NULL in an array, or at the top. Keys are ASCII that needs no
 * escape.
 */
#ifndef SP_CLI_JSON_OUT_H
#define SP_CLI_JSON_OUT_H

#include <jansson.h>

#include "core/types.h"

struct sp_json_out {
    unsigned depth;
    bool begun; /* something was written since the last '{' or '[' */
};

/* '{' or '[', and what ends it. */
void sp_json_out_begin(struct sp_json_out *o, const char *key, char bracket);
void sp_json_out_end(struct sp_json_out *o, char bracket);
void sp_json_out_number(struct sp_json_out *o, const char *key, uint64_t n);
/* A name, as sp_json_name has it. */
void sp_json_out_text(struct sp_json_out *o, const char *key, const char *text);
void sp_json_out_bool(struct sp_json_out *o, const char *key, bool value);
/* Any other value, which is given up. NULL, for want of memory, becomes null. */
void sp_json_out_value(struct sp_json_out *o, const char *key, json_t *value);
/* A newline after the document. Until then part of it may not have been written. */
void sp_json_out_finish(struct sp_json_out *o);

#endif
