"""What the dynamic linker reads of a file: its dynamic section, found by program headers alone (gabi, "Dynamic Section")."""

from __future__ import annotations

import os
from struct import Struct

from ..values import Value
from .image import ElfImage, read_at

PT_DYNAMIC = 2
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_RPATH, DT_TEXTREL, DT_BIND_NOW = 1, 5, 10, 14, 15, 22, 24
DT_RUNPATH, DT_FLAGS, DT_FLAGS_1 = 29, 30, 0x6FFFFFFB
DF_TEXTREL, DF_BIND_NOW = 4, 8
DF_1_NOW, DF_1_NODEFLIB = 1, 0x800
ENTRY = Struct("<qQ")  # Elf64_Dyn
TABLE_MOST = 1 << 20


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


def read(fd: int, image: ElfImage) -> Dynamic | None:
    """The dynamic section of an open file; None if it has none. Raises LoadError where reading fails."""
    header = next((segment for segment in image.segments if segment.type == PT_DYNAMIC), None)
    if header is None:
        return None
    data = read_at(fd, min(header.filesz, TABLE_MOST), file_offset(image, header.vaddr, header.offset), image.path)
    entries: list[tuple[int, int]] = []
    for tag, value in ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size]):
        if not tag:
            break
        entries.append((tag, value))
    last = dict(entries)
    strings = read_at(fd, min(last.get(DT_STRSZ, 0), TABLE_MOST), file_offset(image, last.get(DT_STRTAB, 0), 0), image.path)

    def text(tag: int) -> str | None:
        return string(strings, last[tag]) if tag in last else None

    flags, flags_1 = last.get(DT_FLAGS, 0), last.get(DT_FLAGS_1, 0)
    return Dynamic(
        tuple(string(strings, value) for tag, value in entries if tag == DT_NEEDED),
        text(DT_SONAME), text(DT_RPATH), text(DT_RUNPATH), flags, flags_1,
        DT_TEXTREL in last or bool(flags & DF_TEXTREL),
        DT_BIND_NOW in last or bool(flags & DF_BIND_NOW or flags_1 & DF_1_NOW),
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
