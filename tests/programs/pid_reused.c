/* A child that becomes another program, and after its end another child with the same number, which makes a call of its own. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t born_as(pid_t number)
{
    struct clone_args how = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&number, .set_tid_size = 1};
    return (pid_t)syscall(SYS_clone3, &how, sizeof how);
}

int main(void)
{
    pid_t first = fork();
    if (first == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    waitpid(first, NULL, 0);
    pid_t second = born_as(first);
    if (second == 0) {
        getppid();
        _exit(0);
    }
    waitpid(second, NULL, 0);
    return second == first ? 0 : 77; /* not allowed, or taken in the meantime */
}
