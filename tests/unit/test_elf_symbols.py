"""Symbols and sections of ELF files against binutils: nm, readelf, objdump; without section headers; broken."""

from __future__ import annotations

import io
import random
import re
import struct
import subprocess
from pathlib import Path

import pytest

from reflective.elf import symbols
from reflective.errors import LoadError, ProgramNotFound

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int counter = 7;
static int hidden(int x) { return x * counter; }
static __thread int mine = 3;
__attribute__((noinline)) int twice(int x) { return hidden(x) + mine; }
int again(int) __attribute__((weak, alias("twice")));
__asm__(".pushsection .text\\n.globl bare\\nbare: nop\\nnop\\nnop\\n.popsection");
int main(int argc, char **argv) { puts(argv[0]); printf("%d %p\\n", twice(argc), memcpy); return getenv("A") != 0; }
"""


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With .symtab, lazily bound."""
    place = tmp_path_factory.mktemp("symbols")
    (place / "a.c").write_text(SOURCE)
    output("gcc", "-O1", "-g", "-Wl,-z,lazy", "-Wl,--build-id", place / "a.c", "-o", place / "program")
    return place / "program"


def of_nm(text: str) -> dict[str, int]:
    """Name to value, of what has an address."""
    rows = (line.split() for line in text.splitlines())
    return {row[-1]: int(row[0], 16) for row in rows if len(row) == 3 and row[1] not in "aA"}


@pytest.mark.parametrize("path", [LIBC, "/lib64/ld-linux-x86-64.so.2", "/bin/bash"])
def test_dynamic_symbols_and_versions_are_those_of_nm(path: str) -> None:
    known = of_nm(output("nm", "-D", "--defined-only", path))
    found = symbols.of(path)
    thread_local = {line.split()[-1] for line in output("readelf", "--dyn-syms", "-W", path).splitlines() if " TLS " in line}
    for name, value in known.items():
        if name in thread_local:
            continue
        symbol = found.named(name)
        assert symbol is not None, name
        assert (symbol.value, symbol.label) == (value, name.replace("@@", "@"))
        if symbol.size:
            inside = found.at(value)
            assert inside is not None
            assert inside.value == value


def test_static_symbols_are_those_of_nm(program: Path) -> None:
    found = symbols.of(str(program))
    for name, value in of_nm(output("nm", "--defined-only", program)).items():
        symbol = found.named(name)
        if name == "mine":  # its value is no address
            assert symbol is None
            continue
        assert symbol is not None, name
        assert symbol.value == value


def test_an_address_between_symbols(program: Path) -> None:
    found = symbols.of(str(program))
    twice, bare = found.named("twice"), found.named("bare")
    assert twice is not None
    assert bare is not None
    inside = found.at(twice.value + twice.size - 1)
    assert inside is not None
    assert inside.value == twice.value
    assert found.at(bare.value + 2) == bare  # without a size it goes as far as the next
    assert found.at(0) is None


def test_sections_are_those_of_readelf(program: Path) -> None:
    for path in (str(program), LIBC):
        found = symbols.of(path)
        rows = re.findall(
            r"\[ *(\d+)\] (\S+) +\S+ +([0-9a-f]{16}) ([0-9a-f]+) ([0-9a-f]+) \S+ +(\S+)", output("readelf", "-SW", path)
        )
        placed = [row for row in rows if "A" in row[5] and not row[1].startswith(".tbss")]
        assert len(placed) > 15
        for number, name, address, offset, size, _ in placed:
            start, end = int(address, 16), int(address, 16) + int(size, 16)
            for inside in (start, end - 1):
                section = found.section(inside)
                assert section is not None
                assert (section.index, section.name, section.offset) == (int(number), name, int(offset, 16))
    assert found.section(1 << 40) is None


PLTS = [(), ("-Wl,-z,now",), ("-fcf-protection=full", "-Wl,-z,ibtplt"), ("-no-pie",), ("-no-pie", "-static")]


@pytest.mark.parametrize("options", PLTS, ids=str)
def test_plt_entries_are_those_of_objdump(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "a.c").write_text(SOURCE)
    output("gcc", "-O1", *options, tmp_path / "a.c", "-o", tmp_path / "program")
    known = {}
    for address, name in re.findall(
        r"^([0-9a-f]{16}) <(\S+@plt)>:", output("objdump", "-d", tmp_path / "program"), re.MULTILINE
    ):
        known[int(address, 16)] = name
    found = {one.value: one.name for one in symbols.of(str(tmp_path / "program")) if one.kind == "PLT"}
    assert {"puts@plt", "printf@plt"} <= set(found.values()) or "-static" in options
    assert found == known


def headerless(path: str) -> bytes:
    """The file, with no section headers."""
    data = bytearray(Path(path).read_bytes())
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HH", data, 60, 0, 0)
    return bytes(data)


def test_without_section_headers() -> None:
    found = symbols.read(io.BytesIO(headerless(LIBC)), "libc")
    known = {one.label: one.value for one in symbols.of(LIBC) if one.version}
    assert {one.label: one.value for one in found if one.version} == known
    assert len(known) > 2000
    assert found.section(next(iter(known.values()))) is None
    puts = found.named("puts")
    assert puts is not None
    assert found.at(puts.value + 3) == puts


def test_separate_debug_file(program: Path, tmp_path: Path) -> None:
    whole = symbols.of(str(program))
    assert whole.debug == ""
    build_id = whole.build_id
    assert build_id == re.findall(r"Build ID: ([0-9a-f]+)", output("readelf", "-n", program))[0]
    place = tmp_path / "usr/lib/debug/.build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    place.parent.mkdir(parents=True)
    stripped = tmp_path / "stripped"
    output("strip", "-o", stripped, program)
    alone = symbols.of("/stripped", str(tmp_path))
    assert alone.named("main") is None
    output("objcopy", "--only-keep-debug", program, place)
    with open(stripped, "rb") as file:
        found = symbols.read(file, str(stripped), str(tmp_path))
    assert found.debug == str(place)
    assert [one.label for one in found] == [one.label for one in whole]


def test_what_is_read_is_kept() -> None:
    assert symbols.of(LIBC) is symbols.of(LIBC)


def test_no_such_file() -> None:
    with pytest.raises(ProgramNotFound):
        symbols.of("/no/such/file")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01\x01" + bytes(60)])
def test_no_elf_file(content: bytes) -> None:
    with pytest.raises(LoadError, match="no symbols"):
        symbols.read(io.BytesIO(content), "it")


def test_broken_files_are_errors_or_read(program: Path) -> None:
    """Whatever is wrong with it: a LoadError, with words, or symbols; nothing else, and soon."""
    good = program.read_bytes()
    numbers = random.Random(1)
    refusals = []
    for turn in range(150):
        data = bytearray(good)
        if turn % 3 == 0:
            del data[numbers.randrange(64, len(data)) :]
        else:
            table = struct.unpack_from("<Q", data, 40)[0]
            for _ in range(4):
                low = (64, table, 0x300)[turn % 3]
                data[numbers.randrange(low, min(low + 2000, len(data)))] = numbers.randrange(256)
        try:
            list(symbols.read(io.BytesIO(bytes(data)), "it"))
        except LoadError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(words.startswith("it: no symbols: ") for words in refusals)
