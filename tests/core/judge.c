/*
 * What the kernel makes of many programs, one after another: the errno that execve returns, even past its point of no return,
 * and how the program ends. And the cell in which mutated files, whose bytes may be run as code, are tried at all.
 *
 *   judge [-f] [-u UID] kernel         reads directory names from 0; runs "program" in each; answers on 1
 *   judge [-f] [-u UID] cell COMMAND   runs a command in the same cell
 *
 * -f: addresses are not randomised. An answer is struct answer, then what the program wrote to standard output.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

enum { TIMEOUT_MS = 2000, RUNS_ON = -1000, LIVES = -1001, OUTPUT = 65536, ENTRY_FLAGS = 0x246 };

struct answer {
    int32_t error;  /* what execve returned, or 0 */
    int32_t status; /* exit status, minus a signal, RUNS_ON after the timeout, LIVES if execve returned */
    uint32_t size;
};

static void fail(const char *what)
{
    fprintf(stderr, "judge: %s: %s\n", what, strerror(errno));
    exit(99);
}

/* What Python, the loader and the probes need; besides these opening to read, and a plain fork. None of it can change a file
 * or reach another process. */
static const int ALLOWED[] = {
    SYS_access,
    SYS_arch_prctl,
    SYS_brk,
    SYS_capget,
    SYS_capset,
    SYS_chdir,
    SYS_close,
    SYS_close_range,
    SYS_dup,
    SYS_dup2,
    SYS_dup3,
    SYS_execve,
    SYS_exit,
    SYS_exit_group,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fchdir,
    SYS_fcntl,
    SYS_fstat,
    SYS_fstatfs,
    SYS_ftruncate,
    SYS_futex,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getgroups,
    SYS_getpgrp,
    SYS_getpid,
    SYS_getppid,
    SYS_getrandom,
    SYS_getresgid,
    SYS_getresuid,
    SYS_getrlimit,
    SYS_gettid,
    SYS_getuid,
    SYS_ioctl,
    SYS_lseek,
    SYS_lstat,
    SYS_memfd_create,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munlockall,
    SYS_munmap,
    SYS_newfstatat,
    SYS_personality,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pipe2,
    SYS_poll,
    SYS_prctl,
    SYS_pread64,
    SYS_prlimit64,
    SYS_ptrace,
    SYS_read,
    SYS_readlink,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_set_robust_list,
    SYS_setgroups,
    SYS_setresgid,
    SYS_setresuid,
    SYS_set_thread_area,
    SYS_set_tid_address,
    SYS_sigaltstack,
    SYS_stat,
    SYS_statfs,
    SYS_statx,
    SYS_sysinfo,
    SYS_uname,
    SYS_wait4,
    SYS_waitid,
    SYS_write,
};

#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SKIP_UNLESS(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count)
#define SKIP_IF_ANY(bits, count) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, count, 0)
#define WRITING (O_ACCMODE | O_CREAT | O_TRUNC)

static void filter_calls(void)
{
    static const struct sock_filter some[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        REFUSE,
        LOAD(nr),
        SKIP_UNLESS(SYS_openat, 4),
        LOAD(args[2]),
        SKIP_IF_ANY(WRITING, 1),
        ALLOW,
        REFUSE,
        SKIP_UNLESS(SYS_open, 4),
        LOAD(args[1]),
        SKIP_IF_ANY(WRITING, 1),
        ALLOW,
        REFUSE,
        SKIP_UNLESS(SYS_clone, 4),
        LOAD(args[0]),
        SKIP_UNLESS(SIGCHLD, 1),
        ALLOW,
        REFUSE,
    };
    struct sock_filter program[LENGTH(some) + 2 * LENGTH(ALLOWED) + 1];
    memcpy(program, some, sizeof some);
    size_t count = LENGTH(some);
    for (size_t i = 0; i < LENGTH(ALLOWED); i++) {
        program[count++] = (struct sock_filter)SKIP_UNLESS((uint32_t)ALLOWED[i], 1);
        program[count++] = (struct sock_filter)ALLOW;
    }
    program[count++] = (struct sock_filter)REFUSE;
    struct sock_fprog all = {(unsigned short)count, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all))
        fail("seccomp");
}

static void limit(int which, rlim_t most)
{
    struct rlimit value = {most, most};
    if (setrlimit((__rlimit_resource_t)which, &value))
        fail("setrlimit");
}

