"""What lies at an address of an ELF file: section and symbol. Addresses are link-time: p_vaddr's, before any load bias.

Symbols come from .symtab, of the file itself or of its separate debug file (by build ID, as gdb finds it), and from the
dynamic symbol table, found through PT_DYNAMIC: a file without section headers has that. PLT entries are read as code: what
jumps through a slot of the GOT is named after the slot's relocation, `name@plt`.
"""

from __future__ import annotations

import errno
import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import partial
from struct import Struct, error, iter_unpack
from typing import IO

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from ..errors import LoadError, load_error
from ..values import Value
from . import versions
from .image import FileIdentity

DEBUG = "/usr/lib/debug/.build-id"
SYMBOL, RELOCATION = "<IBBHQQ", "<QQq"  # Elf64_Sym, Elf64_Rela
SYMBOL_SIZE, RELOCATION_SIZE = 24, 24
KINDS = {0: "NOTYPE", 1: "OBJECT", 2: "FUNC", 5: "COMMON", 10: "IFUNC"}  # STT_*; sections, files and TLS have no address
BINDINGS = {0: "LOCAL", 1: "GLOBAL", 2: "WEAK", 10: "UNIQUE"}  # STB_*
ORDER = {"GLOBAL": 3, "UNIQUE": 3, "WEAK": 2, "LOCAL": 1}
UNDEFINED, RESERVED = 0, 0xFF00  # SHN_UNDEF, SHN_LORESERVE
ALLOC, TLS = 2, 0x400  # SHF_ALLOC, SHF_TLS
IRELATIVE = 37  # R_X86_64_IRELATIVE: the addend is the resolver's address
JUMP, JUMP_SIZE = b"\xff\x25", 6  # jmp *displacement(%rip)
DISPLACEMENT = Struct("<i")
ENTRY_SIZE = 16  # of .plt and .plt.sec, which is also what binutils writes into sh_entsize; .plt.got has 8
# What pyelftools lets out when a file is not what it says.
BROKEN = (ELFError, DWARFError, ConstructError, ValueError, LookupError, TypeError, AttributeError, AssertionError, error,
          ArithmeticError, MemoryError, EOFError)  # fmt: skip


class Section(Value):
    """A section that takes up memory: `size` bytes at link-time `address`; `offset` is where in the file."""

    index: int
    name: str
    address: int
    size: int
    offset: int
    kind: str


class Symbol(Value):
    """A symbol with a link-time address. `version` is "" if it has none, `section` if the file says none; `kind` is the type
    without its STT_, or PLT; `default`: the plain name means this version."""

    name: str
    version: str
    value: int
    size: int
    section: str
    kind: str
    binding: str
    default: bool

    @property
    def label(self) -> str:
        """The name with its version: puts@GLIBC_2.2.5."""
        return f"{self.name}@{self.version}" if self.version and self.kind != "PLT" else self.name


