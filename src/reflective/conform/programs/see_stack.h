/* What the kernel left on the stack and in the registers. */
#ifndef WITNESS_SEE_STACK_H
#define WITNESS_SEE_STACK_H

#include "entry.h"
#include "json.h"

enum {
    AT_END = 0,
    AT_BASE_TAG = 7,
    AT_ENTRY_TAG = 9,
    AT_PLATFORM_TAG = 15,
    AT_RANDOM_TAG = 25,
    AT_EXECFN_TAG = 31,
    STACK_IMAGE_MAX = 65536,
    STACK_LIMIT = 3, /* RLIMIT_STACK */
    PAGE = 4096,
};

/* The vectors that start at the stack pointer. */
struct start {
    uint64_t *sp;
    uint64_t argc;
    uint64_t *argv;
    uint64_t *envp;
    uint64_t *auxv;
    uint64_t *end; /* just above the AT_NULL entry */
};

static inline struct start start_at(const void *sp)
{
    struct start start = {.sp = (uint64_t *)sp};

    start.argc = start.sp[0];
    start.argv = start.sp + 1;
    start.envp = start.argv + start.argc + 1;
    for (start.auxv = start.envp; *start.auxv; start.auxv++)
        ;
    start.auxv++;
    for (start.end = start.auxv; start.end[0] != AT_END; start.end += 2)
        ;
    start.end += 2;
    return start;
}

static inline uint64_t auxv_value(const struct start *start, uint64_t tag)
{
    for (const uint64_t *entry = start->auxv; entry[0] != AT_END; entry += 2)
        if (entry[0] == tag)
            return entry[1];
    return 0;
}

static inline void see_addresses(const char *key, const uint64_t *vector)
{
    json_array(key);
    for (; *vector; vector++)
        json_unsigned(NULL, *vector);
    json_end();
}

static inline void see_strings(const char *key, const uint64_t *vector)
{
    json_array(key);
    for (; *vector; vector++)
        json_string(NULL, (const char *)*vector);
    json_end();
}

static inline void see_auxv(const struct start *start)
{
    uint64_t random = auxv_value(start, AT_RANDOM_TAG);
    uint64_t execfn = auxv_value(start, AT_EXECFN_TAG);
    uint64_t platform = auxv_value(start, AT_PLATFORM_TAG);

    json_array("auxv");
    for (const uint64_t *entry = start->auxv; entry < start->end; entry += 2) {
        json_array(NULL);
        json_unsigned(NULL, entry[0]);
        json_unsigned(NULL, entry[1]);
        json_end();
    }
    json_end();
    if (random)
        json_hex("at_random", (const void *)random, 16);
    if (execfn)
        json_string("at_execfn", (const char *)execfn);
    if (platform)
        json_string("at_platform", (const char *)platform);
}

/* The vectors, and every byte from the stack pointer to the top of the stack (cut at STACK_IMAGE_MAX from either end). */
static inline void see_stack(const struct start *start, uint64_t top)
{
    uint64_t sp = (uint64_t)start->sp;
    uint64_t size = top - sp;

    json_object("stack");
    json_unsigned("sp", sp);
    json_unsigned("top", top);
    json_unsigned("argc", start->argc);
    see_addresses("argv", start->argv);
    see_addresses("envp", start->envp);
    see_strings("arguments", start->argv);
    see_strings("environment", start->envp);
    json_address("auxv_at", start->auxv);
    json_address("vectors_end", start->end);
    see_auxv(start);
    json_hex("lower", start->sp, size < STACK_IMAGE_MAX ? size : STACK_IMAGE_MAX);
    if (size > STACK_IMAGE_MAX)
        json_hex("upper", (const char *)top - STACK_IMAGE_MAX, STACK_IMAGE_MAX);
    json_end();
}

