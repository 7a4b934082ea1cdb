"""The rules for finding a frame's caller: every row that readelf shows for a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from explained import cached, compile_c, run

from reflective.elf import image, sections
from reflective.elf.eh_frame import Table

REGISTERS = {
    "rax": 0, "rdx": 1, "rcx": 2, "rbx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7, "r8": 8, "r9": 9, "r10": 10, "r11": 11,
    "r12": 12, "r13": 13, "r14": 14, "r15": 15, "ra": 16,
}  # fmt: skip
SOURCE = """
    #include <stdio.h>
    int main(int count, char **words) { char text[count * 100]; return sprintf(text, "%s", words[0]) < 0; }
"""


def table(path: Path | str, *, with_section: bool = True) -> Table:
    fd = os.open(path, os.O_RDONLY)
    try:
        elf = image.read(fd, str(path))
        known = sections.read(fd, elf)
    finally:
        os.close(fd)
    section = next(((item.address, item.size) for item in known if item.name == ".eh_frame"), None)
    return Table(elf, Path(path).read_bytes(), section if with_section else None)


def rows(path: Path | str) -> Iterator[tuple[int, str, dict[int, int]]]:
    """Address, canonical frame address, and where registers are saved, of each row of a frame description."""
    columns: list[str] = []
    inside = False
    for line in run("readelf", "-wF", path).stdout.splitlines():
        if words := re.match(r"[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ (FDE|CIE)", line):
            inside = words[1] == "FDE"
        elif line.startswith("   LOC"):
            columns = line.split()[2:]
        elif inside and (words := re.match(r"([0-9a-f]{16}) (\S+) *(.*)", line)):
            places = zip(columns, words[3].split(), strict=False)  # an expression may take two words
            yield int(words[1], 16), words[2], {REGISTERS[name]: int(at[1:]) for name, at in places if at[0] == "c"}


@pytest.mark.parametrize("name", ["libc.so.6", "ls", "static"])
def test_rules_are_those_of_readelf(name: str, tmp_path: Path) -> None:
    path: Path | str = compile_c(tmp_path / "prog", SOURCE, "-static") if name == "static" else "/bin/ls"
    path = cached(name) if name == "libc.so.6" else path
    known, count, unknown = table(path), 0, 0
    for address, frame, saved in rows(path):
        found = known.rules(address)
        if found is None or frame == "exp":
            assert found is None  # an expression, or the frame of a signal
            unknown += 1
            continue
        register, _, offset = frame.partition("+")
        assert (found.register, found.offset, found.saved) == (REGISTERS[register], int(offset), saved)
        count += 1
    assert count > 100
    assert unknown < 20


def test_the_table_of_the_header_and_the_section_say_the_same() -> None:
    path = "/bin/ls"
    whole = table(path)
    without = [address for address, _, _ in rows(path)][:50]
    assert [table(path, with_section=False).rules(address) for address in without] == [whole.rules(a) for a in without]


def test_outside_of_all_code_nothing_is_known() -> None:
    known = table("/bin/ls")
    assert known.rules(0) is None
    assert known.rules(1 << 40) is None


def test_broken_tables_give_nothing(tmp_path: Path) -> None:
    path = compile_c(tmp_path / "prog", SOURCE)
    whole = path.read_bytes()
    addresses = [address for address, _, _ in rows(path)]
    fd = os.open(path, os.O_RDONLY)
    elf = image.read(fd, str(path))
    known = sections.read(fd, elf)
    os.close(fd)
    section = next(item for item in known if item.name == ".eh_frame")
    for byte in (0x00, 0x41, 0x7F, 0x80, 0xFF):
        for start in range(section.offset, section.offset + section.size, 3):
            data = bytearray(whole)
            data[start] = byte
            broken = Table(elf, bytes(data), None)
            for address in addresses[:: len(addresses) // 4]:
                broken.rules(address)
