/* SPDX-License-Identifier: MIT */
/*
 * The hook that tests set. Only in the variant of the library that is built with -DSP_FAULTS.
 */
#include "os/fault.h"

int (*sp_fault_hook)(const char *call);