class Symbols:
    """The symbols and sections of one file, in tables that are sorted once."""

    def __init__(self, path: str, build_id: str, debug: str, sections: Iterable[Section], symbols: Iterable[Symbol]) -> None:
        self.path, self.build_id = path, build_id
        self.debug = debug  # where the separate debug file lies; "" if there is none
        self.sections = tuple(sections)
        self._placed = sorted((one for one in self.sections if one.size), key=lambda one: one.address)
        self._starts = [one.address for one in self._placed]
        self._symbols = sorted(symbols, key=_preference)
        self._values = [one.value for one in self._symbols]
        self._reach: list[int] = []  # how far the symbols up to here go, at most
        self._names: dict[str, list[Symbol]] = {}
        reach = 0
        for one in self._symbols:
            reach = max(reach, one.value + one.size)
            self._reach.append(reach)
            self._names.setdefault(one.name, []).append(one)

    def __iter__(self) -> Iterator[Symbol]:
        """All of them, by address."""
        return iter(self._symbols)

    def section(self, address: int) -> Section | None:
        """The section that an address is in."""
        at = bisect_right(self._starts, address) - 1
        return self._placed[at] if at >= 0 and address < self._placed[at].address + self._placed[at].size else None

    def at(self, address: int) -> Symbol | None:
        """The symbol that an address is in: the innermost that has a size; else the last before it, if that has none.

        Of several at one address it is one that other files can see, and that has a type, if there is one.
        """
        last = at = bisect_right(self._values, address) - 1
        while at >= 0 and self._reach[at] > address:
            if address < self._symbols[at].value + self._symbols[at].size:
                return self._symbols[at]
            at -= 1
        if last < 0 or self._symbols[last].size:
            return None
        nearest = self._symbols[last]
        return nearest if nearest.value == address or self.section(nearest.value) == self.section(address) else None

    def named(self, name: str) -> Symbol | None:
        """The symbol of a name, name@VERSION or name@@VERSION; without a version the default one's, global before local."""
        known = self._names.get(name)  # name@plt, and what has an @ of its own
        plain, _, version = name.partition("@")
        version = version.lstrip("@")
        if not known and version:
            known = [one for one in self._names.get(plain, ()) if one.version == version]
        return max(known, key=lambda one: (one.default, *_preference(one)[1:])) if known else None


def _preference(one: Symbol) -> tuple[int, bool, bool, bool, bool, int, int, str]:
    """By address; of those at one address the best comes last: puts rather than _IO_puts, both rather than a local name."""
    common, plain = one.binding != "LOCAL", not one.name.startswith("_")
    return one.value, one.size > 0, common, one.kind != "NOTYPE", plain, ORDER.get(one.binding, 0), -len(one.name), one.name


_known: dict[tuple[str, str, FileIdentity], Symbols] = {}


