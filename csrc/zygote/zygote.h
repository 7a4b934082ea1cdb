/*
 * The zygote: a program of one page, which becomes another one.
 *
 * The caller starts it as posix_spawn would, by vfork and execve, and so at a cost that does not grow with the caller; what a
 * program inherits it has from the kernel. It finds a prepared area (csrc/plan.h) in shared memory, and carries it out.
 *
 *   ZYGOTE_TEXT_AT      the program: its ELF header and code, the blob's among it
 *   ZYGOTE_AT           the same page from another file: as long as its own file is mapped, /proc/PID/exe can't be another
 *   ZYGOTE_STACK_AT     one page: its stack, the final frame at the top. Private: once the report pipe is closed, the shared
 *                       memory is the caller's again
 *   ZYGOTE_HEADER_AT    shared from here on: struct zygote_header, then the area from its job on
 *
 * The kernel has drawn its mmap base: it is where the vdso ends. Whatever lies relative to that is late: written as if the base
 * were 0, and listed, so that the zygote adds what it is.
 */
#ifndef REFLECTIVE_ZYGOTE_H
#define REFLECTIVE_ZYGOTE_H

#include "../plan.h"

#define ZYGOTE_TEXT_AT 0x100000000000 /* all of it in one page of page table entries */
#define ZYGOTE_AT (ZYGOTE_TEXT_AT + REFL_PAGE)
#define ZYGOTE_STACK_AT (ZYGOTE_AT + REFL_PAGE)
#define ZYGOTE_HEADER_AT (ZYGOTE_STACK_AT + REFL_PAGE)
#define ZYGOTE_FRAME_AT (ZYGOTE_HEADER_AT - REFL_FRAME_ROOM)
#define ZYGOTE_JOB_AT (ZYGOTE_HEADER_AT + REFL_PAGE)
#define ZYGOTE_LATE_MOST 768u
#define ZYGOTE_LOST UINT32_MAX /* the report's step, if it does not even get to the plan */

_Static_assert(ZYGOTE_JOB_AT == ZYGOTE_AT + REFL_PAGE + REFL_BLOB_STACK, "host/prepare.c puts the job there");

struct zygote_header {
    uint8_t frame[REFL_FRAME_ROOM];
    uint64_t vdso_image; /* from AT_SYSINFO_EHDR to the end of the vdso */
    uint32_t late_count;
    uint32_t late[ZYGOTE_LATE_MOST]; /* offsets from ZYGOTE_HEADER_AT of words that the mmap base is added to */
};
_Static_assert(sizeof(struct zygote_header) <= REFL_PAGE, "a page");

#endif
