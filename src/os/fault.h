/* SPDX-License-Identifier: MIT */
/*
 * Fault injection: every wrapper in os/ asks here first, in the variant of the library that is built with
 * -DSP_FAULTS for tests. In the product the question is the constant 0.
 *
 * The hook runs between freeze and thaw too, so it must not touch registered memory, allocate or lock.
 */
#ifndef SP_OS_FAULT_H
#define SP_OS_FAULT_H

#ifdef SP_FAULTS
/* Returns 0, or the negative errno that the call named `call` ("uffd_move", "map_store", ...) is to fail
 * with. NULL: no faults. */
extern int (*sp_fault_hook)(const char *call);
#define sp_fault(call) (sp_fault_hook ? sp_fault_hook(call) : 0)
#else
#define sp_fault(call) 0
#endif

#endif