/* The words that are not zero between the bottom of the stack mapping and the stack pointer: [offset from sp, value]. */
static inline void see_below(const struct start *start, uint64_t bottom)
{
    int told = 0;

    json_object("below_sp");
    json_unsigned("bottom", bottom);
    json_array("words");
    for (uint64_t *word = (uint64_t *)bottom; word < start->sp && told < 64; word++) {
        if (*word == 0)
            continue;
        json_array(NULL);
        json_signed(NULL, (char *)word - (char *)start->sp);
        json_unsigned(NULL, *word);
        json_end();
        told++;
    }
    json_end();
    json_end();
}

static inline uint64_t load(const uint8_t *bytes, int size)
{
    uint64_t value = 0;

    while (size--)
        value = value << 8 | bytes[size];
    return value;
}

/* The floating-point and vector state: its control words, the legacy image, and the XSAVE words that are not zero. */
static inline void see_fpu(const struct entry_record *record)
{
    int told = 0;

    json_object("fpu");
    json_unsigned("fcw", load(record->fxsave, 2));
    json_unsigned("fsw", load(record->fxsave + 2, 2));
    json_unsigned("ftw", load(record->fxsave + 4, 1));
    json_unsigned("mxcsr", load(record->fxsave + 24, 4));
    json_hex("fxsave", record->fxsave, sizeof record->fxsave);
    json_unsigned("xcr0", record->xcr0);
    json_unsigned("xstate_bv", load(record->xsave + 512, 8));
    json_unsigned("xcomp_bv", load(record->xsave + 520, 8));
    json_unsigned("pkru", record->pkru);
    json_array("extended");
    for (int at = 576; at < RECORD_XSAVE_SIZE && told < 64; at += 8) {
        uint64_t word = load(record->xsave + at, 8);
        if (word == 0)
            continue;
        json_array(NULL);
        json_signed(NULL, at);
        json_unsigned(NULL, word);
        json_end();
        told++;
    }
    json_end();
    json_end();
}

static inline void see_registers(const struct entry_record *record)
{
    static const char gpr[GPR_COUNT][4] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char selector[SELECTOR_COUNT][3] = {"cs", "ss", "ds", "es", "fs", "gs"};

    json_object("registers");
    for (int i = 0; i < GPR_COUNT; i++)
        json_unsigned(gpr[i], record->gpr[i]);
    json_unsigned("rflags", record->rflags);
    for (int i = 0; i < SELECTOR_COUNT; i++)
        json_unsigned(selector[i], record->selectors[i]);
    json_unsigned("fs_base", record->fs_base);
    json_unsigned("gs_base", record->gs_base);
    json_end();
    see_fpu(record);
}

/* Touches the byte at address in a child: 0 if that works, else the signal that killed the child. */
static inline int touch_in_child(uint64_t address)
{
    int status = -1;
    long child = SYS(SYS_fork);

    if (child == 0) {
        *(volatile char *)address = 1;
        SYS(SYS_exit_group, 0);
    }
    SYS(SYS_wait4, child, &status, 0, 0);
    return status & 0x7f;
}

/* Grows the stack to its limit, here; past the limit, in a child. Nothing about maps may be told after this. */
static inline void see_stack_growth(uint64_t top)
{
    uint64_t limit[2] = {0, 0};
    uint64_t reach;

    SYS(SYS_prlimit64, 0, STACK_LIMIT, 0, limit);
    reach = limit[0] < (64ul << 20) ? limit[0] : 64ul << 20;

    json_object("stack_growth");
    json_unsigned("limit", limit[0]);
    json_unsigned("reach", reach);
    json_signed("signal_at_limit", touch_in_child(top - reach));
    if (reach == limit[0])
        json_signed("signal_past_limit", touch_in_child(top - reach - 1));
    json_flush();
    for (uint64_t address = top - 2 * PAGE; address >= top - reach + 65536; address -= PAGE)
        ((volatile char *)address)[0] |= 0;
    json_unsigned("grown", reach - 65536);
    json_end();
}

#endif