def of(path: str, root: str = "") -> Symbols:
    """The symbols of a file, read once as long as it stays the same.

    `root` goes before the path, and before that of debug files: /proc/PID/root for what another process sees. Raises
    LoadError: as opening does, or ENOEXEC if it is no ELF file or broken, with what is wrong.
    """
    try:
        fd = os.open(root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            key = (root, path, FileIdentity.of(os.fstat(fd)))
            if key not in _known:
                _known[key] = read(file, path, root)
            return _known[key]
    except LoadError:
        raise
    except OSError as problem:
        raise load_error(problem.errno or errno.EIO, f"can't be read: {problem.strerror}", path) from None


def read(file: IO[bytes], path: str, root: str = "") -> Symbols:
    """The same from an open file, or an image in memory (io.BytesIO): that of the vdso, say. Raises LoadError (ENOEXEC)."""
    try:
        elf = ELFFile(file)
        if elf.elfclass != 64 or not elf.little_endian:
            raise ELFError(f"it is {elf.elfclass}-bit, {'little' if elf.little_endian else 'big'}-endian")
        sections = _sections(elf)
        dynamic, relocations = _dynamic(elf, sections)
        build_id = _build_id(elf)
        plain, debug = list(_static(elf, sections)), ""
        if not plain:
            plain, debug = _separate(build_id, root, sections)
        plain = plain or _embedded(elf)
        known = {(one.name, one.value): one for one in dynamic}
        both = [*(one for one in plain if (one.name, one.value) not in known), *dynamic, *_plt(elf, sections, relocations)]
    except BROKEN as problem:
        raise load_error(errno.ENOEXEC, f"no symbols: {_words(problem)}", path) from None
    return Symbols(path, build_id, debug, [one for one in sections if one.address or one.name], both)


def _words(problem: BaseException) -> str:
    text = str(problem) or type(problem).__name__
    return text.partition("\n")[0]


def _sections(elf: ELFFile) -> list[Section]:
    """By index. Those that take up no memory have no name, so that an index finds nothing there."""
    found = []
    for index, one in enumerate(elf.iter_sections()):
        placed = one["sh_flags"] & ALLOC and not (one["sh_flags"] & TLS and one["sh_type"] == "SHT_NOBITS")
        fields = (one.name, one["sh_addr"], one["sh_size"], one["sh_offset"]) if placed else ("", 0, 0, 0)
        found.append(Section(index, *fields, str(one["sh_type"]).removeprefix("SHT_")))
    return found


def _static(elf: ELFFile, sections: list[Section]) -> Iterator[Symbol]:
    for table in elf.iter_sections("SHT_SYMTAB"):
        names = elf.get_section(table["sh_link"]).data()
        for row in iter_unpack(SYMBOL, _whole(table.data(), SYMBOL_SIZE)):
            name = versions.string(names, row[0]) if row[0] else ""
            plain, mark, version = name.partition("@")  # a linker may write the version into the name
            default = mark == "" or version.startswith("@")
            symbol = _symbol(row, plain if plain else name, versions.Version(version.lstrip("@"), default), sections)
            if symbol:
                yield symbol


def _symbol(row: tuple[int, ...], name: str, version: versions.Version, sections: list[Section]) -> Symbol | None:
    """From the table's row; None for what has no address here."""
    _, info, _, index, value, size = row
    kind = KINDS.get(info & 15)
    if not name or kind is None or index == UNDEFINED or index >= RESERVED or name.startswith(".annobin"):
        return None
    section = sections[index].name if index < len(sections) else ""
    return Symbol(name, version.name, value, size, section, kind, BINDINGS.get(info >> 4, "LOCAL"), version.default)


def _whole(data: bytes, size: int) -> bytes:
    return data[: len(data) // size * size]


def _dynamic(elf: ELFFile, sections: list[Section]) -> tuple[list[Symbol], dict[int, str]]:
    """The dynamic symbols, and which of them the relocated words (the GOT) will have the address of."""
    part = next(elf.iter_segments("PT_DYNAMIC"), None)
    if not isinstance(part, DynamicSegment) or not part["p_filesz"]:
        return [], {}
    tags = {str(tag.entry.d_tag): int(tag.entry.d_val) for tag in part.iter_tags()}
    if "DT_SYMTAB" not in tags or "DT_STRTAB" not in tags:
        return [], {}
    strings = _at(elf, tags["DT_STRTAB"], tags.get("DT_STRSZ", 0))
    relocations = _relocations(elf, tags)
    # A hash table that has none of them (nothing is defined) does not say how many there are: relocations do.
    count = max((part.num_symbols(), *(1 + (info >> 32) for _, info, _ in relocations)))
    rows = list(iter_unpack(SYMBOL, _whole(_at(elf, tags["DT_SYMTAB"], count * SYMBOL_SIZE), SYMBOL_SIZE)))
    names = [versions.string(strings, row[0]) if row[0] else "" for row in rows]
    found = (
        _symbol(row, name, version, sections)
        for row, name, version in zip(rows, names, _versions(elf, tags, strings, len(rows)), strict=False)
    )
    return [one for one in found if one], {offset: _target(info, addend, names) for offset, info, addend in relocations}


def _versions(elf: ELFFile, tags: dict[str, int], strings: bytes, count: int) -> list[versions.Version]:
    if "DT_VERSYM" not in tags:
        return [versions.NONE] * count
    names: dict[int, str] = {}
    for table, rows in (("DT_VERNEED", versions.needed), ("DT_VERDEF", versions.defined)):
        if table in tags:
            found = rows(partial(_part, _at(elf, tags[table]), tags[table]), tags[table], tags.get(f"{table}NUM", 0))
            names |= {index: versions.string(strings, name) for index, name in found}
    return versions.of_symbols(_at(elf, tags["DT_VERSYM"], count * 2), names)


def _part(data: bytes, base: int, at: int, size: int, _: str) -> bytes:
    return data[at - base : at - base + size]


def _relocations(elf: ELFFile, tags: dict[str, int]) -> list[tuple[int, int, int]]:
    """Offset, info and addend of the relocations of data, then of those of the PLT's slots."""
    found: list[tuple[int, int, int]] = []
    for table, size in (("DT_RELA", "DT_RELASZ"), ("DT_JMPREL", "DT_PLTRELSZ")):
        if table in tags:
            found += iter_unpack(RELOCATION, _whole(_at(elf, tags[table], tags.get(size, 0)), RELOCATION_SIZE))
    return found


def _target(info: int, addend: int, names: list[str]) -> str:
    """What a relocated word will have the address of, as binutils name it; "" if that is no symbol."""
    if info >> 32 < len(names) and names[info >> 32]:
        return names[info >> 32]
    return f"*ABS*+{addend:#x}" if info & 0xFFFFFFFF == IRELATIVE else ""


def _at(elf: ELFFile, address: int, size: int = 1 << 20) -> bytes:
    """The file's bytes for a link-time address, as far as they go. Raises ELFError if no segment has it."""
    offset = next(elf.address_offsets(address), None)
    if offset is None:
        raise ELFError(f"PT_DYNAMIC points to {address:#x}, which no segment has")
    elf.stream.seek(offset)
    return elf.stream.read(min(size, elf.stream_len))


def _plt(elf: ELFFile, sections: list[Section], relocations: dict[int, str]) -> Iterator[Symbol]:
    """The stubs: in each entry of a .plt section the jump through the GOT says which symbol it is for."""
    for section in sections:
        if not section.name.startswith(".plt") and section.name != ".iplt":
            continue
        part = elf.get_section(section.index)
        code, step = part.data(), part["sh_entsize"] or ENTRY_SIZE
        at = code.find(JUMP)
        while 0 <= at <= len(code) - JUMP_SIZE:
            slot = section.address + at + JUMP_SIZE + DISPLACEMENT.unpack_from(code, at + 2)[0]
            if relocations.get(slot):
                start = section.address + at // step * step
                yield Symbol(f"{relocations[slot]}@plt", "", start, step, section.name, "PLT", "LOCAL", True)
                at += JUMP_SIZE - 1
            at = code.find(JUMP, at + 1)


def _build_id(elf: ELFFile) -> str:
    """The NT_GNU_BUILD_ID note in hexadecimal, "" if there is none."""
    for part in elf.iter_segments("PT_NOTE"):
        for note in part.iter_notes():  # type: ignore[attr-defined]
            if note["n_type"] == "NT_GNU_BUILD_ID":
                return str(note["n_desc"])
    return ""


def debug_file(build_id: str, root: str = "") -> str:
    """Where the separate debug file of a build ID lies, seen from `root`, or from here; "" if it is not installed."""
    for place in dict.fromkeys((root, "")):
        path = f"{place}{DEBUG}/{build_id[:2]}/{build_id[2:]}.debug"
        if len(build_id) > 2 and os.path.isfile(path):
            return path
    return ""


def _separate(build_id: str, root: str, sections: list[Section]) -> tuple[list[Symbol], str]:
    path = debug_file(build_id, root)
    if not path:
        return [], ""
    with open(path, "rb") as file:
        elf = ELFFile(file)
        return (list(_static(elf, sections)), path) if _build_id(elf) == build_id else ([], "")


def _embedded(elf: ELFFile) -> list[Symbol]:
    """From .gnu_debugdata: an ELF file with but a .symtab, compressed with LZMA ("MiniDebugInfo", as Fedora has it)."""
    part = elf.get_section_by_name(".gnu_debugdata")
    if part is None:
        return []
    import lzma

    try:
        inner = ELFFile(io.BytesIO(lzma.decompress(part.data())))
    except lzma.LZMAError as problem:
        raise ELFError(f".gnu_debugdata: {problem}") from None
    return list(_static(inner, _sections(inner)))  # it numbers its sections for itself
