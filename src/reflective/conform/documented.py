"""What differs under reflective and can't be helped in user space: rows of docs/kernel-parity.md. Anything else is a bug."""

from __future__ import annotations

import os
import re
import sys

from ..native.prepare import may_set_exe
from .start import Difference

Documented = dict[str, tuple[str, str]]  # property: what reflective may have there (a pattern), and why

ALWAYS: Documented = {
    "registers.rflags.ZF": ("1", "the last munmap is issued from the vdso, whose code goes on to clear registers by xor"),
    "registers.rflags.PF": ("1", "the last munmap is issued from the vdso, whose code goes on to clear registers by xor"),
    "stack.word just below sp": ("the entry address", "that code in the vdso returns to it"),
    "maps.own": (r"\[anon:reflective: (mmap base|unnamed)\] ---p", "gives each child of one process its own mmap base"),
    "stat.flags.PF_FORKNOEXEC": ("1", "set by fork, cleared by execve alone"),
    "stat.flags.PF_SUPERPRIV": ("0|1", "has used a privilege: fork forgets it, setting /proc/self/exe uses one"),
}

# CPython ignores these before the loader's first line runs; what they were before, nobody can tell then.
UNKNOWABLE_IN_PYTHON: Documented = {
    "signals.action 13": (r"\[0, 0, 0, 0\]", "CPython overwrites what SIGPIPE was before any line of ours runs"),
    "signals.action 25": (r"\[0, 0, 0, 0\]", "CPython overwrites what SIGXFSZ was before any line of ours runs"),
    "status.SigIgn": ("0+", "CPython overwrites what SIGPIPE and SIGXFSZ were before any line of ours runs"),
    "stat.sigignore": ("0", "CPython overwrites what SIGPIPE and SIGXFSZ were before any line of ours runs"),
}
OTHER_EXE = rf"{re.escape(os.path.realpath(sys.executable))}|/memfd:reflective \(deleted\)"  # by fork, by a zygote
UNPRIVILEGED: Documented = {"proc.exe": (OTHER_EXE, "setting it takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN")}


EVERY: Documented = ALWAYS | UNKNOWABLE_IN_PYTHON | UNPRIVILEGED


def table(situation: str = "") -> Documented:
    """What may differ in a situation (situations.py), for the user that this process is."""
    signals = UNKNOWABLE_IN_PYTHON if situation == "ignored SIGPIPE" else {}
    return ALWAYS | signals | ({} if may_set_exe() else UNPRIVILEGED)


def why(difference: Difference, table: Documented) -> str:
    """Why this difference is there; "" if it is not documented, or not with this value."""
    pattern, reason = table.get(difference.name, ("", ""))
    return reason if pattern and re.fullmatch(pattern, str(difference.loader)) else ""
