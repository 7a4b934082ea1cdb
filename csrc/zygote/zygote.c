/* What the zygote does before the blob takes over: see zygote.h. Freestanding, no relocations, no data. */
#include "zygote.h"

#include <asm/errno.h>
#include <asm/unistd.h>
#include <linux/mman.h>

#include "../blob/syscall.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { AT_VDSO = 33 };

typedef void entry_type(const struct refl_job *job);
entry_type blob_entry
    __attribute__((visibility("hidden"))); /* addressed relative to the code, as this is not linked to where it runs */
void zygote_main(const uint64_t *stack) __attribute__((noreturn));
void zygote_entry(void) __attribute__((noreturn));

/* %rsp is at argc, as for any program; on from here on the stack of its own. */
__attribute__((naked, noreturn, section(".text.entry"))) void zygote_entry(void)
{
    __asm__("mov %%rsp, %%rdi\n\tmovabs %0, %%rsp\n\txor %%ebp, %%ebp\n\tcall zygote_main\n\thlt" ::"i"(ZYGOTE_FRAME_AT));
}

/* One of the hexadecimal numbers, each of 16 digits, that argv[0] consists of. */
static uint64_t number(const char *text, int which)
{
    uint64_t value = 0;
    for (int i = 16 * which; i < 16 * which + 16; i++)
        value = value << 4 | (uint64_t)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
    return value;
}

/* The auxiliary vector's entry. Behind argc lie argv and envp, each with a null at its end. */
static uint64_t vdso_of(const uint64_t *at)
{
    at += 1 + at[0] + 1;
    while (*at++)
        ;
    for (; at[0]; at += 2)
        if (at[0] == AT_VDSO)
            return at[1];
    return 0;
}

static void lost(uint64_t report_fd, int64_t result)
{
    struct refl_report report = {.step = ZYGOTE_LOST, .error = (int32_t)-result, .kind = 0, .nr = 0, .arg0 = 0};
    call3(__NR_write, report_fd, (uint64_t)&report, sizeof report);
    for (;;)
        call3(__NR_exit_group, 127, 0, 0);
}

void zygote_main(const uint64_t *stack)
{
    const char *text = (const char *)stack[1];
    uint64_t fd = number(text, 0), offset = number(text, 1), size = number(text, 2), report_fd = number(text, 3);
    uint64_t vdso = vdso_of(stack), flags = MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE;
    int64_t result = call6(__NR_mmap, ZYGOTE_HEADER_AT, size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (result != (int64_t)ZYGOTE_HEADER_AT || !vdso)
        lost(report_fd, is_error(result) ? result : -EEXIST);
    result = call6(__NR_mmap, ZYGOTE_AT, REFL_PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
    if (result != (int64_t)ZYGOTE_AT)
        lost(report_fd, is_error(result) ? result : -EEXIST);
    call3(__NR_close, fd, 0, 0);

    const struct zygote_header *header = (const struct zygote_header *)ZYGOTE_HEADER_AT;
    uint64_t base = vdso + header->vdso_image;
    for (uint64_t i = 0; i < header->late_count; i++)
        *(uint64_t *)(ZYGOTE_HEADER_AT + header->late[i]) += base;
    for (uint64_t i = 0; i < REFL_FRAME_ROOM / 8; i++)
        ((uint64_t *)ZYGOTE_FRAME_AT)[i] = ((const uint64_t *)header->frame)[i];
    struct refl_job job = *(const struct refl_job *)ZYGOTE_JOB_AT;
    entry_type *entry = (entry_type *)((uint64_t)blob_entry + (ZYGOTE_AT - ZYGOTE_TEXT_AT));
    entry(&job);
    __builtin_unreachable();
}
