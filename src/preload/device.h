/* SPDX-License-Identifier: MIT */
/*
 * /dev/ksm (include/samepage/ksm_2008.h) as descriptors: names_device.c finds out that somebody means it,
 * device.c answers, areas.c remembers who registered what.
 *
 * A descriptor of ours is an ordinary one, of a sealed memfd in which is written what it stands for. So the
 * kernel keeps all that a descriptor must survive, dup, fork, exec and being sent elsewhere, and nothing here
 * has to follow descriptors. An area is known by its inode.
 *
 * As in shim.h: no malloc, no C library calls; results as the kernel gives them.
 */
#ifndef SP_PRELOAD_DEVICE_H
#define SP_PRELOAD_DEVICE_H

#include "core/types.h"

/* device.c -------------------------------------------------------------------------------------------- */

/* A new descriptor of /dev/ksm; `flags` are open's. */
long device_open(int flags);
/* False: the descriptor is not one of ours. */
bool device_ioctl(int fd, unsigned request, void *argument, long *ret_result);
/* The area that the descriptor stands for; 0: none. */
uint64_t device_area(int fd);

/* device_thread.c ------------------------------------------------------------------------------------- */

/* KSM_START_STOP_KTHREAD and KSM_GET_INFO_KTHREAD: the argument, and what the request returns. */
long thread_start_stop(const void *argument);
long thread_info(void *argument);

/* areas.c --------------------------------------------------------------------------------------------- */

/* Whether areas have regions in this process, for next to nothing. Not where merging has ended: a filter may
 * bind the process then, and kill it for what would have to be called to find out more. */
bool areas_any(void);
long areas_register(uint64_t area, uint64_t start, uint64_t end);
/* Removes all regions of the area. */
long areas_remove(uint64_t area);
/* Descriptors have been closed: the regions of areas that have none left are removed. */
void areas_sweep(void);

#endif
