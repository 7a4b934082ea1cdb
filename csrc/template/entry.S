/*
 * Entered instead of ld.so's entry, with everything as after execve: the registers zero, argc at %rsp.
 *
 * _dl_start gets the stack pointer as ld.so's own entry would give it, and on that stack, so that what it remembers of the stack
 * (__libc_stack_end) is true. It returns the program's entry.
 */
#include <asm/unistd.h>

#define TEMPLATE_CODE 8192
#define TEMPLATE_DATA 16384

    .section .text.entry, "ax", @progbits
    .globl template_entry
template_entry:
    mov %rsp, %rbp
    lea template_entry + TEMPLATE_CODE + TEMPLATE_DATA(%rip), %rsp
    lea template_entry + TEMPLATE_CODE(%rip), %rdi
    call template_before
    mov %rbp, %rsp
    mov %rbp, %rdi
    call *%rax
    lea template_entry + TEMPLATE_CODE + TEMPLATE_DATA(%rip), %rsp
    lea template_entry + TEMPLATE_CODE(%rip), %rdi
    mov %rax, %rsi
    mov %rbp, %rdx
    call template_serve
    hlt

/*
 * int64_t template_clone(args, size, job, request, child): clone3. The child has the stack that args names, and goes to
 * child(job, request).
 */
    .text
    .globl template_clone
template_clone:
    mov %r8, %r10
    mov %rdx, %r8
    mov %rcx, %r9
    mov $__NR_clone3, %eax
    syscall
    test %eax, %eax
    jz 1f
    ret
1:  xor %ebp, %ebp
    mov %r8, %rdi
    mov %r9, %rsi
    call *%r10
    hlt

/* void template_switch(job, request, stack): goes to template_child(job, request) on another stack. */
    .globl template_switch
template_switch:
    mov %rdx, %rsp
    call template_child
    hlt

/* void template_leave(frame): rt_sigreturn, as blob_tail. */
    .globl template_leave
template_leave:
    mov %rdi, %rsp
    mov $__NR_rt_sigreturn, %eax
    syscall
    hlt
    .section .note.GNU-stack, "", @progbits
