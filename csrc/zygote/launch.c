/*
 * A start by way of a zygote: a child that shares this process's memory does what the caller wishes, and executes the zygote,
 * which carries out the plan.
 *
 * Nothing here depends on how large this process is. Whatever goes wrong before the program is entered ends the child and is
 * no more than a refusal: the caller then starts the program by fork (host/start.c), which says what is wrong. So the checks
 * may be coarse where exact ones would cost time.
 *
 * The child is not vforked. A vforked child would wake this thread when it executes the zygote, only for it to sleep again
 * until the load is complete. So the child has a stack of its own, and calls nothing of libc, whose errno is this thread's too.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../blob/syscall.h"
#include "../host/prepare.h"
#include "zygote.h"
#include "zygote_bytes.h" /* static const uint8_t zygote_bytes[], made by setup.py */

enum { PLANNED = 3, CHILD_STACK = 8192, DIGITS = NUMBERS * ZYGOTE_DIGITS, FACCESSAT2 = 439, CLOSE_RANGE = 436 };

_Static_assert(ZYGOTE_CODE + sizeof zygote_bytes <= REFL_PAGE, "the zygote is one page");

extern char **environ; /* POSIX has it declared by nobody */

/* The arguments of refl_launch (core.cdef.h): what differs from start to start. */
struct call {
    const struct refl_recipe *recipe;
    const char *argv, *env;
    uint64_t argv_size, argc, env_size, envc;
    const struct refl_wishes *wishes;
};

/* What one start holds, and gives back. The child writes the files' descriptors, the digits and why it refuses; it reads neither
 * `reader` nor `writer`, which are this thread's. */
struct launch {
    const struct refl_recipe *recipe;
    const struct refl_wishes *wishes;
    char **vectors; /* argv and, unless it is environ, env; then the first argument */
    char **argv, **env;
    char *digits; /* the first argument's beginning */
    uint64_t numbers[NUMBERS]; /* to be written there */
    int reader, writer;
    int refused; /* by the child: an errno, or 0 */
};

uint64_t refl_zygote_code(uint8_t *out)
{
    if (out)
        memcpy(out, zygote_bytes, sizeof zygote_bytes);
    return sizeof zygote_bytes;
}

/* Handlers of binfmt_misc: what is in its directory but ".", "..", "register" and "status". */
static int has_handlers(void)
{
    static const char directory[] = "/proc/sys/fs/binfmt_misc";
    struct statfs status;
    int entries = 0;
    if (statfs(directory, &status) || status.f_type != BINFMTFS_MAGIC)
        return 0;
    DIR *all = opendir(directory);
    while (all && readdir(all))
        entries++;
    if (all)
        closedir(all);
    return entries > 4;
}

static int is_kept(const struct refl_memfd *file)
{
    struct stat status;
    return fstat(file->fd, &status) == 0 && status.st_dev == file->device && status.st_ino == file->inode;
}

/* The recipe was made for this: the privilege, no limits that the zygote's own pages would count towards, the usual layout. */
static int as_planned(const struct refl_recipe *recipe)
{
    uint64_t held[4];
    refl_capabilities(held);
    if (held[3])
        return -ENOTSUP;
    if (held[0] != recipe->capabilities || !is_kept(&recipe->shape) || !is_kept(&recipe->body))
        return -ESTALE;
    if (recipe->by_path && has_handlers())
        return -ENOTSUP;
    if (refl_limit(RLIMIT_AS) != RLIM_INFINITY || refl_limit(RLIMIT_DATA) != RLIM_INFINITY || refl_personality() != 0)
        return -ENOTSUP;
    return 0;
}

/* The strings' addresses, and a null. -EINVAL: there are not so many. */
static int list(const char *strings, uint64_t size, uint64_t count, char **out)
{
    for (uint64_t i = 0; i < count; i++) {
        const char *end = memchr(strings, 0, size);
        if (!end)
            return -EINVAL;
        *out++ = (char *)(uintptr_t)strings;
        size -= (uint64_t)(end + 1 - strings);
        strings = end + 1;
    }
    *out = NULL;
    return 0;
}

/* How long the first argument's beginning must be for what it leaves free to be a multiple of 16 bytes (settle.c). */
static uint64_t skip_of(const struct refl_recipe *recipe)
{
    uint64_t executed = sizeof "/dev/fd/"; /* fs/exec.c: alloc_bprm; with the NUL */
    for (int fd = recipe->shape.fd; fd; fd /= 10)
        executed++;
    uint64_t least = DIGITS + executed, lift = least > recipe->path_size ? (least - recipe->path_size + 15) & ~15ul : 0;
    return lift + recipe->path_size - executed;
}

