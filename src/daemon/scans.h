/* SPDX-License-Identifier: MIT */
/*
 * full_scans of a domain, as KSM means it: how often all of its memory has been looked through. Each client
 * counts for itself; the domain's count goes up when each that is connected has come round once more. Who
 * does not work, for want of userfaultfd for instance, is not waited for; who is stopped, is.
 */
#ifndef SP_DAEMON_SCANS_H
#define SP_DAEMON_SCANS_H

struct member;

void scans_joined(struct member *m);
void scans_reported(struct member *m);
/* It is no longer connected. */
void scans_left(struct member *m);

#endif
