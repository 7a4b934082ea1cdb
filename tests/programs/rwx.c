/* Linked by `ld -N`, text and data are one segment: data can be run, code can be written. Without a libc, which minds. */
#include "sys.h"

static volatile unsigned char data[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */

__attribute__((noinline, noclone, used)) static int code(void)
{
    int result;
    __asm__ volatile("mov $1, %0" : "=a"(result));
    return result;
}

__attribute__((used)) static void run(void)
{
    int from_data = ((int (*)(void))(unsigned long)data)();
    for (unsigned i = 0; i < sizeof data; i++)
        ((volatile unsigned char *)(unsigned long)code)[i] = data[i];
    SYS(SYS_exit, from_data + code());
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n and $-16, %rsp\n call run\n hlt\n");
