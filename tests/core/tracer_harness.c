/*
 * The tracer under sanitizers: what a table asks to copy, and what programs pass to the kernel, is drawn at random; a record must
 * be whole whatever they say.
 *
 * usage: tracer_harness SEED ROUNDS PROGRAM ARGUMENT...    prints how many records came, and how many payloads
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/wait.h>

#include "drawn.h"
#include "tracer/tracer.h"

#define NUMBERS 512

static void draw_table(struct refl_copy *copies)
{
    static const uint32_t sizes[] = {0, 1, 4, 8, 16, 64, 1024, 65536, 2 << 16 | 4, 0xffff};
    for (size_t i = 0; i < (size_t)NUMBERS * COPIES; i++)
        copies[i] = (struct refl_copy){
            .when = (uint8_t)draw(3),
            .kind = (uint8_t)draw(COPY_REGISTERS + 2),
            .arg = (uint8_t)draw(8),
            .count = (uint8_t)draw(10),
            .size = sizes[draw(sizeof sizes / sizeof *sizes)],
        };
}

/* Every record is as long as it says, and every payload ends within it. */
static void check(const uint8_t *bytes, uint64_t size, unsigned long *records, unsigned long *payloads)
{
    for (uint64_t at = 0; at < size; ++*records) {
        struct record record;
        if (size - at < sizeof record)
            fail("half a record");
        memcpy(&record, bytes + at, sizeof record);
        if (record.size < sizeof record || record.size > size - at || record.size % 8 || record.kind > EVENT_DETACHED)
            fail("no record");
        for (uint64_t inner = sizeof record; inner < record.size; ++*payloads) {
            struct payload payload;
            if (record.size - inner < sizeof payload)
                fail("half a payload");
            memcpy(&payload, bytes + at + inner, sizeof payload);
            inner += sizeof payload + ((payload.length + 7ul) & ~7ul);
            if (inner > record.size)
                fail("a payload that ends behind its record");
        }
        at += record.size;
    }
}

static void trace(char **argv, struct refl_copy *copies, uint8_t *wanted, unsigned long *records, unsigned long *payloads)
{
    int gate;
    int32_t pid = gated(argv, &gate), error, refused;
    struct refl_trace_options options = {
        .copies = copies,
        .wanted = wanted,
        .numbers = NUMBERS,
        .string_limit = draw(3) ? draw(100) : draw(1 << 20),
        .tids = &pid,
        .tid_count = 1,
        .needed = 1,
        .gate = gate,
        .leader = pid,
        .follow = draw(2),
        .phases = draw(2),
        .until = draw(2),
        .pin = draw(2),
    };
    void *session = refl_trace_start(&options);
    if (!session)
        fail("no session");
    uint8_t *bytes;
    int64_t got;
    unsigned stop = draw(4) ? 0 : 1 + draw(20), taken = 0;
    while ((got = refl_trace_take(session, &bytes, draw(1 << 16), 5)) >= 0) {
        check(bytes, (uint64_t)got, records, payloads);
        if (stop && ++taken >= stop)
            refl_trace_stop(session);
    }
    int32_t status = refl_trace_finish(session, &error, &refused);
    close(gate);
    if (error)
        fail("not attached");
    if (status == -1 && waitpid(pid, NULL, 0) != pid) /* let go: it runs to its end */
        fail("the program is gone");
}

int main(int argc, char **argv)
{
    unsigned long records = 0, payloads = 0;
    if (argc < 4)
        return 2;
    state = strtoul(argv[1], NULL, 0);
    struct refl_copy *copies = malloc(sizeof *copies * NUMBERS * COPIES);
    uint8_t wanted[NUMBERS + 1];
    for (long round = strtol(argv[2], NULL, 0); round > 0; round--) {
        draw_table(copies);
        for (int i = 0; i <= NUMBERS; i++)
            wanted[i] = draw(8) > 0;
        trace(argv + 3, copies, wanted, &records, &payloads);
    }
    free(copies);
    printf("%lu %lu\n", records, payloads);
}
