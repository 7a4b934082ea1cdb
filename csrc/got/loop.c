/* The stops of the tasks: threads and processes as they come and go, breakpoints, signals. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "got.h"

static struct task *newcomer(struct session *session, pid_t tid)
{
    struct task *task = task_add(session, tid);
    struct watch *watch = calloc(1, sizeof *watch);
    if (!task || !watch) {
        free(watch);
        if (task)
            task_remove(session, task);
        return NULL;
    }
    task->watch = watch;
    task->pinned = session->cpu >= 0; /* inherited; what it was before, too, which is one for all */
    task->affinity = session->affinity;
    return task;
}

void watch_free(struct watch *watch)
{
    if (watch)
        space_leave(watch->space);
    free(watch);
}

static void resume(struct session *session, struct task *task, int deliver)
{
    if (session->stop) {
        got_hold(session, task, deliver);
        return;
    }
    guard_arm(session, task);
    ptrace(PTRACE_CONT, task->tid, NULL, (void *)(long)deliver);
}

/* Threads share their memory, and so does a vfork child; a fork's is a copy, breakpoints included. */
static bool one_memory(const struct task *parent, const struct task *child, int event)
{
    long order = syscall(SYS_kcmp, parent->tid, child->tid, KCMP_VM, 0, 0);
    return order < 0 ? child->pid == parent->pid || event == PTRACE_EVENT_VFORK : order == 0;
}

static void inherit(struct session *session, const struct task *parent, struct task *child, int event)
{
    bool shared = one_memory(parent, child, event);
    child->watch->space = shared ? space_share(parent->watch->space) : space_copy(parent->watch->space);
    if (!child->watch->space) /* no memory: it must not run into breakpoints that nobody knows */
        kill(child->pid, SIGKILL);
    if (child->pid != parent->pid)
        got_tell(session, parent,
                 (struct record){.kind = EVENT_CLONE, .args = {(uint64_t)child->pid, (uint64_t)event, shared}});
}

/* The child may have stopped already, and waits. */
static void cloned(struct session *session, struct task *parent, pid_t tid, int event)
{
    struct task *child = task_find(session, tid);
    bool waiting = child != NULL;
    if (!child)
        child = newcomer(session, tid);
    if (!child)
        return;
    parent->watch->in_vfork = event == PTRACE_EVENT_VFORK;
    if (!child->watch->space)
        inherit(session, parent, child, event);
    if (waiting)
        resume(session, child, 0);
}

/* Another task of the process, of which it is known who made it: its event may yet tell of children. */
static bool has_maker(const struct session *session, const struct task *ended)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (const struct task *task = session->tasks[i]; task; task = task->next)
            if (task != ended && task->pid == ended->pid && task->watch->space)
                return true;
    return false;
}

/* A child whose maker was killed before it could say that it is its own. */
static struct task *orphan(const struct session *session, const struct task *parent)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *task = session->tasks[i]; task; task = task->next)
            if (!task->watch->space && (task->pid == parent->pid || task->parent == parent->pid))
                return task;
    return NULL;
}

static void adopt(struct session *session, const struct task *parent)
{
    for (struct task *task = orphan(session, parent); task; task = orphan(session, parent)) {
        inherit(session, parent, task, PTRACE_EVENT_FORK);
        if (!task->watch->space)
            return;
        resume(session, task, 0);
    }
}

static struct task *executed(struct session *session, struct task *task)
{
    unsigned long before = 0;
    ptrace(PTRACE_GETEVENTMSG, task->tid, NULL, &before);
    task = task_executed(session, task, (pid_t)before);
    adopt(session, task); /* all other threads are gone */
    space_leave(task->watch->space);
    task->watch->space = space_new();
    task->watch->depth = task->watch->armed = 0;
    task->watch->exiting = false;
    if (task->watch->space)
        got_ask(session, task, ASK_EXEC, NULL, before);
    return task;
}

static void exiting(struct session *session, struct task *task)
{
    unsigned long status = 0;
    task->watch->exiting = true;
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *other = session->tasks[i]; other; other = other->next)
            if (other->pid == task->pid && !other->watch->exiting)
                return;
    ptrace(PTRACE_GETEVENTMSG, task->tid, NULL, &status);
    if (!session->stop)
        got_ask(session, task, ASK_EXIT, NULL, status);
}

static void event_stop(struct session *session, struct task *task, int event)
{
    unsigned long message = 0;
    if (event == PTRACE_EVENT_EXEC) {
        task = executed(session, task);
    } else if (event == PTRACE_EVENT_EXIT) {
        exiting(session, task);
    } else if (event == PTRACE_EVENT_VFORK_DONE) {
        task->watch->in_vfork = false;
    } else if (event != PTRACE_EVENT_STOP && ptrace(PTRACE_GETEVENTMSG, task->tid, NULL, &message) == 0) {
        cloned(session, task, (pid_t)message, event);
    }
    resume(session, task, 0);
}

