/* SPDX-License-Identifier: MIT */
/*
 * The files of /sys/kernel/mm/ksm, served by the daemon at a directory of its own (--ksm-files), so that what
 * reads or writes KSM's works on ours. Whoever reads sees what `samepage get` shows them; whoever writes sets
 * what `samepage set` would.
 */
#ifndef SP_DAEMON_KSMFS_H
#define SP_DAEMON_KSMFS_H

#include "daemon/session.h"

struct ksmfs;

/* Mounts the tree at the directory and joins the loop. A negative errno. */
SP_WARN_UNUSED int ksmfs_new(struct sessions *all, const char *directory, struct ksmfs **ret_fs);
/* Unmounts it. NULL is none. */
void ksmfs_free(struct ksmfs *fs);

#endif
