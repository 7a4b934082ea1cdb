/*
 * The moment itself: fork, and into the blob. Signals are blocked from before the fork until the child's rt_sigreturn, so
 * that none of this process's handlers can run in the child; the mask it had goes into the frame.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "prepare.h"

/* Never returns: the blob's stack, and its first instruction. */
__attribute__((noreturn)) static void enter(const struct area *area)
{
    __asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tcall *%1\n\thlt"
                     :
                     : "r"(area->stack_top), "r"(area->base), "D"(area->job)
                     : "memory");
    __builtin_unreachable();
}

int64_t refl_spawn(struct refl_start *start)
{
    struct area area;
    int64_t result = area_create(start, &area);
    if (result)
        return result;
    uint64_t mask = refl_block_signals();
    result = prepare(start, &area, start->own_mask ? start->sigmask : mask);
    if (result == 0) {
        /* Not fork(): the child never runs a line of libc, so its handlers and locks are of no concern. */
        result = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (result == 0)
            enter(&area);
        if (result < 0)
            result = -errno;
    }
    refl_unblock_signals(mask);
    area_destroy(&area);
    return result;
}

int64_t refl_replace(struct refl_start *start)
{
    struct area area;
    int64_t result = area_create(start, &area);
    if (result)
        return result;
    uint64_t mask = refl_block_signals();
    result = prepare(start, &area, start->own_mask ? start->sigmask : mask);
    if (result == 0)
        enter(&area);
    refl_unblock_signals(mask);
    area_destroy(&area);
    return result;
}