/* True if the trap was a breakpoint's of ours. */
static bool at_point(struct session *session, struct task *task)
{
    struct user_regs_struct regs;
    siginfo_t info;
    if (ptrace(PTRACE_GETREGS, task->tid, NULL, &regs))
        return false;
    const struct point *found = space_point(task->watch->space, regs.rip - 1);
    if (!found || ptrace(PTRACE_GETSIGINFO, task->tid, NULL, &info) || info.si_code != SI_KERNEL)
        return false;
    struct point point = *found; /* what Python answers may move it */
    if (point.kind == BREAK_GONE || point.kind == BREAK_ONCE) {
        space_point(task->watch->space, point.address)->kind = BREAK_GONE;
        point_restore(&point, task->tid);
        regs.rip--;
        ptrace(PTRACE_SETREGS, task->tid, NULL, &regs);
        if (point.kind == BREAK_ONCE)
            got_ask(session, task, ASK_BREAK, &regs, point.address);
        return true;
    }
    if (point.kind == BREAK_ENTRY)
        resolve_entry(session, task, &regs);
    else if (point.kind == BREAK_JUMP)
        resolve_jump(session, task, &regs);
    else
        got_ask(session, task, ASK_BREAK, &regs, point.address);
    step_over(task->tid, &point, &regs);
    return true;
}

static void stopped(struct session *session, struct task *task, int status)
{
    int number = WSTOPSIG(status), event = status >> 16;
    task->watch->halted = event == PTRACE_EVENT_STOP && number != SIGTRAP;
    if (!task->watch->space) /* whose child it is, its parent's stop will tell */
        return;
    if (task->watch->halted) {
        if (session->stop)
            got_hold(session, task, 0);
        else
            ptrace(PTRACE_LISTEN, task->tid, NULL, NULL);
    } else if (event) {
        event_stop(session, task, event);
    } else if (number == SIGTRAP && (guard_hit(session, task) || (!session->stop && at_point(session, task)))) {
        resume(session, task, 0);
    } else {
        resume(session, task, number);
    }
}

static void ended(struct session *session, struct task *task, int status)
{
    uint32_t kind = WIFEXITED(status) ? EVENT_EXITED : EVENT_KILLED;
    uint64_t first = (uint64_t)(WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    if (task->tid == session->options.leader)
        session->leader_status = status;
    got_tell(session, task, (struct record){.kind = kind, .args = {first}});
    task->watch->held = false; /* not to be let go, nor waited for, by what comes now */
    task->watch->exiting = true;
    if (!has_maker(session, task))
        adopt(session, task);
    task_remove(session, task);
    if (session->stop)
        got_leave_if_all_held(session);
}

/* Tasks that ran already: stopped one after the other, then let go together, when the breakpoints of each memory are set. */
static void attached(struct session *session)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *task = session->tasks[i], *next; task; task = next) {
            int status;
            next = task->next;
            if (!task_stops(task->tid, &status)) {
                task_remove(session, task);
                continue;
            }
            int number = WSTOPSIG(status), event = status >> 16;
            task->watch->halted = event == PTRACE_EVENT_STOP && number != SIGTRAP;
            task->watch->deliver = event ? 0 : number;
        }
}

static void begin(struct session *session)
{
    bool started = session->options.gate >= 0;
    for (uint64_t i = 0; i < session->options.tid_count; i++) {
        struct task *task = task_find(session, session->options.tids[i]);
        if (task)
            task->watch = calloc(1, sizeof *task->watch);
    }
    if (!started)
        attached(session);
    for (uint64_t i = 0; i < session->options.tid_count; i++) {
        struct task *task = task_find(session, session->options.tids[i]);
        struct task *leader = task ? task_find(session, task->pid) : NULL;
        if (!task || !task->watch)
            continue;
        bool first = !leader || leader == task || !leader->watch->space;
        task->watch->space = first ? space_new() : space_share(leader->watch->space);
        if (first && !started)
            got_ask(session, task, ASK_ATTACHED, NULL, 0);
    }
    for (uint64_t i = 0; !started && i < session->options.tid_count; i++) {
        struct task *task = task_find(session, session->options.tids[i]);
        if (task && task->watch->halted)
            ptrace(PTRACE_LISTEN, task->tid, NULL, NULL);
        else if (task)
            resume(session, task, task->watch->deliver);
    }
}

void got_run(struct session *session)
{
    begin(session);
    while (session->task_count) {
        int status;
        if (session->stop && !got_of(session)->leaving) {
            got_of(session)->leaving = true;
            tasks_interrupt(session);
        }
        pid_t tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
        if (tid < 0 && errno == EINTR)
            continue;
        if (tid < 0)
            return;
        struct task *task = task_find(session, tid);
        if (!task && WIFSTOPPED(status))
            task = newcomer(session, tid);
        if (!task)
            continue;
        if (WIFSTOPPED(status))
            stopped(session, task, status);
        else
            ended(session, task, status);
    }
}

void *refl_got_start(const struct refl_trace_options *options)
{
    struct got *got = calloc(1, sizeof *got);
    if (!got)
        return NULL;
    pthread_mutex_init(&got->lock, NULL);
    pthread_cond_init(&got->answered, NULL);
    got->session.run = got_run;
    got->session.resume = PTRACE_CONT;
    got->session.seize_options = SEIZE_FOLLOWED | PTRACE_O_TRACEVFORKDONE;
    return session_start(&got->session, options) ? got : NULL;
}
