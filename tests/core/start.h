/* A good start to break, and what comes of it: for tests/core/harness.c. */
#ifndef TESTS_CORE_START_H
#define TESTS_CORE_START_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/prepare.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const uint64_t BLOB = 0x200000000000, TOP = 0x7ffffffff000, READABLE = 65536;

static void fail(const char *what)
{
    fprintf(stderr, "harness: %s\n", what);
    abort();
}

/* Instead of a fork: EAGAIN. Everything else is the real thing. */
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    if (number != SYS_clone)
        return __real_syscall(number, a, b, c, d, e, f);
    errno = EAGAIN;
    return -1;
}

/* A good start: three arguments, two environment strings, the path. */
static const char STRINGS[] = "prog\0one\0two\0A=1\0B=2\0/bin/prog";
static const struct refl_op OPS[] = {
    {.kind = OP_CALL, .nr = SYS_munmap, .param = {PARAM_EXE, PARAM_STACK_SIZE}, .arg = {4096, 8192}},
    {.kind = OP_UNMAP, .param = {PARAM_NONE, PARAM_BLOB}},
    {.kind = OP_ZERO, .param = {PARAM_EXE}, .arg = {64, 128}},
    {.kind = OP_COPY, .param = {PARAM_IMAGE_AT, PARAM_IMAGE, PARAM_IMAGE_SIZE}},
    {.kind = OP_SIGNALS},
    {.kind = OP_CLOEXEC, .param = {PARAM_EXE_FD, PARAM_INTERP_FD, PARAM_REPORT_FD}},
};
static const struct refl_aux AUX[] = {{3, 64, PARAM_EXE}, {25, 0, PARAM_RANDOM}, {31, 0, PARAM_EXECFN}, {6, 4096, PARAM_NONE}};

/* The contents a start is made from; a case or a mutation changes them, and sizes in the start itself. */
struct contents {
    struct refl_op ops[8];
    struct refl_aux aux[8];
    char strings[128];
};

static void good(struct refl_start *start, struct contents *contents)
{
    memset(contents, 0, sizeof *contents);
    memcpy(contents->ops, OPS, sizeof OPS);
    memcpy(contents->aux, AUX, sizeof AUX);
    memcpy(contents->strings, STRINGS, sizeof STRINGS);
    *start = (struct refl_start){
        .op_count = LENGTH(OPS),
        .aux_count = LENGTH(AUX),
        .strings_size = sizeof STRINGS,
        .argc = 3,
        .envc = 2,
        .data_size = 40,
        .platform_size = 7,
        .shuffle = 1234,
        .stack_limit = 8 << 20,
        .image = {0, 4096, 8192, 12288},
        .entry = 4096,
        .entry_param = PARAM_INTERP,
        .gadget = 0x1234,
        .set_exe = 1,
    };
    start->params[PARAM_EXE] = 0x555555554000;
    start->params[PARAM_INTERP] = 0x7ffff7fc0000;
    start->params[PARAM_STACK_TOP] = TOP;
    start->params[PARAM_BLOB] = BLOB;
    start->params[PARAM_VDSO_NEW] = 0x7ffff7fb0000;
    start->params[PARAM_REPORT_FD] = 5;
    start->params[PARAM_TASK_END] = TOP;
}

/* Memory that nobody may read. */
static void *forbidden(void)
{
    static void *page;
    if (!page && (page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) == MAP_FAILED)
        fail("mmap");
    return page;
}

/* A heap block of that size which begins with the contents; one byte further and the sanitizer stops us. */
static void *block(uint64_t count, uint64_t item, const void *from, uint64_t have)
{
    if (count > READABLE)
        return forbidden();
    uint64_t size = count * item;
    char *memory = calloc(1, size ? size : 1);
    if (!memory)
        fail("no memory");
    if (from)
        memcpy(memory, from, size < have ? size : have);
    return memory;
}

static void give_back(const void *memory)
{
    if (memory != forbidden())
        free((void *)(uintptr_t)memory);
}

static void check_accepted(const struct refl_start *start, const struct area *area)
{
    const uint64_t *p = start->params;
    uint64_t base = (uint64_t)area->base, end = base + area->size, argc;
    const struct refl_job *job = area->job;
    if (job->count != start->op_count || (uint64_t)job->ops < base || (uint64_t)(job->ops + job->count) > end)
        fail("the operations lie outside of the area");
    if (p[PARAM_BLOB_END] != end || p[PARAM_DATA] < base || p[PARAM_DATA] + start->data_size > end)
        fail("the data lie outside of the area");
    if (p[PARAM_IMAGE] < base || p[PARAM_IMAGE] + p[PARAM_IMAGE_SIZE] > end)
        fail("the stack's contents lie outside of the area");
    if (p[PARAM_SP] % 16 || p[PARAM_IMAGE_AT] + p[PARAM_IMAGE_SIZE] != p[PARAM_STACK_TOP] || p[PARAM_STACK_LOW] > p[PARAM_SP])
        fail("the stack is not where it should be");
    if (p[PARAM_EXECFN] < p[PARAM_SP] || p[PARAM_EXECFN] >= p[PARAM_STACK_TOP] || p[PARAM_RANDOM] < p[PARAM_SP])
        fail("the strings lie outside of the stack");
    memcpy(&argc, (const uint8_t *)p[PARAM_IMAGE] + (p[PARAM_SP] - p[PARAM_IMAGE_AT]), 8);
    if (argc != start->argc)
        fail("argc is not at the stack pointer");
}

/* The errno of one start. `through` takes the way through refl_spawn, where the fork fails: EAGAIN is its success. */
static int attempt(struct refl_start *start, const struct contents *contents, int through)
{
    struct area area;
    start->ops = block(start->op_count, sizeof *contents->ops, contents->ops, sizeof contents->ops);
    start->auxv = block(start->aux_count, sizeof *contents->aux, contents->aux, sizeof contents->aux);
    start->strings = block(start->strings_size, 1, contents->strings, sizeof contents->strings);
    start->data = block(start->data_size, 1, NULL, 0);
    start->random = block(16, 1, NULL, 0);
    start->platform = block(start->platform_size, 1, "x86_64", 7);
    int64_t result;
    if (through) {
        result = refl_spawn(start);
        result = result == -EAGAIN ? 0 : result ? result : -EPROTO;
    } else if ((result = area_create(start, &area)) == 0) {
        result = prepare(start, &area, 0);
        if (result == 0)
            check_accepted(start, &area);
        area_destroy(&area);
    }
    give_back(start->ops);
    give_back(start->auxv);
    give_back(start->strings);
    give_back(start->data);
    give_back(start->random);
    give_back(start->platform);
    if (result > 0 || result < -4095)
        fail("neither success nor an errno");
    return (int)-result;
}

#endif
