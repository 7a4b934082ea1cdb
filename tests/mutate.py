"""Mutated programs: a seed and a number become a case, which is a few files and the changes that broke them.

Everything here is pure: `generate(seed, number)` is always the same case, and a case without some of its changes is still a
case, which is how a disagreement is made smaller (tests/judges.py). The programs report what they find of themselves in memory
(tests/programs/probe.S), so that more than "it ran" is compared.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from elfwriter import (
    CODE_OFFSET,
    ET_DYN,
    ET_EXEC,
    PAGE,
    PT_GNU_STACK,
    PT_LOAD,
    PT_NULL,
    RW,
    RX,
    TASK_SIZE,
    TEXT_BASE,
    ElfFile,
    Segment,
)

# tests/programs/probe.S, assembled (tests/unit/test_mutate.py compares). Behind it: a count, whether to go on at AT_ENTRY,
# and so many offsets from its first instruction.
PROBE = bytes.fromhex(
    "488b742408488b04244c8d74c410498b164829f2e8a7000000498b064983c6084885c075f4498b06498b4e084983c61083f803750d4889ceba38"
    "000000e87e00000083f805750e498d76f8ba08000000e86b00000083f80975034989cf85c075c4488d2d98ffffff488d1d75000000448b23eb32"
    "4e636ca3044901ed4c89eeba10000000e83700000031ff4c89eeba0100000031c00f05504889e6ba08000000e81b0000005841ffcc79c9837b04"
    "00740341ffe7bf2a000000b83c0000000f055051bf01000000b8010000000f05504889e6ba08000000b8010000000f05585958c36690"
)
DATA_OFFSET, DATA_DISTANCE = 2 * PAGE, 0x10000
INTERP_BASE = 0x10_0000_0000  # of an interpreter with fixed addresses
MODES = ("random", "fixed", "nobody")  # as root; likewise without randomisation; as a user without rights
PATHS = (
    b"interp", b"./interp", b"program", b"missing", b"interp/", b"interp/x", b"", b".", b"/", b"/dev/null", b"/dev/null/x",
    b"interp\0rest", b"interp ", b"text", b"script", b"x" * 255, b"x" * 256, b"./" * 2044 + b"interp",
    b"./" * 2045 + b"interp",
)  # fmt: skip

Contents = ElfFile | bytes
Value = int | bytes | str | Segment


@dataclass(frozen=True)
class Change:
    """One change of one file: what kind, where, and to what."""

    file: str
    kind: str
    where: int | str
    value: Value = 0

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {self.where} {hex(self.value) if isinstance(self.value, int) else self.value!r}"


@dataclass(frozen=True)
class Case:
    """Files by name, of which "program" is started, and the changes to make to them."""

    name: str
    mode: str
    files: tuple[tuple[str, Contents], ...]
    changes: tuple[Change, ...] = ()

    def broken(self) -> dict[str, Contents]:
        """The files with the changes made."""
        files = dict(self.files)
        for change in self.changes:
            files[change.file] = apply(files[change.file], change)
        return files

    def encode(self) -> dict[str, bytes]:
        """The files' bytes."""
        return {name: item if isinstance(item, bytes) else with_probes(item).encode() for name, item in self.broken().items()}

    def __str__(self) -> str:
        return "\n".join([f"{self.name}, {self.mode}", *(f"  {change}" for change in self.changes)])


# The valid programs from which all begin.


def base_program(type: int, base: int, *, interp: bytes | None = None, jumps: bool = False) -> ElfFile:
    """Code, data with bss, a stack. The probes go where the segments turn out to be: `with_probes`."""
    pattern = bytes(range(1, 256)) * 17
    segments = (
        Segment(PT_LOAD, RX, 0, base, filesz=2 * PAGE),
        Segment(PT_LOAD, RW, DATA_OFFSET, base + DATA_DISTANCE, filesz=0x123, memsz=2 * PAGE + 0x456),
        Segment(PT_GNU_STACK, RW, align=16),
    )
    code = PROBE + struct.pack("<II", 0, jumps)
    plain = ElfFile(segments, ((CODE_OFFSET, code), (DATA_OFFSET, pattern[:PAGE])), type=type, entry=base + CODE_OFFSET)
    return plain if interp is None else plain.with_interp(interp)


