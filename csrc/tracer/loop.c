/*
 * The hot loop of a session: wait for a stop, see what it is, copy what the table asks for, let the task go on.
 *
 * A call is recorded once, when it returns; only when another task has something to tell meanwhile is its entry recorded.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tasks.h"

#define SYSCALL_STOP (SIGTRAP | 0x80)

static void append(struct session *session, struct task *task, uint32_t kind)
{
    struct record *record = record_of(task);
    record->size = (uint32_t)task->used;
    record->kind = kind;
    buffer_append(&session->buffer, task->bytes, task->used);
}

/* Another task, or a signal, comes between this call's entry and its return. */
static void interrupt_open(struct session *session)
{
    struct task *task = session->open;
    if (task) {
        append(session, task, EVENT_ENTER);
        task->flushed = true;
        session->open = NULL;
    }
}

/* Nothing has happened since this call's entry: somebody may want to know where the task waits. */
static void tell_waiting(struct session *session)
{
    struct task *task = session->open;
    session->quiet = 0;
    if (!task)
        return;
    record_of(task)->flags |= FLAG_WAITING;
    interrupt_open(session);
    record_of(task)->flags &= ~(uint32_t)FLAG_WAITING;
}

static void begin(struct task *task)
{
    memset(task->bytes, 0, sizeof(struct record));
    task->used = sizeof(struct record);
    struct record *record = record_of(task);
    record->pid = (uint32_t)task->pid;
    record->tid = (uint32_t)task->tid;
    record->number = ~0u;
    record->entered = record->left = tracer_now();
}

/* An event besides the calls. The record that the task builds for a call under way stays as it is. */
static void tell(struct session *session, struct task *task, uint32_t kind, uint64_t first, uint64_t second, const void *bytes,
                 uint32_t length)
{
    struct task event = {.tid = task->tid, .pid = task->pid, .size = 1024};
    if (task->hidden)
        return;
    event.bytes = malloc(event.size);
    if (!event.bytes)
        return;
    begin(&event);
    record_of(&event)->args[0] = first;
    record_of(&event)->args[1] = second;
    record_of(&event)->ret = (int64_t)first;
    if (bytes)
        payload_add(&event, &(struct payload){0, 0, COPY_BYTES, 0, length, 0}, bytes);
    if (kind == EVENT_MAPS) {
        copy_file(&event, "maps");
        copy_file(&event, "auxv");
        copy_file(&event, "environ");
    }
    append(session, &event, kind);
    free(event.bytes);
}

static bool wanted(const struct session *session, const struct record *record)
{
    uint64_t numbers = session->options.numbers;
    return session->options.wanted[record->number < numbers && !(record->flags & FLAG_FOREIGN) ? record->number : numbers];
}

static bool appears(const struct session *session, const struct record *record)
{
    return session->options.until == 2 ? !in_file_mapping((pid_t)record->pid, record->ip)
                                       : record->number == SYS_execve || record->number == SYS_execveat;
}

void session_show(struct session *session, struct task *task)
{
    task->hidden = false;
    tell(session, task, EVENT_TASK, (uint64_t)task->parent, 0, NULL, 0);
    if (session->options.phases)
        tell(session, task, EVENT_MAPS, 0, 0, NULL, 0);
    if (session->options.until == 2) {
        tell(session, task, EVENT_MARK, MARK_LOAD, 0, NULL, 0);
        task->loading = 1;
    }
}

static void call_entered(struct session *session, struct task *task, const struct __ptrace_syscall_info *info)
{
    begin(task);
    struct record *record = record_of(task);
    record->number = (uint32_t)info->entry.nr;
    record->ip = info->instruction_pointer;
    task->sp = info->stack_pointer;
    for (int i = 0; i < 6; i++)
        record->args[i] = info->entry.args[i];
    if (info->arch != AUDIT_ARCH_X86_64)
        record->flags = FLAG_FOREIGN;
    if (task->mark == MARK_RETURN && ++task->steps > CALLS_BEFORE_RETURN)
        mark_none(task);
    if (task->hidden && appears(session, record))
        session_show(session, task);
    task->in_call = true;
    task->flushed = false;
    if (task->hidden || !wanted(session, record))
        return;
    copy_arguments(session, task, 1);
    interrupt_open(session);
    session->open = task;
}

static void new_program(struct session *session, struct task *task)
{
    if (!session->options.phases)
        return;
    tell(session, task, EVENT_MAPS, 0, 0, NULL, 0);
    size_t used = task->used;
    mark_exec(task);
    task->used = used;
}

/* Our own loader ends with rt_sigreturn, and an munmap from the vdso that removes the last of it. */
static void loader_left(struct session *session, struct task *task)
{
    if (task->loading == 2) {
        task->loading = 0;
        tell(session, task, EVENT_MARK, MARK_JUMP, 0, NULL, 0);
        new_program(session, task);
    } else if (record_of(task)->number == SYS_rt_sigreturn) {
        task->loading = 2;
    }
}

static void call_left(struct session *session, struct task *task, const struct __ptrace_syscall_info *info)
{
    if (!task->in_call) /* attached in the middle of it */
        return;
    struct record *record = record_of(task);
    task->in_call = false;
    if (task->hidden || !wanted(session, record))
        return;
    record->left = tracer_now();
    record->ret = info->exit.rval;
    if (info->exit.is_error)
        record->flags |= FLAG_ERROR;
    copy_arguments(session, task, 2);
    if (session->open == task)
        session->open = NULL;
    else
        interrupt_open(session);
    append(session, task, task->flushed ? EVENT_LEAVE : EVENT_SYSCALL);
    if (task->loading)
        loader_left(session, task);
}

