"""Pages of a process, from /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst), and how often a frame is mapped."""

from __future__ import annotations

import os
from array import array

from ..elf.image import PAGE
from ..errors import SessionError
from ..values import Value
from .maps import unreadable

PRESENT, SWAPPED, FILE, GUARD, EXCLUSIVE, SOFT_DIRTY = (1 << bit for bit in (63, 62, 61, 58, 56, 55))
FRAME = (1 << 55) - 1
WORD = 8


class Page(Value):
    """A page. `file`: of a file, or of shared memory; `frame` is the physical page's number, 0 if it is kept from us."""

    present: bool
    swapped: bool
    file: bool
    guard: bool
    exclusive: bool
    frame: int


def entries(pid: int, start: int, end: int) -> array[int]:
    """The words of pagemap for the pages in [start, end); 0 where the file has none. Raises SessionError."""
    count = (end - start) // PAGE
    try:
        fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(fd, count * WORD, start // PAGE * WORD) if start < 1 << 63 else b""
        finally:
            os.close(fd)
    except OSError as error:
        raise unreadable(pid, "pagemap", error) from None
    return array("Q", data[: len(data) & -WORD].ljust(count * WORD, b"\0"))


def page(word: int) -> Page:
    """What a word of pagemap says. A page that is not present has no frame: there the bits say where it was swapped to."""
    there = bool(word & PRESENT)
    swapped, file, guard, exclusive = (bool(word & bit) for bit in (SWAPPED, FILE, GUARD, EXCLUSIVE))
    return Page(there, swapped, file, guard, exclusive, word & FRAME if there else 0)


def mapped(frame: int) -> int | None:
    """How often a frame is mapped, in all processes together; None if this process may not know (/proc/kpagecount)."""
    try:
        with open("/proc/kpagecount", "rb", buffering=0) as file:
            file.seek(frame * WORD)
            data = file.read(WORD)
    except OSError:
        return None
    return int.from_bytes(data, "little") if frame and data else None


def check_frames() -> None:
    """Raises SessionError unless pagemap tells this process page frame numbers (fs/proc/task_mmu.c: pagemap_open)."""
    probe = array("Q", [1])  # its own page is present for certain
    at = probe.buffer_info()[0] & -PAGE
    if not page(entries(os.getpid(), at, at + PAGE)[0]).frame:
        raise SessionError(
            "page frame numbers are kept from this process: be root (CAP_SYS_ADMIN in the first user namespace)"
        )
