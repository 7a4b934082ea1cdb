/* What a program inherits: the descriptors that are not close-on-exec. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../zygote/state.h"
#include "prepare.h"

enum { FD_CLOSE_ON_EXEC = 1, LISTED = 4096 };

/* Descriptors found open: those that are not close-on-exec are what is looked for. */
struct found {
    int32_t *fds;
    uint32_t count, most;
    int64_t left; /* open ones not found yet */
};

static int look_at(struct found *found, int32_t fd)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0)
        return 0;
    found->left--;
    if (flags & FD_CLOSE_ON_EXEC)
        return 0;
    if (found->count == found->most)
        return -EMFILE;
    found->fds[found->count++] = fd;
    return 0;
}

/*
 * Whatever has been opened and closed meanwhile: if as many of those are open as there are open ones, there are no others. A
 * number that a thread in accept, say, has taken but not opened yet is counted, too: then 0, as if there were.
 */
static int look_at_known(const struct refl_kept *kept, int64_t open, struct found *found)
{
    int error = 0;
    found->left = open - kept->own_count;
    for (uint32_t i = 0; i < kept->open_count && found->left > 0 && !error; i++)
        error = look_at(found, kept->open_fds[i]);
    return error ? error : open > 0 && found->left == 0; /* before Linux 6.2 it is not counted */
}

/* Those that the state has just been, or will be, read from are close-on-exec, or that fails: host/template.c: decide. */
static int is_own(const struct refl_kept *kept, int32_t fd)
{
    int found = fd == kept->status;
    for (size_t i = 0; i < sizeof kept->files / sizeof *kept->files; i++)
        found |= fd == kept->files[i];
    for (size_t i = 0; i < sizeof kept->namespaces / sizeof *kept->namespaces; i++)
        found |= fd == kept->namespaces[i];
    return found;
}

static void remember(struct refl_kept *kept, int32_t fd)
{
    if (is_own(kept, fd))
        kept->own_count++;
    else if (kept->open_count < REFL_OPEN_MOST)
        kept->open_fds[kept->open_count++] = fd;
}

/* The directory of descriptors has them in their order. */
static int look_at_listed(int directory, struct refl_kept *kept, struct found *found)
{
    _Alignas(struct dirent64) char listed[LISTED];
    long size;
    int error = lseek(directory, 0, SEEK_SET) ? -errno : 0;
    if (kept)
        kept->open_count = kept->own_count = 0;
    while (!error && (size = syscall(SYS_getdents64, directory, listed, sizeof listed)) != 0) {
        if (size < 0)
            return -errno;
        for (long at = 0; at < size && !error;) {
            const struct dirent64 *entry = (const struct dirent64 *)(listed + at);
            at += entry->d_reclen;
            if (*entry->d_name == '.')
                continue;
            if (kept)
                remember(kept, atoi(entry->d_name));
            error = look_at(found, atoi(entry->d_name));
        }
    }
    return error;
}

int refl_inheritable(struct refl_kept *kept, int32_t *fds, uint32_t most)
{
    struct found found = {fds, 0, most, 0};
    struct stat status;
    int directory = kept ? kept->open : open("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return kept ? directory : -errno;
    int known = kept && !fstat(directory, &status) ? look_at_known(kept, status.st_size, &found) : 0;
    if (known)
        return known < 0 ? known : (int)found.count;
    found = (struct found){fds, 0, most, 0};
    int error = look_at_listed(directory, kept, &found);
    if (!kept)
        close(directory);
    return error ? error : (int)found.count;
}
