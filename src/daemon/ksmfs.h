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

/*
 * Views: the same tree, mounted by somebody else in a mount namespace of theirs (`samepage run --ksm-files`),
 * who passes the descriptor of /dev/fuse. A view ends with its mount, at the latest with the last process
 * there.
 *
 * What is read and written in a view is of the domain of who made it, whoever does it: the user numbers in
 * its requests are those of the user namespace of the mount, whose maker chooses them. Only root's are what
 * they say, and only if root is not of another user namespace, which the caller looks at. The descriptor is
 * not used as it comes, for whoever holds it as well can have it block: the daemon opens one of its own for
 * that mount (FUSE_DEV_IOC_CLONE). -EINVAL: it is none of /dev/fuse, is not
 * mounted, or the kernel refuses that; -EUSERS: there are too many; -EACCES, -ENOENT ...: /dev/fuse cannot be
 * opened; -ENOMEM.
 */
SP_WARN_UNUSED int ksmfs_view_new(struct sessions *all, int fd, uid_t uid);
/* Frees those that have ended. Not from within a source's ready(). */
void ksmfs_views_collect(struct sessions *all);
void ksmfs_views_deinit(struct sessions *all);

#endif
