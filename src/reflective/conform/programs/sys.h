/* System calls without a libc: the same code runs in a hosted program, in a freestanding one and in an interpreter. */
#ifndef WITNESS_SYS_H
#define WITNESS_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

/* SYS(number, arguments…): the result as the kernel gives it, -errno on failure. */
#define SYS(...) SYS_PAD(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define SYS_PAD(n, a, b, c, d, e, f, ...) \
    sys6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline size_t text_length(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}

/* Copies text to at and returns where it ended, for building short paths. */
static inline char *text_append(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    *at = '\0';
    return at;
}

/* Reads a decimal number; anything else is -1. */
static inline long text_number(const char *text)
{
    long value = 0;

    if (!*text)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (*text - '0');
    }
    return value;
}

#endif
