/* The clone's half: from clone3 to the program. */
#ifndef REFLECTIVE_BECOME_H
#define REFLECTIVE_BECOME_H

#pragma GCC visibility push(hidden)

#include "template.h"

/* The number of descriptors that came with a message, they are 0 to that; or negative: the other end is gone. */
int64_t template_receive(struct template_message *message);

/* What ld.so remembers of the stack. Starts with as many arguments and variables as the one before have it from the template. */
void template_set_linker(const struct template_job *job, uint64_t sp, uint64_t auxv);

/* What a clone does: becomes the program; waits for an order first. */
__attribute__((noreturn)) void template_begin(const struct template_job *job, struct template_request *request);
__attribute__((noreturn)) void template_wait(const struct template_job *job, struct template_request *request);

/* Once, and at each order: where the template runs, and its clones until they are the program (place.c). */
void template_find_place(struct template_job *job);
void template_follow(struct template_job *job, const struct template_request *request);
void template_be_free(const struct template_job *job, enum template_place place);

/* As __vdso_getcpu finds it: arch/x86/include/asm/segment.h, vdso_read_cpunode. */
static inline uint32_t template_this_cpu(void)
{
    uint32_t limit;
    __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(15 * 8 + 3));
    return limit & 0xfff;
}

enum { TEMPLATE_STACK = 4096 }; /* bytes of it that a clone uses before it is the program */

/* Where a clone's own stack begins, below the program's stack pointer: in pages that the program would touch anyway. */
static inline uint64_t template_stack_below(uint64_t sp)
{
    return (sp - 128) & ~15ul;
}

static inline struct template_request *template_slot(const struct template_job *job, uint64_t slot)
{
    return (struct template_request *)(job->shared + (1 + slot) * TEMPLATE_SLOT);
}

#endif
