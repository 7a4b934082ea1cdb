/*
 * The zygote: a program of one page, which becomes another one.
 *
 * The caller starts it as posix_spawn would, by clone and execve, at a cost that does not grow with the caller, and with the
 * program's own arguments and environment. So what a program inherits it has from the kernel, and also its stack, and where
 * that, the mmap area and the vdso are. Two files have its page:
 *
 *   the shape   is executed. Its one segment is as large as what lies at the top of the program's mmap area (the interpreter,
 *               or a static PIE), so that the kernel puts it, and the vdso below it, where it would for the program itself
 *   the body    is mapped by the shape: /proc/PID/exe can't be changed as long as the executed file is mapped. Behind the
 *               page it has struct refl_orders (core.cdef.h), written once for a program: what all its starts have in common
 *
 * What differs from start to start are a few numbers. The first argument begins with them; they are gone when the program
 * looks.
 */
#ifndef REFLECTIVE_ZYGOTE_H
#define REFLECTIVE_ZYGOTE_H

#include "../plan.h"

struct refl_orders;

#define ZYGOTE_CODE 256u /* where in its page the code is: behind the ELF header */
#define ZYGOTE_STACK 1024u /* bytes that the zygote needs below argc, and clears again */

/* In this order, in digits that are no NUL: base 16, the first is '@'. */
enum zygote_number {
    NUMBER_SKIP, /* bytes of the first argument that are not the program's: all these digits, or more */
    NUMBER_BODY_FD,
    NUMBER_BODY_OFFSET,
    NUMBER_BODY_SIZE,
    NUMBER_EXE_FD,
    NUMBER_INTERP_FD,
    NUMBER_REPORT_FD,
    NUMBER_EXE, /* load bias */
    NUMBER_BRK,
    NUMBER_MASK, /* of signals */
    NUMBERS
};
#define ZYGOTE_DIGITS 16u /* a number */

/* The auxiliary vector on a stack that begins with argc, and the value of one of its entries; 0: there is none. */
uint64_t *auxv_of(uint64_t *stack);
uint64_t value_of(const uint64_t *auxv, uint64_t type);

/* Makes the stack that the kernel has built for the zygote the program's; `skip` bytes of the first argument go. `values` are
 * those of the parameters. Returns where argc is now, and fills in the stack's part of *mm. NULL: the path that the kernel has
 * given to the zygote is not the one that `skip` was made for. */
uint64_t *settle(uint64_t *stack, uint64_t skip, const struct refl_orders *orders, const uint64_t *values, struct refl_mm *mm);

#endif
