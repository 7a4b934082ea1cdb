/*
 * Runs a command, and makes a system call of each of its children fail: the N-th one, with an errno, as a seccomp filter or a
 * kernel without that call would. The command itself runs undisturbed.
 *
 *   inject FAULTS CALLS COMMAND...
 *
 * FAULTS has a line "N ERRNO" for each fork in turn, N from 0; "-1 0" for none. Into CALLS goes a line for each child: the numbers
 * of its system calls up to the program's own, separated by blanks. close is carried out although it fails, as close is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_MOST = 64 };

/* A child on its way to the program. */
struct child {
    int pid;
    long fault, error; /* which call, and how it fails */
    long count;        /* calls entered so far */
    long number;       /* the last of them */
    int failing;       /* the call that is under way fails */
    int returned;      /* from the signal that never came: one munmap may follow */
};

static struct child children[CHILD_MOST];
static FILE *faults, *calls;

static void fail(const char *what)
{
    fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
    exit(99);
}

static void trace(long request, int pid, size_t address, long data)
{
    if (ptrace((enum __ptrace_request)request, pid, (void *)address, (void *)data) < 0 && errno != ESRCH)
        fail("ptrace");
}

/* The child with that pid, a new one if it is not known. */
static struct child *find(int pid)
{
    struct child *unused = NULL;
    for (struct child *one = children; one < children + CHILD_MOST; one++) {
        if (one->pid == pid)
            return one;
        if (one->pid == 0)
            unused = one;
    }
    if (!unused)
        fail("too many children");
    *unused = (struct child){.pid = pid, .fault = -1};
    if (fscanf(faults, "%ld %ld", &unused->fault, &unused->error) != 2)
        unused->fault = -1;
    return unused;
}

/* It has become the program, or has ended. */
static void forget(struct child *child)
{
    fputc('\n', calls);
    fflush(calls);
    child->pid = 0;
}

static void entered(struct child *child, long number)
{
    if (child->returned && number != SYS_munmap) {
        trace(PTRACE_DETACH, child->pid, 0, 0);
        forget(child);
        return;
    }
    fprintf(calls, "%ld ", number);
    child->failing = child->count++ == child->fault;
    if (child->failing && number != SYS_close)
        trace(PTRACE_POKEUSER, child->pid, offsetof(struct user, regs.orig_rax), -1);
    trace(PTRACE_SYSCALL, child->pid, 0, 0);
}

static void left(struct child *child, int after_return)
{
    if (child->failing)
        trace(PTRACE_POKEUSER, child->pid, offsetof(struct user, regs.rax), -child->error);
    child->failing = 0;
    if (after_return) {
        trace(PTRACE_DETACH, child->pid, 0, 0);
        forget(child);
        return;
    }
    trace(PTRACE_SYSCALL, child->pid, 0, 0);
}

static void stopped(struct child *child, int status)
{
    struct __ptrace_syscall_info info;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
        int event = status >> 16;
        trace(PTRACE_SYSCALL, child->pid, 0, event ? 0 : WSTOPSIG(status));
        return;
    }
    if (ptrace((enum __ptrace_request)PTRACE_GET_SYSCALL_INFO, child->pid, (void *)sizeof info, &info) < 0) {
        if (errno != ESRCH)
            fail("PTRACE_GET_SYSCALL_INFO");
        return;
    }
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        child->number = (long)info.entry.nr;
        entered(child, child->number);
    } else {
        int last = child->returned;
        child->returned |= child->number == SYS_rt_sigreturn && !child->failing;
        left(child, last);
    }
}

/* Until the command has ended; its status. */
static int attend(int command)
{
    for (;;) {
        int status, pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            fail("waitpid");
        if (pid == command && !WIFSTOPPED(status))
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (pid == command)
            trace(PTRACE_CONT, pid, 0, status >> 16 ? 0 : WSTOPSIG(status));
        else if (WIFSTOPPED(status))
            stopped(find(pid), status);
        else
            forget(find(pid));
    }
}

int main(int argc, char **argv)
{
    if (argc < 4 || !(faults = fopen(argv[1], "r")) || !(calls = fopen(argv[2], "w")))
        fail("usage: inject FAULTS CALLS COMMAND...");
    cpu_set_t
        here; /* a stop costs two switches between processes: on one CPU a tenth of what it costs from one to the other */
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);
    int pid = fork();
    if (pid == 0) {
        raise(SIGSTOP);
        execvp(argv[3], argv + 3);
        _exit(127);
    }
    int status;
    long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    if (pid < 0 || waitpid(pid, &status, WUNTRACED) != pid)
        fail("fork");
    trace(PTRACE_SEIZE, pid, 0, options);
    kill(pid, SIGCONT);
    return attend(pid);
}
