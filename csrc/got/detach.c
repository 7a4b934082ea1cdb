/*
 * Leaving: every task is stopped first, then every breakpoint taken out of every memory, then all are let go.
 *
 * A task that waits for its vfork child does not stop before the child has become another program, and need not: it shares the
 * child's memory, which is restored already, and is let go when it stops. Nor does one that is past the stop at its end.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/ptrace.h>

#include "got.h"

/* A task that stands right behind a breakpoint, its trap not taken yet, is to carry out what was there before. */
static int step_back(struct task *task, int deliver)
{
    struct user_regs_struct regs;
    siginfo_t info;
    if (deliver != SIGTRAP || ptrace(PTRACE_GETSIGINFO, task->tid, NULL, &info) || info.si_code != SI_KERNEL ||
        ptrace(PTRACE_GETREGS, task->tid, NULL, &regs) || !space_point(task->watch->space, regs.rip - 1))
        return deliver;
    regs.rip--;
    ptrace(PTRACE_SETREGS, task->tid, NULL, &regs);
    return 0;
}

/*
 * A trap of ours that has not been reported: the stop that we asked for comes before the signals that wait (kernel/signal.c:
 * get_signal). It would kill the program once we are gone.
 */
static bool trap_waits(const struct task *task)
{
    struct __ptrace_peeksiginfo_args args = {.nr = 1};
    siginfo_t info;
    while (ptrace(PTRACE_PEEKSIGINFO, task->tid, &args, &info) == 1) {
        if (info.si_signo == SIGTRAP && (info.si_code == SI_KERNEL || info.si_code == TRAP_HWBKPT))
            return true;
        args.off++;
    }
    return false;
}

void got_hold(struct session *session, struct task *task, int deliver)
{
    if (!task->watch->held && deliver == 0 && !task->watch->exiting && trap_waits(task)) {
        ptrace(PTRACE_CONT, task->tid, NULL, NULL); /* to the stop that reports it: no instruction is carried out before */
        return;
    }
    if (!task->watch->held)
        task->watch->deliver = step_back(task, deliver);
    task->watch->held = true;
    got_leave_if_all_held(session);
}

static void let_go(struct session *session, struct task *task)
{
    task_unpin(session, task);
    guard_disarm(task);
    got_tell(session, task, (struct record){.kind = EVENT_DETACHED});
    ptrace(PTRACE_DETACH, task->tid, NULL, (void *)(long)task->watch->deliver);
    task_remove(session, task);
}

void got_leave_if_all_held(struct session *session)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *task = session->tasks[i]; task; task = task->next)
            if (!task->watch->held && !task->watch->in_vfork && !task->watch->exiting)
                return;
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *task = session->tasks[i]; task; task = task->next)
            if (task->watch->held)
                space_restore(task->watch->space, task->tid);
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *task = session->tasks[i], *next; task; task = next) {
            next = task->next;
            if (task->watch->held)
                let_go(session, task);
        }
}
