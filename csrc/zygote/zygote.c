/* The zygote itself: see zygote.h. Freestanding, no relocations, no data. */
#include "zygote.h"

#include "../core.cdef.h"

#include <asm/errno.h>
#include <asm/unistd.h>
#include <linux/mman.h>

#include "../blob/perform.h"
#include "../blob/syscall.h"

enum { SIG_SETMASK = 2, AT_VDSO = 33 };

/* edges.S */
extern const char zygote_entry[] __attribute__((visibility("hidden")));
void zygote_end(uint64_t *stack, uint64_t used, uint64_t gadget, uint64_t body, uint64_t body_size) __attribute__((noreturn));

/* Hidden: their addresses are relative to the code, as this is not linked to where it runs. */
void zygote_begin(uint64_t *stack) __attribute__((noreturn, visibility("hidden")));
void zygote_become(uint64_t *stack, const uint64_t *numbers, uint64_t shape) __attribute__((noreturn, visibility("hidden")));

/* The page that this code is in, and runs in. */
static uint64_t own_page(void)
{
    return (uint64_t)zygote_entry & -(uint64_t)REFL_PAGE;
}

static void lost(uint64_t report_fd, int64_t result)
{
    const struct refl_op none = {.kind = OP_COUNT};
    die((int64_t)report_fd, &none, result);
}

/* In the shape. */
void zygote_begin(uint64_t *stack)
{
    uint64_t numbers[NUMBERS], shape = own_page();
    const char *digit = (const char *)stack[1];
    for (int i = 0; i < NUMBERS; i++) {
        uint64_t number = 0;
        for (unsigned k = 0; k < ZYGOTE_DIGITS; k++)
            number = number << 4 | (*digit++ & 15);
        numbers[i] = number;
    }
    int64_t body = call6(__NR_mmap, 0, numbers[NUMBER_BODY_SIZE], PROT_READ | PROT_EXEC, MAP_PRIVATE, numbers[NUMBER_BODY_FD],
                         numbers[NUMBER_BODY_OFFSET]);
    if (is_error(body))
        lost(numbers[NUMBER_REPORT_FD], body);
    __typeof__(zygote_become) *become = (void *)((uint64_t)zygote_become - shape + (uint64_t)body);
    become(stack, numbers, shape);
    __builtin_unreachable();
}

/* The values of the parameters that operations of a zygote have. */
static void fill_values(uint64_t *values, const uint64_t *numbers, const struct refl_orders *orders, uint64_t shape)
{
    values[PARAM_EXE] = numbers[NUMBER_EXE];
    values[PARAM_EXE_FD] = numbers[NUMBER_EXE_FD];
    values[PARAM_INTERP_FD] = numbers[NUMBER_INTERP_FD];
    values[PARAM_REPORT_FD] = numbers[NUMBER_REPORT_FD];
    values[PARAM_DATA] = (uint64_t)orders + orders->data;
    values[orders->top] = shape;
    values[PARAM_NONE] = 0;
}

static void fill_mm(struct refl_mm *mm, const uint64_t *numbers, const struct refl_orders *orders, uint64_t bias)
{
    mm->start_code = orders->image[0] + bias;
    mm->end_code = orders->image[1] + bias;
    mm->start_data = orders->image[2] + bias;
    mm->end_data = orders->image[3] + bias;
    mm->start_brk = mm->brk = numbers[NUMBER_BRK];
    mm->exe_fd = orders->set_exe ? (uint32_t)numbers[NUMBER_EXE_FD] : UINT32_MAX;
}

/* In the body. */
void zygote_become(uint64_t *stack, const uint64_t *numbers, uint64_t shape)
{
    uint64_t values[PARAM_COUNT] = {0}, body = own_page(), report_fd = numbers[NUMBER_REPORT_FD];
    const struct refl_orders *orders = (const struct refl_orders *)(body + REFL_PAGE);
    const struct refl_op *ops = (const struct refl_op *)(orders + 1);
    uint64_t gadget = value_of(auxv_of(stack), AT_VDSO) + orders->gadget;
    struct refl_mm mm;
    int64_t result = call3(__NR_munmap, shape, orders->shape_size, 0);
    if (result)
        lost(report_fd, result);
    call3(__NR_close, numbers[NUMBER_BODY_FD], 0, 0);
    fill_values(values, numbers, orders, shape);
    fill_mm(&mm, numbers, orders, values[PARAM_EXE]);
    values[PARAM_MM] = (uint64_t)&mm;
    uint64_t *sp = settle(stack, numbers[NUMBER_SKIP], orders, values, &mm);
    if (!sp)
        lost(report_fd, -EOPNOTSUPP);

    for (uint64_t i = 0; i < orders->op_count; i++) {
        struct refl_op op = ops[i];
        for (int k = 0; k < 6; k++)
            op.arg[k] += values[op.param[k]];
        result = perform(&op);
        if (result < 0)
            die((int64_t)report_fd, &op, result);
    }
    sp[-1] = orders->entry + values[orders->entry_param];
    call4(__NR_rt_sigprocmask, SIG_SETMASK, (uint64_t)&numbers[NUMBER_MASK], 0, 8);
    zygote_end(sp, (uint64_t)stack - ZYGOTE_STACK, gadget, body, numbers[NUMBER_BODY_SIZE]);
}
