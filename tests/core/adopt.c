/*
 * A server is born, its caller's state changes, and the server adopts it: what is told of both must then be the same.
 *
 * usage: adopt CHANGE    prints "same" or "other" (the identity), then "adopted", "kept" (nothing was to adopt) or an error
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "zygote/state.h"

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    return fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd);
}

static int limit(int which, rlim_t soft)
{
    struct rlimit value;
    getrlimit(which, &value);
    value.rlim_cur = soft;
    return setrlimit(which, &value);
}

static int one_processor(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

static int batch(void)
{
    const struct sched_param none = {0};
    return sched_setscheduler(0, SCHED_BATCH, &none);
}

static int change(const char *name)
{
    const gid_t groups[] = {7, 9};
    if (!strcmp(name, "nothing"))
        return 0;
    if (!strcmp(name, "umask"))
        return umask(027) == 0;
    if (!strcmp(name, "nice"))
        return nice(3) < 0;
    if (!strcmp(name, "policy"))
        return batch();
    if (!strcmp(name, "processor"))
        return one_processor();
    if (!strcmp(name, "limit"))
        return limit(RLIMIT_NOFILE, 77) || limit(RLIMIT_CORE, 0) || limit(RLIMIT_STACK, 1 << 20);
    if (!strcmp(name, "group"))
        return setpgid(0, 0);
    if (!strcmp(name, "ignored"))
        return signal(SIGHUP, SIG_IGN) == SIG_ERR || signal(SIGRTMIN + 3, SIG_IGN) == SIG_ERR;
    if (!strcmp(name, "heeded"))
        return signal(SIGUSR1, SIG_DFL) == SIG_ERR; /* main has it ignored */
    if (!strcmp(name, "io priority"))
        return (int)syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5);
    if (!strcmp(name, "session"))
        return setsid() < 0;
    if (!strcmp(name, "groups"))
        return setgroups(2, groups);
    if (!strcmp(name, "user"))
        return setresuid(1000, 1000, 1000);
    if (!strcmp(name, "saved user"))
        return setresuid(0, 0, 1000);
    if (!strcmp(name, "bounding set"))
        return prctl(PR_CAPBSET_DROP, 25, 0, 0, 0);
    if (!strcmp(name, "no new privileges"))
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (!strcmp(name, "securebits"))
        return prctl(PR_SET_SECUREBITS, 1 << 2, 0, 0, 0);
    if (!strcmp(name, "timer slack"))
        return prctl(PR_SET_TIMERSLACK, 70000, 0, 0, 0);
    if (!strcmp(name, "huge pages"))
        return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (!strcmp(name, "score"))
        return write_file("/proc/self/oom_score_adj", "300");
    if (!strcmp(name, "core filter"))
        return write_file("/proc/self/coredump_filter", "0x7f");
    if (!strcmp(name, "personality"))
        return (int)syscall(SYS_personality, 0x0040000) < 0;
    if (!strcmp(name, "root"))
        return chroot("/proc") || chdir("/");
    if (!strcmp(name, "mounts"))
        return unshare(CLONE_NEWNS);
    if (!strcmp(name, "network"))
        return unshare(CLONE_NEWNET);
    if (!strcmp(name, "host name"))
        return unshare(CLONE_NEWUTS);
    if (!strcmp(name, "ipc"))
        return unshare(CLONE_NEWIPC);
    if (!strcmp(name, "cgroup namespace"))
        return unshare(CLONE_NEWCGROUP);
    if (!strcmp(name, "keyring"))
        return syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0;
    errno = EINVAL;
    return -1;
}

struct shared {
    struct refl_identity born, now, server;
    struct refl_carried before, wanted, adopted;
    int64_t result;
};

static void serve(struct shared *shared, const int go[2])
{
    char byte;
    close(go[1]);
    if (read(go[0], &byte, 1) != 1)
        _exit(1);
    shared->result = refl_adopt(&shared->before, &shared->wanted);
    if (shared->result == 0)
        shared->result = refl_read_state(&shared->server, &shared->adopted);
    _exit(0);
}

static int adopt(const char *name)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int go[2];
    signal(SIGUSR1, SIG_IGN);
    if (pipe(go) || refl_read_state(&shared->born, &shared->before))
        return 2;
    pid_t pid = fork();
    if (pid == 0)
        serve(shared, go);
    if (change(name)) {
        perror(name);
        return 3;
    }
    int error = refl_read_state(&shared->now, &shared->wanted);
    if (write(go[1], "x", 1) != 1 || waitpid(pid, NULL, 0) != pid)
        return 4;
    int same = !error && refl_same_identity(&shared->born, &shared->now);
    int kept = !memcmp(&shared->before, &shared->wanted, sizeof shared->wanted);
    int adopted = !memcmp(&shared->adopted, &shared->wanted, sizeof shared->wanted);
    printf("%s %s\n",
           error  ? strerror(-error)
           : same ? "same"
                  : "other",
           shared->result ? strerror((int)-shared->result)
           : !adopted     ? "differs"
           : kept         ? "kept"
                          : "adopted");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 1;
    return adopt(argv[1]);
}
