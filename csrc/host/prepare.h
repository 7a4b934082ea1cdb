/* The host's half of a start: all memory that the child will read is made before the fork. */
#ifndef REFLECTIVE_PREPARE_H
#define REFLECTIVE_PREPARE_H

#include <stddef.h>
#include <stdint.h>

#include "../plan.h"

#include "../core.cdef.h"

/* The blob's area as mapped in this process. */
struct area {
    uint8_t *base;
    size_t size;
    struct refl_job *job;
    uint8_t *frame;     /* REFL_FRAME_ROOM bytes, end of the code's page */
    uint8_t *stack_top; /* of the blob's own stack */
};

/* The initial stack, computed before it is written. Addresses are the new program's. */
struct stack {
    uint64_t sp, top, low;
    uint64_t strings;       /* first argument */
    uint64_t env, env_end;
    uint64_t execfn, platform, random;
    uint64_t auxv;
    uint64_t execfd;        /* the value of AT_EXECFD, 0: there is none */
};

/* Each returns 0 or -errno. */
int area_create(const struct refl_start *start, struct area *area);
void area_destroy(struct area *area);
int prepare(struct refl_start *start, struct area *area, uint64_t sigmask);
int check_op(const struct refl_op *op, const uint64_t *params, uint64_t data_size);
int stack_layout(const struct refl_start *start, struct stack *stack);
int stack_write(struct refl_start *start, struct stack *stack, uint8_t *image);
void frame_write(uint8_t *frame, uint64_t ip, uint64_t sp, uint64_t call, uint64_t a0, uint64_t a1, uint64_t sigmask);
void rseq_registered(uint64_t *area, uint64_t *size);

#endif
