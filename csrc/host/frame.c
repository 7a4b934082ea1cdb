/*
 * The state a program starts with, as a signal frame: rt_sigreturn puts it into the registers.
 *
 * arch/x86/kernel/process_64.c: start_thread wants all general registers 0, %rip and %rsp, and interrupts enabled. A null
 * fpstate makes the kernel reset the FPU, the vector registers, MXCSR and PKRU (arch/x86/kernel/fpu/signal.c:
 * fpu__restore_sig), as execve does. The signal mask is the caller's, and the alternate stack none.
 */
#include <string.h>

#include "prepare.h"

enum { SS_OFF = 2 /* SS_DISABLE */, USER_CS = 0x33, USER_SS = 0x2b, FLAGS = 0x202, UC_SS = 6 /* restore ss strictly */ };

/* arch/x86/include/uapi/asm/ucontext.h, sigcontext.h */
struct ucontext {
    uint64_t flags, link;
    uint64_t stack, stack_flags, stack_size;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, eflags;
    uint16_t cs, gs, fs, ss;
    uint64_t error, trap, oldmask, cr2, fpstate, reserved[8];
    uint64_t sigmask;
};
_Static_assert(sizeof(struct ucontext) == 304 && sizeof(struct ucontext) <= REFL_FRAME_ROOM, "the kernel's layout");

void frame_write(uint8_t *frame, uint64_t ip, uint64_t sp, uint64_t call, uint64_t a0, uint64_t a1, uint64_t sigmask)
{
    struct ucontext uc = {
        .flags = UC_SS,
        .stack_flags = SS_OFF,
        .ip = ip,
        .sp = sp,
        .ax = call,
        .di = a0,
        .si = a1,
        .eflags = FLAGS,
        .cs = USER_CS,
        .ss = USER_SS,
        .sigmask = sigmask,
    };
    memcpy(frame, &uc, sizeof uc);
}