/* The vectors, with room for the numbers. What is too long execve says, in the child. */
static int list_strings(const struct call *call, struct launch *l)
{
    uint64_t envc = call->env ? call->envc : 0, skip = skip_of(call->recipe), words;
    if (call->argc == 0 || call->argc > call->argv_size || envc > call->env_size)
        return -EINVAL;
    words = call->argc + envc + 2;
    l->vectors = malloc(8 * words + skip + call->argv_size);
    if (!l->vectors)
        return -ENOMEM;
    l->argv = l->vectors;
    l->env = call->env ? l->argv + call->argc + 1 : environ;
    l->digits = (char *)(l->vectors + words);
    l->numbers[NUMBER_SKIP] = skip;
    int error = list(call->argv, call->argv_size, call->argc, l->argv);
    if (!error && call->env)
        error = list(call->env, call->env_size, envc, l->env);
    if (error)
        return error;
    memset(l->digits, '@', skip);
    strcpy(l->digits + skip, l->argv[0]);
    l->argv[0] = l->digits;
    return 0;
}

/* Where executable and heap go: as plan/layout.py has it. */
static int draw(const struct refl_recipe *recipe, uint64_t *numbers)
{
    uint64_t random[2];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -EAGAIN;
    uint64_t start = recipe->exe_low + (random[0] & recipe->exe_pages) * REFL_PAGE;
    uint64_t brk = recipe->brk + random[1] % recipe->brk_pages * REFL_PAGE;
    numbers[NUMBER_EXE] = (start & -recipe->exe_align) - recipe->exe_first;
    brk += numbers[NUMBER_EXE];
    numbers[NUMBER_BRK] = brk > recipe->brk_least ? brk : recipe->brk_least;
    return 0;
}

/* The report pipe. Its writing end must not be where the child's standard streams go. */
static int open_pipe(struct launch *l)
{
    int ends[2], copy;
    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    l->reader = ends[0];
    l->writer = ends[1];
    if (l->writer > 2)
        return 0;
    copy = fcntl(l->writer, F_DUPFD_CLOEXEC, 3);
    int error = copy < 0 ? -errno : 0;
    close(l->writer);
    l->writer = copy;
    return error;
}

static void give_back(struct launch *l)
{
    if (l->reader >= 0)
        close(l->reader);
    if (l->writer >= 0)
        close(l->writer);
    free(l->vectors);
}

/* From here on in the child, where nothing of libc is called: errno is this thread's and its parent's. */

static int is_failure(const struct refl_op *op, int64_t result)
{
    return is_error(result) && !(op->flags & OP_MAY_FAIL);
}

/* What the caller wishes. 0 or -errno. */
static int64_t grant(const struct refl_wishes *wishes)
{
    for (uint64_t i = 0; i < wishes->before_count; i++) {
        const struct refl_op *op = (const struct refl_op *)wishes->before + i;
        uint64_t a[6];
        for (int k = 0; k < 6; k++)
            a[k] = op->arg[k] + (op->param[k] == PARAM_DATA ? (uint64_t)wishes->data : 0);
        int64_t result = op->kind == OP_CALL ? call6(op->nr, a[0], a[1], a[2], a[3], a[4], a[5]) : -EINVAL;
        if (is_failure(op, result))
            return result;
    }
    int64_t result = wishes->close_fds ? call3(CLOSE_RANGE, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */) : 0;
    for (uint64_t i = 0; i < wishes->keep_count && !result; i++)
        result = call3(SYS_fcntl, (uint64_t)wishes->keep[i], F_SETFD, 0);
    return result;
}

