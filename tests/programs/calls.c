/* System calls with the arguments that strace decodes, a family at a time; what they do is the same at every start. */
#include "calls.h"

static const struct timespec soon = {0, 1000};

static void waiting(void)
{
    int pipes[2];
    fd_set read, written, odd;
    struct timeval moment = {0, 1000};
    struct timespec short_time = {0, 1000};
    sigset_t mask;
    sigemptyset(&mask), sigaddset(&mask, SIGUSR1), sigaddset(&mask, SIGRTMIN);
    pipe(pipes);
    struct pollfd polled[2] = {{pipes[0], POLLIN | POLLPRI, 0}, {pipes[1], POLLOUT, 0}};
    poll(polled, 2, 10), poll(polled, 1, 0), poll(NULL, 0, 1);
    CALL(ppoll, polled, 2ul, &short_time, &mask, 8ul);
    CALL(ppoll, polled, 1ul, &short_time, NULL, 8ul);
    FD_ZERO(&read);
    FD_ZERO(&written);
    FD_ZERO(&odd);
    FD_SET(pipes[0], &read), FD_SET(0, &read), FD_SET(pipes[1], &written);
    CALL(select, pipes[1] + 1, &read, &written, &odd, &moment);
    FD_SET(pipes[0], &read);
    moment.tv_usec = 1000;
    CALL(select, pipes[0] + 1, &read, NULL, NULL, &moment);
    CALL(select, 0, NULL, NULL, NULL, &moment);
    FD_ZERO(&read);
    FD_SET(60, &read);
    CALL(select, 61, &read, NULL, NULL, NULL);
    FD_ZERO(&read);
    FD_SET(pipes[0], &read);
    struct {
        const sigset_t *set;
        size_t size;
    } masked = {&mask, 8}, none = {NULL, 8};
    CALL(pselect6, pipes[1] + 1, &read, &written, NULL, &short_time, &masked);
    FD_ZERO(&read);
    FD_SET(pipes[0], &read);
    short_time.tv_nsec = 1000;
    CALL(pselect6, pipes[0] + 1, &read, NULL, NULL, &short_time, &none);
    CALL(pselect6, 0, NULL, NULL, NULL, &short_time, NULL);
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event wanted = {EPOLLIN | EPOLLET, {.u64 = 7}}, ready[4];
    epoll_ctl(set, EPOLL_CTL_ADD, pipes[0], &wanted);
    wanted.events = EPOLLOUT | EPOLLONESHOT, wanted.data.fd = pipes[1];
    epoll_ctl(set, EPOLL_CTL_ADD, pipes[1], &wanted);
    epoll_ctl(set, EPOLL_CTL_MOD, pipes[1], &wanted);
    epoll_wait(set, ready, 4, 10), epoll_wait(set, ready, 4, 0);
    CALL(epoll_pwait, set, ready, 4, 0, &mask, 8ul);
    CALL(epoll_pwait2, set, ready, 4, &short_time, NULL, 8ul);
    epoll_ctl(set, EPOLL_CTL_DEL, pipes[0], NULL);
    epoll_ctl(set, EPOLL_CTL_DEL, pipes[0], &wanted);
    CALL(epoll_create, 5), CALL(eventfd, 3);
    eventfd(5, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    inotify_add_watch(watch, "/", IN_CREATE | IN_DELETE | IN_ONLYDIR);
    inotify_rm_watch(watch, 1);
    CALL(inotify_init);
}

static void clocks(void)
{
    struct itimerval every = {{0, 0}, {100, 5}}, old;
    struct itimerspec timed = {{0, 0}, {1000000000, 7}}, left;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 5};
    struct tms times_used;
    struct timespec now, longer = {0, 2000};
    struct timeval day;
    int timer = 0;
    setitimer(ITIMER_REAL, &every, NULL), setitimer(ITIMER_VIRTUAL, &every, &old);
    every.it_value = (struct timeval){0, 0};
    setitimer(ITIMER_VIRTUAL, &every, NULL), setitimer(ITIMER_REAL, &every, NULL), getitimer(ITIMER_PROF, &old);
    CALL(timer_create, CLOCK_MONOTONIC, &event, &timer);
    CALL(timer_settime, timer, TIMER_ABSTIME, &timed, &left);
    CALL(timer_settime, timer, 0, &(struct itimerspec){{0, 0}, {0, 0}}, NULL);
    CALL(timer_gettime, timer, &left);
    CALL(timer_getoverrun, timer), CALL(timer_delete, timer);
    event = (struct sigevent){.sigev_notify = SIGEV_NONE};
    CALL(timer_create, CLOCK_REALTIME, &event, &timer);
    CALL(timer_create, CLOCK_REALTIME, NULL, &timer);
    CALL(timer_create, 99, NULL, &timer);
    int file = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd_settime(file, 0, &(struct itimerspec){{1, 0}, {1 << 20, 0}}, &left);
    timerfd_settime(file, TFD_TIMER_ABSTIME, &(struct itimerspec){{0, 0}, {0, 0}}, NULL);
    timerfd_gettime(file, &left);
    CALL(clock_nanosleep, CLOCK_MONOTONIC, 0, &soon, &now), CALL(nanosleep, &longer, &now);
    CALL(clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &soon, NULL), CALL(clock_nanosleep, 99, 0, &soon, NULL);
    CALL(clock_getres, CLOCK_REALTIME, &now), CALL(clock_getres, CLOCK_TAI, NULL);
    CALL(clock_gettime, 99, &now), CALL(clock_settime, CLOCK_MONOTONIC, &now);
    CALL(gettimeofday, NOWHERE, NULL), CALL(gettimeofday, &day, NULL), CALL(time, NULL);
    times(&times_used), alarm(0);
}

