/* SPDX-License-Identifier: MIT */
/*
 * void *dlopen(const char *file, int mode), x86-64: without RTLD_DEEPBIND where loader_same_heap says so (see
 * loader.c). A jump, so that the C library still sees its caller: whose RUNPATH is searched depends on that.
 */
    .text
    .globl dlopen
    .type dlopen, @function
    .p2align 4
dlopen:
    .cfi_startproc
    endbr64
    cmpb $0, loader_same_heap(%rip)
    je .Lcall
    andl $~8, %esi              /* RTLD_DEEPBIND */
.Lcall:
    jmp *loader_dlopen(%rip)
    .cfi_endproc
    .size dlopen, . - dlopen
    .section .note.GNU-stack, "", @progbits
