/* The instruction that a breakpoint displaced is carried out here: a step by the processor would cost a second stop. */
#define _GNU_SOURCE
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "got.h"

/* In the order of the processor's encoding. */
static unsigned long long *general(struct user_regs_struct *regs, unsigned number)
{
    unsigned long long *all[] = {&regs->rax, &regs->rcx, &regs->rdx, &regs->rbx, &regs->rsp, &regs->rbp,
                                 &regs->rsi, &regs->rdi, &regs->r8,  &regs->r9,  &regs->r10, &regs->r11,
                                 &regs->r12, &regs->r13, &regs->r14, &regs->r15};
    return all[number % 16];
}

/* regs is as the trap left it: rip one behind the address of the point. */
void step_over(pid_t tid, const struct point *point, struct user_regs_struct *regs)
{
    uint64_t word;
    regs->rip = point->address + point->length;
    switch (point->step) {
    case STEP_PUSH:
        word = *general(regs, point->reg);
        regs->rsp -= sizeof word;
        struct iovec here = {&word, sizeof word}, there = {(void *)regs->rsp, sizeof word};
        if (process_vm_writev(tid, &here, 1, &there, 1, 0) != sizeof word)
            ptrace(PTRACE_POKEDATA, tid, (void *)regs->rsp, (void *)word);
        break;
    case STEP_SET:
        *general(regs, point->reg) = point->value;
        break;
    case STEP_JUMP:
        regs->rip = *general(regs, point->reg);
        break;
    case STEP_RETURN:
        if (read_memory(tid, regs->rsp, &word, sizeof word) == sizeof word)
            regs->rip = word;
        regs->rsp += sizeof word;
        break;
    }
    ptrace(PTRACE_SETREGS, tid, NULL, regs);
}
