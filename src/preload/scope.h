/* SPDX-License-Identifier: MIT */
/*
 * What of a program is merged: the variable SAMEPAGE_SCOPE, and what holds without it.
 */
#ifndef SP_PRELOAD_SCOPE_H
#define SP_PRELOAD_SCOPE_H

#include <string.h>

#include "core/types.h"

enum sp_scope {
    SP_SCOPE_ADVISED, /* what the program advises: MADV_MERGEABLE, PR_SET_MEMORY_MERGE */
    SP_SCOPE_ALL,     /* all private anonymous memory that it maps through the C library */
};

/* The default, as a value and as people write it. */
#define SP_SCOPE_DEFAULT      SP_SCOPE_ALL
#define SP_SCOPE_DEFAULT_TEXT "all"

/* NULL or empty: the default. False: no such scope; *ret_scope is untouched. */
static inline bool sp_scope_parse(const char *text, enum sp_scope *ret_scope) {
    if (!text || !*text)
        *ret_scope = SP_SCOPE_DEFAULT;
    else if (!strcmp(text, "all"))
        *ret_scope = SP_SCOPE_ALL;
    else if (!strcmp(text, "advised"))
        *ret_scope = SP_SCOPE_ADVISED;
    else
        return false;
    return true;
}

#endif
