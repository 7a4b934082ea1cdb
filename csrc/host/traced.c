/*
 * Starting a program to look at it, many times a second: the part of a session that must be cheap (`reflective aslr`).
 *
 * A breakpoint is a debug register, not an int3: the program's memory is not touched, nothing has to be restored, and the
 * address need not be mapped yet, which it is not when a child of refl_spawn asks to be traced.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "prepare.h"

enum { TO_DEFAULT = 2, ENABLE_FIRST = 1 /* DR7: debug register 0, on execution, one byte */ };

/* Python ignores SIGPIPE and SIGXFSZ; its handlers must not run in a child that shares its memory. */
static void default_signals(void)
{
    static const int ignored[TO_DEFAULT] = {SIGPIPE, SIGXFSZ};
    for (int number = 1; number < NSIG; number++) {
        struct sigaction old;
        if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN && old.sa_handler != SIG_DFL)
            signal(number, SIG_DFL);
    }
    for (int i = 0; i < TO_DEFAULT; i++)
        signal(ignored[i], SIG_DFL);
}

int64_t refl_exec_traced(const char *path, char *const *argv, char *const *envp)
{
    volatile int error = 0; /* vfork: the child writes it, the parent reads it */
    uint64_t mask = refl_block_signals();
    pid_t pid = vfork();
    if (pid == 0) {
        default_signals();
        refl_unblock_signals(mask);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) {
            error = ECANCELED;
        } else {
            execve(path, argv, envp);
            error = errno;
        }
        _exit(127);
    }
    if (pid < 0)
        error = errno;
    refl_unblock_signals(mask);
    if (error && pid > 0)
        waitpid(pid, NULL, 0);
    return error ? -error : pid;
}

/* A child of refl_spawn returns from its system call, and enters the blob; the kernel writes to its rseq area. */
int refl_leave_out(uint64_t start, uint64_t end)
{
    uint64_t rseq, size;
    rseq_registered(&rseq, &size);
    const uint64_t needed[] = {(uint64_t)__builtin_frame_address(0), (uint64_t)__builtin_thread_pointer(), rseq, rseq + size,
                               (uint64_t)(uintptr_t)refl_spawn,      (uint64_t)(uintptr_t)syscall};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (start <= needed[i] && needed[i] < end)
            return 0;
    return madvise((void *)start, end - start, MADV_DONTFORK) == 0;
}

static long debug_register(int pid, size_t number, uint64_t value)
{
    return ptrace(PTRACE_POKEUSER, pid, (void *)(offsetof(struct user, u_debugreg) + 8 * number), (void *)value);
}

/* 1: it is at the address; else the signal to hand on is in *number. A trap that is not ours is the program's. */
static int arrived(int pid, uint64_t address, int *number)
{
    if (*number != SIGTRAP)
        return 0;
    errno = 0;
    uint64_t ip = (uint64_t)ptrace(PTRACE_PEEKUSER, pid, (void *)offsetof(struct user, regs.rip), NULL);
    return errno == 0 && ip == address;
}

int64_t refl_run_to(int pid, uint64_t address)
{
    int status, number = 0;
    ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_EXITKILL);
    if (debug_register(pid, 0, address) || debug_register(pid, 7, ENABLE_FIRST))
        return -errno;
    do {
        if (ptrace(PTRACE_CONT, pid, NULL, (void *)(uintptr_t)number))
            return -errno;
        while (waitpid(pid, &status, __WALL) < 0)
            if (errno != EINTR)
                return -errno;
        if (!WIFSTOPPED(status))
            return status ? status : -ECHILD;
        number = WSTOPSIG(status);
    } while (!arrived(pid, address, &number));
    debug_register(pid, 7, 0);
    return 0;
}
