/*
 * Whether an operation is one that a load can have: Python has built it, and still nothing of it is believed.
 *
 * Looked at are the sums, constant plus parameter, in the parent, where a mistake is an errno. What an operation may touch: the
 * new program's memory, up to the end of user space, and of the blob's area what it reads from: the start's data, the stack's
 * contents. The area itself, from which the operation will be read, is never mapped over, unmapped, cleared or written.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "prepare.h"

enum { CALL_MOST = 512 /* system calls there are, at most */ };

/* [start, end) of what there is, as the parameters say. */
struct range {
    uint64_t start, end;
};

static int inside(uint64_t at, uint64_t size, struct range range)
{
    return at >= range.start && at <= range.end && size <= range.end - at;
}

static int apart(uint64_t at, uint64_t size, struct range range)
{
    return at >= range.end || at + size <= range.start;
}

/* Memory of the new program that is mapped, unmapped or written: 0, -ENOMEM beyond user space, -EINVAL over the area. */
static int target(const uint64_t *params, uint64_t at, uint64_t size)
{
    struct range user = {0, params[PARAM_TASK_END]}, area = {params[PARAM_BLOB], params[PARAM_BLOB_END]};
    if (!inside(at, size, user))
        return -ENOMEM;
    return apart(at, size, area) ? 0 : -EINVAL;
}

static int pages(const uint64_t *params, uint64_t at, uint64_t size)
{
    if (at % REFL_PAGE || size == 0)
        return -EINVAL;
    uint64_t whole;
    if (__builtin_add_overflow(size, REFL_PAGE - 1, &whole))
        return -ENOMEM;
    return target(params, at, whole & ~(uint64_t)(REFL_PAGE - 1));
}

/* mmap and mremap have a place; what is asked for there is what the blob compares the result with. */
static int call(const struct refl_op *op, const uint64_t *params)
{
    const uint64_t *a = op->arg;
    if (op->nr >= CALL_MOST)
        return -ENOSYS;
    switch (op->nr) {
    case SYS_mmap:
        if (!(op->flags & OP_EXACT) || (!(a[3] & MAP_ANONYMOUS) && a[5] % REFL_PAGE))
            return -EINVAL;
        return pages(params, a[0], a[1]);
    case SYS_mremap:
        if (!(op->flags & OP_EXACT_4) || a[0] % REFL_PAGE || a[1] != a[2])
            return -EINVAL;
        return pages(params, a[4], a[2]);
    case SYS_munmap:
    case SYS_mprotect:
        return pages(params, a[0], a[1]);
    default:
        return 0;
    }
}

/* Every argument that points to the start's data points into them. */
static int data(const struct refl_op *op, const uint64_t *params, uint64_t size)
{
    struct range bytes = {params[PARAM_DATA], params[PARAM_DATA] + size};
    for (int i = 0; i < 6; i++)
        if (op->param[i] == PARAM_DATA && !inside(op->arg[i], 0, bytes))
            return -EINVAL;
    return 0;
}

int check_op(const struct refl_op *op, const uint64_t *params, uint64_t data_size)
{
    const uint64_t *a = op->arg;
    struct range image = {params[PARAM_IMAGE], params[PARAM_IMAGE] + params[PARAM_IMAGE_SIZE]};
    struct range bytes = {params[PARAM_DATA], params[PARAM_DATA] + data_size};
    if (op->flags & ~(OP_EXACT | OP_EXACT_4 | OP_MAY_FAIL | OP_IF_ARG0))
        return -EINVAL;
    int error = data(op, params, data_size);
    if (error)
        return error;
    switch (op->kind) {
    case OP_CALL:
        return call(op, params);
    case OP_UNMAP:
        if (a[0] % REFL_PAGE || a[1] % REFL_PAGE)
            return -EINVAL;
        return a[0] < a[1] ? target(params, a[0], a[1] - a[0]) : 0;
    case OP_ZERO:
        return target(params, a[0], a[1]);
    case OP_COPY:
        if (!inside(a[1], a[2], image) && !inside(a[1], a[2], bytes))
            return -EINVAL;
        return target(params, a[0], a[2]);
    default:
        return 0;
    }
}
