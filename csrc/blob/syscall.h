/* Raw system calls: nothing of libc is reachable here, and soon none of it will be mapped. */
#ifndef REFLECTIVE_SYSCALL_H
#define REFLECTIVE_SYSCALL_H

#include <stdint.h>

static inline int64_t call6(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    int64_t result;
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline int64_t call4(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    return call6(nr, a, b, c, d, 0, 0);
}

static inline int64_t call3(uint64_t nr, uint64_t a, uint64_t b, uint64_t c)
{
    return call6(nr, a, b, c, 0, 0, 0);
}

/* The kernel returns -4095 … -1 for an error, anything else is a result (an address above 2^63 is not possible). */
static inline int is_error(int64_t result)
{
    return result < 0 && result >= -4095;
}

#endif
