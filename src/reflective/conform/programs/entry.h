/* What entry.S saves before any other instruction of the program runs. The offsets are shared with the assembler. */
#ifndef WITNESS_ENTRY_H
#define WITNESS_ENTRY_H

#define RECORD_GPR 0x000      /* rax rbx rcx rdx rsi rdi rbp rsp r8 … r15 */
#define RECORD_RFLAGS 0x080
#define RECORD_SELECTORS 0x088 /* cs ss ds es fs gs */
#define RECORD_FS_BASE 0x0b8
#define RECORD_GS_BASE 0x0c0
#define RECORD_XCR0 0x0c8     /* 0: the processor or the kernel has no XSAVE */
#define RECORD_PKRU 0x0d0
#define RECORD_FXSAVE 0x100
#define RECORD_XSAVE 0x300    /* 64-byte aligned */
#define RECORD_XSAVE_SIZE 0x4000
#define RECORD_SIZE (RECORD_XSAVE + RECORD_XSAVE_SIZE)

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

enum { GPR_COUNT = 16, GPR_RSP = 7, SELECTOR_COUNT = 6 };

struct entry_record {
    uint64_t gpr[GPR_COUNT];
    uint64_t rflags;
    uint64_t selectors[SELECTOR_COUNT];
    uint64_t fs_base;
    uint64_t gs_base;
    uint64_t xcr0;
    uint64_t pkru;
    uint64_t unused[5];
    uint8_t fxsave[512];
    uint8_t xsave[RECORD_XSAVE_SIZE];
};

_Static_assert(offsetof(struct entry_record, rflags) == RECORD_RFLAGS, "entry.S");
_Static_assert(offsetof(struct entry_record, selectors) == RECORD_SELECTORS, "entry.S");
_Static_assert(offsetof(struct entry_record, fs_base) == RECORD_FS_BASE, "entry.S");
_Static_assert(offsetof(struct entry_record, pkru) == RECORD_PKRU, "entry.S");
_Static_assert(offsetof(struct entry_record, fxsave) == RECORD_FXSAVE, "entry.S");
_Static_assert(offsetof(struct entry_record, xsave) == RECORD_XSAVE, "entry.S");
_Static_assert(sizeof(struct entry_record) == RECORD_SIZE, "entry.S");

/* Hidden: reached relative to rip, with no relocation, since nobody relocates an interpreter for us. */
extern const struct entry_record entry_record __attribute__((visibility("hidden")));
extern const char entry_start[] __attribute__((visibility("hidden")));
#endif

#endif
