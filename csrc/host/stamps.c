/* What stat says of files: whether they are what they were. */
#include <string.h>
#include <sys/stat.h>

#include "prepare.h"
#include "stamps.h"

static void stamp_of(const char *path, uint64_t stamp[6])
{
    struct stat status;
    memset(stamp, 0, 6 * sizeof *stamp);
    if (stat(path, &status))
        return;
    stamp[0] = status.st_dev;
    stamp[1] = status.st_ino;
    stamp[2] = (uint64_t)status.st_size;
    stamp[3] = (uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec;
    stamp[4] = (uint64_t)status.st_ctim.tv_sec * 1000000000u + (uint64_t)status.st_ctim.tv_nsec;
    stamp[5] = status.st_mode;
}

uint64_t refl_stamps(const char *paths, uint64_t size, uint64_t *out)
{
    uint64_t count = 0;
    for (uint64_t at = 0; at < size; at += strlen(paths + at) + 1, count++)
        if (out)
            stamp_of(paths + at, out + 6 * count);
    return count;
}

int same_stamps(const char *paths, uint64_t size, const uint64_t *stamps)
{
    for (uint64_t at = 0; at < size; at += strlen(paths + at) + 1, stamps += 6) {
        uint64_t stamp[6];
        stamp_of(paths + at, stamp);
        if (memcmp(stamp, stamps, sizeof stamp))
            return 0;
    }
    return 1;
}
