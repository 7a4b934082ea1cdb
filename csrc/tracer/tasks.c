/* The tasks of a session, and the CPU they share with their tracer. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "tasks.h"

static struct task **bucket(struct session *session, pid_t tid)
{
    return &session->tasks[(unsigned)tid % TASK_BUCKETS];
}

struct task *task_find(struct session *session, pid_t tid)
{
    struct task *task = *bucket(session, tid);
    while (task && task->tid != tid)
        task = task->next;
    return task;
}

/* Its thread group, and who made it. */
static void origin(struct task *task)
{
    char path[64], line[256];
    task->pid = task->tid;
    snprintf(path, sizeof path, "/proc/%d/status", (int)task->tid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Tgid: %d", &task->pid) == 1 || sscanf(line, "PPid: %d", &task->parent) == 1)
            continue;
    if (file)
        fclose(file);
}

struct task *task_add(struct session *session, pid_t tid)
{
    struct task *task = calloc(1, sizeof *task), **head = bucket(session, tid);
    if (!task)
        return NULL;
    task->size = 1024;
    task->bytes = malloc(task->size);
    if (!task->bytes) {
        free(task);
        return NULL;
    }
    task->tid = tid;
    origin(task);
    task->next = *head;
    *head = task;
    session->task_count++;
    return task;
}

void task_remove(struct session *session, struct task *task)
{
    struct task **link = bucket(session, task->tid);
    while (*link != task)
        link = &(*link)->next;
    *link = task->next;
    if (session->open == task)
        session->open = NULL;
    session->task_count--;
    watch_free(task->watch);
    free(task->bytes);
    free(task);
}

/* execve by a thread that does not lead its group: it goes on under the leader's number, and the leader is gone. */
struct task *task_executed(struct session *session, struct task *task, pid_t former)
{
    struct task *caller = former != task->tid ? task_find(session, former) : NULL;
    if (!caller)
        return task;
    pid_t tid = task->tid;
    task_remove(session, task);
    struct task **link = bucket(session, former);
    while (*link != caller)
        link = &(*link)->next;
    *link = caller->next;
    caller->tid = caller->pid = tid;
    caller->next = *bucket(session, tid);
    *bucket(session, tid) = caller;
    return caller;
}

bool task_stops(pid_t tid, int *status)
{
    pid_t got;
    do
        got = waitpid(tid, status, __WALL | __WNOTHREAD);
    while (got < 0 && errno == EINTR); /* refl_trace_stop's signal */
    return got == tid && WIFSTOPPED(*status);
}

/* Each stops soon, with PTRACE_EVENT_STOP. */
void tasks_interrupt(const struct session *session)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        for (struct task *task = session->tasks[i]; task; task = task->next)
            ptrace(PTRACE_INTERRUPT, task->tid, NULL, NULL);
}

void task_pin(struct session *session, struct task *task)
{
    cpu_set_t one;
    if (session->cpu < 0 || sched_getaffinity(task->tid, sizeof task->affinity, &task->affinity))
        return;
    CPU_ZERO(&one);
    CPU_SET((unsigned)session->cpu, &one);
    task->pinned = sched_setaffinity(task->tid, sizeof one, &one) == 0;
}

/* Only if it still is as we set it: what the task has chosen itself stays. */
void task_unpin(const struct session *session, const struct task *task)
{
    cpu_set_t now, one;
    CPU_ZERO(&one);
    if (!task->pinned || sched_getaffinity(task->tid, sizeof now, &now))
        return;
    CPU_SET((unsigned)session->cpu, &one);
    if (CPU_EQUAL(&now, &one))
        sched_setaffinity(task->tid, sizeof task->affinity, &task->affinity);
}