def with_probes(elf: ElfFile) -> ElfFile:
    """With the offsets of all that is interesting in memory: where file parts, bss and pages begin and end."""
    if len(elf.payloads) < 2 or not elf.payloads[0][1].startswith(PROBE):
        return elf
    start = _code(elf)
    found = {-CODE_OFFSET, 0, PAGE - 16}
    for load in elf.segments:
        if load.type == PT_LOAD:
            memsz = load.filesz if load.memsz is None else load.memsz
            ends = (load.vaddr, load.vaddr + load.filesz, load.vaddr + memsz)
            pages = (at for end in ends[1:] for at in (end & -PAGE, -(-end // PAGE) * PAGE))
            for at in (*ends, *pages):
                found |= {at - start, at - start - 16}
    near = sorted(at for at in found if -(1 << 31) <= at < 1 << 31)[:60]
    offset, code = elf.payloads[0]
    jumps = struct.unpack_from("<I", code, len(PROBE) + 4)[0]
    code = PROBE + struct.pack(f"<II{len(near)}i", len(near), jumps, *near)
    return replace(elf, payloads=((offset, code), *elf.payloads[1:]))


def _code(elf: ElfFile) -> int:
    """Where the code lies in memory: by the PT_LOAD that holds its offset in the file."""
    holds = [s for s in elf.segments if s.type == PT_LOAD and s.offset <= CODE_OFFSET < s.offset + s.filesz]
    return holds[-1].vaddr + CODE_OFFSET - holds[-1].offset if holds else elf.entry


def bases(random: Random) -> tuple[str, tuple[tuple[str, Contents], ...]]:
    fixed = random.choice((TEXT_BASE,) * 6 + (0x10000, 1 << 32, 1 << 46, 0x5555_5555_4000, TASK_SIZE - (1 << 40)))
    moving = random.choice((0,) * 6 + (PAGE, 0x10000, 1 << 40))
    exe, pie = base_program(ET_EXEC, fixed), base_program(ET_DYN, moving)
    interp = base_program(ET_DYN, random.choice((0, 0, 0, PAGE, 0x10000, 1 << 32)), jumps=True)
    other = base_program(ET_EXEC, INTERP_BASE, jumps=True)
    text = ("text", b"text\n")
    table: dict[str, tuple[tuple[str, Contents], ...]] = {
        "ET_EXEC": (("program", exe),),
        "ET_DYN": (("program", pie),),
        "ET_EXEC with interpreter": (("program", base_program(ET_EXEC, fixed, interp=b"interp")), ("interp", interp), text),
        "ET_DYN with interpreter": (("program", base_program(ET_DYN, moving, interp=b"interp")), ("interp", interp), text),
        "ET_EXEC with ET_EXEC interpreter": (
            ("program", base_program(ET_EXEC, fixed, interp=b"interp")),
            ("interp", other),
        ),
        "script": (("program", b"#! interp  an argument \nrest\n"), ("interp", exe), text),
        "script of script": (("program", b"#!script -x\n"), ("script", b"#!./interp\targ\n"), ("interp", pie), text),
    }
    names = list(table)
    name = random.choices(names, weights=(5, 5, 3, 5, 1, 2, 2))[0]
    return name, table[name]


# Changes: each kind turns a file into another one.


def apply(contents: Contents, change: Change) -> Contents:
    """The file with one change; one that does not fit any more (its segment is gone) does nothing."""
    if isinstance(contents, bytes):
        return _BYTES[change.kind](contents, change.where, change.value) if change.kind in _BYTES else contents
    return _ELF[change.kind](contents, change.where, change.value) if change.kind in _ELF else contents


def _header(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    return replace(elf, **{str(where): value})  # type: ignore[arg-type]


def _ident(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    assert isinstance(where, int)
    assert isinstance(value, int)
    return replace(elf, ident=elf.ident[:where] + bytes([value]) + elf.ident[where + 1 :])


def _segment(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    index, field = str(where).split(".")
    if int(index) >= len(elf.segments):
        return elf
    return elf.with_segment(int(index), **{field: value})  # type: ignore[arg-type]


def _insert(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    assert isinstance(where, int)
    assert isinstance(value, Segment)
    return replace(elf, segments=(*elf.segments[:where], value, *elf.segments[where:]))


def _remove(elf: ElfFile, where: int | str, _value: Value) -> ElfFile:
    return replace(elf, segments=tuple(segment for index, segment in enumerate(elf.segments) if index != where))


def _swap(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    segments = list(elf.segments)
    assert isinstance(where, int)
    assert isinstance(value, int)
    if max(where, value) < len(segments):
        segments[where], segments[value] = segments[value], segments[where]
    return replace(elf, segments=tuple(segments))


def _table(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    """Program headers elsewhere in the file, and PT_NULLs up to so many."""
    assert isinstance(where, int)
    assert isinstance(value, int)
    more = (Segment(PT_NULL),) * (value - len(elf.segments))
    return replace(elf, table_offset=where, phoff=where, segments=elf.segments + more)


def _payload(elf: ElfFile, where: int | str, value: Value) -> ElfFile:
    assert isinstance(where, int)
    assert isinstance(value, bytes)
    return elf.with_payload(where, value)


def _bytes(data: bytes, where: int | str, value: Value) -> bytes:
    assert isinstance(where, int)
    assert isinstance(value, bytes)
    return data[:where] + value + data[where + len(value) :]


def _put(data: bytes, where: int | str, value: Value) -> bytes:
    assert isinstance(where, int)
    assert isinstance(value, bytes)
    return data[:where] + value + data[where:]


_ELF: dict[str, Callable[[ElfFile, int | str, Value], ElfFile]] = {
    "header": _header, "ident": _ident, "segment": _segment, "insert": _insert, "remove": _remove, "swap": _swap,
    "table": _table, "payload": _payload,
}  # fmt: skip
_BYTES: dict[str, Callable[[bytes, int | str, Value], bytes]] = {
    "overwrite": _bytes,
    "put": _put,
    "cut": lambda data, where, _: data[: int(where)],
    "whole": lambda _data, _where, value: value if isinstance(value, bytes) else b"",
}
