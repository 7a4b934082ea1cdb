/* The freestanding witness: nothing runs before it, so it sees exactly what the kernel hands over.
 *
 * Built as a static program, as a static-PIE, or as the interpreter (PT_INTERP) of another program. It has no libc
 * and needs no relocation; entry.S has saved the registers and given it a stack of its own.
 */
#include "see.h"

/* The compiler may call these whatever it is told. */
void *memset(void *to, int value, size_t length)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(value) : "memory");
    return to;
}

__attribute__((noreturn, used, visibility("hidden"))) void entry_main(const void *sp);

void entry_main(const void *sp)
{
    struct start start = start_at(sp);
    uint64_t bounds[2];

    find_mapping((uint64_t)sp, bounds);
    see_start(&start, bounds[1]);
    see_rseq_free();
    see_below(&start, bounds[0]);
    see_growth(bounds[1]);
    for (;;)
        SYS(SYS_exit_group, 0);
}
