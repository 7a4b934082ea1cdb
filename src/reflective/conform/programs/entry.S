/* The true entry point: saves every register to entry_record, then goes on.
 *
 * Nothing is pushed on the program's stack, so that what lies below its stack pointer can still be looked at.
 * Hosted (default): all registers but the vector state are put back and _start follows, which notices nothing.
 * ENTRY_FREESTANDING: entry_main runs on a stack of its own.
 */
#include <sys/syscall.h>
#include "entry.h"

#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004
#define CPUID_1_ECX_OSXSAVE 27
#define XCR0_PKRU 9

#define SAVED(offset) entry_record + (offset)(%rip)
#define GPR(index) entry_record + RECORD_GPR + 8 * (index)(%rip)

    .hidden entry_record, entry_start
    .text
    .globl entry_start
    .type entry_start, @function
entry_start:
    mov %rax, GPR(0)
    mov %rbx, GPR(1)
    mov %rcx, GPR(2)
    mov %rdx, GPR(3)
    mov %rsi, GPR(4)
    mov %rdi, GPR(5)
    mov %rbp, GPR(6)
    mov %rsp, GPR(7)
    mov %r8, GPR(8)
    mov %r9, GPR(9)
    mov %r10, GPR(10)
    mov %r11, GPR(11)
    mov %r12, GPR(12)
    mov %r13, GPR(13)
    mov %r14, GPR(14)
    mov %r15, GPR(15)

    lea entry_stack_end(%rip), %rsp     /* mov and lea leave the flags alone */
    pushfq
    popq SAVED(RECORD_RFLAGS)

    mov %cs, %rax
    mov %rax, SAVED(RECORD_SELECTORS)
    mov %ss, %rax
    mov %rax, SAVED(RECORD_SELECTORS + 8)
    mov %ds, %rax
    mov %rax, SAVED(RECORD_SELECTORS + 16)
    mov %es, %rax
    mov %rax, SAVED(RECORD_SELECTORS + 24)
    mov %fs, %rax
    mov %rax, SAVED(RECORD_SELECTORS + 32)
    mov %gs, %rax
    mov %rax, SAVED(RECORD_SELECTORS + 40)

    fxsave64 SAVED(RECORD_FXSAVE)

    mov $SYS_arch_prctl, %eax
    mov $ARCH_GET_FS, %edi
    lea SAVED(RECORD_FS_BASE), %rsi
    syscall
    mov $SYS_arch_prctl, %eax
    mov $ARCH_GET_GS, %edi
    lea SAVED(RECORD_GS_BASE), %rsi
    syscall

    mov $1, %eax                        /* the only CPUID: under a hypervisor it costs microseconds */
    cpuid
    bt $CPUID_1_ECX_OSXSAVE, %ecx
    jnc 1f
    xor %ecx, %ecx
    xgetbv
    mov %eax, SAVED(RECORD_XCR0)
    mov %edx, SAVED(RECORD_XCR0 + 4)
    mov $-1, %eax
    mov $-1, %edx
    xsave64 SAVED(RECORD_XSAVE)
    btl $XCR0_PKRU, SAVED(RECORD_XCR0)
    jnc 1f
    xor %ecx, %ecx
    rdpkru
    mov %eax, SAVED(RECORD_PKRU)
1:
#ifdef ENTRY_FREESTANDING
    xor %ebp, %ebp
    mov GPR(7), %rdi
    call entry_main
    ud2
#else
    pushq SAVED(RECORD_RFLAGS)
    popfq
    mov GPR(0), %rax
    mov GPR(1), %rbx
    mov GPR(2), %rcx
    mov GPR(3), %rdx
    mov GPR(4), %rsi
    mov GPR(5), %rdi
    mov GPR(7), %rsp
    mov GPR(11), %r11
    jmp _start
#endif
    .size entry_start, . - entry_start

    .bss
    .balign 64
    .globl entry_record
    .type entry_record, @object
entry_record:
    .skip RECORD_SIZE
    .size entry_record, RECORD_SIZE
    .balign 16
entry_stack:
    .skip 16384
entry_stack_end:

    .section .note.GNU-stack, "", @progbits