static void child(int how)
{
    if (how < 0)
        kill(getpid(), SIGKILL);
    _exit(how);
}

static void processes(void)
{
    siginfo_t info;
    struct rusage usage;
    struct sysinfo system;
    struct rlimit limit = {1024, 4096};
    struct sched_param param = {0};
    int status;
    sigset_t mask, old;
    sigemptyset(&mask), sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, &old);
    pid_t pid = fork();
    if (pid == 0)
        child(3);
    CALL(waitid, P_PID, pid, &info, WEXITED | WNOWAIT, NULL), CALL(waitid, P_ALL, 0, &info, WEXITED, &usage);
    CALL(waitid, P_PID, 1, &info, WEXITED | WNOHANG, NULL);
    if ((pid = fork()) == 0)
        child(-1);
    wait4(pid, &status, 0, &usage), wait4(-1, &status, WNOHANG, NULL);
    siginfo_t pending;
    CALL(rt_sigtimedwait, &mask, &pending, &soon, 8ul), CALL(rt_sigtimedwait, &mask, &pending, &soon, 8ul);
    getrusage(RUSAGE_SELF, &usage), sysinfo(&system);
    setrlimit(RLIMIT_CORE, &limit), getrlimit(RLIMIT_NOFILE, &limit), CALL(getrlimit, RLIMIT_AS, &limit);
    CALL(sched_getparam, 0, &param), CALL(sched_getscheduler, 0), CALL(sched_setscheduler, 0, SCHED_BATCH, &param);
    CALL(sched_get_priority_max, SCHED_FIFO), CALL(sched_get_priority_min, SCHED_RR);
    struct timespec interval;
    CALL(sched_rr_get_interval, 0, &interval), CALL(sched_setparam, 0, &param);
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
        uint32_t low, high;
    } attributes = {.size = 48};
    CALL(sched_getattr, 0, &attributes, 48u, 0u), CALL(sched_setattr, 0, &attributes, 0u);
    getpriority(PRIO_PROCESS, 0), setpriority(PRIO_PGRP, 0, 0);
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2], none[2] = {{0, 0, 0}, {0, 0, 0}};
    CALL(capget, &head, data), CALL(capget, &head, NULL);
    data[0] = (struct __user_cap_data_struct){1 << 5, 1 << 5 | 1 << 7, 0}, data[1] = none[1];
    head.pid = 1 << 30;
    CALL(capset, &head, data);
    cpu_set_t cpus;
    sched_getaffinity(0, sizeof cpus, &cpus);
    gid_t groups[100];
    getgroups(0, NULL), CALL(getgroups, 1, groups);
    uid_t a, b, c;
    getresuid(&a, &b, &c), getresgid(&a, &b, &c);
    CALL(rt_sigqueueinfo, getpid(), 0, &info), CALL(kill, 0, 0), CALL(tgkill, getpid(), gettid(), 0);
    unsigned cpu;
    CALL(getcpu, NOWHERE, NULL, NULL), CALL(getcpu, NULL, NULL, NULL), (void)cpu;
    int pidfd = (int)CALL(pidfd_open, getpid(), 0);
    CALL(pidfd_send_signal, pidfd, 0, NULL, 0), CALL(pidfd_getfd, pidfd, 0, 0);
    CALL(uname, NOWHERE);
    CALL(personality, 0xffffffffu), CALL(personality, 0u);
    CALL(set_tid_address, NULL), CALL(get_robust_list, 0, &a, &interval);
}

