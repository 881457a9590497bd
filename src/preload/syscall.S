/* SPDX-License-Identifier: MIT */
/*
 * long syscall(long number, ...), x86-64.
 *
 * Hot in many programs (futex), and the only function that a caller may leave in two processes, on another
 * stack, or in a child that shares this one: so the common path is the C library's, without a frame. Numbers
 * of which names_taken has a bit go to names_syscall, whose seven arguments lie where ours do: six in
 * registers, the seventh above the return address.
 */
#if !defined(__x86_64__)
#error "written for x86-64"
#endif

    .text
    .globl syscall
    .type syscall, @function
    .p2align 4
syscall:
    .cfi_startproc
    endbr64
    cmpq $511, %rdi
    ja .Lraw
    movq %rdi, %rax
    shrq $6, %rax
    leaq names_taken(%rip), %r11
    movq (%r11,%rax,8), %rax
    btq %rdi, %rax              /* modulo 64 */
    jc .Ltaken
.Lraw:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    movq %r8, %r10
    movq %r9, %r8
    movq 8(%rsp), %r9
    syscall
    cmpq $-4095, %rax
    jae .Lerror
    ret

.Ltaken:
    pushq %rdi
    .cfi_adjust_cfa_offset 8
    pushq %rsi
    .cfi_adjust_cfa_offset 8
    pushq %rdx
    .cfi_adjust_cfa_offset 8
    pushq %rcx
    .cfi_adjust_cfa_offset 8
    pushq %r8
    .cfi_adjust_cfa_offset 8
    pushq %r9
    .cfi_adjust_cfa_offset 8
    subq $8, %rsp               /* the stack is aligned at calls */
    .cfi_adjust_cfa_offset 8
    call names_syscall_is_raw
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    popq %r9
    .cfi_adjust_cfa_offset -8
    popq %r8
    .cfi_adjust_cfa_offset -8
    popq %rcx
    .cfi_adjust_cfa_offset -8
    popq %rdx
    .cfi_adjust_cfa_offset -8
    popq %rsi
    .cfi_adjust_cfa_offset -8
    popq %rdi
    .cfi_adjust_cfa_offset -8
    testb %al, %al
    jnz .Lraw
    jmp names_syscall

.Lerror:
    negl %eax
    pushq %rax
    .cfi_adjust_cfa_offset 8
    call *__errno_location@GOTPCREL(%rip)
    popq %rdx
    .cfi_adjust_cfa_offset -8
    movl %edx, (%rax)
    movq $-1, %rax
    ret
    .cfi_endproc
    .size syscall, . - syscall

    .section .note.GNU-stack, "", @progbits
