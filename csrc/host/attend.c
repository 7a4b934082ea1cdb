/*
 * Standing in for a program that this process has started: `reflective exec` must look to its shell as the program itself would.
 *
 * Signals of the terminal reach the program directly, as it is in the same process group: they are taken here and dropped.
 * What somebody sent to this process alone is passed on. When the program stops, this process stops, so that the shell takes
 * the terminal back; when it dies of a signal, so does this process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../core.cdef.h"

static void set_mask(int how, const uint64_t *mask, uint64_t *old)
{
    syscall(SYS_rt_sigprocmask, how, mask, old, 8);
}

uint64_t refl_block_signals(void)
{
    uint64_t all = ~0ul, old = 0;
    set_mask(SIG_SETMASK, &all, &old);
    return old;
}

void refl_unblock_signals(uint64_t mask)
{
    set_mask(SIG_SETMASK, &mask, NULL);
}

int refl_heed_children(void)
{
    return signal(SIGCHLD, SIG_DFL) == SIG_IGN;
}

/* Takes the signal's default action, which for most means that this does not return. */
static void suffer(int number)
{
    uint64_t only = 1ul << (number - 1), old;
    signal(number, SIG_DFL);
    kill(getpid(), number);
    set_mask(SIG_UNBLOCK, &only, &old);
    set_mask(SIG_SETMASK, &old, NULL);
}

/* 1: the program has ended, *status is set. It may also have stopped; then so did we, and both go on now. */
static int ended(int pid, int *status)
{
    for (;;) {
        int got = waitpid(pid, status, WNOHANG | WUNTRACED);
        if (got == 0)
            return 0;
        if (got < 0) {
            *status = 0;
            return errno != EINTR;
        }
        if (!WIFSTOPPED(*status))
            return 1;
        suffer(WSTOPSIG(*status));
        kill(pid, SIGCONT);
    }
}

/* Signals are blocked (refl_block_signals) from before the program was started, so none is lost. */
int refl_attend(int pid)
{
    int status;
    sigset_t all;
    siginfo_t info;
    sigfillset(&all);
    while (!ended(pid, &status)) {
        int number = sigwaitinfo(&all, &info);
        if (number > 0 && number != SIGCHLD && number != SIGCONT && info.si_code <= 0 && info.si_pid != pid)
            kill(pid, number);
    }
    return status;
}

/* The program has left its core dump, if any; ours would overwrite it. */
void refl_die_of(int number)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    suffer(number);
}
