"""What can be attached to, and why a process can't be: from what /proc says of it."""

from __future__ import annotations

import os
import pwd

from ..errors import SessionError

ELFCLASS32 = 1
PF_KTHREAD = 0x00200000  # linux/sched.h


def tasks(pids: list[int], follow: bool) -> list[int]:
    """The leaders of the processes, then, if asked for, their other threads. SessionError says which is not there."""
    threads = []
    for pid in pids:
        try:
            threads += [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid] if follow else []
            os.stat(f"/proc/{pid}")
        except OSError:
            raise SessionError(f"there is no process {pid} (pgrep NAME finds a program's)") from None
    return [*pids, *threads]


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return {}


def _kernel_thread(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return bool(int(file.read().rpartition(")")[2].split()[6]) & PF_KTHREAD)
    except OSError:
        return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _yama() -> int:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            return int(file.read())
    except OSError:
        return 0


def refusal(pid: int, error: OSError, command: str = "reflective trace") -> str:
    """Why PTRACE_SEIZE was refused, and the way out (kernel/ptrace.c: ptrace_attach, __ptrace_may_access)."""
    status = _status(pid)
    name = f"process {pid} ({status.get('Name', '?')})"
    if not status:
        return f"process {pid} has just ended: nothing is left to trace"
    if status.get("Tgid") == str(os.getpid()):
        return f"process {pid} is this very process, which can't trace itself: trace it from another one"
    if status["State"].startswith(("Z", "X")):
        parent = status.get("PPid", "?")
        return (
            f"{name} has ended, and waits for its parent {parent} to take note (a zombie): nothing is left to trace; "
            f"{command} -p {parent} shows the parent"
        )
    if _kernel_thread(pid):
        return f"{name} is a thread of the kernel, which has no program: see perf top, or /proc/{pid}/stack"
    tracer = status.get("TracerPid", "0")
    if tracer != "0":
        by = _status(int(tracer))  # a thread
        whose = f"process {by.get('Tgid', tracer)} ({by.get('Name', '?')})"
        return f"{name} is already traced by {whose}: a process has one tracer; end that one first"
    owner = int(status.get("Uid", "0").split()[0])
    if owner != os.geteuid():
        return f"{name} is {_user(owner)}'s, and you are {_user(os.geteuid())}: try sudo {command} -p {pid}"
    scope = _yama()
    if scope:
        return f"{name} may not be traced: kernel.yama.ptrace_scope is {scope}; try as root" + (
            f", sysctl kernel.yama.ptrace_scope=0, or start the program by {command}" if scope < 3 else ""
        )
    return f"{name} may not be traced ({error.strerror}): it has privileges of its own, or ptrace is filtered; try as root"


def bits(pid: int) -> int:
    """32 or 64: what the process runs; 64 if that can't be told."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            return 32 if file.read(5) == b"\x7fELF" + bytes([ELFCLASS32]) else 64
    except OSError:
        return 64