static void controls(void)
{
    char name[16];
    int number;
    prctl(PR_SET_NAME, "a name"), prctl(PR_GET_NAME, name);
    prctl(PR_GET_DUMPABLE), prctl(PR_SET_DUMPABLE, 1), prctl(PR_GET_PDEATHSIG, &number), prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_GET_KEEPCAPS), prctl(PR_SET_KEEPCAPS, 0), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP);
    prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN), prctl(PR_GET_SECUREBITS), prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_GET_CHILD_SUBREAPER, &number), prctl(PR_GET_TIMERSLACK), prctl(PR_SET_TIMERSLACK, 50000);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(PR_GET_TSC, &number), prctl(PR_GET_TID_ADDRESS, &number);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, NOWHERE, 4096, "name"), prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        prctl(9999, 1, 2, 3, 4);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY), prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
}

static void locks(void)
{
    uint32_t word = 1, other = 2;
    struct timespec moment = {0, 1000};
    CALL(futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0), CALL(futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    CALL(futex, &word, FUTEX_WAIT, 1, &moment, NULL, 0);
    CALL(futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 1, &moment, NULL, ~0u);
    CALL(futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 5u);
    CALL(futex, &word, FUTEX_REQUEUE, 1, 2ul, &other, 0), CALL(futex, &word, FUTEX_CMP_REQUEUE_PRIVATE, 1, 2ul, &other, 1);
    CALL(futex, &word, FUTEX_WAKE_OP, 1, 1ul, &other, 0x04000000), CALL(futex, &word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0);
    CALL(futex, &word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), CALL(futex, &word, FUTEX_LOCK_PI, 0, &moment, NULL, 0);
    CALL(futex, &word, 77, 1, 2ul, 3ul, 4), CALL(futex, &word, FUTEX_WAIT_REQUEUE_PI, 0, &moment, &other, 0);
    CALL(futex, &word, FUTEX_CMP_REQUEUE_PI, 1, 2ul, &other, 0);
    CALL(futex_waitv, NOWHERE, 1u, 0u, NULL, 0);
    CALL(membarrier, 0, 0, 0);
}

static void memory(void)
{
    unsigned char there[8], bytes[8];
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mmap(NULL, 0, PROT_NONE, MAP_SHARED, 3, 4096), mremap(page, 8192, 4096, 0), madvise(page, 4096, MADV_DONTNEED);
    mremap(page, 4096, 12288, MREMAP_MAYMOVE), mprotect(page, 4096, PROT_NONE), mincore(page, 4096, there);
    msync(page, 4096, MS_SYNC), mlock(page, 4096), munlock(page, 4096), CALL(mlock2, page, 4096ul, MLOCK_ONFAULT);
    mlockall(MCL_FUTURE | MCL_ONFAULT), munlockall();
    int file = memfd_create("a file", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL), fcntl(file, F_GET_SEALS), memfd_create("", MFD_HUGETLB);
    CALL(getrandom, bytes, 0ul, GRND_NONBLOCK | GRND_RANDOM), CALL(getrandom, NOWHERE, 1ul, 0),
        CALL(getrandom, bytes, 1ul, 77);
    struct iovec local = {bytes, 8}, remote = {there, 8};
    CALL(process_vm_readv, getpid(), &local, 1ul, &remote, 1ul, 0ul);
    CALL(process_vm_writev, getpid(), &local, 1ul, NULL, 0ul, 0ul);
    CALL(pkey_alloc, 0ul, 1ul), CALL(pkey_free, 77), CALL(pkey_mprotect, page, 0ul, PROT_READ, -1);
}

static void rare(void)
{
    char buffer[128] = {0};
    CALL(bpf, 99, buffer, 0u), CALL(bpf, 5, NULL, 0u), CALL(perf_event_open, NULL, 0, -1, -1, 8ul);
    CALL(io_uring_setup, 0u, NULL), CALL(io_uring_enter, -1, 1u, 2u, 1u, NULL, 0ul), CALL(io_uring_register, -1, 0u, NULL, 0u);
    CALL(seccomp, 0u, 1u, NULL), CALL(seccomp, 2u, 0u, NOWHERE), CALL(ptrace, 99l, 0, NULL, NULL),
        CALL(kcmp, 0, 0, 0, 0ul, 0ul);
    CALL(ioprio_get, 1, 0), CALL(ioprio_set, 1, 0, 0x4000), CALL(userfaultfd, O_CLOEXEC | O_NONBLOCK);
    CALL(shmget, 0, 0ul, 01600), CALL(shmctl, -1, 0, NULL), CALL(semget, 0, -1, 01600), CALL(msgget, 1, 0600);
    CALL(mount, "none", "/none", "tmpfs", 1ul, NULL), CALL(umount2, "/none", 2), CALL(swapoff, "none"), CALL(chroot, "/none");
    CALL(unshare, 0), CALL(setns, -1, 0x40000000), CALL(syslog, 10, NULL, 0);
    CALL(sethostname, NOWHERE, 1ul), CALL(acct, "none"), CALL(io_setup, 0u, NULL);
    CALL(inotify_add_watch, -1, "x", 0xfff), CALL(landlock_create_ruleset, NULL, 0ul, 1u), CALL(mq_open, "none", 0, 0, NULL);
    CALL(open_tree, -1, "none", 1u), CALL(fsopen, "none", 1u), CALL(get_mempolicy, NULL, NULL, 0ul, NULL, 0ul);
    CALL(set_robust_list, NULL, 0ul), CALL(rseq, NULL, 0u, 0, 0u), CALL(readahead, -1, 0l, 5ul),
        CALL(modify_ldt, 0, buffer, 0ul);
    CALL(process_madvise, -1, NULL, 0ul, MADV_COLD, 0u), syscall(999, 1, 2, 3, 4, 5, 6);
}

/* linux/sched.h: struct clone_args, and 16 bytes that nobody knows yet. */
struct clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup, more[2];
};

