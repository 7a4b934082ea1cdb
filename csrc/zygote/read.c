/* The caller's state, read: /proc for what has no system call. See state.h for what is in it, and why. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "state.h"

enum { STATUS_MOST = 16384, LINK_MOST = 64, RESET_ON_FORK = 1 };

/* Lines of /proc/PID/status, in its order: what must not differ, and what is carried. */
enum status { COMPARED, UMASK, BLOCKED, IGNORED };
static const struct {
    const char *name;
    enum status what;
} LINES[] = {
    {"Umask:", UMASK},
    {"Uid:", COMPARED},
    {"Gid:", COMPARED},
    {"Groups:", COMPARED},
    {"THP_enabled:", COMPARED},
    {"SigBlk:", BLOCKED},
    {"SigIgn:", IGNORED},
    {"CapInh:", COMPARED},
    {"CapPrm:", COMPARED},
    {"CapEff:", COMPARED},
    {"CapBnd:", COMPARED},
    {"CapAmb:", COMPARED},
    {"NoNewPrivs:", COMPARED},
    {"Seccomp:", COMPARED},
    {"Seccomp_filters:", COMPARED},
    {"Speculation_Store_Bypass:", COMPARED},
    {"SpeculationIndirectBranch:", COMPARED},
    {"Mems_allowed:", COMPARED},
};
enum { LINE_COUNT = sizeof LINES / sizeof *LINES, CARRIED_LINES = 1 << UMASK | 1 << BLOCKED | 1 << IGNORED };

static const char *const NAMESPACES[] = {
    "ns/mnt", "ns/net", "ns/uts", "ns/ipc", "ns/cgroup", "ns/user", "ns/pid_for_children", "ns/time_for_children",
};

/* Optional: a kernel without it has nothing that could differ. */
static const char *const FILES[] = {"cgroup", "oom_score_adj", "../../coredump_filter", "attr/current", "attr/exec"};

/* linux/prctl.h. An error is a value like any other: it too must be the same. */
static const int SETTINGS[] = {
    27, /* PR_GET_SECUREBITS */
    30, /* PR_GET_TIMERSLACK */
    34, /* PR_MCE_KILL_GET */
    42, /* PR_GET_THP_DISABLE */
    58, /* PR_GET_IO_FLUSHER */
    66, /* PR_GET_MDWE */
    68, /* PR_GET_MEMORY_MERGE */
};

static int put(struct refl_identity *identity, const void *data, size_t size)
{
    if (size > sizeof identity->text - identity->size)
        return -E2BIG;
    memcpy(identity->text + identity->size, data, size);
    identity->size += size;
    return 0;
}

static int put_number(struct refl_identity *identity, int64_t number)
{
    return put(identity, &number, sizeof number);
}

/* The whole of a small file; its size, or -errno. */
static ssize_t text_of(int fd, char *text, size_t size)
{
    if (fd < 0)
        return fd;
    ssize_t got = pread(fd, text, size - 1, 0);
    if (got < 0)
        return -errno;
    if ((size_t)got == size - 1)
        return -E2BIG;
    text[got] = 0;
    return got;
}

/* A line that is wanted; its end is there. */
static int take_line(enum status what, const char *value, const char *end, struct refl_identity *identity,
                     struct refl_carried *carried)
{
    switch (what) {
    case COMPARED:
        return put(identity, value, (size_t)(end - value));
    case UMASK:
        carried->umask = (uint32_t)strtoul(value, NULL, 8);
        return 0;
    case BLOCKED:
        carried->blocked = strtoull(value, NULL, 16);
        return 0;
    default:
        carried->ignored = strtoull(value, NULL, 16);
        return 0;
    }
}

/* One pass: the next name that is wanted is among those behind the last. A kernel may lack some. */
static int take_lines(const char *text, const char *end, struct refl_identity *identity, struct refl_carried *carried)
{
    unsigned next = 0, seen = 0;
    int error = 0;
    while (text < end && next < LINE_COUNT && !error) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop ? stop + 1 : end;
        for (unsigned i = next; i < LINE_COUNT; i++) {
            size_t length = strlen(LINES[i].name);
            if (*text != *LINES[i].name || (size_t)(stop - text) <= length || memcmp(text, LINES[i].name, length))
                continue;
            error = take_line(LINES[i].what, text + length, stop, identity, carried);
            seen |= 1u << LINES[i].what;
            next = i + 1;
            break;
        }
        text = stop;
    }
    return error ? error : (seen & CARRIED_LINES) == CARRIED_LINES ? 0 : -ENODATA;
}

