/* The parts of the story that every witness tells, in the order that keeps each part undisturbed by the one before. */
#ifndef WITNESS_SEE_H
#define WITNESS_SEE_H

#include "see_kernel.h"
#include "see_proc.h"
#include "see_stack.h"

/* Everything that is as the kernel left it. Opens the JSON object. */
static inline void see_start(const struct start *start, uint64_t top)
{
    json_object(NULL);
    json_unsigned("schema", 1);
    json_address("entry_start", entry_start);
    see_registers(&entry_record);
    see_proc();
    see_stack(start, top);
    see_descriptors();
    see_signals();
    see_prctl();
    see_x86();
    see_thread();
    see_identity();
}

/* What changes the process by being tried. Closes the JSON object. */
static inline void see_growth(uint64_t top)
{
    see_brk();
    see_file("maps", "/proc/self/maps");
    json_end();
    see_stack_growth(top);
    json_end();
}

#endif
