/* The zygote's first instructions, and its last. */
#include <asm/unistd.h>

/* %rsp is at argc, as for any program; the word below that will be needed. */
    .section .text.entry, "ax", @progbits
    .globl zygote_entry
    .hidden zygote_entry
zygote_entry:
    mov %rsp, %rdi
    sub $16, %rsp
    call zygote_begin
    hlt

/*
 * void zygote_end(stack, used, gadget, body, body_size): the program's argc is at `stack`. Everything from `used` up to the
 * word below that, in which the program's entry is, is cleared: the zygote's own stack. Then the vdso's system call, at
 * `gadget`, unmaps this code; it clears the registers that it has used, and its `ret` pops the entry. All others are cleared here.
 */
    .section .text.end, "ax", @progbits
    .globl zygote_end
zygote_end:
    lea -8(%rdi), %rsp
    mov %rdx, %r11
    mov %rcx, %rdx
    mov %rsi, %rdi
    mov %rsp, %rcx
    sub %rdi, %rcx
    xor %eax, %eax
    rep stosb
    mov $__NR_munmap, %eax
    mov %rdx, %rdi
    mov %r8, %rsi
    xor %edx, %edx
    xor %ebx, %ebx
    xor %ebp, %ebp
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r12d, %r12d
    xor %r13d, %r13d
    xor %r14d, %r14d
    xor %r15d, %r15d
    jmp *%r11
    .section .note.GNU-stack, "", @progbits