static void enter_cell(int fixed, long uid)
{
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, OUTPUT);
    limit(RLIMIT_NPROC, 4096);
    limit(RLIMIT_NOFILE, 64);
    if (uid >= 0 && (syscall(SYS_setgroups, 0, NULL) || setresgid((gid_t)uid, (gid_t)uid, (gid_t)uid) ||
                     setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid)))
        fail("setuid");
    if (fixed && personality(ADDR_NO_RANDOMIZE) < 0)
        fail("personality");
}

/* In the child: stops for the parent, and then either becomes the program or exits. */
static void become(const char *directory, int output)
{
    static char *argv[] = {"program", "one", "two words", NULL}, *envp[] = {"A=1", NULL};
    if (chdir(directory) || dup2(output, STDOUT_FILENO) < 0 || ptrace(PTRACE_TRACEME, 0, NULL, NULL))
        _exit(98);
    __asm__ volatile("int3");
    execve("program", argv, envp);
    _exit(0);
}

static void resume(int pid, long request, int *status)
{
    if (ptrace((enum __ptrace_request)request, pid, NULL, NULL) || waitpid(pid, status, 0) != pid || !WIFSTOPPED(*status))
        fail("a child that should stop");
}

/* Lets the stopped child do its execve; what that returned. A program starts with the flags that ours start with. */
static int32_t execute(int pid)
{
    struct __ptrace_syscall_info info = {0};
    int status, entered = 0;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        fail("a child that should wait");
    if (ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)))
        fail("PTRACE_SETOPTIONS");
    for (;;) {
        resume(pid, PTRACE_SYSCALL, &status);
        if (WSTOPSIG(status) != (SIGTRAP | 0x80))
            continue; /* the event of a successful execve */
        if (ptrace((enum __ptrace_request)PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof info, &info) < 0)
            fail("PTRACE_GET_SYSCALL_INFO");
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
            entered = info.entry.nr == SYS_execve;
        else if (entered)
            break;
    }
    if (!info.exit.rval && ptrace(PTRACE_POKEUSER, pid, (void *)offsetof(struct user, regs.eflags), (void *)(long)ENTRY_FLAGS))
        fail("PTRACE_POKEUSER");
    if (ptrace(PTRACE_DETACH, pid, NULL, NULL))
        fail("PTRACE_DETACH");
    return (int32_t)-info.exit.rval;
}

/* How a child ended, within the timeout. */
static int32_t ended(int pid)
{
    int status, pidfd = (int)syscall(SYS_pidfd_open, pid, 0), late;
    struct pollfd one = {.fd = pidfd, .events = POLLIN};
    late = poll(&one, 1, TIMEOUT_MS) == 0;
    if (late && syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0))
        fail("pidfd_send_signal");
    close(pidfd);
    if (waitpid(pid, &status, 0) != pid)
        fail("waitpid");
    return late ? RUNS_ON : WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static struct answer judged(const char *directory, int output)
{
    struct answer answer;
    if (ftruncate(output, 0) || lseek(output, 0, SEEK_SET))
        fail("the output");
    long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0)
        fail("fork");
    if (pid == 0)
        become(directory, output);
    answer.error = execute((int)pid);
    answer.status = ended((int)pid);
    if (answer.error && answer.status == 0)
        answer.status = LIVES;
    answer.size = (uint32_t)lseek(output, 0, SEEK_END);
    return answer;
}

static void serve(void)
{
    static char line[256], text[OUTPUT];
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), output = memfd_create("output", MFD_CLOEXEC);
    int cases = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), answers = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (zero < 0 || output < 0 || cases < 0 || answers < 0 || dup2(zero, STDIN_FILENO) < 0)
        fail("descriptors");
    FILE *requests = fdopen(cases, "r");
    while (fgets(line, sizeof line, requests)) {
        line[strcspn(line, "\n")] = 0;
        struct answer answer = judged(line, output);
        if (pread(output, text, answer.size, 0) != answer.size || write(answers, &answer, sizeof answer) != sizeof answer ||
            write(answers, text, answer.size) != answer.size)
            fail("the answer");
    }
}

int main(int argc, char **argv)
{
    int fixed = 0, option;
    long uid = -1;
    while ((option = getopt(argc, argv, "+fu:")) > 0) {
        fixed |= option == 'f';
        uid = option == 'u' ? strtol(optarg, NULL, 10) : uid;
    }
    enter_cell(fixed, uid);
    filter_calls();
    if (optind < argc && strcmp(argv[optind], "kernel") == 0) {
        serve();
        return 0;
    }
    if (optind + 1 < argc)
        execv(argv[optind + 1], argv + optind + 1);
    fail("usage: judge [-f] [-u UID] kernel|cell COMMAND");
}
