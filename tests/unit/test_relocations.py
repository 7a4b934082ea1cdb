"""The slots of an ELF file, against readelf and against files made wrong."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import elfwriter
import pytest
from elfwriter import ElfFile, Segment
from skips import needs

from reflective.elf import relocations
from reflective.elf.relocations import Slots
from reflective.errors import LoadError

DIRECTORIES = ("/usr/bin", "/usr/lib/x86_64-linux-gnu")
SECONDS = float(os.environ.get("RELOCATIONS_SECONDS", "2"))
ENOUGH = 25
TITLES = {"'RELA'": "rela", "'PLT'": "jmprel", "'RELR'": "relr"}
ROW = re.compile(r"^([0-9a-f]{16})  ([0-9a-f]{16}) (R_X86_64_\w+) +(?:([0-9a-f]{16}|\S+\(\)) +(\S+) ([+-]) )?([0-9a-f]+)?$")


def elf_files() -> Iterator[str]:
    """In an order that is the same every time, and mixes them."""
    entries = [entry for place in DIRECTORIES if os.path.isdir(place) for entry in os.scandir(place)]
    files = sorted(entry.path for entry in entries if entry.is_file() and not entry.is_symlink())
    random.Random(4).shuffle(files)
    for path in files:
        with open(path, "rb") as file:
            head = file.read(20)
        if head[:5] == b"\x7fELF\x02" and head[16:20] in (b"\x02\0\x3e\0", b"\x03\0\x3e\0"):
            yield path


def readelf(*arguments: str) -> str:
    """Its output in the C locale."""
    return subprocess.run(["readelf", *arguments], capture_output=True, check=True, env={"LC_ALL": "C"}).stdout.decode()


def expected(path: str, static: bool) -> list[tuple[str, int, str, str, int]]:
    """Table, offset, type, symbol@version, addend, as readelf reads them: by PT_DYNAMIC, in a static program by sections."""
    found, table = [], "jmprel"
    for line in readelf("-rW" if static else "-rWD", path).splitlines():
        if "relocation section at offset" in line:
            table = TITLES[line.split()[0]]
        elif table == "relr" and re.fullmatch("[0-9a-f]{16}", line):
            found.append((table, int(line, 16), "RELATIVE", "", 0))
        elif match := ROW.match(line):
            offset, _, kind, _, symbol, sign, addend = match.groups()
            if kind != "R_X86_64_NONE":
                value = int(addend, 16) * (-1 if sign == "-" else 1)
                value -= 1 << 64 if value >= 1 << 63 else 0
                found.append(
                    (table, int(offset, 16), kind.removeprefix("R_X86_64_"), (symbol or "").replace("@@", "@"), value)
                )
    return found


def slots_of(slots: Slots) -> list[tuple[str, int, str, str, int]]:
    rows = []
    for one in slots.slots:
        name = f"{one.symbol}@{one.version}" if one.version else one.symbol
        addend = 0 if one.table == "relr" else one.addend
        rows.append((one.table, one.offset, relocations.TYPES.get(one.type, str(one.type)), name, addend))
    return rows


def test_relocations_are_those_that_readelf_shows() -> None:
    needs("readelf", "binutils")
    checked, end = 0, time.monotonic() + SECONDS
    for path in elf_files():
        slots = relocations.read(path, relative=True)
        assert sorted(slots_of(slots)) == sorted(expected(path, not slots.dynamic)), path
        assert slots.relative == sum(one.type == relocations.RELATIVE for one in slots.slots)
        few = relocations.read(path)
        assert few.slots == tuple(one for one in slots.slots if one.type != relocations.RELATIVE), path
        checked += 1
        if time.monotonic() > end and checked >= ENOUGH:
            break
    assert checked >= ENOUGH


def test_the_dynamic_section_is_what_readelf_shows() -> None:
    needs("readelf", "binutils")
    end = time.monotonic() + SECONDS / 2
    for number, path in enumerate(elf_files()):
        slots, text = relocations.read(path), readelf("-dWl", path)
        assert list(slots.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", text), path
        assert [slots.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", text) or [""]), path
        assert [slots.pltgot] == [int(x, 16) for x in re.findall(r"\(PLTGOT\) +0x(\w+)", text) or ["0"]], path
        assert slots.bind_now == bool(re.search(r"\(BIND_NOW\)|\(FLAGS\).*BIND_NOW|\(FLAGS_1\).*NOW", text)), path
        relro = re.findall(r"GNU_RELRO +\S+ 0x(\w+) 0x\w+ 0x\w+ 0x(\w+)", text)
        assert ([slots.relro] if slots.relro else []) == [(int(a, 16), int(b, 16)) for a, b in relro], path
        if time.monotonic() > end and number >= ENOUGH:
            break


def test_the_values_in_the_file_and_the_names_of_sections() -> None:
    needs("readelf", "binutils")
    slots = relocations.read("/bin/ls")
    content = Path("/bin/ls").read_bytes()
    sections = {
        name: (int(address, 16), int(offset, 16), int(size, 16), kind)
        for name, kind, address, offset, size in re.findall(
            r"\] (\.\S+) +(\w+) +(\w{16}) (\w+) (\w+)", readelf("-SW", "/bin/ls")
        )
    }
    assert len(slots.slots) > 50
    for one in slots.slots:
        address, offset, size, kind = sections[slots.section(one.offset)]
        assert address <= one.offset < address + size
        place = offset + one.offset - address
        held = 0 if kind == "NOBITS" else int.from_bytes(content[place : place + 8], "little")
        assert one.file == held, one
    assert {slots.section(one.offset) for one in slots.slots} >= {".got"}


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("-pie", "-fPIE", "-Wl,-z,now"), {"GLOB_DAT", "64"}),
        (("-pie", "-fPIE", "-Wl,-z,lazy"), {"GLOB_DAT", "JUMP_SLOT", "64"}),
        (("-no-pie", "-fno-pie", "-Wl,-z,lazy"), {"COPY", "JUMP_SLOT", "GLOB_DAT"}),
        (("-pie", "-fPIE", "-Wl,-z,pack-relative-relocs", "-Wl,-z,lazy"), {"GLOB_DAT", "JUMP_SLOT", "RELATIVE", "64"}),
        (("-static-pie", "-fPIE"), {"RELATIVE", "IRELATIVE"}),
        (("-static", "-no-pie", "-fno-pie"), {"IRELATIVE"}),
    ],
)
def test_every_way_of_linking(tmp_path: Path, flags: tuple[str, ...], wanted: set[str]) -> None:
    needs("readelf", "binutils")
    source = tmp_path / "program.c"
    source.write_text(
        "#include <stdio.h>\nextern char **environ;\nint a[200], *p[200] = {a, a + 1, [70] = a, [199] = a};\n"
        'char ***e = &environ; int main(void) { fputs(*environ ? "yes" : "no", stdout); return a != p[1]; }'
    )
    program = tmp_path / "program"
    subprocess.run(["gcc", "-O1", *flags, str(source), "-o", str(program)], check=True, timeout=60)
    slots = relocations.read(program, relative=True)
    rows = slots_of(slots)
    assert sorted(rows) == sorted(expected(str(program), not slots.dynamic))
    assert {row[2] for row in rows} >= wanted
    if "-Wl,-z,pack-relative-relocs" in flags:
        assert sum(row[0] == "relr" for row in rows) >= 6
        assert all(one.file == one.addend for one in slots.slots if one.table == "relr")
    bare = tmp_path / "bare"  # no section headers: nothing but names and a static program's slots may be lost
    subprocess.run(["objcopy", "--strip-all", str(program), str(bare)], check=True)
    content = bytearray(bare.read_bytes())
    content[40:48], content[58:64] = bytes(8), bytes(6)
    bare.write_bytes(content)
    again = relocations.read(bare, relative=True)
    assert again.sections == ()
    assert again.slots == (slots.slots if slots.dynamic else ())


# Files of our own: one page with everything, by a dynamic section at 0x200.

TABLES = 0x400
BASE_TAGS = {
    5: TABLES, 10: 32, 6: TABLES + 0x40, 11: 24, 7: TABLES + 0x100, 8: 24, 9: 24, 23: TABLES + 0x140, 2: 48, 20: 7,
    3: TABLES + 0x300, 0x6FFFFFF0: TABLES + 0x180, 0x6FFFFFFE: TABLES + 0x190, 0x6FFFFFFF: 1,
    36: TABLES + 0x200, 35: 16, 37: 8,
}  # fmt: skip
STRINGS = b"\0first\0second\0V_1\0lib.so\0".ljust(32, b"\0")
CONTENT = {
    TABLES: STRINGS,
    TABLES + 0x40: bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 0, 0, 0) + struct.pack("<IBBHQQ", 7, 0x22, 0, 0, 0, 5),
    TABLES + 0x100: struct.pack("<QIIq", TABLES + 0x308, 6, 1, -1),
    TABLES + 0x140: struct.pack("<QIIqQIIq", TABLES + 0x318, 7, 2, 0, 0x2000, 7, 1, 0),
    TABLES + 0x180: struct.pack("<HHH", 0, 1, 0x8002),
    TABLES + 0x190: struct.pack("<HHIII", 1, 1, 18, 16, 0) + struct.pack("<IHHII", 0, 0, 2, 14, 0),
    TABLES + 0x200: struct.pack("<QQ", TABLES + 0x320, 0b111),
    TABLES + 0x300: struct.pack("<7Q", 1, 2, 3, 4, 5, 6, 7),
}


def small(tags: dict[int, int] | None = None, content: dict[int, bytes] | None = None) -> ElfFile:
    """A library with three symbol relocations and three of DT_RELR; tags and content can be replaced."""
    entries = {**BASE_TAGS, **(tags or {})}
    dynamic = b"".join(struct.pack("<QQ", tag, value % (1 << 64)) for tag, value in entries.items()) + bytes(16)
    payloads = tuple({**CONTENT, **(content or {}), 0x200: dynamic}.items())
    segments = (
        Segment(flags=elfwriter.RW, filesz=0x1000, memsz=0x3000),
        Segment(2, elfwriter.RW, 0x200, 0x200, filesz=len(dynamic)),
        Segment(0x6474E552, elfwriter.R, 0x200, 0x200, filesz=0xE00),
    )
    return ElfFile(segments, payloads, type=elfwriter.ET_DYN, size=0x1000)


def test_a_file_without_section_headers(tmp_path: Path) -> None:
    slots = relocations.read(small().write(tmp_path / "small"), relative=True)
    assert [
        (s.table, s.index, s.type, s.offset, s.addend, s.symbol, s.version, s.file, s.weak, s.size) for s in slots.slots
    ] == [
        ("relr", -1, 8, TABLES + 0x320, 5, "", "", 5, False, 0),
        ("relr", -1, 8, TABLES + 0x328, 6, "", "", 6, False, 0),
        ("relr", -1, 8, TABLES + 0x330, 7, "", "", 7, False, 0),
        ("rela", 0, 6, TABLES + 0x308, -1, "first", "", 2, False, 0),
        ("jmprel", 0, 7, TABLES + 0x318, 0, "second", "V_1", 4, True, 5),
        ("jmprel", 1, 7, 0x2000, 0, "first", "", 0, False, 0),  # in .bss
    ]
    assert (slots.relative, slots.relro, slots.dynamic) == (3, (0x200, 0xE00), 0x200)


def test_a_rela_table_that_counts_jmprel_in(tmp_path: Path) -> None:
    tags = {7: TABLES + 0x100, 8: 24 * 4, 23: TABLES + 0x118, 2: 48}
    rows = CONTENT[TABLES + 0x100] + CONTENT[TABLES + 0x140]
    slots = relocations.read(small(tags, {TABLES + 0x100: rows.ljust(96, b"\0")}).write(tmp_path / "small"))
    assert [(one.table, one.index) for one in slots.slots] == [("rela", 0), ("jmprel", 0), ("jmprel", 1)]


@pytest.mark.parametrize(
    ("tags", "content", "says"),
    [
        ({5: 0x9000}, {}, "DT_STRTAB is 0x9000, which is in no PT_LOAD"),
        ({10: 1 << 63}, {}, "DT_STRTAB: .* do not fit into PT_LOAD"),
        ({10: 3}, {}, "vna_name: no string at 0xe in DT_STRTAB, which has 3 bytes"),
        ({}, {TABLES + 0x58: struct.pack("<I", 99)}, "st_name of symbol 1: no string at 0x63 in DT_STRTAB"),
        ({11: 16}, {}, "DT_SYMENT at 0x230 is 16, not 24"),
        ({20: 17}, {}, "DT_PLTREL at 0x.* is 17, not 7"),
        ({9: 16}, {}, "DT_RELAENT at 0x.* is 16, not 24"),
        ({2: 47}, {}, "DT_JMPREL: its size is 47, no multiple of 24"),
        ({8: 24 << 58}, {}, "DT_RELA: .* do not fit"),
        ({6: -24}, {}, "DT_SYMTAB is 0xffffffffffffffe8, which is in no PT_LOAD"),
        ({0x6FFFFFF0: 0xFFF}, {}, "DT_VERSYM: 6 bytes at 0xfff do not fit"),
        ({0x6FFFFFFE: 0x2FFF}, {}, "DT_VERNEED: 16 bytes at 0x2fff do not fit"),
        ({14: 99}, {}, "DT_SONAME: no string at 0x63"),
        ({1: 1 << 40}, {}, "DT_NEEDED: no string at 0x10000000000"),
        ({}, {TABLES + 0x100: struct.pack("<QIIq", 0x3000, 6, 1, 0)}, "r_offset is 0x3000, which is in no PT_LOAD"),
        ({}, {TABLES + 0x100: struct.pack("<QIIq", 0x800, 6, 1 << 31, 0)}, "DT_SYMTAB: 51539607576 bytes at .* do not fit"),
        ({}, {TABLES + 0x200: struct.pack("<QQ", 0x2000, 1)}, "DT_RELR: entry 0x2000 relocates 0x2000, out of"),
        ({}, {TABLES + 0x200: struct.pack("<QQ", 0x810, 0x800)}, "DT_RELR: entry 0x800 relocates 0x800, out of order"),
    ],
)  # fmt: skip
def test_a_broken_table_is_refused_with_field_and_place(
    tmp_path: Path, tags: dict[int, int], content: dict[int, bytes], says: str
) -> None:
    with pytest.raises(LoadError, match=says):
        relocations.read(small(tags, content).write(tmp_path / "broken"))


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="can't be opened: No such file"):
        relocations.read(tmp_path / "none")
    (tmp_path / "text").write_text("#!/bin/sh")
    with pytest.raises(LoadError, match="not an ELF file"):
        relocations.read(tmp_path / "text")
    cut = small().write(tmp_path / "cut")
    os.truncate(cut, 0x410)
    with pytest.raises(LoadError, match="the file ends before"):
        relocations.read(cut)


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """Single bytes of the small library changed, and many of a real one: no other exception."""
    path, generator = tmp_path / "fuzzed", random.Random(4)
    whole = small().encode()
    for place in sorted(generator.sample(range(TABLES + 0x340), 400)):
        changed = bytearray(whole)
        changed[place] ^= generator.randrange(1, 256)
        _read_or_refuse(path, changed)
    real = Path("/bin/true").read_bytes()
    for _ in range(100):
        changed = bytearray(real)
        for _ in range(generator.randrange(1, 40)):
            changed[generator.randrange(0x2000 if generator.random() < 0.9 else len(real))] = generator.randrange(256)
        _read_or_refuse(path, changed)


def _read_or_refuse(path: Path, content: bytearray) -> None:
    path.write_bytes(content)
    try:
        slots = relocations.read(path, relative=True)
    except LoadError as error:
        assert error.reason  # noqa: PT017
    else:
        assert all(0 <= one.file < 1 << 64 for one in slots.slots)
