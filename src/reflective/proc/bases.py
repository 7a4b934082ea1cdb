"""Where the parts of a freshly started program begin, from /proc/PID/maps and /proc/PID/stat."""

from __future__ import annotations

import os

START_STACK, START_BRK = 28, 47  # man 5 proc_pid_stat
PAGE = 4096


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
    executable, end, top, stack = "", 0, 0, 0
    for line in maps.splitlines():
        words = line.split(None, 5)
        low, high = (int(part, 16) for part in words[0].split(b"-"))
        name = os.fsdecode(words[5]) if len(words) == 6 else ""
        if low <= entry < high:
            executable = name
        if name and name == executable:
            end = high
        if low == interpreter:
            first["interpreter"] = low
        elif name.startswith("/"):
            first.setdefault(name, low)
        elif name == "[vdso]":
            first["vdso"] = low
        elif name == "[stack]":
            stack = high
        if not stack and not (words[1] == b"---p" and words[4] == b"0"):  # which is what covers our own mmap base
            top = high
    return {
        "executable": first.pop(executable, 0),
        **{_short(name): low for name, low in first.items() if not _belongs(name, first, interpreter, maps)},
        "mmap base": top,
        "stack": stack,
        "stack pointer": stack_pointer,
        "heap": brk,
        "heap gap": brk - (end + PAGE - 1 & -PAGE),
    }


def _belongs(name: str, first: dict[str, int], interpreter: int, maps: bytes) -> bool:
    """True for the interpreter's path: its first mapping, at AT_BASE, has been counted, its others have the path as well."""
    if not interpreter or not name.startswith("/"):
        return False
    return any(line.startswith(b"%x-" % interpreter) and line.endswith(os.fsencode(name)) for line in maps.splitlines())


def _short(name: str) -> str:
    return os.path.basename(name) if name.startswith("/") else name
