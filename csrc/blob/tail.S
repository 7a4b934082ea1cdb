/*
 * void blob_tail(frame, drop, drop_size): the last instructions that belong to us.
 *
 * rt_sigreturn takes the ucontext at %rsp (arch/x86/kernel/signal_64.c). The %rip in it is either the vdso's `syscall`, which
 * unmaps this page too and returns into the program; or, where the vdso has none that leaves the registers clean, the
 * program's entry: then the page of this code stays, and says so by its name, and only the rest of the area is dropped here.
 */
#include <asm/unistd.h>

    .section .text.tail, "ax", @progbits
    .globl blob_tail
blob_tail:
    mov %rdi, %rbx
    mov %rsi, %rdi
    mov %rdx, %rsi
    test %rsi, %rsi
    jz 1f
    mov $__NR_munmap, %eax
    syscall
1:  mov %rbx, %rsp
    mov $__NR_rt_sigreturn, %eax
    syscall
    hlt
    .section .note.GNU-stack, "", @progbits
