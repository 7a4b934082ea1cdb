/*
 * What Python hands to the C core: a list of symbolic operations, and the parameters of one start.
 *
 * A load plan serves many starts. What differs between two starts of it (where the executable lies, which descriptor its file
 * has, how long the stack's contents are) is a parameter; every argument of an operation is a constant plus one parameter.
 * The host adds them up (host/prepare.c), the blob executes the sums (blob/executor.c). No ELF here, and none in either.
 */
#ifndef REFLECTIVE_PLAN_H
#define REFLECTIVE_PLAN_H

#include <stdint.h>

#define REFL_PAGE 4096u

/* Order and count are shared with src/reflective/native/encode.py (PARAMETERS), checked at import by refl_abi(). */
enum refl_parameter {
    PARAM_NONE,         /* always 0 */
    PARAM_EXE,          /* load bias of the executable */
    PARAM_INTERP,       /* load bias of the interpreter */
    PARAM_BRK,          /* start of the heap */
    PARAM_STACK_TOP,    /* end of the stack's mapping, page aligned */
    PARAM_EXE_FD,       /* descriptors, open in the child until their step closes them */
    PARAM_INTERP_FD,
    PARAM_REPORT_FD,    /* write end of the report pipe, or -1: nobody listens (in place) */
    PARAM_BINARY_FD,    /* what a handler of binfmt_misc gets open; -1: nothing */
    PARAM_BLOB,         /* the blob's area [BLOB, BLOB_END), page aligned */
    PARAM_VDSO,         /* vvar and vdso as the parent has them: [VDSO, VDSO_END) */
    PARAM_VDSO_END,
    PARAM_VDSO_NEW,     /* where they shall be */
    PARAM_TASK_END,     /* end of user space */
    PARAM_DATA,         /* the start's data bytes, inside the area */
    /* from here on computed by the host */
    PARAM_BLOB_END,
    PARAM_STACK_LOW,    /* start of the stack's mapping */
    PARAM_STACK_SIZE,
    PARAM_SP,           /* the initial stack pointer: the address of argc */
    PARAM_IMAGE_AT,     /* where the stack's contents go: SP, or 8 below it */
    PARAM_IMAGE,        /* those contents, in the area */
    PARAM_IMAGE_SIZE,
    PARAM_RANDOM,       /* addresses on the new stack: 16 random bytes, path, platform */
    PARAM_EXECFN,
    PARAM_PLATFORM,
    PARAM_MM,           /* struct prctl_mm_map, inside the area */
    PARAM_RSEQ,         /* this thread's rseq area; 0: none registered */
    PARAM_RSEQ_SIZE,
    PARAM_EXECFD_AT,    /* the value of AT_EXECFD in IMAGE; 0: there is none */
    PARAM_COUNT
};

enum refl_kind {
    OP_CALL,            /* system call nr(arg[0..5]) */
    OP_UNMAP,           /* munmap [arg0, arg1); nothing to do if empty */
    OP_ZERO,            /* arg1 bytes at arg0 */
    OP_COPY,            /* arg2 bytes from arg1 to arg0 */
    OP_SIGNALS,         /* every handler to SIG_DFL, ignored stay ignored unless bit (signal - 1) of arg0 is set */
    OP_CLOEXEC, /* close descriptors marked close-on-exec, but arg0 to arg3: executable, interpreter, report, binary */
    OP_CHOOSE, /* write to arg4 the lowest descriptor that is free once arg0 to arg3 are */
    OP_HAND_OVER, /* make arg3 that descriptor, as *arg4 says; close the others of the four */
    OP_COUNT
};

enum refl_flag {
    OP_EXACT = 1, /* the result must be arg[0] (OP_CALL) or arg[4] with OP_EXACT_4: mmap and mremap to a place */
    OP_EXACT_4 = 2,
    OP_MAY_FAIL = 4, /* a negative result is no failure */
    OP_IF_ARG0 = 8, /* skipped when arg[0] is 0 */
};

struct refl_op {
    uint16_t kind;
    uint16_t flags;
    uint16_t nr; /* system call number, OP_CALL */
    uint16_t step; /* the plan's step it belongs to, for the report */
    uint8_t param[6]; /* enum refl_parameter, added to arg[i] */
    uint8_t pad[2];
    uint64_t arg[6];
};
_Static_assert(sizeof(struct refl_op) == 64, "encode.py packs 64 bytes an operation");

/* One entry of the auxiliary vector: value is a constant plus a parameter. */
struct refl_aux {
    uint64_t type;
    uint64_t value;
    uint64_t param;
};
_Static_assert(sizeof(struct refl_aux) == 24, "encode.py packs 24 bytes an entry");

/* What the blob writes to the report pipe when an operation fails; 24 bytes, below PIPE_BUF, hence whole or not at all. */
struct refl_report {
    uint32_t step;
    int32_t error; /* errno, positive */
    uint32_t kind;
    uint32_t nr;
    uint64_t arg0;
};
_Static_assert(sizeof(struct refl_report) == 24, "run.py unpacks 24 bytes");

/* linux/prctl.h: struct prctl_mm_map */
struct refl_mm {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk;
    uint64_t start_stack, arg_start, arg_end, env_start, env_end;
    uint64_t auxv;
    uint32_t auxv_size, exe_fd;
};
_Static_assert(sizeof(struct refl_mm) == 104, "the kernel's layout");

/*
 * The blob's area: one page of code, whose last REFL_FRAME_ROOM bytes are the frame (so that a single page suffices where the
 * last step can't unmap it), then its stack, then everything the job points to.
 */
#define REFL_FRAME_ROOM 512u
#define REFL_BLOB_STACK 8192u

/* The blob's argument. */
struct refl_job {
    const struct refl_op *ops; /* with parameters added */
    uint64_t count;
    uint64_t frame; /* the ucontext that is the new program's initial state */
    uint64_t drop; /* what the tail unmaps: all of the area but the code's page, or nothing */
    uint64_t drop_size;
    int64_t report_fd; /* -1: nobody listens */
};

#endif
