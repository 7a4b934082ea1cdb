/*
 * The stack that the kernel has built for the zygote becomes the program's, byte for byte as it would have built that
 * (fs/binfmt_elf.c: create_elf_tables; fs/exec.c: copy_strings). From the top down:
 *
 *   8 zero bytes; path; environment; arguments, of which the first begins with the numbers
 *   a gap of up to 8 KiB (arch_align_stack)
 *   platform, 16 random bytes; auxv, envp, argv, argc
 *
 * The path is another one: all strings move by the difference. What the numbers then leave free is a multiple of 16 bytes; by
 * so much all that is below the gap moves up, and is where it would have been without them.
 */
#include "zygote.h"

#include <stddef.h>

#include "../core.cdef.h"

enum { AT_PHDR = 3, AT_PHNUM = 5, AT_BASE = 7, AT_ENTRY = 9, AT_PLATFORM = 15, AT_RANDOM = 25, AT_EXECFN = 31 };

static uint64_t length(const char *string)
{
    uint64_t size = 0;
    while (string[size++])
        ;
    return size;
}

static void zero(char *at, uint64_t size)
{
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(0) : "memory");
}

/* memmove. A word a turn: for overlapping bytes the processor's own string instructions are slower. */
static void move(char *to, const char *from, uint64_t size)
{
    typedef uint64_t __attribute__((aligned(1), may_alias)) word;
    uint64_t rest = size % 8;
    if (to < from) {
        for (uint64_t at = 0; at + 8 <= size; at += 8)
            *(word *)(to + at) = *(const word *)(from + at);
        for (uint64_t at = size - rest; at < size; at++)
            to[at] = from[at];
    } else if (to > from) {
        for (uint64_t at = size; at >= 8; at -= 8)
            *(word *)(to + at - 8) = *(const word *)(from + at - 8);
        for (uint64_t at = rest; at > 0; at--)
            to[at - 1] = from[at - 1];
    }
}

/* Adds to each pointer, as far as the null behind the last. */
static void shift(uint64_t *pointers, uint64_t by)
{
    while (*pointers)
        *pointers++ += by;
}

uint64_t *auxv_of(uint64_t *stack)
{
    uint64_t *at = stack + 1 + stack[0] + 1;
    while (*at++)
        ;
    return at;
}

uint64_t value_of(const uint64_t *auxv, uint64_t type)
{
    for (; auxv[0]; auxv += 2)
        if (auxv[0] == type)
            return auxv[1];
    return 0;
}

/* What the entries are for the program; `by` and `lift` as in settle. Returns what follows the last. */
static uint64_t *correct(uint64_t *auxv, const struct refl_orders *orders, const uint64_t *values, uint64_t by, uint64_t lift)
{
    for (; auxv[0]; auxv += 2) {
        uint64_t *value = auxv + 1;
        switch (auxv[0]) {
        case AT_PHDR:
            *value = orders->phdr + values[PARAM_EXE];
            break;
        case AT_PHNUM:
            *value = orders->phnum;
            break;
        case AT_BASE:
            *value = values[PARAM_INTERP];
            break;
        case AT_ENTRY:
            *value = orders->program_entry + values[PARAM_EXE];
            break;
        case AT_EXECFN:
            *value += by;
            break;
        case AT_PLATFORM:
        case AT_RANDOM:
            *value += lift;
            break;
        default:
            break;
        }
    }
    return auxv + 2;
}

uint64_t *settle(uint64_t *stack, uint64_t skip, const struct refl_orders *orders, const uint64_t *values, struct refl_mm *mm)
{
    uint64_t *argv = stack + 1, *env = argv + stack[0] + 1, *auxv = auxv_of(stack);
    char *low = (char *)stack, *strings = (char *)argv[0], *path = (char *)value_of(auxv, AT_EXECFN);
    const char *platform = (const char *)value_of(auxv, AT_PLATFORM), *high = (const char *)value_of(auxv, AT_RANDOM) + 16;
    if (platform)
        high = platform + length(platform);
    uint64_t by = length(path) - orders->path_size, lift = skip + by; /* modulo 2**64: `by` may be downwards */
    if (lift % 16)
        return NULL;

    move(strings + lift, strings + skip, (uint64_t)(path - strings) - skip);
    path += by;
    move(path, (const char *)orders + orders->path, orders->path_size);
    shift(argv, by);
    argv[0] += skip;
    shift(env, by);
    mm->arg_start = argv[0];
    mm->arg_end = mm->env_start = *env ? *env : (uint64_t)path;
    mm->env_end = (uint64_t)path;

    const uint64_t *end = correct(auxv, orders, values, by, lift);
    mm->auxv = (uint64_t)auxv + lift;
    mm->auxv_size = (uint32_t)((uint64_t)(end - auxv) * 8);
    mm->start_stack = (uint64_t)low + lift;
    move(low + lift, low, (uint64_t)(high - low));
    char *unused = high + lift > strings ? (char *)high + lift : strings;
    zero(unused, (uint64_t)(strings + lift - unused));
    return (uint64_t *)(low + lift);
}
