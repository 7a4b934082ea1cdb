"""What execve resets in the task itself: fs/exec.c: begin_new_exec, and what it calls.

What fork has reset already (POSIX timers, pending signals, parent-death signal, syscall user dispatch) matters only in place.
What needs a loop has a step of its own; the alternate signal stack goes with the final rt_sigreturn.
"""

from __future__ import annotations

from .steps import Call

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SYSCALL_USER_DISPATCH = 1, 4, 8, 59
ARCH_SET_GS, ARCH_SET_FS, ARCH_SET_CPUID = 0x1001, 0x1002, 0x1012
RSEQ_UNREGISTER, RSEQ_SIGNATURE = 1, 0x53053053
CLONE_FILES = 0x400
CONSTANTS = {
    ("prctl", PR_SET_DUMPABLE): "PR_SET_DUMPABLE",
    ("prctl", PR_SET_KEEPCAPS): "PR_SET_KEEPCAPS",
    ("prctl", PR_SET_SYSCALL_USER_DISPATCH): "PR_SET_SYSCALL_USER_DISPATCH",
    ("arch_prctl", ARCH_SET_GS): "ARCH_SET_GS",
    ("arch_prctl", ARCH_SET_FS): "ARCH_SET_FS",
    ("arch_prctl", ARCH_SET_CPUID): "ARCH_SET_CPUID",
    ("unshare", CLONE_FILES): "CLONE_FILES",
    ("rseq", RSEQ_UNREGISTER): "RSEQ_FLAG_UNREGISTER",
    ("rseq", RSEQ_SIGNATURE): "RSEQ_SIG",
}
EMPTY_TLS = tuple(f"tls{i}" for i in range(3))

TASK: tuple[Call, ...] = (
    Call("rseq", ("rseq", "rseq_size", RSEQ_UNREGISTER, RSEQ_SIGNATURE), "restartable sequences: the area is about to go"),
    Call("set_robust_list", (0, 24), "robust futexes: none yet"),
    Call("set_tid_address", (0,), "where the kernel clears the thread id: nowhere yet"),
    Call("prctl", (PR_SET_KEEPCAPS, 0), "SECBIT_KEEP_CAPS is cleared by execve"),
    Call("prctl", (PR_SET_DUMPABLE, 1), "the new program may be traced and dumped"),
    Call("arch_prctl", (ARCH_SET_CPUID, 1), "the cpuid instruction works again", optional=True),
    *(Call("set_thread_area", (slot,), "a 32-bit TLS descriptor: empty", optional=True) for slot in EMPTY_TLS),
)

IN_PLACE: tuple[Call, ...] = (
    Call("unshare", (CLONE_FILES,), "a descriptor table of its own"),
    Call("munlockall", (), "locked memory, also of the future"),
    Call("prctl", (PR_SET_SYSCALL_USER_DISPATCH, 0), "syscall user dispatch: off", optional=True),
)

SEGMENT_BASES: tuple[Call, ...] = (
    Call("arch_prctl", (ARCH_SET_GS, 0), "GS base 0"),
    Call("arch_prctl", (ARCH_SET_FS, 0), "FS base 0: no thread control block yet"),
)
