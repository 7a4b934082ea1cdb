/* Signals and descriptors, as begin_new_exec (fs/exec.c) leaves them. */
#include "state.h"

#include <asm/errno.h>
#include <asm/fcntl.h>
#include <asm/unistd.h>
#include <stddef.h>

#include "syscall.h"

enum { SIGNALS = 64, SIG_KILL = 9, SIG_STOP = 19, SIG_IGNORE = 1 };

struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

/* kernel/signal.c: flush_signal_handlers. An ignored signal stays ignored, but its flags and mask go too. */
int64_t reset_signals(uint64_t to_default)
{
    for (uint64_t signal = 1; signal <= SIGNALS; signal++) {
        if (signal == SIG_KILL || signal == SIG_STOP)
            continue;
        struct kernel_sigaction old = {0, 0, 0, 0}, new = {0, 0, 0, 0};
        int64_t result = call4(__NR_rt_sigaction, signal, 0, (uint64_t)&old, sizeof old.mask);
        if (is_error(result))
            return result;
        if (old.handler == SIG_IGNORE && !(to_default >> (signal - 1) & 1))
            new.handler = SIG_IGNORE;
        if (old.handler == new.handler && old.flags == 0 && old.mask == 0)
            continue;
        result = call4(__NR_rt_sigaction, signal, (uint64_t)&new, 0, sizeof new.mask);
        if (is_error(result))
            return result;
    }
    return 0;
}

struct directory_entry {
    uint64_t inode;
    int64_t next;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* The descriptor that a name in /proc/self/fd stands for; negative for "." and "..". */
static int64_t number(const char *name)
{
    int64_t value = 0;
    for (; *name; name++) {
        if (*name < '0' || *name > '9')
            return -1;
        value = value * 10 + (*name - '0');
    }
    return value;
}

static int is_own(uint64_t fd, const uint64_t own[4])
{
    return fd == own[0] || fd == own[1] || fd == own[2] || fd == own[3];
}

static void close_if_marked(uint64_t fd, const uint64_t own[4])
{
    if (is_own(fd, own))
        return;
    int64_t flags = call3(__NR_fcntl, fd, F_GETFD, 0);
    if (!is_error(flags) && flags & 1 /* FD_CLOEXEC */)
        call3(__NR_close, fd, 0, 0);
}

enum { DESCRIPTORS_MOST = 1 << 20 /* fs.nr_open */ };

/* Without /proc every possible number is tried. */
static void close_by_number(const uint64_t own[4])
{
    struct {
        uint64_t now, most;
    } limit = {DESCRIPTORS_MOST, 0};
    call4(__NR_prlimit64, 0, 7 /* RLIMIT_NOFILE */, 0, (uint64_t)&limit);
    for (uint64_t fd = 0; fd < limit.now && fd < DESCRIPTORS_MOST; fd++)
        close_if_marked(fd, own);
}

/* fs/file.c: do_close_on_exec. The directory lists by number, so closing while reading it skips nothing. */
int64_t close_on_exec(const uint64_t own[4])
{
    _Alignas(8) char buffer[2048];
    char path[] = {'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'f', 'd', 0}; /* on the stack: no .rodata needed */
    int64_t directory = call3(__NR_open, (uint64_t)path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (is_error(directory)) {
        close_by_number(own);
        return 0;
    }
    int64_t got;
    while ((got = call3(__NR_getdents64, (uint64_t)directory, (uint64_t)buffer, sizeof buffer)) > 0) {
        for (int64_t at = 0; at < got;) {
            const struct directory_entry *entry = (const struct directory_entry *)(buffer + at);
            int64_t fd = number(entry->name);
            if (fd >= 0 && fd != directory)
                close_if_marked((uint64_t)fd, own);
            at += entry->size;
        }
    }
    call3(__NR_close, (uint64_t)directory, 0, 0);
    if (got < 0)
        close_by_number(own);
    return 0;
}

/* fs/file.c: get_unused_fd_flags, in a process where the loader's own descriptors are already closed. */
int64_t choose_descriptor(const uint64_t own[4], uint64_t *chosen)
{
    uint64_t fd = 0;
    while (!is_own(fd, own) && !is_error(call3(__NR_fcntl, fd, F_GETFD, 0)))
        fd++;
    *chosen = fd;
    return 0;
}

/* The report pipe goes last: until then a failure can be told. */
int64_t hand_over(const uint64_t own[4], uint64_t chosen)
{
    uint64_t report = own[2], binary = own[3];
    call3(__NR_close, own[0], 0, 0);
    call3(__NR_close, own[1], 0, 0);
    int64_t result = chosen == binary ? call3(__NR_fcntl, binary, F_SETFD, 0) : call3(__NR_dup2, binary, chosen, 0);
    if (is_error(result))
        return result;
    if (chosen != binary)
        call3(__NR_close, binary, 0, 0);
    if (chosen != report)
        call3(__NR_close, report, 0, 0);
    return 0;
}
