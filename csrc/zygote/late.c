/* The words of a filled area that depend on where the mmap base is. Without the C library's malloc: a fixed table. */
#include "late.h"

#include <errno.h>
#include <string.h>

enum { FRAME_IP = 168, MM_IMAGE_WORDS = 4 }; /* host/frame.c: struct ucontext; host/prepare.c: struct mm_map */

static int is_late(uint64_t late, uint64_t param)
{
    return (int)(late >> param & 1);
}

static int list(struct zygote_header *header, uint64_t address)
{
    if (header->late_count == ZYGOTE_LATE_MOST)
        return -E2BIG;
    header->late[header->late_count++] = (uint32_t)(address - ZYGOTE_HEADER_AT);
    return 0;
}

static int list_ops(const struct area *area, uint64_t late, struct zygote_header *header)
{
    uint64_t at = (uint64_t)area->job->ops;
    const struct refl_op *ops = (const struct refl_op *)(area->base + (at - area->at));
    int error = 0;
    for (uint64_t i = 0; i < area->job->count; i++)
        for (uint64_t k = 0; k < 6 && !error; k++)
            if (is_late(late, ops[i].param[k]))
                error = list(header, at + i * sizeof *ops + offsetof(struct refl_op, arg) + 8 * k);
    return error;
}

static int list_auxv(const struct refl_start *start, uint64_t at, uint64_t late, struct zygote_header *header)
{
    int error = 0;
    for (uint64_t i = 0; i < start->aux_count && !error; i++) {
        struct refl_aux aux;
        memcpy(&aux, start->auxv + i * sizeof aux, sizeof aux);
        if (is_late(late, aux.param))
            error = list(header, at + 16 * i + 8);
    }
    return error;
}

int list_late(const struct refl_start *start, const struct area *area, uint64_t late, struct zygote_header *header)
{
    struct stack stack;
    const uint64_t *params = start->params;
    int error = stack_layout(start, &stack);
    if (error)
        return error;
    uint64_t image = params[PARAM_IMAGE] + (stack.sp - params[PARAM_IMAGE_AT]);
    header->late_count = 0;
    error = list_ops(area, late, header);
    error = error ? error : list_auxv(start, image + (stack.auxv - stack.sp), late, header);
    if (!error && is_late(late, start->entry_param))
        error = list(header, image - 8);
    if (!error && is_late(late, PARAM_VDSO_NEW))
        error = list(header, ZYGOTE_HEADER_AT + offsetof(struct zygote_header, frame) + FRAME_IP);
    for (uint64_t i = 0; i < MM_IMAGE_WORDS && !error; i++)
        if (is_late(late, PARAM_EXE))
            error = list(header, params[PARAM_MM] + 8 * i);
    return error;
}
