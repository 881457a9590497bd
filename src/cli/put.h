/* SPDX-License-Identifier: MIT */
/*
 * Writing pieces of a few bytes on stdout, tens of thousands of them: through a buffer of our own, as stdio
 * takes as long for one as for hundreds of them at once. What is put is handed to stdio by sp_put_end, before
 * anything else is printed. The command line has one thread. Failures of stdout are found by
 * sp_output_finish.
 */
#ifndef SP_CLI_PUT_H
#define SP_CLI_PUT_H

#include <stddef.h>

/* At most so many can be asked for at once. */
#define SP_PUT_ROOM_MAX 65536

/* Where so many bytes can be written; sp_put_done says where they ended. Nothing else is put in between. */
char *sp_put_room(size_t bytes);
void sp_put_done(const char *end);
void sp_put(const char *text, size_t bytes);
void sp_put_char(char c);
void sp_put_text(const char *text);
/* As printf's %*s: at least so wide, to the right; to the left where it is negative. */
void sp_put_padded(const char *text, int width);
void sp_put_end(void);

#endif