static void call_stop(struct session *session, struct task *task)
{
    struct __ptrace_syscall_info info;
    memset(&info, 0, sizeof info);
    if (ptrace(PTRACE_GET_SYSCALL_INFO, task->tid, sizeof info, &info) <= 0)
        return;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
        call_entered(session, task, &info);
    else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
        call_left(session, task, &info);
}

static void executed(struct session *session, struct task *task)
{
    unsigned long before = 0;
    ptrace(PTRACE_GETEVENTMSG, task->tid, NULL, &before);
    if ((pid_t)before != task->tid && task_find(session, (pid_t)before))
        interrupt_open(session);
    tell(session, task, EVENT_EXEC, before, 0, NULL, 0);
    task = task_executed(session, task, (pid_t)before);
    if (task->in_call)
        record_of(task)->tid = (uint32_t)task->tid;
    new_program(session, task);
}

static void task_exits(struct session *session, struct task *task)
{
    if (!task->in_call || task->hidden || !wanted(session, record_of(task)))
        return;
    record_of(task)->left = tracer_now();
    if (session->open == task)
        session->open = NULL;
    else
        interrupt_open(session);
    record_of(task)->flags |= task->flushed ? FLAG_TOLD : 0;
    append(session, task, EVENT_EXITING);
    task->in_call = false;
}

static void event_stop(struct session *session, struct task *task, int event)
{
    unsigned long message = 0;
    if (event == PTRACE_EVENT_EXEC) {
        executed(session, task);
    } else if (event == PTRACE_EVENT_EXIT) {
        task_exits(session, task);
    } else if (ptrace(PTRACE_GETEVENTMSG, task->tid, NULL, &message) == 0) {
        tell(session, task, EVENT_CLONE, message, (uint64_t)event, NULL, 0);
    }
}

/* The signal to deliver. */
static int signal_stop(struct session *session, struct task *task, int number)
{
    siginfo_t info;
    struct record mark;
    memset(&mark, 0, sizeof mark);
    if (number == SIGTRAP && mark_trap(task, &mark)) {
        if (mark.args[0])
            tell(session, task, EVENT_MARK, mark.args[0], mark.args[1], NULL, 0);
        return 0;
    }
    if (!task->hidden && ptrace(PTRACE_GETSIGINFO, task->tid, NULL, &info) == 0) {
        interrupt_open(session);
        tell(session, task, EVENT_SIGNAL, (uint64_t)number, 0, &info, sizeof info);
    }
    return number;
}

static void ended(struct session *session, struct task *task, int status)
{
    if (task->tid == session->options.leader)
        session->leader_status = status;
    interrupt_open(session);
    if (WIFEXITED(status))
        tell(session, task, EVENT_EXITED, (uint64_t)WEXITSTATUS(status), 0, NULL, 0);
    else
        tell(session, task, EVENT_KILLED, (uint64_t)WTERMSIG(status), WCOREDUMP(status), NULL, 0);
    task_remove(session, task);
}

static void detach(struct session *session, struct task *task, int number)
{
    bool inside = task->in_call && !task->hidden && wanted(session, record_of(task));
    mark_none(task);
    task_unpin(session, task);
    ptrace(PTRACE_DETACH, task->tid, NULL, (void *)(long)number);
    if (session->open == task)
        record_of(task)->flags |= FLAG_LAST;
    interrupt_open(session);
    tell(session, task, EVENT_DETACHED, inside, 0, NULL, 0);
    task_remove(session, task);
}

static struct task *appeared(struct session *session, pid_t tid)
{
    struct task *task = task_add(session, tid);
    if (!task)
        return NULL;
    task->pinned = session->cpu >= 0; /* inherited; what it was before, too, which is one for all */
    task->affinity = session->affinity;
    interrupt_open(session);
    tell(session, task, EVENT_TASK, (uint64_t)task->parent, 0, NULL, 0);
    return task;
}

/* Lets the task go on after a stop; PTRACE_LISTEN keeps a group stop a stop. */
static void stopped(struct session *session, struct task *task, int status)
{
    int number = WSTOPSIG(status), event = status >> 16, deliver = 0;
    bool group = event == PTRACE_EVENT_STOP && number != SIGTRAP;
    if (session->stop) {
        detach(session, task, event || number == SYSCALL_STOP ? 0 : number);
        return;
    }
    if (number == SYSCALL_STOP) {
        call_stop(session, task);
    } else if (group) {
        if (!task->hidden) {
            interrupt_open(session);
            tell(session, task, EVENT_STOPPED, (uint64_t)number, 0, NULL, 0);
        }
        ptrace(PTRACE_LISTEN, task->tid, NULL, NULL);
        return;
    } else if (event == 0) {
        deliver = signal_stop(session, task, number);
    } else if (event != PTRACE_EVENT_STOP) {
        pid_t tid = task->tid;
        event_stop(session, task, event);
        task = task_find(session, tid);
    }
    if (!task)
        return;
    ptrace(task->stepping ? PTRACE_SINGLESTEP : PTRACE_SYSCALL, task->tid, NULL, (void *)(long)deliver);
}

void session_run(struct session *session)
{
    bool interrupted = false;
    while (session->task_count) {
        int status;
        if (session->stop && !interrupted) {
            tasks_interrupt(session);
            interrupted = true;
        }
        if (session->quiet)
            tell_waiting(session);
        pid_t tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
        if (tid < 0 && errno == EINTR)
            continue;
        if (tid < 0)
            return;
        struct task *task = task_find(session, tid);
        if (!task && !WIFSTOPPED(status))
            continue;
        if (!task)
            task = appeared(session, tid);
        if (!task)
            ptrace(PTRACE_DETACH, tid, NULL, NULL);
        else if (WIFSTOPPED(status))
            stopped(session, task, status);
        else
            ended(session, task, status);
    }
}
