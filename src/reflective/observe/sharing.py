"""Which physical pages two processes share, by page frame numbers.

Pages are held against each other where they mean the same: the same page of the same file (the same link-time address where it
is an ELF file, so that bss counts too); the vdso; anonymous memory at the same address, which a fork leaves its two processes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..elf.image import PAGE
from ..proc.pages import FRAME, PRESENT
from ..values import Value
from .space import Line

KERNELS = ("[vdso]", "[vvar]", "[vvar_vclock]")  # every process has these, each elsewhere


class Pair(Value):
    """`size` bytes that mean the same in both, from `here` on in line `index` of the first, from `there` on in the second."""

    index: int
    here: int
    there: int
    size: int


class Pages(Value):
    """Numbers of pages: present in one, in the other, in both; of these, in one frame or in two. They add up."""

    here: int = 0
    there: int = 0
    both: int = 0
    same: int = 0

    @property
    def differ(self) -> int:
        """Present in both, with a frame for each: one of them has been copied on write, or both."""
        return self.both - self.same

    def __add__(self, other: Pages) -> Pages:
        return Pages(self.here + other.here, self.there + other.there, self.both + other.both, self.same + other.same)


class Shared(Value):
    """A line of the first process's address space, and its pages; None if the second has nothing that means the same."""

    line: Line
    pages: Pages | None


def pairs(first: Sequence[Line], second: Sequence[Line]) -> list[Pair]:
    """What means the same in both address spaces, as far as both have anything in memory there."""
    others: dict[object, list[tuple[int, Line]]] = {}
    known = _files(second)
    for line in second:
        others.setdefault(_identity(line, known), []).append((_position(line), line))
    found = []
    known = _files(first)
    for index, line in enumerate(first):
        at, mapping = _position(line), line.mapping
        for place, other in others.get(_identity(line, known), ()):
            low = max(at, place)
            high = min(at + mapping.end - mapping.start, place + other.mapping.end - other.mapping.start)
            if low < high and _alike(line, other):
                found.append(Pair(index, mapping.start + low - at, other.mapping.start + low - place, high - low))
    return found


def _files(space: Sequence[Line]) -> dict[str, tuple[int, int]]:
    """Which file an object is: its bss, which is anonymous, belongs to that."""
    return {line.object: (line.mapping.device, line.mapping.inode) for line in space if line.mapping.file}


def _identity(line: Line, files: dict[str, tuple[int, int]]) -> object:
    """What two lines must have in common to be compared."""
    if line.segment >= 0:
        return "object", files.get(line.object)
    if line.mapping.file:
        return "file", line.mapping.device, line.mapping.inode
    return "anonymous", line.mapping.path


def _position(line: Line) -> int:
    """Where the line begins, in what its identity names: link-time address, file offset, or address."""
    if line.segment >= 0:
        return line.mapping.start - line.bias
    if line.mapping.path in KERNELS:
        return 0
    return line.mapping.offset if line.mapping.file else line.mapping.start


def _alike(line: Line, other: Line) -> bool:
    """Memory of the same kind: that which is behind a file's end is not compared with the file."""
    return line.mapping.file == other.mapping.file


def count(first: Sequence[int], second: Sequence[int]) -> Pages:
    """Of two equally long stretches of pagemap."""
    here = sum(1 for word in first if word & PRESENT)
    there = sum(1 for word in second if word & PRESENT)
    both = [(a & FRAME, b & FRAME) for a, b in zip(first, second, strict=True) if a & b & PRESENT]
    return Pages(here, there, len(both), sum(1 for a, b in both if a == b))


def shared(first: Sequence[Line], counted: Sequence[tuple[Pair, Pages]]) -> tuple[Shared, ...]:
    """Line by line. What has no counterpart has no pages."""
    sums: dict[int, Pages] = {}
    for pair, pages in counted:
        sums[pair.index] = sums.get(pair.index, Pages()) + pages
    return tuple(Shared(line, sums.get(index)) for index, line in enumerate(first))


def total(lines: Sequence[Shared]) -> Pages:
    """Of all lines that have a counterpart."""
    return sum((one.pages for one in lines if one.pages), Pages())


def in_bytes(pages: int) -> int:
    """Pages in bytes."""
    return pages * PAGE
