/*
 * The initial stack, byte for byte as fs/binfmt_elf.c: create_elf_tables and fs/exec.c: copy_strings, setup_arg_pages
 * leave it. From the top down:
 *
 *   top      8 zero bytes
 *            path (AT_EXECFN), environment strings, argument strings
 *            up to 8 KiB left out (arch_align_stack)
 *            platform, 16 random bytes
 *            auxv, envp, argv
 *   sp       argc
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "prepare.h"

enum {
    MARGIN = 8,
    STACK_EXPAND = 131072 /* fs/exec.c: setup_arg_pages */,
    TOP_LEAST = 1 << 20,
    SHUFFLE_MOST = 32768, /* execve: 8191; a template leaves room for strings to come */
    AUX_MOST = 256,
    PLATFORM_MOST = 64
};

static uint64_t page_down(uint64_t at)
{
    return at & ~(uint64_t)(REFL_PAGE - 1);
}

/* setup_arg_pages: mapped are the strings' pages and 128 KiB more, as far as the limit goes; the tables must fit too. */
static uint64_t lowest(const struct refl_start *start, const struct stack *s)
{
    uint64_t strings = page_down(s->strings), limit = page_down(start->stack_limit), low;
    if (s->top - strings + STACK_EXPAND > limit && limit <= s->top)
        low = s->top - limit;
    else
        low = strings - STACK_EXPAND;
    uint64_t needed = page_down(s->sp);
    if (low > strings)
        low = strings;
    return low < needed ? low : needed;
}

int stack_layout(const struct refl_start *start, struct stack *s)
{
    uint64_t top = start->params[PARAM_STACK_TOP], words;
    if (top % REFL_PAGE || top < TOP_LEAST || start->shuffle > SHUFFLE_MOST || start->argc == 0)
        return -EINVAL;
    /* Each string has at least its NUL, and the path is one too: so these bounds keep every sum below within [0, top]. */
    if (start->strings_size > top / 32 || start->aux_count > AUX_MOST || start->platform_size > PLATFORM_MOST)
        return -E2BIG;
    if (__builtin_add_overflow(start->argc, start->envc, &words) || words >= start->strings_size)
        return -EINVAL;
    words = 8 * (words + 3);

    s->top = top;
    s->strings = top - MARGIN - start->strings_size;
    uint64_t at = (s->strings - start->shuffle) & ~15ul;
    at -= start->platform_size;
    s->platform = start->platform_size ? at : 0;
    at -= 16;
    s->random = at;
    uint64_t auxv_size = (start->aux_count + 1) * 16;
    s->sp = (at - auxv_size - words) & ~15ul;
    s->auxv = s->sp + words;
    s->execfd = 0;
    s->low = lowest(start, s);
    return 0;
}

/* Puts the addresses of count strings into slots, and returns the position after the last; size + 1 if there are fewer. */
static uint64_t vector(const struct refl_start *start, uint64_t at, uint64_t count, uint64_t base, uint8_t *slots)
{
    for (uint64_t i = 0; i < count; i++) {
        if (at >= start->strings_size)
            return start->strings_size + 1;
        uint64_t address = base + at;
        memcpy(slots + 8 * i, &address, 8);
        const char *end = memchr(start->strings + at, 0, start->strings_size - at);
        if (!end)
            return start->strings_size + 1;
        at = (uint64_t)(end - start->strings) + 1;
    }
    return at;
}

/* image is [sp, top), zeroed. Fills in where the environment and the path begin. */
int stack_write(struct refl_start *start, struct stack *s, uint8_t *image)
{
    memcpy(image, &start->argc, 8);
    uint64_t at = vector(start, 0, start->argc, s->strings, image + 8);
    if (at > start->strings_size)
        return -EINVAL;
    s->env = s->strings + at;
    at = vector(start, at, start->envc, s->strings, image + 8 * (start->argc + 2));
    if (at >= start->strings_size || start->strings[start->strings_size - 1])
        return -EINVAL;
    s->env_end = s->execfn = s->strings + at;

    start->params[PARAM_RANDOM] = s->random;
    start->params[PARAM_EXECFN] = s->execfn;
    start->params[PARAM_PLATFORM] = s->platform;
    uint8_t *slot = image + (s->auxv - s->sp);
    for (uint64_t i = 0; i < start->aux_count; i++, slot += 16) {
        struct refl_aux aux;
        memcpy(&aux, start->auxv + i * sizeof aux, sizeof aux);
        if (aux.param >= PARAM_COUNT)
            return -EINVAL;
        aux.value += start->params[aux.param];
        if (aux.type == AT_EXECFD)
            s->execfd = s->auxv + 16 * i + 8;
        memcpy(slot, &aux, 16);
    }

    memcpy(image + (s->strings - s->sp), start->strings, start->strings_size);
    memcpy(image + (s->random - s->sp), start->random, 16);
    if (start->platform_size)
        memcpy(image + (s->platform - s->sp), start->platform, start->platform_size);
    return 0;
}
