/*
 * A start by way of a zygote: vfork, what the caller wishes, execve of the zygote, which carries out the plan.
 *
 * Nothing here depends on how large this process is. Whatever goes wrong before the program is entered ends the child and is
 * no more than a refusal: the caller then starts the program by fork (host/start.c), which says what is wrong. So the checks
 * may be coarse where exact ones would cost time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "late.h"
#include "pool.h"

enum { STRING_MOST = 131072, SHARE_MOST = 6 << 20, SHARE_LEAST = 131072, NUMBERS = 4, PLANNED = 3 };

extern char **environ; /* POSIX has it declared by nobody */

/* The arguments of refl_launch (core.cdef.h): what differs from start to start. */
struct call {
    const char *argv, *env;
    uint64_t argv_size, argc, env_size, envc;
    const char *random;
    uint64_t exe, brk, stack_top, shuffle;
};

/* What one start holds, and gives back. */
struct launch {
    struct refl_start start;
    struct slot slot;
    size_t mapped; /* of the slot, by the zygote */
    int program, files[PLANNED], reader, writer;
    char *strings;
};

/* fs/exec.c: bprm_stack_limits, twice as strict; 0 if all fits for certain. */
static int fits(uint64_t size, uint64_t longest, uint64_t limit)
{
    uint64_t share = limit / 4 < SHARE_MOST ? limit / 4 : SHARE_MOST;
    share = share < SHARE_LEAST ? SHARE_LEAST : share;
    return longest > STRING_MOST || size >= share / 2 || size >= limit / 2 ? -E2BIG : 0;
}

static uint64_t longest_of(const char *strings, uint64_t size)
{
    uint64_t longest = 0;
    for (uint64_t at = 0; at < size;) {
        uint64_t length = strnlen(strings + at, size - at) + 1;
        longest = length > longest ? length : longest;
        at += length;
    }
    return longest;
}

