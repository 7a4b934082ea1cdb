/*
 * Whether orders are such as a load can have, before they are written: Python has made them, and still nothing of them is
 * believed. Their addresses are known only in the zygote, so they are checked with addresses such as a start may have.
 */
#include <errno.h>
#include <string.h>

#include "../host/prepare.h"

enum { ORDERS_MOST = 1 << 20, ALLOWED = 1 << OP_CALL | 1 << OP_UNMAP | 1 << OP_ZERO };

static const uint64_t TOP = 0x7f0000000000, BODY = 0x7effff000000, HEAP = 0x560000000000;

static int within(uint64_t at, uint64_t size, uint64_t end)
{
    return at <= end && size <= end - at;
}

/* The parts, by their offsets. */
static int check_parts(const struct refl_orders *orders, const uint8_t *bytes, uint64_t size)
{
    uint64_t ops = sizeof *orders;
    if (orders->op_count > size / sizeof(struct refl_op) || !within(ops, orders->op_count * sizeof(struct refl_op), size))
        return -EINVAL;
    if (orders->data != ops + orders->op_count * sizeof(struct refl_op) || orders->path < orders->data)
        return -EINVAL;
    if (orders->path_size == 0 || orders->path + orders->path_size != size || bytes[size - 1] != 0)
        return -EINVAL;
    if (orders->shape_size == 0 || orders->shape_size % REFL_PAGE || orders->entry_param >= PARAM_COUNT)
        return -EINVAL;
    return orders->top == PARAM_EXE || orders->top == PARAM_INTERP || orders->top == PARAM_NONE ? 0 : -EINVAL;
}

int refl_check_orders(const uint8_t *bytes, uint64_t size, uint64_t exe, uint64_t task_end)
{
    struct refl_orders orders;
    if (size < sizeof orders || size > ORDERS_MOST)
        return -E2BIG;
    memcpy(&orders, bytes, sizeof orders);
    int error = check_parts(&orders, bytes, size);
    if (error)
        return error;
    uint64_t params[PARAM_COUNT] = {[PARAM_EXE] = exe,
                                    [PARAM_BRK] = HEAP,
                                    [PARAM_TASK_END] = task_end,
                                    [PARAM_BLOB] = BODY,
                                    [PARAM_BLOB_END] = BODY + size};
    params[PARAM_DATA] = BODY + orders.data;
    params[PARAM_MM] = BODY;
    params[orders.top] = orders.top == PARAM_NONE ? 0 : TOP;
    for (uint64_t i = 0; i < orders.op_count && !error; i++) {
        struct refl_op op;
        memcpy(&op, bytes + sizeof orders + i * sizeof op, sizeof op);
        if (op.kind >= OP_COUNT || !(ALLOWED >> op.kind & 1))
            return -EINVAL;
        for (int k = 0; k < 6; k++) {
            if (op.param[k] >= PARAM_COUNT)
                return -EINVAL;
            op.arg[k] += params[op.param[k]];
        }
        error = check_op(&op, params, orders.path - orders.data);
    }
    return error;
}
