/*
 * Where a program's own part begins: its entry point, main, and main's return.
 *
 * Each is found with the debug registers, which write nothing into the program, belong to one thread and are not inherited.
 * The entry point is AT_ENTRY. From there the few instructions of _start are stepped, up to the jump that leaves them with a
 * code address of the executable as first argument: that is how every C library is handed main, in a stripped program too.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#include "tracer.h"

#define STEPS_MOST 200
#define FAR 128

static bool debug_register(pid_t tid, int which, uint64_t value)
{
    size_t offset = offsetof(struct user, u_debugreg) + (size_t)which * 8;
    return ptrace(PTRACE_POKEUSER, tid, (void *)offset, (void *)value) == 0;
}

static void watch(struct task *task, int mark, uint64_t address)
{
    debug_register(task->tid, 7, 0);
    bool set = mark && debug_register(task->tid, 0, address) && debug_register(task->tid, 7, 1);
    task->mark = set ? mark : 0;
    task->mark_at = address;
}

void mark_none(struct task *task)
{
    if (task->mark) {
        watch(task, 0, 0);
        debug_register(task->tid, 0, 0);
    }
}

/* A task that has just become another program: AT_ENTRY is in its auxiliary vector. */
void mark_exec(struct task *task)
{
    size_t before = task->used;
    uint64_t entry = 0, pair[2];
    copy_file(task, "auxv");
    for (size_t at = before + sizeof(struct payload); at + sizeof pair <= task->used; at += sizeof pair) {
        memcpy(pair, task->bytes + at, sizeof pair);
        if (pair[0] == AT_ENTRY)
            entry = pair[1];
    }
    task->used = before;
    task->stepping = false;
    watch(task, entry ? MARK_ENTRY : 0, entry);
}

/* One step after the entry point: main is known when a jump leaves _start with an address near the entry point in rdi. */
static void step(struct task *task, const struct user_regs_struct *regs, uint64_t entry)
{
    uint8_t next[2] = {0, 0};
    read_memory(task->tid, regs->rip, next, sizeof next);
    bool left = regs->rip - entry + FAR > 2 * FAR, code = regs->rdi != regs->rsp && in_file_mapping(task->pid, regs->rdi);
    bool call = next[0] == 0x0f && next[1] == 0x05; /* a step over it would not be seen as a call */
    if (left && code && regs->rdi) {
        task->stepping = false;
        watch(task, MARK_MAIN, regs->rdi);
    } else if (call || ++task->steps > STEPS_MOST) {
        task->stepping = false;
    }
}

bool mark_trap(struct task *task, struct record *mark)
{
    struct user_regs_struct regs;
    siginfo_t info;
    if (!(task->mark || task->stepping) || ptrace(PTRACE_GETSIGINFO, task->tid, NULL, &info) ||
        ptrace(PTRACE_GETREGS, task->tid, NULL, &regs))
        return false;
    if (task->stepping && info.si_code == TRAP_TRACE) {
        step(task, &regs, task->mark_at);
        return true;
    }
    if (!task->mark || info.si_code != TRAP_HWBKPT || regs.rip != task->mark_at)
        return false;
    int reached = task->mark;
    mark->args[0] = (uint64_t)reached;
    mark->args[1] = mark->ip = regs.rip;
    watch(task, 0, regs.rip);
    if (reached == MARK_ENTRY) {
        task->stepping = true;
        task->steps = 0;
    } else if (reached == MARK_MAIN) {
        uint64_t back = 0;
        if (read_memory(task->tid, regs.rsp, &back, sizeof back) == sizeof back)
            watch(task, MARK_RETURN, back);
        task->steps = 0;
    }
    return true;
}
