"""Which ELF files are loaded in a process, and where, from its maps alone: no dynamic linker is asked.

So it is true before the linker has run, without one, and for one that keeps no link_map chain.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO

from ..elf import relocations, symbols
from ..elf.image import PAGE, PF_X, Segment
from ..elf.relocations import Slots
from ..elf.symbols import Symbols
from ..errors import LoadError
from ..values import Value
from .maps import Mapping, at
from .memory import Memory

VDSO, DELETED = "[vdso]", " (deleted)"
PROT_EXEC = 4


class Loaded(Value):
    """A file that is loaded: `bias` is what was added to its addresses. `file` is a path by which this process can open it.

    If the file can't be read, because it has been deleted or replaced, `slots` is None and `note` says so.
    """

    path: str
    bias: int
    slots: Slots | None
    file: str
    note: str


def read(pid: int, space: Sequence[Mapping]) -> tuple[Loaded, ...]:
    """Every loaded file, by address. The same file may be there twice (dlmopen)."""
    files: dict[tuple[int, int], list[Mapping]] = {}
    for mapping in space:
        if mapping.file and mapping.path.startswith("/"):
            files.setdefault((mapping.device, mapping.inode), []).append(mapping)
    found = [one for mappings in files.values() for one in _file(pid, mappings, tuple(space))]
    return tuple(sorted(found, key=lambda one: one.bias + _lowest(one)))


def tables(pid: int, space: Sequence[Mapping], wanted: Sequence[Loaded]) -> dict[str, Symbols]:
    """The symbols of loaded files, and of the vdso, by path; what has none, or broken ones, is left out."""
    found: dict[str, Symbols] = {}
    for one in wanted:
        try:
            found[one.path] = symbols.of(one.file)
        except LoadError:
            continue
    place = next((mapping for mapping in space if mapping.path == VDSO), None)
    if place:
        with Memory(pid) as memory:
            image = memory.read(place.start, place.end - place.start)
        with suppress(LoadError):
            found[VDSO] = symbols.read(BytesIO(image), VDSO)
    return found


def _lowest(one: Loaded) -> int:
    return min((load.vaddr for load in one.slots.loads), default=0) if one.slots else 0


def _file(pid: int, mappings: list[Mapping], space: tuple[Mapping, ...]) -> Iterator[Loaded]:
    """Every place where one file is loaded."""
    first = mappings[0]
    file = _open_by(pid, first)
    code = any(mapping.prot & PROT_EXEC for mapping in mappings)
    if not file:
        if code:
            yield Loaded(first.path, first.start - first.offset, None, "", "the file has been deleted or replaced since")
        return
    try:
        slots = relocations.read(file, name=first.path)
    except LoadError as error:
        if code and "not an ELF file" not in error.reason:
            yield Loaded(first.path, first.start - first.offset, None, file, error.reason)
        return
    for mapping in mappings:
        if slots.loads and mapping.offset == slots.loads[0].offset & -PAGE:
            bias = mapping.start - (slots.loads[0].vaddr & -PAGE)
            if all(_mapped(load, bias, first, space) for load in slots.loads if load.filesz):
                yield Loaded(first.path, bias, slots, file, "")


def _mapped(load: Segment, bias: int, file: Mapping, space: tuple[Mapping, ...]) -> bool:
    """True if a segment lies there. A file that is merely mapped, to be read, has no code there."""
    start = load.vaddr + bias & -PAGE
    there = at(space, start)
    if there is None or (there.inode, there.device) != (file.inode, file.device):
        return False
    right = there.offset + start - there.start == load.offset & -PAGE
    return right and (not load.flags & PF_X or bool(there.prot & PROT_EXEC))


def _open_by(pid: int, mapping: Mapping) -> str:
    """A path to the very file that is mapped: its own, seen from the process, or the kernel's for the mapping; else ""."""
    for path in (f"/proc/{pid}/root{mapping.path}", f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"):
        try:
            if os.stat(path).st_ino == mapping.inode:
                return path
        except OSError:
            continue
    return ""