/* A child that ends at once, if there is one. */
static void cloned(struct clone_args args, size_t size)
{
    long pid = CALL(clone3, &args, size);
    if (pid == 0)
        _exit(0);
    if (pid > 0)
        wait4(-1, NULL, 0, NULL);
}

static void clones(void)
{
    enum { CLEAR_SIGHAND = 0x100000000, INTO_CGROUP = 0x200000000, WHOLE = 88 };
    sigset_t mask;
    int fd = -1, tid = 0, wanted[2] = {31000, 7};
    uint64_t list = (uintptr_t)wanted, pidfd = (uintptr_t)&fd, parent = (uintptr_t)&tid;
    struct clone_args unknown = {.exit_signal = SIGCHLD, .more = {0, 7}};
    sigemptyset(&mask), sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    cloned((struct clone_args){.exit_signal = SIGCHLD}, 64);
    cloned((struct clone_args){.exit_signal = SIGCHLD, .set_tid = list, .set_tid_size = 1}, WHOLE);
    cloned((struct clone_args){.exit_signal = SIGCHLD, .set_tid = list, .set_tid_size = 2}, WHOLE);
    cloned((struct clone_args){.exit_signal = SIGCHLD, .set_tid = list, .set_tid_size = 33}, WHOLE);
    cloned((struct clone_args){.exit_signal = SIGCHLD, .set_tid = list}, WHOLE);
    cloned((struct clone_args){.exit_signal = SIGCHLD, .set_tid_size = 1}, 80);
    cloned((struct clone_args){.exit_signal = SIGCHLD, .set_tid = 8, .set_tid_size = 1}, WHOLE);
    cloned((struct clone_args){.flags = INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = 99}, WHOLE);
    cloned((struct clone_args){.flags = CLEAR_SIGHAND, .exit_signal = SIGCHLD, .cgroup = 99}, WHOLE);
    cloned((struct clone_args){.flags = CLONE_PIDFD, .exit_signal = SIGCHLD, .pidfd = pidfd}, WHOLE);
    cloned(
        (struct clone_args){
            .flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .exit_signal = SIGCHLD, .pidfd = pidfd, .parent_tid = parent},
        WHOLE);
    cloned(unknown, sizeof unknown), cloned((struct clone_args){.exit_signal = SIGCHLD}, sizeof unknown);
    cloned(unknown, 32), CALL(clone3, NULL, 88ul), CALL(clone3, NOWHERE, 88ul);
}

static const struct {
    const char *name;
    void (*run)(void);
} families[] = {
    {"files", files},     {"terminal", terminal}, {"addresses", addresses}, {"options", options},   {"messages", messages},
    {"waiting", waiting}, {"clocks", clocks},     {"processes", processes}, {"controls", controls}, {"locks", locks},
    {"memory", memory},   {"rare", rare},         {"clones", clones},
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc > 1 && i < sizeof families / sizeof *families; i++)
        if (strcmp(argv[1], families[i].name) == 0) {
            families[i].run();
            return 0;
        }
    return 1;
}
