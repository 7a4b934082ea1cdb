"""The slots that a dynamic linker fills: what the relocations of an ELF file say, as ld.so finds them.

Everything is found through PT_DYNAMIC, by link-time address (elf/dynamic-link.h: elf_get_dynamic_info); section headers only
give a slot's section its name. A static executable that is not position-independent has no PT_DYNAMIC, and its start-up code
finds its IRELATIVE relocations by symbols of the linker's: there, and only there, the sections are read instead.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from struct import Struct

from ..errors import LoadError, load_error
from ..values import Value
from . import dynamic, sections, versions
from .image import PT_GNU_RELRO, ElfImage, Segment
from .image import read as read_image
from .memory import Memory
from .sections import Section

NONE, ABS64, COPY, GLOB_DAT, JUMP_SLOT, RELATIVE = 0, 1, 5, 6, 7, 8  # R_X86_64_*
DTPMOD64, DTPOFF64, TPOFF64, TLSDESC, IRELATIVE = 16, 17, 18, 36, 37
TYPES = {
    NONE: "NONE", ABS64: "64", 2: "PC32", COPY: "COPY", GLOB_DAT: "GLOB_DAT", JUMP_SLOT: "JUMP_SLOT", RELATIVE: "RELATIVE",
    10: "32", DTPMOD64: "DTPMOD64", DTPOFF64: "DTPOFF64", TPOFF64: "TPOFF64", 33: "SIZE64", TLSDESC: "TLSDESC",
    IRELATIVE: "IRELATIVE",
}  # fmt: skip
JMPREL, RELA, RELR = "jmprel", "rela", "relr"

DT_NEEDED, DT_PLTRELSZ, DT_PLTGOT, DT_STRTAB, DT_SYMTAB, DT_RELA = 1, 2, 3, 5, 6, 7
DT_RELASZ, DT_RELAENT, DT_STRSZ, DT_SYMENT, DT_SONAME, DT_PLTREL, DT_DEBUG = 8, 9, 10, 11, 14, 20, 21
DT_JMPREL, DT_RELRSZ, DT_RELR, DT_RELRENT = 23, 35, 36, 37
DT_GNU_PRELINKED, DT_VERSYM = 0x6FFFFDF5, 0x6FFFFFF0
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
STB_WEAK = 2
SHT_RELA = 4

ADDEND_RELOCATION = Struct("<QIIq")  # Elf64_Rela, its r_info split: type, symbol
SYMBOL = Struct("<IBBHQQ")  # Elf64_Sym
WORD = 8
RESERVED = 3 * WORD  # in front of DT_PLTGOT's first slot: the dynamic section, the link_map, the resolver
ENTRY_SIZES = {
    DT_RELAENT: (ADDEND_RELOCATION.size, "DT_RELAENT"),
    DT_SYMENT: (SYMBOL.size, "DT_SYMENT"),
    DT_RELRENT: (WORD, "DT_RELRENT"),
    DT_PLTREL: (DT_RELA, "DT_PLTREL"),
}


class Slot(Value):
    """A place that the dynamic linker writes to.

    `index` counts within `table` (-1 in "relr", which has no entries of its own); `type` is R_X86_64_*; `offset` the link-time
    address; `file` the 8 bytes that the file holds there, little-endian, 0 in .bss. `symbol` and `version` are "" where there
    is none; `weak`: a symbol that may stay undefined; `size` is its st_size, which for COPY are the bytes copied; `stub` the
    link-time address to which a lazily bound slot points until its first call, 0 if there is none.
    """

    index: int
    table: str
    type: int
    offset: int
    addend: int
    symbol: str
    version: str
    file: int
    weak: bool = False
    size: int = 0
    stub: int = 0


class Slots(Value):
    """The slots of one file, in the order of their tables: DT_RELR, DT_RELA, DT_JMPREL; all addresses are link-time ones.

    `pltgot` is DT_PLTGOT, whose words 1 and 2 ld.so fills with the link_map and the resolver; `relro` (address, bytes) what is
    made read-only after relocation; `dynamic` the address of the dynamic section, `debug` of DT_DEBUG's value in it (0: it has
    none), where ld.so puts the address of its r_debug. `relative` counts the RELATIVE relocations, DT_RELR's included: whether
    they are among `slots` too is up to `read`.
    """

    path: str
    slots: tuple[Slot, ...]
    pltgot: int
    relro: tuple[int, int] | None
    bind_now: bool
    soname: str
    needed: tuple[str, ...]
    type: int
    entry: int
    interpreter: str | None
    loads: tuple[Segment, ...]
    dynamic: int
    debug: int
    prelinked: bool
    relative: int
    sections: tuple[Section, ...]

    def section(self, address: int) -> str:
        """The name of the section at a link-time address, "" if the file does not say."""
        return next((one.name for one in self.sections if one.address <= address < one.address + one.size), "")


def read(path: str | os.PathLike[str], *, relative: bool = False, name: str = "") -> Slots:
    """The slots of a file; those of RELATIVE relocations, which name no symbol and are many, only if asked for.

    `name` is what to call the file if its path is one in /proc. Raises LoadError: what opening gives; ENOEXEC for a file that
    is no program or library for x86-64, or whose tables do not fit into it: the message names the field and what it holds.
    """
    name = name or os.fspath(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise load_error(error.errno or errno.EIO, f"can't be opened: {error.strerror}", name) from None
    try:
        return _File(fd, read_image(fd, name)).slots(relative)
    finally:
        os.close(fd)


class _File(Memory):
    def __init__(self, fd: int, image: ElfImage) -> None:
        super().__init__(fd, image)
        self.dynamic = dynamic.header_of(image)
        self.tags: dict[int, int] = {}
        self.needed: list[int] = []
        self.debug = 0
        self._read_dynamic()
        self.strings = dynamic.strings(self, self.tags)
        self.versions = self._versions() if DT_VERSYM in self.tags else {}
        self.sections = _sections(fd, image)

    def string(self, offset: int, what: str) -> str:
        end = self.strings.find(b"\0", offset)
        if end < 0:
            raise self.bad(f"{what}: no string at {offset:#x} in DT_STRTAB, which has {len(self.strings)} bytes")
        return self.strings[offset:end].decode(errors="backslashreplace")

    def slots(self, relative: bool) -> Slots:
        image, tags = self.image, self.tags
        rows = list(self._rows())
        relr = list(self._relr())
        found = list(self._slots([row for row in rows if relative or row[2] != RELATIVE], relr if relative else []))
        relro = next(reversed(image.of_type(PT_GNU_RELRO)), None)
        return Slots(
            path=self.path,
            slots=tuple(found),
            pltgot=tags.get(DT_PLTGOT, 0),
            relro=(relro.vaddr, relro.memsz) if relro else None,
            bind_now=dynamic.bind_now(tags),
            soname=self.string(tags[DT_SONAME], "DT_SONAME") if DT_SONAME in tags else "",
            needed=tuple(self.string(offset, "DT_NEEDED") for offset in self.needed),
            type=image.type,
            entry=image.entry,
            interpreter=image.interpreter,
            loads=tuple(image.loads),
            dynamic=self.dynamic.vaddr if self.dynamic else 0,
            debug=self.debug,
            prelinked=DT_GNU_PRELINKED in tags,
            relative=sum(row[2] == RELATIVE for row in rows) + len(relr),
            sections=self.sections,
        )

    def _read_dynamic(self) -> None:
        for address, tag, value in dynamic.entries(self, self.dynamic) if self.dynamic else ():
            if tag == DT_NEEDED:
                self.needed.append(value)
            if tag == DT_DEBUG:
                self.debug = address + WORD
            self.tags[tag] = value  # the last counts
            right, name = ENTRY_SIZES.get(tag, (value, ""))
            if value != right:
                raise self.bad(f"{name} at {address:#x} is {value}, not {right}")

    def _table(self, address: int, size: int, entry: int, name: str) -> bytes:
        """A table of the dynamic section's. Both tags are needed, as for ld.so."""
        if address not in self.tags or not self.tags.get(size):
            return b""
        if self.tags[size] % entry:
            raise self.bad(f"{name}: its size is {self.tags[size]}, no multiple of {entry}")
        return self.at(self.tags[address], self.tags[size], name)

    def _rows(self) -> Iterator[tuple[str, int, int, int, int, int]]:
        """Table, index, type, symbol, offset, addend."""
        entry = ADDEND_RELOCATION.size
        tables = [
            (RELA, self._table(DT_RELA, DT_RELASZ, entry, "DT_RELA")),
            (JMPREL, self._table(DT_JMPREL, DT_PLTRELSZ, entry, "DT_JMPREL")),
        ]
        if self.dynamic is None:
            parts = [one for one in self.sections if one.type == SHT_RELA]
            tables = [(JMPREL, self.content(one.offset, one.size // entry * entry, one.name)) for one in parts]
        begin, size = self.tags.get(DT_JMPREL, 0), self.tags.get(DT_PLTRELSZ, 0)
        inside = range(begin - self.tags.get(DT_RELA, 0), begin - self.tags.get(DT_RELA, 0) + size, entry)
        for table, data in tables:
            for index, (offset, kind, symbol, addend) in enumerate(ADDEND_RELOCATION.iter_unpack(data)):
                # Some linkers count DT_JMPREL into DT_RELASZ (elf/dynamic-link.h: _ELF_DYNAMIC_DO_RELOC).
                if kind != NONE and not (table == RELA and index * entry in inside):
                    yield table, index, kind, symbol, offset, addend

    def _relr(self) -> Iterator[int]:
        """The addresses that DT_RELR stands for: elf/dynamic-link.h: elf_dynamic_do_relr."""
        where = last = 0
        for (entry,) in Struct("<Q").iter_unpack(self._table(DT_RELR, DT_RELRSZ, WORD, "DT_RELR")):
            if entry & 1:
                addresses = [where + bit * WORD for bit in range(63) if entry >> bit + 1 & 1]
                where += 63 * WORD
            else:
                addresses, where = [entry], entry + WORD
            for address in addresses:
                load = self.home(address)
                if address < last or load is None or address - load.vaddr + WORD > load.filesz:
                    raise self.bad(f"DT_RELR: entry {entry:#x} relocates {address:#x}, out of order or outside the file")
                last = address + WORD
                yield address

    def _slots(self, rows: list[tuple[str, int, int, int, int, int]], relr: list[int]) -> Iterator[Slot]:
        pltgot = self.tags.get(DT_PLTGOT, 0)
        words = self._words([row[4] for row in rows] + relr)
        plt = self._words([pltgot + WORD])[pltgot + WORD] if pltgot and self.home(pltgot + WORD) else 0
        for address in relr:
            yield Slot(-1, RELR, RELATIVE, address, words[address], "", "", words[address])
        highest = max((row[3] for row in rows), default=0)
        symbols = self.at(self.tags.get(DT_SYMTAB, 0), (highest + 1) * SYMBOL.size, "DT_SYMTAB") if highest else b""
        indices = b""
        if highest and self.versions:
            indices = self.at(self.tags[DT_VERSYM], (highest + 1) * 2, "DT_VERSYM")
        known: dict[int, tuple[str, str, bool, int]] = {0: ("", "", False, 0)}
        for table, index, kind, number, offset, addend in rows:
            if number not in known:
                name, info, _, _, _, size = SYMBOL.unpack_from(symbols, number * SYMBOL.size)
                version = int.from_bytes(indices[number * 2 : number * 2 + 2], "little") & ~versions.HIDDEN
                text = self.string(name, f"st_name of symbol {number}")
                known[number] = text, self.versions.get(version, ""), info >> 4 == STB_WEAK, size
            symbol, name, weak, size = known[number]
            stub = _stub(offset, words[offset], plt, pltgot) if kind == JUMP_SLOT else 0
            yield Slot(index, table, kind, offset, addend, symbol, name, words[offset], weak, size, stub)

    def _words(self, addresses: list[int]) -> dict[int, int]:
        """The 8 bytes in the file at each address, 0 behind it; each PT_LOAD is read once, from its first slot to its last."""
        found: dict[int, int] = {}
        rest = set(addresses)
        for load in reversed(self.image.loads):
            mine = sorted(one for one in rest if load.vaddr <= one < load.vaddr + load.memsz)
            rest.difference_update(mine)
            if not mine:
                continue
            begin, end = mine[0] - load.vaddr, min(mine[-1] - load.vaddr + WORD, load.filesz)
            data = (
                self.content(load.offset + begin, end - begin, f"PT_LOAD (program header {load.index})")
                if end > begin
                else b""
            )
            for address in mine:
                place = address - mine[0]
                found[address] = int.from_bytes(data[place : place + WORD], "little")
        if rest:
            raise self.bad(f"a relocation's r_offset is {min(rest):#x}, which is in no PT_LOAD")
        return found

    def _versions(self) -> dict[int, str]:
        """Names of the symbol versions, by index; 0 and 1 (local, global) have none."""
        rows = (
            (DT_VERNEED, DT_VERNEEDNUM, "vna_name", versions.needed),
            (DT_VERDEF, DT_VERDEFNUM, "vda_name", versions.defined),
        )
        found: dict[int, str] = {}
        for table, count, what, walk in rows:
            try:
                if self.tags.get(table):
                    names = walk(self.at, self.tags[table], self.tags.get(count, 0))
                    found |= {index: self.string(name, what) for index, name in names}
            except ValueError as error:
                raise self.bad(str(error)) from None
        return found


def _stub(offset: int, file: int, plt: int, pltgot: int) -> int:
    """Mostly what the file holds. In a prelinked one that is a function's address in an earlier layout, and word 1 of the GOT
    is the stub of the first slot (sysdeps/x86_64/dl-machine.h: elf_machine_lazy_rel); stubs have 16 bytes, slots 8.
    """
    return plt + 2 * (offset - pltgot - RESERVED) if plt else file


def _sections(fd: int, image: ElfImage) -> tuple[Section, ...]:
    """Those that are in memory; none if section headers are missing or wrong."""
    try:
        return tuple(one for one in sections.read(fd, image) if one.placed and one.size)
    except LoadError:
        return ()