static int read_status(int status, struct refl_identity *identity, struct refl_carried *carried)
{
    char text[STATUS_MOST];
    ssize_t got = text_of(status, text, sizeof text);
    return got < 0 ? (int)got : take_lines(text, text + got, identity, carried);
}

/* tty_nr in /proc/PID/stat, which stands behind the name, the state, ppid, pgrp and session. */
static int64_t terminal_of(int stat)
{
    char text[1024];
    ssize_t got = text_of(stat, text, sizeof text);
    if (got < 0)
        return got;
    char *at = strrchr(text, ')');
    if (!at || strlen(at) < 4)
        return -ENODATA;
    at += 3;
    for (int i = 0; i < 3; i++)
        strtol(at, &at, 10);
    return strtol(at, &at, 10);
}

/* Another group can be set, another session can't. */
static int read_session(const struct refl_kept *kept, struct refl_identity *identity, struct refl_carried *carried)
{
    pid_t session = getsid(0);
    carried->group = getpgid(0);
    int error = put_number(identity, session);
    return error ? error : put_number(identity, session == getpid() ? terminal_of(kept->stat) : kept->terminal);
}

static int put_namespaces(const int32_t *links, struct refl_identity *identity)
{
    char link[LINK_MOST];
    for (size_t i = 0; i < sizeof NAMESPACES / sizeof *NAMESPACES; i++) {
        ssize_t got = links[i] < 0 ? 0 : readlinkat(links[i], "", link, sizeof link);
        if (got < 0 || (links[i] < 0 && links[i] != -ENOENT)) /* this kernel has no such namespaces */
            return got < 0 ? -errno : links[i];
        int error = put(identity, link, (size_t)got);
        if (error)
            return error;
    }
    return 0;
}

static int put_files(const int32_t *files, struct refl_identity *identity)
{
    char text[4096];
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        ssize_t got = text_of(files[i], text, sizeof text);
        if (got == -E2BIG)
            return -E2BIG;
        int error = put_number(identity, got); /* no such file, no security module: an errno, which must be the same */
        error = error || got < 0 ? error : put(identity, text, (size_t)got);
        if (error)
            return error;
    }
    return 0;
}

static int put_settings(struct refl_identity *identity)
{
    uint64_t nodes[16] = {0}, cookie = 0;
    int mode = 0, tsc = 0, error = 0;
    for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS && !error; i++)
        error = put_number(identity, prctl(SETTINGS[i], 0, 0, 0, 0));
    prctl(25 /* PR_GET_TSC */, &tsc, 0, 0, 0);
    prctl(62 /* PR_SCHED_CORE */, 0 /* PR_SCHED_CORE_GET */, 0, 0, &cookie);
    error = error ? error : put_number(identity, tsc);
    error = error ? error : put_number(identity, (int64_t)cookie);
    error = error ? error : put_number(identity, syscall(SYS_personality, 0xffffffff));
    error = error ? error : put_number(identity, syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* session */, 0));
    if (syscall(SYS_get_mempolicy, &mode, nodes, 1024, NULL, 0) && errno != ENOSYS)
        return -errno; /* EINVAL: more nodes than that */
    error = error ? error : put_number(identity, mode);
    return error ? error : put(identity, nodes, sizeof nodes);
}

static int put_root(struct refl_identity *identity)
{
    struct statx root;
    if (statx(AT_FDCWD, "/", AT_NO_AUTOMOUNT, STATX_INO | STATX_MNT_ID, &root))
        return -errno;
    int64_t place[4] = {root.stx_dev_major, root.stx_dev_minor, (int64_t)root.stx_ino, (int64_t)root.stx_mnt_id};
    return put(identity, place, sizeof place);
}

