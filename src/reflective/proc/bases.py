"""Where the parts of a freshly started program begin, from /proc/PID/maps and /proc/PID/stat."""

from __future__ import annotations

import os
import re

START_STACK, START_BRK = 28, 47  # man 5 proc_pid_stat
PAGE = 4096
LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)$", re.MULTILINE)


def read(pid: int, entry: int, interpreter: int) -> dict[str, int]:
    """The base of every region of a program that stands at its entry. Raises OSError.

    `entry` is AT_ENTRY and `interpreter` AT_BASE: which objects are the executable and the interpreter follows from them.
    """
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
        text = file.readall()
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        fields = file.readall().rpartition(b")")[2].split()
    return of(text, entry, interpreter, int(fields[START_BRK - 3]), int(fields[START_STACK - 3]))


def of(maps: bytes, entry: int, interpreter: int, brk: int, stack_pointer: int) -> dict[str, int]:
    """The same from what has been read: the executable first, then what lies above it, then what was computed.

    "mmap base" is the end of the highest mapping below the stack; "heap" is start_brk, which is there before the first brk();
    "heap gap" lies between the executable's last mapping and the heap.
    """
    first: dict[str, int] = {}
    executable, own, end, top, stack = b"", b"", 0, 0, 0
    for start, stop, flags, inode, name in LINE.findall(maps):
        low, high = int(start, 16), int(stop, 16)
        if low <= entry < high:
            executable = name
        if name and name == executable:
            end = high
        if low == interpreter:
            first["interpreter"], own = low, name
        elif name[:1] == b"/":
            first.setdefault(os.fsdecode(name), low)
        elif name == b"[vdso]":
            first["vdso"] = low
        elif name == b"[stack]":
            stack = high
        if not stack and not (flags == b"---p" and inode == b"0"):  # which is what covers our own mmap base
            top = high
    base = first.pop(os.fsdecode(executable), 0)
    if own[:1] == b"/":
        first.pop(os.fsdecode(own), None)  # its first mapping, at AT_BASE, has been counted
    return {
        "executable": base,
        **{_short(name): low for name, low in first.items()},
        "mmap base": top,
        "stack": stack,
        "stack pointer": stack_pointer,
        "heap": brk,
        "heap gap": brk - (end + PAGE - 1 & -PAGE),
    }


def _short(name: str) -> str:
    return os.path.basename(name) if name.startswith("/") else name
