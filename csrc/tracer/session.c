/*
 * A session's beginning and end.
 *
 * It runs in a thread of its own, since every ptrace request must come from the thread that attached; Python formats what it
 * has recorded meanwhile, on another CPU. Tasks are seized, so that group stops can be told from signals and none is disturbed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tasks.h"

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT)
#define WAKE (SIGRTMIN + 7) /* interrupts waitpid; its handler does nothing */

static int seize(struct session *session, pid_t tid)
{
    bool started = session->options.gate >= 0;
    unsigned long options = OPTIONS | session->seize_options | (started ? PTRACE_O_EXITKILL : 0);
    struct task *task = task_add(session, tid);
    if (!task)
        return ENOMEM;
    if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)options) || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL)) {
        int error = errno;
        task_remove(session, task);
        return error;
    }
    task_pin(session, task);
    session->affinity = task->affinity;
    task->hidden = session->options.until != 0;
    if (!task->hidden)
        session_show(session, task);
    return 0;
}

/* A thread may end before its turn; a process that was asked for must be there. */
static int seize_all(struct session *session)
{
    const struct refl_trace_options *options = &session->options;
    for (uint64_t i = 0; i < options->tid_count; i++) {
        int error = seize(session, options->tids[i]);
        if (error && i < options->needed) {
            session->refused = options->tids[i];
            return error;
        }
    }
    if (options->gate < 0)
        return 0;
    int status; /* let it go on to the call of the program only when its calls are seen */
    if (!task_stops(options->tids[0], &status))
        return ECHILD;
    ptrace(session->resume, options->tids[0], NULL, NULL);
    return write(options->gate, "", 1) == 1 ? 0 : errno;
}

static void choose_cpu(struct session *session)
{
    cpu_set_t one;
    session->cpu = (int)session->options.pin - 1;
    if (session->cpu < 0)
        return;
    CPU_ZERO(&one);
    CPU_SET((unsigned)session->cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one))
        session->cpu = -1;
}

static void *session_thread(void *argument)
{
    struct session *session = argument;
    uint64_t wake = 1ul << (WAKE - 1);
    syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &wake, NULL, 8);
    choose_cpu(session);
    session->error = seize_all(session);
    if (session->error)
        session->stop = session->task_count > 0;
    session->run(session);
    buffer_end(&session->buffer);
    return NULL;
}

/* Or else the kernel queues a SIGCHLD for every stop, and wakes another thread of ours on another CPU to take it. */
static void heed_ends_only(struct session *session)
{
    sigaction(SIGCHLD, NULL, &session->child);
    struct sigaction action = session->child;
    action.sa_flags |= SA_NOCLDSTOP;
    sigaction(SIGCHLD, &action, NULL);
}

static void woken(int number)
{
    (void)number;
}

static void session_free(struct session *session)
{
    for (int i = 0; i < TASK_BUCKETS; i++)
        while (session->tasks[i])
            task_remove(session, session->tasks[i]);
    buffer_destroy(&session->buffer);
    free((void *)session->options.copies);
    free((void *)session->options.wanted);
    free((void *)session->options.tids);
    free(session);
}

static void *copied(const void *bytes, size_t size)
{
    void *copy = malloc(size ? size : 1);
    if (copy && size)
        memcpy(copy, bytes, size);
    return copy;
}

bool session_start(struct session *session, const struct refl_trace_options *options)
{
    session->options = *options;
    session->leader_status = -1;
    session->options.copies = copied(options->copies, options->numbers * COPIES * sizeof(struct refl_copy));
    session->options.wanted = copied(options->wanted, options->wanted ? options->numbers + 1 : 0);
    session->options.tids = copied(options->tids, options->tid_count * sizeof(int32_t));
    if (session->options.string_limit > RECORD_MOST / 16)
        session->options.string_limit = RECORD_MOST / 16;
    struct sigaction action = {.sa_handler = woken};
    sigaction(WAKE, &action, NULL);
    heed_ends_only(session);
    uint64_t mask = refl_block_signals();
    bool ok = !buffer_create(&session->buffer) && session->options.copies && session->options.wanted &&
              session->options.tids && !pthread_create(&session->thread, NULL, session_thread, session);
    refl_unblock_signals(mask);
    if (!ok) {
        sigaction(SIGCHLD, &session->child, NULL);
        session_free(session);
    }
    return ok;
}

void *refl_trace_start(const struct refl_trace_options *options)
{
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    session->run = session_run;
    session->resume = PTRACE_SYSCALL;
    session->seize_options = options->follow ? SEIZE_FOLLOWED : 0;
    return session_start(session, options) ? session : NULL;
}

/* The signal may come just before the waitpid that it is to interrupt, hence again and again: Python calls until the end. */
void refl_trace_stop(void *trace)
{
    struct session *session = trace;
    session->stop = 1;
    pthread_kill(session->thread, WAKE);
}

/* Should the signal come just before the waitpid, the call under way is told at the next event. */
void refl_trace_quiet(void *trace)
{
    struct session *session = trace;
    session->quiet = 1;
    pthread_kill(session->thread, WAKE);
}

int refl_execve(const char *path, char *const *argv, char *const *envp)
{
    execve(path, argv, envp);
    return errno;
}

int32_t refl_trace_finish(void *trace, int32_t *error, int32_t *refused)
{
    struct session *session = trace;
    pthread_join(session->thread, NULL);
    int32_t status = session->leader_status;
    *error = session->error;
    *refused = session->refused;
    sigaction(SIGCHLD, &session->child, NULL);
    session_free(session);
    return status;
}