/* Arguments, environment and path, one after another. C's environ may change meanwhile in another thread: nobody can help. */
static int join_strings(const struct refl_recipe *recipe, const struct call *call, struct launch *l)
{
    uint64_t envc = call->envc, env_size = call->env ? call->env_size : refl_environ(NULL, 0);
    uint64_t path_size = strlen(recipe->path) + 1, size = call->argv_size + env_size + path_size;
    if (size > SHARE_MOST)
        return -E2BIG;
    l->strings = malloc(size);
    if (!l->strings)
        return -ENOMEM;
    char *env = l->strings + call->argv_size;
    memcpy(l->strings, call->argv, call->argv_size);
    if (call->env)
        memcpy(env, call->env, env_size);
    else if (refl_environ(env, env_size) != env_size)
        return -EAGAIN;
    for (uint64_t i = 0; !call->env && i < env_size; i++)
        envc += env[i] == 0;
    memcpy(env + env_size, recipe->path, path_size);
    l->start.strings = l->strings;
    l->start.strings_size = size;
    l->start.argc = call->argc;
    l->start.envc = envc;
    return fits(size + 8 * (call->argc + envc), longest_of(l->strings, size), l->start.stack_limit);
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

/* The plan was made for this: IDs, no limits that the zygote's own pages would count towards, the kernel's usual layout. */
static int as_planned(const struct refl_recipe *recipe, uint64_t *stack_limit)
{
    uint64_t held[4];
    refl_capabilities(held);
    if (held[3])
        return -ENOTSUP;
    if (recipe->ids[0] != getuid() || recipe->ids[1] != geteuid() || recipe->ids[2] != getgid() ||
        recipe->ids[3] != getegid() || held[0] != recipe->capabilities)
        return -ESTALE;
    *stack_limit = refl_limit(RLIMIT_STACK);
    if (recipe->by_path && has_handlers())
        return -ENOTSUP;
    if (refl_limit(RLIMIT_AS) != RLIM_INFINITY || refl_limit(RLIMIT_DATA) != RLIM_INFINITY || refl_personality() != 0)
        return -ENOTSUP;
    return 0;
}

/* Open (a FIFO that is there now must not block), the file that was planned, and executable, not mounted noexec: faccessat2. */
static int open_planned(const char *path, const uint64_t identity[4])
{
    struct stat status;
    int fd = above_streams(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0)
        return fd;
    int error = fstat(fd, &status) ? -errno : 0;
    const uint64_t found[4] = {status.st_dev, status.st_ino, (uint64_t)status.st_size,
                               (uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec};
    if (!error && memcmp(found, identity, sizeof found))
        error = -ESTALE;
    if (!error && syscall(439 /* faccessat2 */, fd, "", X_OK, AT_EACCESS | AT_EMPTY_PATH))
        error = -errno;
    if (error)
        close(fd);
    return error ? error : fd;
}

static int open_files(const struct refl_recipe *recipe, struct launch *l)
{
    for (int i = 0; i < PLANNED; i++) {
        int fd = recipe->paths[i] ? open_planned(recipe->paths[i], recipe->identities[i]) : -1;
        if (recipe->paths[i] && fd < 0)
            return fd;
        l->files[i] = fd;
    }
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    l->reader = ends[0];
    l->writer = above_streams(ends[1]);
    return l->writer < 0 ? l->writer : 0;
}

static void give_back(struct launch *l)
{
    const int fds[] = {l->files[0], l->files[1], l->files[2], l->reader, l->writer};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (l->slot.base)
        slot_release(&l->slot);
    free(l->strings);
}

/* Of the area, what the zygote has without the shared memory. */
static const size_t BEFORE = ZYGOTE_HEADER_AT - ZYGOTE_AT;

/* The area, as the zygote will have it. */
static int fill(const struct refl_recipe *recipe, const struct call *call, struct launch *l, uint64_t mask)
{
    struct refl_start *start = &l->start;
    size_t size;
    start->random = call->random;
    start->shuffle = call->shuffle;
    memcpy(start->params, recipe->start->params, sizeof start->params);
    start->params[PARAM_EXE] += call->exe;
    start->params[PARAM_BRK] = call->brk;
    start->params[PARAM_STACK_TOP] = call->stack_top;
    start->params[PARAM_EXE_FD] = (uint64_t)(int64_t)l->files[0];
    start->params[PARAM_INTERP_FD] = (uint64_t)(int64_t)l->files[1];
    start->params[PARAM_REPORT_FD] = (uint64_t)(int64_t)l->writer;
    start->params[PARAM_BLOB] = ZYGOTE_AT;
    int error = area_measure(start, &size);
    if (error)
        return error;
    l->mapped = size - BEFORE;
    error = slot_take(l->mapped, &l->program, &l->slot);
    if (error)
        return error;
    memset(l->slot.base, 0, l->mapped);
    struct zygote_header *header = (struct zygote_header *)l->slot.base;
    struct area area = {
        .base = (uint8_t *)((uint64_t)l->slot.base - BEFORE),
        .size = size,
        .at = ZYGOTE_AT,
        .frame = header->frame,
        .frame_at = ZYGOTE_FRAME_AT,
        .late = recipe->late,
    };
    header->vdso_image = recipe->vdso_image;
    error = area_fill(start, &area, mask);
    return error ? error : list_late(start, &area, recipe->late, header);
}

static int is_failure(const struct refl_op *op, long result)
{
    return result < 0 && !(op->flags & OP_MAY_FAIL);
}

/* In the vforked child, which shares this process's memory but nothing else: what the caller wishes. */
static int grant(const struct refl_wishes *wishes)
{
    for (uint64_t i = 0; i < wishes->before_count; i++) {
        const struct refl_op *op = (const struct refl_op *)wishes->before + i;
        long a[6];
        for (int k = 0; k < 6; k++)
            a[k] = (long)(op->arg[k] + (op->param[k] == PARAM_DATA ? (uint64_t)wishes->data : 0));
        if (op->kind != OP_CALL || is_failure(op, syscall(op->nr, a[0], a[1], a[2], a[3], a[4], a[5])))
            return -1;
    }
    if (wishes->close_fds && syscall(436 /* close_range */, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */))
        return -1;
    for (uint64_t i = 0; i < wishes->keep_count; i++)
        if (fcntl(wishes->keep[i], F_SETFD, 0))
            return -1;
    return 0;
}

/* Then the zygote. */
static int become_zygote(const struct refl_wishes *wishes, const struct launch *l, char *const argv[])
{
    char *const none[] = {NULL};
    if (wishes && grant(wishes))
        return -1;
    const int own[] = {l->files[0], l->files[1], l->writer, l->slot.fd};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (own[i] >= 0)
            fcntl(own[i], F_SETFD, 0);
    return (int)syscall(SYS_execveat, l->program, "", argv, none, AT_EMPTY_PATH);
}

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static int64_t make_child(const struct refl_wishes *wishes, struct launch *l)
{
    char text[16 * NUMBERS + 1];
    char *const argv[] = {text, NULL};
    volatile int refused = 0; /* the child writes it */
    snprintf(text, sizeof text, "%016lx%016lx%016lx%016lx", (unsigned long)l->slot.fd, (unsigned long)l->slot.offset,
             (unsigned long)l->mapped, (unsigned long)l->writer);
    pid_t pid = vfork();
    if (pid == 0) {
        become_zygote(wishes, l, argv);
        refused = 1;
        _exit(127);
    }
    int error = errno;
    if (refused && pid > 0)
        reap(pid);
    return pid < 0 ? -error : refused ? -ECANCELED : pid;
}

/* 0: the program has been entered, or its process was killed before, which is for waitpid to tell. */
static int await(struct launch *l, pid_t pid)
{
    struct refl_report report;
    ssize_t got;
    close(l->writer);
    l->writer = -1;
    do {
        got = read(l->reader, &report, sizeof report);
    } while (got < 0 && errno == EINTR);
    if (got != sizeof report)
        return 0;
    reap(pid);
    return report.error ? -report.error : -EIO;
}

static int64_t launch(const struct refl_recipe *recipe, const struct call *call, const struct refl_wishes *wishes,
                      struct launch *l)
{
    int64_t result = as_planned(recipe, &l->start.stack_limit);
    result = result ? result : join_strings(recipe, call, l);
    result = result ? result : open_files(recipe, l);
    if (result)
        return result;
    uint64_t mask = refl_block_signals();
    result = fill(recipe, call, l, mask);
    result = result ? result : make_child(wishes, l);
    refl_unblock_signals(mask);
    return result > 0 && await(l, (pid_t)result) ? -ECANCELED : result;
}

int64_t refl_launch(const struct refl_recipe *recipe, const char *argv, uint64_t argv_size, uint64_t argc, const char *env,
                    uint64_t env_size, uint64_t envc, const char *random, uint64_t exe, uint64_t brk, uint64_t stack_top,
                    uint64_t shuffle, const struct refl_wishes *wishes)
{
    const struct call call = {argv, env, argv_size, argc, env_size, envc, random, exe, brk, stack_top, shuffle};
    struct launch l = {.start = *recipe->start, .files = {-1, -1, -1}, .reader = -1, .writer = -1};
    int64_t result = launch(recipe, &call, wishes, &l);
    give_back(&l);
    return result;
}