/* Open (a FIFO that is there now must not block), the file that was planned, and executable, not mounted noexec: faccessat2. */
static int64_t open_planned(const char *path, const uint64_t identity[4])
{
    struct stat status;
    int64_t fd = call3(SYS_open, (uint64_t)path, O_RDONLY | O_NONBLOCK, 0), result;
    if (fd < 0)
        return fd;
    if ((result = call3(SYS_fstat, (uint64_t)fd, (uint64_t)&status, 0)))
        return result;
    if (status.st_dev != identity[0] || status.st_ino != identity[1] || (uint64_t)status.st_size != identity[2] ||
        (uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec != identity[3])
        return -ESTALE;
    result = call4(FACCESSAT2, (uint64_t)fd, (uint64_t)"", X_OK, AT_EACCESS | AT_EMPTY_PATH);
    return result ? result : fd;
}

/* Executable and interpreter, for the zygote; the script is only looked at. */
static int64_t open_files(const struct refl_recipe *recipe, uint64_t *numbers)
{
    for (int i = 0; i < PLANNED; i++) {
        int64_t fd = recipe->paths[i] ? open_planned(recipe->paths[i], recipe->identities[i]) : -1;
        if (recipe->paths[i] && fd < 0)
            return fd;
        if (i < 2)
            numbers[NUMBER_EXE_FD + i] = (uint64_t)fd;
        else if (fd >= 0)
            call3(SYS_close, (uint64_t)fd, 0, 0);
    }
    return 0;
}

static void write_numbers(const uint64_t *numbers, char *digits)
{
    for (unsigned i = 0; i < DIGITS; i++)
        digits[i] |= (char)(numbers[i / ZYGOTE_DIGITS] >> 4 * (ZYGOTE_DIGITS - 1 - i % ZYGOTE_DIGITS) & 15);
}

__attribute__((noreturn)) static int become_zygote(void *given)
{
    struct launch *l = given;
    int64_t result = l->wishes ? grant(l->wishes) : 0;
    result = result < 0 ? result : open_files(l->recipe, l->numbers);
    if (result == 0) {
        write_numbers(l->numbers, l->digits);
        call3(SYS_fcntl, l->numbers[NUMBER_BODY_FD], F_SETFD, 0);
        call3(SYS_fcntl, l->numbers[NUMBER_REPORT_FD], F_SETFD, 0);
        result = call6(SYS_execveat, (uint64_t)l->recipe->shape.fd, (uint64_t)"", (uint64_t)l->argv, (uint64_t)l->env,
                       AT_EMPTY_PATH, 0);
    }
    __atomic_store_n(&l->refused, (int)-result, __ATOMIC_RELEASE);
    for (;;)
        call3(SYS_exit_group, 127, 0, 0);
}

/* In the parent again. */

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* 0: the program has been entered, or its process was killed before, which is for waitpid to tell. Or -errno. */
static int await(struct launch *l, pid_t pid)
{
    struct refl_report report = {.error = 0};
    ssize_t got;
    close(l->writer);
    l->writer = -1;
    do {
        got = read(l->reader, &report, sizeof report);
    } while (got < 0 && errno == EINTR);
    int error = got == sizeof report ? report.error : __atomic_load_n(&l->refused, __ATOMIC_ACQUIRE);
    if (error)
        reap(pid);
    return -error;
}

static int64_t launch(const struct call *call, struct launch *l)
{
    _Alignas(16) uint8_t stack[CHILD_STACK];
    const struct refl_recipe *recipe = call->recipe;
    int error = as_planned(recipe);
    error = error ? error : list_strings(call, l);
    error = error ? error : draw(recipe, l->numbers);
    error = error ? error : open_pipe(l);
    if (error)
        return error;
    uint64_t mask = refl_block_signals();
    l->numbers[NUMBER_BODY_FD] = (uint64_t)recipe->body.fd;
    l->numbers[NUMBER_BODY_OFFSET] = recipe->body_offset;
    l->numbers[NUMBER_BODY_SIZE] = recipe->body_size;
    l->numbers[NUMBER_REPORT_FD] = (uint64_t)l->writer;
    l->numbers[NUMBER_MASK] = mask;
    pid_t pid = clone(become_zygote, stack + sizeof stack, CLONE_VM | SIGCHLD, l);
    error = pid < 0 ? -errno : 0;
    refl_unblock_signals(mask);
    error = error ? error : await(l, pid);
    return error ? error : pid;
}

int64_t refl_launch(const struct refl_recipe *recipe, const char *argv, uint64_t argv_size, uint64_t argc, const char *env,
                    uint64_t env_size, uint64_t envc, const struct refl_wishes *wishes)
{
    const struct call call = {recipe, argv, env, argv_size, argc, env_size, envc, wishes};
    struct launch l = {.recipe = recipe, .wishes = wishes, .reader = -1, .writer = -1};
    int64_t result = launch(&call, &l);
    give_back(&l);
    return result;
}
