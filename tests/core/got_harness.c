/*
 * The loop that watches the dynamic linker, under sanitizers: breakpoints of every kind at functions of a program, tables and
 * guarded slots are drawn at random, with threads, forks and execve going on. Records must be whole, and the program must end as
 * it would alone.
 *
 * usage: got_harness SEED ROUNDS STATUS PROGRAM FUNCTION...    FUNCTIONs are addresses in hexadecimal; prints records and questions
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/wait.h>

#include "drawn.h"
#include "got/got.h"

#define CHANGES 24u

static uint64_t functions[4096], words[64];
static size_t function_count;
static unsigned long records, questions;

/* At a function that begins with a push of a low register; in one case of eight it is claimed to begin otherwise. */
static bool draw_break(pid_t pid, struct refl_got_change *change)
{
    uint8_t first;
    change->address = functions[draw((uint32_t)function_count)];
    if (read_memory(pid, change->address, &first, 1) != 1 || first < 0x50 || first > 0x57)
        return false;
    change->op = OP_BREAK;
    change->kind = (uint8_t)draw(BREAK_GONE);
    change->step = STEP_PUSH;
    change->reg = first - 0x50;
    change->length = 1;
    change->bytes[0] = draw(8) ? first : 0x90;
    return true;
}

static unsigned draw_changes(pid_t pid, const struct record *question, struct refl_got_change *changes)
{
    unsigned count = 0;
    for (unsigned rest = draw(CHANGES); rest; rest--) {
        struct refl_got_change *change = &changes[count];
        *change = (struct refl_got_change){.slots = words, .count = draw(sizeof words / sizeof *words)};
        unsigned which = draw(8);
        if (which < 4 && !draw_break(pid, change))
            continue;
        if (which == 4 || which == 5) {
            change->op = OP_TABLE;
            change->address = draw(2) ? question->args[1] : draw(16);
        } else if (which == 6) {
            change->op = OP_FORGET;
            change->address = draw(2) ? question->args[1] : draw(16);
        } else if (which == 7) {
            change->op = OP_GUARD;
            change->address = question->args[5] & ~7ul; /* on the stack, if there are registers */
        }
        count++;
    }
    return count;
}

/* Every record is whole, and a question is the last. */
static void taken(void *session, const uint8_t *bytes, uint64_t size)
{
    struct refl_got_change changes[CHANGES];
    for (uint64_t at = 0; at < size; records++) {
        struct record record;
        if (size - at < sizeof record)
            fail("half a record");
        memcpy(&record, bytes + at, sizeof record);
        bool written = record.kind == EVENT_ASK && record.args[0] == ASK_WRITTEN;
        if (record.size != sizeof record + (written ? sizeof(struct user_regs_struct) : 0) || record.size > size - at ||
            record.kind < EVENT_EXITED || record.kind > EVENT_REFUSED)
            fail("no record");
        at += record.size;
        if (record.kind != EVENT_ASK)
            continue;
        questions++;
        if (at != size)
            fail("a question that is not the last record");
        if (refl_got_answer(session, changes, draw_changes((pid_t)record.tid, &record, changes)))
            fail("no memory");
    }
}

static void watch(char *program, int expected)
{
    int gate;
    char *argv[] = {program, NULL};
    int32_t pid = gated(argv, &gate), error, refused;
    struct refl_trace_options options = {
        .tids = &pid, .tid_count = 1, .needed = 1, .gate = gate, .leader = pid, .pin = draw(2)};
    void *session = refl_got_start(&options);
    if (!session)
        fail("no session");
    uint8_t *bytes;
    int64_t got;
    unsigned stop = draw(4) ? 0 : 1 + draw(20), batches = 0;
    while ((got = refl_trace_take(session, &bytes, draw(1 << 12), 5)) >= 0) {
        taken(session, bytes, (uint64_t)got);
        if (stop && ++batches >= stop)
            refl_trace_stop(session);
    }
    int32_t status = refl_trace_finish(session, &error, &refused);
    close(gate);
    if (error)
        fail("not attached");
    if (status == -1 && waitpid(pid, &status, 0) != pid) /* let go: it runs to its end */
        fail("the program is gone");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected) {
        fprintf(stderr, "the program ended with %#x\n", (unsigned)status);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    state = strtoul(argv[1], NULL, 0);
    for (int i = 5; i < argc && function_count < sizeof functions / sizeof *functions; i++)
        functions[function_count++] = strtoul(argv[i], NULL, 16);
    for (long round = strtol(argv[2], NULL, 0); round > 0; round--)
        watch(argv[4], atoi(argv[3]));
    printf("%lu %lu\n", records, questions);
}
