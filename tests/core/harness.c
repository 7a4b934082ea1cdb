/*
 * The host's half of the C core, called with starts that Python would never make. Built with sanitizers by
 * tests/unit/test_core_sanitized.py. Every buffer has exactly the size that its start states, or, where that is more than the
 * core may take, can't be read at all: so a byte read or written too many ends this program.
 *
 *   harness cases             each deliberately broken start by name, and the errno it gives (0: accepted)
 *   harness mutate SEED COUNT that many starts at random: how many were accepted, how many refused
 *   harness replay FILE...    the starts in the files, as libFuzzer wrote them: likewise
 *
 * With -DFUZZER it is libFuzzer's target (tools/fuzz plan). A file is a list of struct patch.
 */
#include "start.h"

/* Each case: its name, and what it breaks. */
#define CASES(X)                                                                                                              \
    X(good, (void)s)                                                                                                          \
    X(good_without_gadget, s->gadget = 0)                                                                                     \
    X(good_without_platform, s->platform_size = 0)                                                                            \
    X(good_without_operations, s->op_count = 0)                                                                               \
    X(good_without_auxv, s->aux_count = 0)                                                                                    \
    X(good_without_limit, s->stack_limit = UINT64_MAX)                                                                        \
    X(good_tiny_limit, s->stack_limit = 0)                                                                                    \
    X(argc_zero, s->argc = 0)                                                                                                 \
    X(argc_too_large, s->argc = 5)                                                                                            \
    X(argc_takes_the_path, s->argc = 4)                                                                                       \
    X(argc_huge, s->argc = 1ul << 40)                                                                                         \
    X(argc_overflows_in_bytes, s->argc = 1ul << 61)                                                                           \
    X(argc_most, s->argc = UINT64_MAX)                                                                                        \
    X(envc_too_large, s->envc = 100)                                                                                          \
    X(envc_most, s->envc = UINT64_MAX)                                                                                        \
    X(counts_overflow, (s->argc = 1ul << 63, s->envc = 1ul << 63))                                                            \
    X(counts_sum_up_to_few, (s->argc = 1, s->envc = UINT64_MAX))                                                              \
    X(strings_empty, s->strings_size = 0)                                                                                     \
    X(strings_without_last_nul, s->strings_size--)                                                                            \
    X(strings_without_any_nul, memset(c->strings, 'x', s->strings_size))                                                      \
    X(strings_most, s->strings_size = UINT64_MAX)                                                                             \
    X(strings_as_large_as_the_stack, s->strings_size = TOP)                                                                   \
    X(op_count_too_large, s->op_count = 65537)                                                                                \
    X(op_count_overflows_in_bytes, s->op_count = 1ul << 58)                                                                   \
    X(op_count_most, s->op_count = UINT64_MAX)                                                                                \
    X(op_kind_out_of_range, c->ops[2].kind = OP_COUNT)                                                                        \
    X(op_kind_most, c->ops[5].kind = UINT16_MAX)                                                                              \
    X(op_param_out_of_range, c->ops[0].param[5] = PARAM_COUNT)                                                                \
    X(op_param_most, c->ops[3].param[0] = UINT8_MAX)                                                                          \
    X(op_flags_unknown, c->ops[0].flags = 16)                                                                                 \
    X(op_call_unknown, c->ops[0].nr = 512)                                                                                    \
    X(op_unmaps_the_area, c->ops[1].arg[1] = 4096)                                                                            \
    X(op_unmaps_unaligned, c->ops[1].arg[1] = -8ul)                                                                           \
    X(op_unmaps_beyond, c->ops[1].arg[1] = TOP + 4096 - BLOB)                                                                 \
    X(op_munmap_unaligned, c->ops[0].arg[0] = 4097)                                                                           \
    X(op_munmap_nothing, (c->ops[0].arg[1] = 0, c->ops[0].param[1] = PARAM_NONE))                                             \
    X(op_munmap_most, (c->ops[0].arg[1] = UINT64_MAX, c->ops[0].param[1] = PARAM_NONE))                                       \
    X(op_mmap_anywhere, c->ops[0].nr = SYS_mmap)                                                                              \
    X(good_mmap, (c->ops[0].nr = SYS_mmap, c->ops[0].flags = OP_EXACT))                                                       \
    X(op_mmap_over_the_area, (c->ops[0].nr = SYS_mmap, c->ops[0].flags = OP_EXACT, c->ops[0].param[0] = PARAM_BLOB))          \
    X(op_mmap_file_offset, (c->ops[0].nr = SYS_mmap, c->ops[0].flags = OP_EXACT, c->ops[0].arg[5] = 8))                       \
    X(op_mremap_anywhere, c->ops[0].nr = SYS_mremap)                                                                          \
    X(op_zero_the_area, c->ops[2].param[0] = PARAM_BLOB)                                                                      \
    X(op_zero_across_the_area, (c->ops[2].param[0] = PARAM_BLOB, c->ops[2].arg[0] = -64ul))                                   \
    X(op_zero_beyond, c->ops[2].arg[1] = TOP)                                                                                 \
    X(op_zero_overflows, c->ops[2].arg[1] = UINT64_MAX)                                                                       \
    X(op_copy_from_elsewhere, c->ops[3].arg[1] = -8ul)                                                                        \
    X(op_copy_too_much, c->ops[3].arg[2] = 8)                                                                                 \
    X(op_copy_over_the_area, c->ops[3].param[0] = PARAM_BLOB)                                                                 \
    X(op_data_beyond, (c->ops[4].param[1] = PARAM_DATA, c->ops[4].arg[1] = 41))                                               \
    X(op_data_before, (c->ops[4].param[1] = PARAM_DATA, c->ops[4].arg[1] = -1ul))                                             \
    X(aux_param_out_of_range, c->aux[1].param = PARAM_COUNT)                                                                  \
    X(aux_param_most, c->aux[3].param = UINT64_MAX)                                                                           \
    X(aux_count_too_large, s->aux_count = 257)                                                                                \
    X(aux_count_most, s->aux_count = UINT64_MAX)                                                                              \
    X(aux_count_overflows_in_bytes, s->aux_count = 1ul << 60)                                                                 \
    X(data_too_large, s->data_size = (1ul << 32) + 1)                                                                         \
    X(data_most, s->data_size = UINT64_MAX)                                                                                   \
    X(data_rounds_to_nothing, s->data_size = UINT64_MAX - 14)                                                                 \
    X(platform_most, s->platform_size = UINT64_MAX)                                                                           \
    X(platform_as_large_as_the_stack, s->platform_size = TOP)                                                                 \
    X(platform_too_large, s->platform_size = 65)                                                                              \
    X(shuffle_out_of_range, s->shuffle = 32769)                                                                               \
    X(shuffle_most, s->shuffle = UINT64_MAX)                                                                                  \
    X(stack_top_zero, s->params[PARAM_STACK_TOP] = 0)                                                                         \
    X(stack_top_low, s->params[PARAM_STACK_TOP] = 4096)                                                                       \
    X(stack_top_unaligned, s->params[PARAM_STACK_TOP] = TOP + 8)                                                              \
    X(stack_top_most, s->params[PARAM_STACK_TOP] = UINT64_MAX)                                                                \
    X(entry_param_out_of_range, s->entry_param = PARAM_COUNT)                                                                 \
    X(entry_param_most, s->entry_param = UINT64_MAX)                                                                          \
    X(blob_zero, s->params[PARAM_BLOB] = 0)                                                                                   \
    X(blob_unaligned, s->params[PARAM_BLOB] = BLOB + 1)                                                                       \
    X(blob_beyond_user_space, s->params[PARAM_BLOB] = 1ul << 63)                                                              \
    X(blob_taken, s->params[PARAM_BLOB] = (uint64_t)forbidden())

