/*
 * From a plan and the values of one start to the blob's area: code, stack, operations with their addresses, the new
 * program's stack contents. Everything is written and checked here, in the parent, where a mistake is still an error code.
 */
#define _GNU_SOURCE
#include "prepare.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blob_bytes.h" /* static const uint8_t blob_bytes[], made by setup.py from csrc/blob */

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

_Static_assert(sizeof blob_bytes <= REFL_PAGE - REFL_FRAME_ROOM, "the blob and the frame share a page");

/* The area's parts behind the blob's stack, as offsets; every sum is checked before it is used. */
struct parts {
    uint64_t job, ops, mm, data, image, image_size, end;
};

static int add(uint64_t *at, uint64_t size)
{
    return __builtin_add_overflow(*at, (size + 15) & ~15ul, at) || *at > 1ul << 40 ? -E2BIG : 0;
}

static int parts_of(const struct refl_start *start, const struct stack *stack, struct parts *p)
{
    uint64_t at = REFL_PAGE + REFL_BLOB_STACK;
    p->image_size = stack->top - stack->sp + 8; /* 8: the entry's address below argc, for the vdso's `ret` */
    if (start->op_count > 65536 || start->data_size > 1ul << 32)
        return -E2BIG;
    p->job = at;
    int error = add(&at, sizeof(struct refl_job));
    p->ops = at;
    error = error ? error : add(&at, start->op_count * sizeof(struct refl_op));
    p->mm = at;
    error = error ? error : add(&at, sizeof(struct refl_mm));
    p->data = at;
    error = error ? error : add(&at, start->data_size);
    p->image = at;
    error = error ? error : add(&at, p->image_size);
    p->end = (at + REFL_PAGE - 1) & ~(uint64_t)(REFL_PAGE - 1);
    return error;
}

