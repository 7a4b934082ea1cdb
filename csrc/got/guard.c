/*
 * Guarded slots: a debug register on each, in every task of a memory, so that whoever writes one stops right behind the store.
 *
 * What the kernel writes for a task (read(2) into a slot) makes no stop: ptrace's watchpoints see user mode alone
 * (arch/x86/kernel/ptrace.c: ptrace_register_breakpoint). A new task has none of its maker's (copy_thread), execve drops them.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>

#include "got.h"

#define DR6 6u
#define DR7 7u
#define HIT_ANY 0xful
/* DR7, register n: enabled; on writing, 8 bytes. Intel SDM volume 3, 18.2.4 */
#define ON_WRITE(n) (1ul << (2 * (n)) | 0x9ul << (16 + 4 * (n)))

static bool put(pid_t tid, unsigned number, uint64_t value)
{
    size_t offset = offsetof(struct user, u_debugreg) + 8ul * number;
    return ptrace(PTRACE_POKEUSER, tid, (void *)offset, (void *)value) == 0;
}

void guard_disarm(struct task *task)
{
    if (task->watch->armed)
        put(task->tid, DR7, 0);
    task->watch->armed = 0;
}

void guard_arm(struct session *session, struct task *task)
{
    struct space *space = task->watch->space;
    uint64_t control = 0;
    bool ok = true;
    if (!space || task->watch->armed == space->guards)
        return;
    for (unsigned i = 0; i < space->guards; i++) {
        ok = ok && put(task->tid, i, space->guard[i]);
        control |= ON_WRITE(i);
    }
    task->watch->armed = space->guards;
    if (ok && put(task->tid, DR7, control))
        return;
    got_tell(session, task, (struct record){.kind = EVENT_REFUSED, .args = {space->guard[0], OP_GUARD}});
    guard_disarm(task);
    space->guards = 0;
}

/* Other tasks that run in this memory get their registers when they stop next, which is soon. */
void guard_spread(struct session *session, const struct task *task)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *other = session->tasks[i]; other; other = other->next)
            if (other != task && other->watch && other->watch->space == task->watch->space)
                ptrace(PTRACE_INTERRUPT, other->tid, NULL, NULL);
}

bool guard_hit(struct session *session, struct task *task)
{
    struct user_regs_struct regs;
    siginfo_t info;
    struct space *space = task->watch->space;
    if (!task->watch->armed || ptrace(PTRACE_GETSIGINFO, task->tid, NULL, &info) || info.si_code != TRAP_HWBKPT ||
        ptrace(PTRACE_GETREGS, task->tid, NULL, &regs))
        return false;
    size_t offset = offsetof(struct user, u_debugreg) + 8ul * DR6;
    uint64_t hit = (uint64_t)ptrace(PTRACE_PEEKUSER, task->tid, (void *)offset, NULL) & HIT_ANY;
    put(task->tid, DR6, 0);
    for (unsigned i = 0; i < space->guards; i++)
        if ((hit >> i & 1) && !session->stop)
            got_ask(session, task, ASK_WRITTEN, &regs, space->guard[i]);
    return hit != 0;
}
