"""What section headers add for people: the names of sections and functions. A stripped file has fewer, or none; it loads.

symbols.py says more of a file, and takes a hundred times as long: too long for every library that a traced program loads.
"""

from __future__ import annotations

from struct import Struct

from ..values import Value
from .image import HEADER, ElfImage, read_at

SECTION = Struct("<IIQQQQIIQQ")  # Elf64_Shdr
SYMBOL = Struct("<IBBHQQ")  # Elf64_Sym
SHT_SYMTAB, SHT_NOBITS, SHT_DYNSYM, SHF_ALLOC, SHF_TLS = 2, 8, 11, 2, 0x400
STT_FUNC, STT_GNU_IFUNC = 2, 10
SIZE_MOST = 64 << 20


class Section(Value):
    """A section header: where it is in memory, in the file, and which strings it refers to. Sizes in bytes."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int

    @property
    def placed(self) -> bool:
        """True if it takes room in memory at its address; .tbss does not."""
        return bool(self.flags & SHF_ALLOC) and not (self.flags & SHF_TLS and self.type == SHT_NOBITS)


def read(fd: int, image: ElfImage) -> tuple[Section, ...]:
    """The sections of an open file, none if it has no section headers. Raises LoadError where reading fails."""
    fields = HEADER.unpack(read_at(fd, HEADER.size, 0, image.path))
    shoff, shentsize, shnum, shstrndx = fields[6], fields[11], fields[12], fields[13]
    if not shoff or shentsize != SECTION.size:
        return ()
    data = read_at(fd, shnum * SECTION.size, shoff, image.path)
    rows = list(SECTION.iter_unpack(data[: len(data) // SECTION.size * SECTION.size]))
    if shstrndx >= len(rows):
        return ()
    names = _bytes(fd, rows[shstrndx][5], rows[shstrndx][4], image.path)
    return tuple(
        Section(_name(names, name), kind, flags, address, offset, size, link)
        for name, kind, flags, address, offset, size, link, *_ in rows
    )


def functions(fd: int, image: ElfImage, sections: tuple[Section, ...]) -> list[tuple[int, int, str]]:
    """Functions by symbol table: address, size, name, by address; the dynamic symbols where it is stripped."""
    found: dict[int, tuple[int, int, str]] = {}
    for section in sections:
        if section.type not in (SHT_SYMTAB, SHT_DYNSYM) or section.link >= len(sections):
            continue
        table = sections[section.link]
        names = _bytes(fd, table.size, table.offset, image.path)
        data = _bytes(fd, section.size, section.offset, image.path)
        for name, info, _, index, address, size in SYMBOL.iter_unpack(data[: len(data) // SYMBOL.size * SYMBOL.size]):
            if info & 15 in (STT_FUNC, STT_GNU_IFUNC) and index and size and (address not in found or info >> 4 == 1):
                found[address] = (address, size, _name(names, name))
    return sorted(found.values())


def _name(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    return table[offset : end if end >= 0 else len(table)].decode(errors="backslashreplace")


def _bytes(fd: int, size: int, offset: int, path: str) -> bytes:
    return read_at(fd, min(size, SIZE_MOST), offset, path)
