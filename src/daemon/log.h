/* SPDX-License-Identifier: MIT */
/* The daemon's log: one line on stderr for each event that matters to whoever runs it. */
#ifndef SP_DAEMON_LOG_H
#define SP_DAEMON_LOG_H

__attribute__((format(printf, 1, 2))) void log_line(const char *format, ...);

/* The same for events that a client can cause at will: at most a few in a second, then how many were left
 * out. */
__attribute__((format(printf, 1, 2))) void log_client(const char *format, ...);

#endif
