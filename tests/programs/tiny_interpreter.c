/*
 * A dynamic linker that links nothing: it says that it was here and enters the program (AT_ENTRY) with the stack it found.
 * Built -shared -nostdlib; a static program of no libraries names it in PT_INTERP.
 */
#include "sys.h"

__asm__(".globl interpreter_start\n"
        "interpreter_start:\n"
        "  mov %rsp, %rdi\n"
        "  mov %rsp, %rbx\n"
        "  and $-16, %rsp\n"
        "  call entry_of\n"
        "  mov %rbx, %rsp\n"
        "  xor %edx, %edx\n"
        "  jmp *%rax\n");

static const char message[] = "interpreter\n";

__attribute__((visibility("hidden"))) unsigned long entry_of(unsigned long *sp)
{
    unsigned long entry = 0, base = 0;
    unsigned long *at = sp + 1 + sp[0] + 1;
    while (*at++)
        ;
    for (; at[0]; at += 2) {
        if (at[0] == 9)
            entry = at[1];
        if (at[0] == 7)
            base = at[1];
    }
    if (base && entry)
        SYS(SYS_write, 1, message, sizeof message - 1);
    return entry;
}