int area_create(const struct refl_start *start, struct area *area)
{
    struct stack stack;
    struct parts parts;
    int error = stack_layout(start, &stack);
    error = error ? error : parts_of(start, &stack, &parts);
    if (error)
        return error;
    void *want = (void *)start->params[PARAM_BLOB];
    if (!want)
        return -EINVAL;
    void *base = mmap(want, parts.end, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    *area = (struct area){.base = base, .size = parts.end};
    if (base == want)
        return 0;
    area_destroy(area);
    return -EEXIST;
}

void area_destroy(struct area *area)
{
    munmap(area->base, area->size);
}

static int fill_ops(const struct refl_start *start, struct refl_op *ops)
{
    memcpy(ops, start->ops, start->op_count * sizeof *ops);
    for (struct refl_op *op = ops; op < ops + start->op_count; op++) {
        if (op->kind >= OP_COUNT)
            return -EINVAL;
        for (int i = 0; i < 6; i++) {
            if (op->param[i] >= PARAM_COUNT)
                return -EINVAL;
            op->arg[i] += start->params[op->param[i]];
        }
        int error = check_op(op, start->params, start->data_size);
        if (error)
            return error;
    }
    return 0;
}

static void fill_mm(const struct refl_start *start, const struct stack *stack, uint64_t auxv, struct refl_mm *mm)
{
    const uint64_t *image = start->image;
    uint64_t bias = start->params[PARAM_EXE], brk = start->params[PARAM_BRK];
    *mm = (struct refl_mm){
        .start_code = image[0] + bias,
        .end_code = image[1] + bias,
        .start_data = image[2] + bias,
        .end_data = image[3] + bias,
        .start_brk = brk,
        .brk = brk,
        .start_stack = stack->sp,
        .arg_start = stack->strings,
        .arg_end = stack->env,
        .env_start = stack->env,
        .env_end = stack->env_end,
        .auxv = auxv,
        .auxv_size = (uint32_t)((start->aux_count + 1) * 16),
        .exe_fd = start->set_exe ? (uint32_t)start->params[PARAM_EXE_FD] : UINT32_MAX,
    };
}

/* Where the blob's tail lets the kernel go on: in the vdso, which unmaps the area, or at the program's entry. */
static void fill_end(const struct refl_start *start, struct area *area, uint64_t entry, uint64_t sp, uint64_t sigmask)
{
    uint64_t base = (uint64_t)area->base;
    area->job->frame = base + REFL_PAGE - REFL_FRAME_ROOM;
    if (start->gadget) {
        frame_write(area->frame, start->params[PARAM_VDSO_NEW] + start->gadget, sp - 8, SYS_munmap, base, area->size, sigmask);
        return;
    }
    area->job->drop = base + REFL_PAGE;
    area->job->drop_size = area->size - REFL_PAGE;
    frame_write(area->frame, entry, sp, 0, 0, 0, sigmask);
}

/*
 * With PR_SET_MDWE (EACCES), or a filter such as systemd's for MemoryDenyWriteExecute= (EPERM), what was written can't be made
 * executable; a file that was written can be mapped so (mm/mmap.c: map_deny_write_exec). It is closed before anybody starts.
 */
static int from_a_file(uint8_t *page)
{
    int fd = memfd_create("reflective: last page", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("reflective: last page", MFD_CLOEXEC); /* before Linux 6.3 */
    if (fd < 0)
        return -errno;
    int error = 0;
    if (write(fd, page, REFL_PAGE) != REFL_PAGE)
        error = -ENOMEM;
    else if (mmap(page, REFL_PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
        error = -errno;
    close(fd);
    return error;
}

int prepare(struct refl_start *start, struct area *area, uint64_t sigmask)
{
    struct stack stack;
    struct parts parts;
    uint8_t *base = area->base;
    uint64_t *params = start->params;
    int error = stack_layout(start, &stack);
    error = error ? error : parts_of(start, &stack, &parts);
    if (error || parts.end != area->size || start->entry_param >= PARAM_COUNT)
        return error ? error : -EINVAL;

    uint64_t entry = start->entry + params[start->entry_param];
    uint8_t *image = base + parts.image;
    if (start->gadget)
        memcpy(image, &entry, 8);
    error = stack_write(start, &stack, image + 8);
    if (error)
        return error;
    fill_mm(start, &stack, (uint64_t)base + parts.image + 8 + (stack.auxv - stack.sp), (struct refl_mm *)(base + parts.mm));
    memcpy(base + parts.data, start->data, start->data_size);

    uint64_t below = start->gadget ? 8 : 0;
    params[PARAM_BLOB_END] = (uint64_t)base + area->size;
    params[PARAM_DATA] = (uint64_t)base + parts.data;
    params[PARAM_STACK_LOW] = stack.low;
    params[PARAM_STACK_SIZE] = stack.top - stack.low;
    params[PARAM_SP] = stack.sp;
    params[PARAM_IMAGE_AT] = stack.sp - below;
    params[PARAM_IMAGE] = (uint64_t)image + 8 - below;
    params[PARAM_IMAGE_SIZE] = stack.top - stack.sp + below;
    params[PARAM_MM] = (uint64_t)base + parts.mm;
    params[PARAM_EXECFD_AT] = stack.execfd ? (uint64_t)image + 8 + (stack.execfd - stack.sp) : 0;
    rseq_registered(&params[PARAM_RSEQ], &params[PARAM_RSEQ_SIZE]);

    error = fill_ops(start, (struct refl_op *)(base + parts.ops));
    if (error)
        return error;
    area->job = (struct refl_job *)(base + parts.job);
    *area->job = (struct refl_job){
        .ops = (const struct refl_op *)(base + parts.ops),
        .count = start->op_count,
        .report_fd = (int64_t)params[PARAM_REPORT_FD],
    };
    area->frame = base + REFL_PAGE - REFL_FRAME_ROOM;
    area->stack_top = base + REFL_PAGE + REFL_BLOB_STACK;
    fill_end(start, area, entry, stack.sp, sigmask);
    memcpy(base, blob_bytes, sizeof blob_bytes);
    if (mprotect(base, REFL_PAGE, PROT_READ | PROT_EXEC) == 0)
        return 0;
    return errno == EACCES || errno == EPERM ? from_a_file(base) : -errno;
}