static int read_carried(struct refl_carried *carried)
{
    for (unsigned i = 0; i < REFL_LIMITS; i++)
        if (syscall(SYS_getrlimit, i, carried->limits[i])) /* half as long as prlimit; the same on x86-64 */
            return -errno;
    if (syscall(SYS_sched_getattr, 0, carried->sched, sizeof carried->sched, 0))
        return -errno;
    if (carried->sched[1] & RESET_ON_FORK)
        return -ENOTSUP; /* a child of the caller would not have its scheduling */
    if (syscall(SYS_sched_getaffinity, 0, sizeof carried->cpus, carried->cpus) < 0)
        return -errno;
    carried->io_priority = (int32_t)syscall(SYS_ioprio_get, 1 /* IOPRIO_WHO_PROCESS */, 0);
    return carried->io_priority < 0 ? -errno : 0;
}

/* A descriptor, or -errno. */
static int32_t open_at(int directory, const char *name, int flags)
{
    int fd = openat(directory, name, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* The descriptor; without a security module attr/ has files, but nothing to read, nor ever will. */
static int32_t readable(int32_t fd)
{
    char byte;
    if (fd < 0 || pread(fd, &byte, 1, 0) >= 0 || errno != EINVAL)
        return fd;
    close(fd);
    return -EINVAL;
}

int refl_keep(struct refl_kept *kept)
{
    _Static_assert(sizeof kept->files / sizeof *kept->files == sizeof FILES / sizeof *FILES, "one descriptor each");
    _Static_assert(sizeof kept->namespaces / sizeof(int32_t) == sizeof NAMESPACES / sizeof *NAMESPACES, "and here");
    kept->thread = (int32_t)syscall(SYS_gettid);
    kept->self = open_at(AT_FDCWD, "/proc/thread-self", O_RDONLY | O_DIRECTORY);
    if (kept->self < 0)
        return kept->self;
    kept->status = open_at(kept->self, "status", O_RDONLY);
    kept->stat = open_at(kept->self, "stat", O_RDONLY);
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        kept->files[i] = readable(open_at(kept->self, FILES[i], O_RDONLY));
    for (size_t i = 0; i < sizeof NAMESPACES / sizeof *NAMESPACES; i++)
        kept->namespaces[i] = open_at(kept->self, NAMESPACES[i], O_PATH | O_NOFOLLOW);
    kept->terminal = terminal_of(kept->stat);
    kept->open = open_at(kept->self, "fd", O_RDONLY | O_DIRECTORY);
    kept->open_count = kept->own_count = 0;
    kept->load = open_at(AT_FDCWD, "/proc/loadavg", O_RDONLY);
    kept->processors = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    return 0;
}

static void close_all(const int32_t *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

void refl_drop(struct refl_kept *kept)
{
    const int32_t single[] = {kept->self, kept->status, kept->stat, kept->open, kept->load};
    kept->thread = 0;
    close_all(single, sizeof single / sizeof *single);
    close_all(kept->files, sizeof kept->files / sizeof *kept->files);
    close_all(kept->namespaces, sizeof kept->namespaces / sizeof *kept->namespaces);
}

int refl_read_kept(const struct refl_kept *kept, struct refl_identity *identity, struct refl_carried *carried)
{
    memset(carried, 0, sizeof *carried);
    identity->size = 0;
    int error = read_status(kept->status, identity, carried);
    error = error ? error : read_session(kept, identity, carried);
    error = error ? error : put_namespaces(kept->namespaces, identity);
    error = error ? error : put_files(kept->files, identity);
    error = error ? error : put_settings(identity);
    error = error ? error : put_root(identity);
    return error ? error : read_carried(carried);
}

int refl_read_state(struct refl_identity *identity, struct refl_carried *carried)
{
    struct refl_kept kept;
    int error = refl_keep(&kept);
    if (error)
        return error;
    error = refl_read_kept(&kept, identity, carried);
    refl_drop(&kept);
    return error;
}

int refl_same_identity(const struct refl_identity *born, const struct refl_identity *now)
{
    return born->size == now->size && memcmp(born->text, now->text, now->size) == 0;
}
