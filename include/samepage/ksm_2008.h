/* SPDX-License-Identifier: MIT */
/*
 * /dev/ksm, the interface of the first KSM driver, as `samepage run` serves it to programs that were written
 * for it. New programs use madvise(MADV_MERGEABLE), or samepage.h.
 *
 * Which version. The driver was posted to linux-kernel and linux-mm by Izik Eidus and changed until
 * madvise took its place in 2009. This is the second version, "ksm - dynamic page sharing driver for linux
 * v2" of 17 November 2008 (message 1226888432-3662-1-git-send-email-ieidus@redhat.com; the driver is its
 * third patch, https://lkml.org/lkml/2008/11/16/318): its description names the requests and the fields, the
 * letter before the patches has the programs that use them. Numbers and layout are those of the first
 * version, of 11 November 2008 (message 1226409701-14831-4-git-send-email-ieidus@redhat.com), in which
 * `flags` was called `running`, so that programs built for either work. Versions of 2009 have structures of
 * other sizes and hence other numbers: EINVAL. Not served: KSM_CREATE_SCAN (0x02) and its KSM_SCAN, by which
 * a program could lend its own time for scanning: EINVAL.
 *
 * What is different from the driver, because no kernel is asked:
 *
 *   - open, open64, openat and openat64 of exactly "/dev/ksm" serve it, where there is no such file. stat,
 *     access and the like go on saying that there is none; so do fopen and raw system calls.
 *   - A region is what is mapped there when it is registered, as with madvise: private anonymous memory that
 *     the program has mapped by mmap. Anything else in it is passed over, silently, as the driver did.
 *   - What is removed is private again on return. The regions of an area are removed when the process has no
 *     descriptor of it left; where fclose or a raw system call closed it, this is noticed at the next call
 *     that has to do with such a descriptor; and not at all once merging has ended in the process, as it does
 *     when a system-call filter comes. A child made by fork has its copy of the memory registered as well.
 *   - The thread is that of the caller's domain, all programs of its user that share with it, and what is set
 *     are settings: run, sleep_millisecs (rounded up to milliseconds), pages_to_scan and max_pages_to_merge,
 *     as `samepage set` sets them. They last until they are set anew or the daemon ends. Merging runs from
 *     the start. Where the daemon cannot be reached within three seconds, or the domain is not the user's,
 *     it counts for the calling process alone, and children of fork inherit it. pages_to_scan is left as it
 *     is while the advisor chooses it.
 *
 * Errors, all by errno: EINVAL: no such request for this descriptor, or a region that ends beyond the address
 * space. EFAULT: the structure cannot be read or written. ENOMEM: more than 64 areas with regions, or more
 * than 1,024 regions, in a process; or not enough memory to make what is removed private, in which case it
 * stays registered. EPERM: KSM_START_STOP_KTHREAD is to run with no pages to scan. ENOTTY: not a descriptor
 * of these. For open and KSM_CREATE_SHARED_MEMORY_AREA also those of memfd_create(2); ENOTDIR: O_DIRECTORY.
 */
#ifndef SAMEPAGE_KSM_2008_H
#define SAMEPAGE_KSM_2008_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KSM_API_VERSION 1

/* ksm_kthread_info.flags: the thread runs. */
#define ksm_control_flags_run 1

struct ksm_memory_region {
    __u32 npages; /* of 4,096 bytes. 0: nothing */
    __u32 pad;
    __u64 addr; /* of the first; one inside a page stands for the page */
};

/*
 * On average over time no more than this many pages are read, and no more than that many merged, in `sleep`,
 * by all programs of the domain together; a program may pass its share by the 2 MiB at hand, and the pause
 * after it is as much longer. Not running, and with 0 pages to merge, nothing more is merged; what is merged
 * stays so.
 */
struct ksm_kthread_info {
    __u32 sleep;         /* microseconds between two iterations. 4294967295, when told: that, or longer */
    __u32 pages_to_scan; /* pages read in each; to be set to at least 1 */
    __u32 max_pages_to_merge;
    __u32 flags;
};

#define KSMIO 0xAB

/* ---- on a descriptor of /dev/ksm ---- */

/* Returns KSM_API_VERSION. */
#define KSM_GET_API_VERSION _IO(KSMIO, 0x00)
/* Returns a new descriptor, of a shared memory area: a set of regions of this process. */
#define KSM_CREATE_SHARED_MEMORY_AREA _IO(KSMIO, 0x01)
/* Stops the thread or sets it going, and how fast. */
#define KSM_START_STOP_KTHREAD _IOW(KSMIO, 0x03, struct ksm_kthread_info)
/* Writes what was set into the structure (the direction in the number is as published). What was never set
 * and has no bound is 4294967295. */
#define KSM_GET_INFO_KTHREAD _IOW(KSMIO, 0x04, struct ksm_kthread_info)

/* ---- on a descriptor of an area ---- */

#define KSM_REGISTER_MEMORY_REGION _IOW(KSMIO, 0x20, struct ksm_memory_region)
/* Removes all regions of the area. */
#define KSM_REMOVE_MEMORY_REGION _IO(KSMIO, 0x21)

#endif