#define CASE(name, change)                                                                                                    \
    good(s, c);                                                                                                               \
    change;                                                                                                                   \
    first = attempt(s, c, 0);                                                                                                 \
    good(s, c);                                                                                                               \
    change;                                                                                                                   \
    if (attempt(s, c, 1) != first)                                                                                            \
        fail(#name ": refl_spawn sees it otherwise");                                                                         \
    printf("%s %d\n", #name, first);

static void cases(void)
{
    struct refl_start start, *s = &start;
    struct contents contents, *c = &contents;
    int first;
    CASES(CASE)
}

static uint64_t state;

/* splitmix64 */
static uint64_t any(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* A number that breaks things more often than any would. */
static uint64_t nasty(uint64_t near)
{
    static const uint64_t edges[] = {0,    1,    7,     8,     15,    16,        64,        4095,
                                     4096, 8191, 65535, 65536, 65537, 1ul << 31, 1ul << 32, 1ul << 40};
    switch (any() % 6) {
    case 0:
        return edges[any() % LENGTH(edges)];
    case 1:
        return near + any() % 16;
    case 2:
        return near - any() % 16;
    case 3:
        return any() % 64;
    case 4:
        return UINT64_MAX - any() % 4096;
    default:
        return any() >> any() % 64;
    }
}

static void mutate(struct refl_start *s, struct contents *c)
{
    uint64_t *numbers[] = {
        &s->op_count, &s->aux_count,   &s->strings_size, &s->argc,        &s->envc,   &s->data_size, &s->platform_size,
        &s->shuffle,  &s->stack_limit, &s->entry,        &s->entry_param, &s->gadget, &s->set_exe,   &s->own_mask,
    };
    uint64_t pick;
    switch (any() % 6) {
    case 0:
        pick = any() % LENGTH(numbers);
        *numbers[pick] = nasty(*numbers[pick]);
        break;
    case 1:
        pick = any() % LENGTH(s->params);
        s->params[pick] = nasty(s->params[pick]);
        break;
    case 2:
        c->strings[any() % sizeof STRINGS] = (char)(any() % 2 ? 0 : any());
        break;
    case 3:
        ((uint8_t *)c->ops)[any() % sizeof OPS] = (uint8_t)any();
        break;
    case 4:
        ((uint8_t *)c->aux)[any() % sizeof AUX] = (uint8_t)any();
        break;
    default:
        s->image[any() % 4] = nasty(0);
    }
}

/* What the core may read it must be given: sizes between what is readable and what it refuses are made smaller. */
static void settle(struct refl_start *s)
{
    if (s->data_size > READABLE && s->data_size <= 1ul << 32)
        s->data_size %= READABLE;
    if (s->strings_size > READABLE && s->strings_size <= s->params[PARAM_STACK_TOP] / 32)
        s->strings_size %= READABLE;
}

static void random_starts(uint64_t seed, uint64_t count)
{
    struct refl_start start;
    struct contents contents;
    uint64_t accepted = 0;
    state = seed;
    for (uint64_t i = 0; i < count; i++) {
        good(&start, &contents);
        for (uint64_t changes = 1 + any() % 3; changes; changes--)
            mutate(&start, &contents);
        settle(&start);
        accepted += attempt(&start, &contents, i % 16 == 0) == 0;
    }
    printf("accepted %lu refused %lu\n", accepted, count - accepted);
}

/* One change of the good start. */
struct patch {
    uint8_t what, where;
    uint8_t value[8];
};
_Static_assert(sizeof(struct patch) == 10, "the corpus is made of these");

static void patch_op(struct refl_op *op, unsigned field, uint64_t value)
{
    uint16_t *halves[] = {&op->kind, &op->flags, &op->nr, &op->step};
    if (field < 4)
        *halves[field] = (uint16_t)value;
    else if (field < 10)
        op->param[field - 4] = (uint8_t)value;
    else
        op->arg[field - 10] = value;
}

static void patch(struct refl_start *s, struct contents *c, const struct patch *one)
{
    uint64_t *numbers[] = {
        &s->op_count, &s->aux_count,   &s->strings_size, &s->argc,        &s->envc,   &s->data_size, &s->platform_size,
        &s->shuffle,  &s->stack_limit, &s->entry,        &s->entry_param, &s->gadget, &s->set_exe,   &s->own_mask,
    };
    uint64_t value;
    memcpy(&value, one->value, 8);
    switch (one->what % 6) {
    case 0:
        *numbers[one->where % LENGTH(numbers)] = value;
        break;
    case 1:
        s->params[one->where % LENGTH(s->params)] = value;
        break;
    case 2:
        patch_op(&c->ops[one->where / 16 % LENGTH(c->ops)], one->where % 16, value);
        break;
    case 3:
        ((uint64_t *)c->aux)[one->where % (LENGTH(c->aux) * 3)] = value;
        break;
    case 4:
        memcpy(c->strings + one->where % (sizeof STRINGS - 8), one->value, 8);
        break;
    default:
        s->image[one->where % 4] = value;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct refl_start start;
    struct contents contents;
    good(&start, &contents);
    for (size_t at = 0; at + sizeof(struct patch) <= size; at += sizeof(struct patch))
        patch(&start, &contents, (const struct patch *)(bytes + at));
    settle(&start);
    attempt(&start, &contents, size % 2);
    return 0;
}

#ifndef FUZZER
static void replay(char **files)
{
    static uint8_t bytes[65536];
    for (; *files; files++) {
        FILE *file = fopen(*files, "rb");
        if (!file)
            fail(*files);
        LLVMFuzzerTestOneInput(bytes, fread(bytes, 1, sizeof bytes, file));
        fclose(file);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "cases") == 0)
        cases();
    else if (argc == 4 && strcmp(argv[1], "mutate") == 0)
        random_starts(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
    else if (argc > 2 && strcmp(argv[1], "replay") == 0)
        replay(argv + 2);
    else
        return 2;
    return 0;
}
#endif
