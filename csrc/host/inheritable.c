/* What a program inherits: the descriptors that are not close-on-exec. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "prepare.h"

enum { CHUNK = 256, POLLED_MOST = 4096, FD_CLOSE_ON_EXEC = 1 };

/* Descriptors found open: those that are not close-on-exec are kept. */
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

/* The directory's size is how many are open (Linux 6.2). */
int refl_inheritable(int32_t *fds, uint32_t most)
{
    struct stat status;
    if (stat("/proc/self/fd", &status) || status.st_size == 0)
        return -ENOSYS;
    struct found found = {fds, 0, most, status.st_size};
    int error = look_by_poll(&found);
    if (!error && found.left > 0) {
        found = (struct found){fds, 0, most, status.st_size};
        for (int32_t fd = 0; found.left > 0 && fd < 1 << 20 && !error; fd++)
            error = look_at(&found, fd);
    }
    return error ? error : (int)found.count;
}
