/* One thing that programs do, named by argv[1]. Prints what it sees of it; the same at every start. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __GLIBC__ /* musl-gcc sees no headers of the kernel, and musl has no IFUNC */
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

extern char **environ;

static char constructed[32];

__attribute__((constructor(101))) static void first(void)
{
    strcat(constructed, "first ");
}

__attribute__((constructor(102))) static void second(void)
{
    strcat(constructed, "second");
}

__attribute__((destructor)) static void last(void)
{
    if (*constructed == 'F')
        puts("destructor");
}

static int hello(char **argv)
{
    printf("hello %s\n", argv[1]);
    return 7;
}

static int constructors(char **argv)
{
    (void)argv;
    puts(constructed);
    *constructed = 'F';
    return 0;
}

#ifdef __GLIBC__
static int chosen(void)
{
    return 42;
}

static int (*choose(void))(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse2") ? chosen : NULL;
}

int indirect(void) __attribute__((ifunc("choose")));

static int ifunc(char **argv)
{
    (void)argv;
    printf("ifunc %d %d\n", indirect(), memcmp("abc", "abd", 3) < 0);
    return 0;
}

static int filter(char **argv)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    (void)argv;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 1;
    long result = syscall(SYS_getppid);
    printf("filtered %ld %d\n", result, errno);
    return 0;
}
#else
static int ifunc(char **argv)
{
    (void)argv;
    return 0;
}

static int filter(char **argv)
{
    (void)argv;
    return 0;
}
#endif

static __thread int initialised = 1000;
static __thread char zeroed[65536];
static __thread long aligned __attribute__((aligned(1024))) = 5;
static int total;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *thread(void *number)
{
    initialised += (int)(intptr_t)number;
    for (unsigned i = 0; i < sizeof zeroed; i++)
        if (zeroed[i]++)
            return NULL;
    pthread_mutex_lock(&lock);
    total += initialised + (int)aligned + ((uintptr_t)&aligned % 1024 != 0);
    pthread_mutex_unlock(&lock);
    return number;
}

static int threads(char **argv)
{
    pthread_t all[64];
    void *result;
    (void)argv;
    for (intptr_t i = 0; i < 64; i++)
        if (pthread_create(&all[i], NULL, thread, (void *)(i + 1)))
            return 1;
    for (int i = 0; i < 64; i++)
        if (pthread_join(all[i], &result) || !result)
            return 2;
    printf("total %d, mine %d\n", total, initialised);
    return 0;
}

static int children(char **argv)
{
    char *shell[] = {"sh", "-c", "echo spawned; exit 3", NULL}, *self[] = {argv[0], "hello", NULL};
    int status[3];
    pid_t pid;
    (void)argv;
    fflush(stdout);
    if (posix_spawn(&pid, "/bin/sh", NULL, NULL, shell, environ) || waitpid(pid, &status[0], 0) != pid)
        return 1;
    pid = fork();
    if (pid == 0) {
        execv(argv[0], self);
        _exit(99);
    }
    waitpid(pid, &status[1], 0);
    pid = vfork();
    if (pid == 0)
        _exit(5);
    waitpid(pid, &status[2], 0);
    printf("%d %d %d %d\n", WEXITSTATUS(status[0]), WEXITSTATUS(status[1]), WEXITSTATUS(status[2]), system("exit 4") >> 8);
    return 0;
}

static int again(char **argv)
{
    if (argv[2]) {
        printf("again, as %s\n", argv[0]);
        return 9;
    }
    execl("/proc/self/exe", "another name", "again", "second time", NULL);
    return 1;
}

__attribute__((noinline)) static int dig(int depth, volatile char *above)
{
    volatile char room[4096];
    memset((void *)room, depth, sizeof room);
    room[0] = *above;
    return depth ? dig(depth - 1, room) + room[1] % 2 : room[0];
}

static int stack(char **argv)
{
    volatile char start = 1;
    (void)argv;
    printf("stack %d\n", dig(6 * 1024 / 4 - 64, &start));
    return 0;
}

static jmp_buf back;
static void (*volatile next)(int depth);

static void leap(int depth)
{
    if (depth == 0)
        longjmp(back, 6);
    next(depth - 1);
}

static int jump(char **argv)
{
    volatile int tries = 0;
    (void)argv;
    next = leap;
    int from = setjmp(back);
    if (tries++ == 0)
        leap(10);
    printf("jumped %d\n", from);
    return 0;
}

static volatile sig_atomic_t on_alternate;
static char *alternate;

static void handler(int number)
{
    char here;
    on_alternate = number == SIGSEGV && &here > alternate && &here < alternate + 65536 ? 1 : 2;
    siglongjmp(back, 1);
}

static int alternate_stack(char **argv)
{
    stack_t there = {.ss_size = 65536}, before;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    (void)argv;
    alternate = there.ss_sp = malloc(65536);
    sigaltstack(&there, &before);
    sigaction(SIGSEGV, &action, NULL);
    if (sigsetjmp(back, 1) == 0)
        *(volatile char *)8 = 1;
    printf("handled on the alternate stack: %d, there was none before: %d\n", on_alternate, before.ss_flags == SS_DISABLE);
    return 0;
}

static int heap(char **argv)
{
    char *start = (char *)syscall(SYS_brk, 0), *end = (char *)syscall(SYS_brk, start + 65536);
    (void)argv;
    memset(start, 1, 65536);
    char *large = malloc(64 << 20), *small = malloc(1 << 16);
    memset(large, 2, 64 << 20);
    memset(small, 3, 1 << 16);
    printf("heap %s\n", end - start == 65536 ? "grows" : "does not grow");
    return 0;
}

static const struct {
    const char *name;
    int (*run)(char **argv);
} exercises[] = {
    {"hello", hello}, {"constructors", constructors}, {"ifunc", ifunc}, {"threads", threads}, {"children", children},
    {"again", again}, {"stack", stack}, {"jump", jump}, {"alternate-stack", alternate_stack}, {"filter", filter},
    {"heap", heap},
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc > 1 && i < sizeof exercises / sizeof *exercises; i++)
        if (strcmp(argv[1], exercises[i].name) == 0)
            return exercises[i].run(argv);
    fputs("no such exercise\n", stderr);
    return 64;
}
