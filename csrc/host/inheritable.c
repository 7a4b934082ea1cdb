/* What a program inherits: the descriptors that are not close-on-exec. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "../zygote/state.h"
#include "prepare.h"

enum { CHUNK = 256, POLLED_MOST = 4096, FD_CLOSE_ON_EXEC = 1 };

/* Descriptors found open: those that are not close-on-exec are what is looked for. */
struct found {
    int32_t *fds;
    uint32_t count, most;
    int64_t left; /* open ones not found yet */
    struct refl_kept *kept; /* NULL, or remembers all that are open */
};

static void remember(struct refl_kept *kept, int32_t fd)
{
    if (kept && kept->open_count < REFL_OPEN_MOST)
        kept->open_fds[kept->open_count++] = fd;
}

static int look_at(struct found *found, int32_t fd)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0)
        return 0;
    found->left--;
    remember(found->kept, fd);
    if (flags & FD_CLOSE_ON_EXEC)
        return 0;
    if (found->count == found->most)
        return -EMFILE;
    found->fds[found->count++] = fd;
    return 0;
}

/* poll tells of many numbers at a time whether they are open, but not of O_PATH ones: then some are left. */
static int look_by_poll(struct found *found)
{
    uint64_t limit = refl_limit(RLIMIT_NOFILE);
    uint32_t chunk = limit < CHUNK ? (uint32_t)limit : CHUNK; /* poll's most */
    for (int32_t base = 0; found->left > 0 && chunk && base < POLLED_MOST; base += (int32_t)chunk) {
        struct pollfd polled[CHUNK];
        for (uint32_t i = 0; i < chunk; i++)
            polled[i] = (struct pollfd){.fd = base + (int32_t)i};
        if (poll(polled, chunk, 0) < 0)
            return 0;
        for (uint32_t i = 0; i < chunk; i++)
            if (!(polled[i].revents & POLLNVAL) && look_at(found, polled[i].fd))
                return -EMFILE;
    }
    return 0;
}

static struct found nothing_of(int64_t open, struct refl_kept *kept, int32_t *fds, uint32_t most)
{
    if (kept)
        kept->open_count = 0;
    return (struct found){fds, 0, most, open, kept};
}

/* Whatever has been opened and closed meanwhile: if as many of those are open as there are open ones, there are no others. */
static int look_at_known(const struct refl_kept *kept, struct found *found)
{
    int error = 0;
    for (uint32_t i = 0; i < kept->open_count && found->left > 0 && !error; i++)
        error = look_at(found, kept->open_fds[i]);
    return error;
}

/* The directory's size is how many are open (Linux 6.2). */
int refl_inheritable(struct refl_kept *kept, int32_t *fds, uint32_t most)
{
    struct stat status;
    if ((kept ? fstat(kept->open, &status) : stat("/proc/self/fd", &status)) || status.st_size == 0)
        return -ENOSYS;
    if (kept) {
        struct found found = {fds, 0, most, status.st_size, NULL};
        int error = look_at_known(kept, &found);
        if (error || found.left == 0)
            return error ? error : (int)found.count;
    }
    struct found found = nothing_of(status.st_size, kept, fds, most);
    int error = look_by_poll(&found);
    if (!error && found.left > 0) {
        found = nothing_of(status.st_size, kept, fds, most);
        for (int32_t fd = 0; found.left > 0 && fd < 1 << 20 && !error; fd++)
            error = look_at(&found, fd);
    }
    return error ? error : (int)found.count;
}
