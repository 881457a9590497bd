/* SPDX-License-Identifier: MIT */
/* src/cli/estimate_page.html, made into a string when the program is built. */
#ifndef SP_CLI_ESTIMATE_PAGE_H
#define SP_CLI_ESTIMATE_PAGE_H

extern const char sp_estimate_page[];

#endif
