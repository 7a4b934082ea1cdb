"""What the dynamic linker reads of a file: its dynamic section, found by program headers alone (gabi, "Dynamic Section")."""

from __future__ import annotations

import os
from struct import Struct

from ..errors import LoadError
from ..values import Value
from .image import ElfImage, Segment
from .memory import Memory

PT_DYNAMIC = 2
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_RPATH, DT_TEXTREL, DT_BIND_NOW = 1, 5, 10, 14, 15, 22, 24
DT_RUNPATH, DT_FLAGS, DT_FLAGS_1 = 29, 30, 0x6FFFFFFB
DF_TEXTREL, DF_BIND_NOW = 4, 8
DF_1_NOW, DF_1_NODEFLIB = 1, 0x800
ENTRY = Struct("<QQ")  # Elf64_Dyn


class Dynamic(Value):
    """The entries of PT_DYNAMIC that say what is loaded, and from where."""

    needed: tuple[str, ...]
    soname: str | None
    rpath: str | None
    runpath: str | None
    flags: int
    flags_1: int
    textrel: bool
    bind_now: bool

    @property
    def nodeflib(self) -> bool:
        """True if the default directories are not searched (-z nodefaultlib)."""
        return bool(self.flags_1 & DF_1_NODEFLIB)


def header_of(image: ElfImage) -> Segment | None:
    """The last PT_DYNAMIC, as for ld.so (elf/dl-load.c: _dl_map_object_from_fd); None if there is none, or an empty one."""
    return next((one for one in reversed(image.of_type(PT_DYNAMIC)) if one.filesz), None)


def entries(memory: Memory, header: Segment) -> list[tuple[int, int, int]]:
    """Address, d_tag and d_val up to DT_NULL. Raises LoadError if the section is not within a PT_LOAD, or not in the file."""
    data = memory.at(header.vaddr, header.filesz & -ENTRY.size, f"PT_DYNAMIC (program header {header.index})")
    rows = [(header.vaddr + number * ENTRY.size, *row) for number, row in enumerate(ENTRY.iter_unpack(data))]
    return rows[: next((number for number, (_, tag, _) in enumerate(rows) if not tag), len(rows))]


def strings(memory: Memory, tags: dict[int, int]) -> bytes:
    """What DT_STRTAB points to. Raises LoadError if that does not fit into the file."""
    return memory.at(tags[DT_STRTAB], tags.get(DT_STRSZ, 0), "DT_STRTAB") if DT_STRTAB in tags else b""


def bind_now(tags: dict[int, int]) -> bool:
    """True if all slots are bound at start (-z now)."""
    return DT_BIND_NOW in tags or bool(tags.get(DT_FLAGS, 0) & DF_BIND_NOW or tags.get(DT_FLAGS_1, 0) & DF_1_NOW)


def read(fd: int, image: ElfImage) -> Dynamic | None:
    """The dynamic section of an open file, as far as it can be read; None if it has none."""
    header, memory = header_of(image), Memory(fd, image)
    if header is None:
        return None
    rows, table = list[tuple[int, int, int]](), b""
    try:
        rows = entries(memory, header)
        table = strings(memory, {tag: value for _, tag, value in rows})
    except LoadError:
        pass
    last = {tag: value for _, tag, value in rows}

    def text(tag: int) -> str | None:
        return string(table, last[tag]) if tag in last else None

    flags = last.get(DT_FLAGS, 0)
    return Dynamic(
        tuple(string(table, value) for _, tag, value in rows if tag == DT_NEEDED),
        text(DT_SONAME), text(DT_RPATH), text(DT_RUNPATH), flags, last.get(DT_FLAGS_1, 0),
        DT_TEXTREL in last or bool(flags & DF_TEXTREL),
        bind_now(last),
    )  # fmt: skip


def file_offset(image: ElfImage, address: int, otherwise: int) -> int:
    """Where in the file the byte is that PT_LOAD puts at a virtual address."""
    for load in image.loads:
        if load.vaddr <= address < load.vaddr + load.filesz:
            return address - load.vaddr + load.offset
    return otherwise


def string(table: bytes, offset: int) -> str:
    """The NUL-terminated string at an offset of a string table."""
    end = table.find(b"\0", offset)
    return os.fsdecode(table[offset : end if end >= 0 else len(table)])
