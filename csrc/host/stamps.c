/* What stat says of files: whether they are what they were. For host and clone: no libc. */
#include "stamps.h"

#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>

#include "../blob/syscall.h"

enum { NUMBERS = 6, SECOND = 1000000000 /* ns */ };

static void stamp_of(const char *path, uint64_t stamp[NUMBERS])
{
    struct stat status;
    for (int i = 0; i < NUMBERS; i++)
        stamp[i] = 0;
    if (call4(__NR_newfstatat, (uint64_t)AT_FDCWD, (uint64_t)path, (uint64_t)&status, 0))
        return;
    stamp[0] = status.st_dev;
    stamp[1] = status.st_ino;
    stamp[2] = (uint64_t)status.st_size;
    stamp[3] = status.st_mtime * SECOND + status.st_mtime_nsec;
    stamp[4] = status.st_ctime * SECOND + status.st_ctime_nsec;
    stamp[5] = status.st_mode;
}

/* Behind the NUL of the string there. */
static uint64_t next(const char *paths, uint64_t size, uint64_t at)
{
    while (at < size && paths[at])
        at++;
    return at + 1;
}

uint64_t refl_stamps(const char *paths, uint64_t size, uint64_t *out)
{
    uint64_t count = 0;
    for (uint64_t at = 0; at < size; at = next(paths, size, at), count++)
        if (out)
            stamp_of(paths + at, out + NUMBERS * count);
    return count;
}

static int is_same(const char *path, const uint64_t *known)
{
    uint64_t stamp[NUMBERS];
    int same = 1;
    stamp_of(path, stamp);
    for (int i = 0; i < NUMBERS; i++)
        same &= stamp[i] == known[i];
    return same;
}

int refl_same_stamps(const char *paths, uint64_t size, const uint64_t *stamps, uint32_t *taken)
{
    uint32_t number = 0, mine = __atomic_fetch_add(taken, 1, __ATOMIC_ACQ_REL);
    int same = 1;
    for (uint64_t at = 0; at < size; at = next(paths, size, at), number++) {
        if (number != mine)
            continue;
        same &= is_same(paths + at, stamps + NUMBERS * (uint64_t)number);
        mine = __atomic_fetch_add(taken, 1, __ATOMIC_ACQ_REL);
    }
    return same;
}
