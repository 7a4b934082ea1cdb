/* What a caller keeps for its starts: the zygote's file, and shared memory in slots. */
#ifndef REFLECTIVE_ZYGOTE_POOL_H
#define REFLECTIVE_ZYGOTE_POOL_H

#include <stddef.h>
#include <stdint.h>

#define SLOT_SIZE (256ul << 10)

/* Shared memory for one start, `size` bytes at `base`, `offset` bytes into the file `fd`. */
struct slot {
    uint8_t *base;
    size_t size;
    uint64_t offset;
    int fd;
    int number; /* negative: made for this start alone */
};

/* The zygote's file in *program_fd, and a slot of at least `size` bytes. 0 or -errno. */
int slot_take(size_t size, int *program_fd, struct slot *slot);
void slot_release(const struct slot *slot);

/* The descriptor, or a close-on-exec copy that is not a standard stream's; then the first is closed. -errno if it is one. */
int above_streams(int fd);

#endif
