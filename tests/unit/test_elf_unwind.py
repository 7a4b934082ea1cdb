"""The rules for finding a frame's caller: every row that readelf shows for a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from explained import cached, compile_c, run

from reflective.elf import unwind
from reflective.elf.image import FileIdentity
from reflective.elf.unwind import PT_GNU_EH_FRAME, Frames

REGISTERS = {
    "rax": 0, "rdx": 1, "rcx": 2, "rbx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7, "r8": 8, "r9": 9, "r10": 10, "r11": 11,
    "r12": 12, "r13": 13, "r14": 14, "r15": 15, "ra": 16,
}  # fmt: skip
SOURCE = """
    #include <stdio.h>
    int main(int count, char **words) { char text[count * 100]; return sprintf(text, "%s", words[0]) < 0; }
"""


def rows(path: Path | str) -> Iterator[tuple[int, str, dict[int, int], dict[int, int]]]:
    """Address, canonical frame address, where registers are saved, in which others they are, of each row of a description."""
    columns: list[int] = []
    inside = False
    for line in run("readelf", "-wF", path).stdout.splitlines():
        if words := re.match(r"[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ (FDE|CIE)", line):
            inside = words[1] == "FDE"
        elif line.startswith("   LOC"):
            columns = [REGISTERS[name] for name in line.split()[2:]]
        elif inside and (words := re.match(r"([0-9a-f]{16}) (\S+) *(.*)", line)):
            places = list(zip(columns, re.findall(r"r\d+ \(\w+\)|\S+", words[3]), strict=True))
            moved = {number: REGISTERS[at[at.index("(") + 1 : -1]] for number, at in places if at[0] == "r"}
            yield int(words[1], 16), words[2], {number: int(at[1:]) for number, at in places if at[0] == "c"}, moved


@pytest.mark.parametrize("name", ["libc.so.6", "ls", "static"])
def test_rules_are_those_of_readelf(name: str, tmp_path: Path) -> None:
    path: Path | str = compile_c(tmp_path / "prog", SOURCE, "-static") if name == "static" else "/bin/ls"
    path = cached(name) if name == "libc.so.6" else path
    known, count, unknown = Frames(str(path)), 0, 0
    for address, frame, saved, moved in rows(path):
        found = known.rules(address)
        if found is None or frame == "exp":
            assert found is None  # an expression, or the frame of a signal
            unknown += 1
            continue
        register, _, offset = frame.partition("+")
        assert (found.register, found.offset) == (REGISTERS[register], int(offset))
        assert (found.saved, found.moved) == (saved, moved)
        count += 1
    assert count > 100
    assert unknown < 20


def test_the_table_of_the_header_and_the_section_say_the_same(tmp_path: Path) -> None:
    whole, bare = Path("/bin/ls").read_bytes(), tmp_path / "bare"
    at = whole.index(PT_GNU_EH_FRAME.to_bytes(4, "little"), 64)
    bare.write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])
    addresses = [address for address, *_ in rows("/bin/ls")]
    known, other = Frames("/bin/ls"), Frames(str(bare))
    assert [other.rules(address) for address in addresses] == [known.rules(address) for address in addresses]
    assert sum(known.rules(address) is not None for address in addresses) > 100


def test_without_section_headers_the_rules_are_the_same(tmp_path: Path) -> None:
    data = bytearray(Path("/bin/ls").read_bytes())
    data[0x28:0x30], data[0x3C:0x40] = bytes(8), bytes(4)  # e_shoff, e_shnum, e_shstrndx
    (tmp_path / "bare").write_bytes(data)
    known, other = Frames("/bin/ls"), Frames(str(tmp_path / "bare"))
    addresses = [address for address, *_ in rows("/bin/ls")][:100]
    assert [other.rules(address) for address in addresses] == [known.rules(address) for address in addresses]


def test_a_file_without_rules_has_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no ELF file\n")
    assert unwind.of(str(tmp_path / "text")) is None
    assert unwind.of(str(tmp_path / "none")) is None
    assert unwind.of("/bin/ls") is unwind.of("/bin/ls") is not None


def test_outside_of_all_code_nothing_is_known() -> None:
    known = Frames("/bin/ls")
    assert known.rules(0) is None
    assert known.rules(1 << 40) is None


@pytest.mark.parametrize("header", [True, False], ids=["table", "section"])
def test_broken_tables_give_nothing(header: bool, tmp_path: Path) -> None:
    path = compile_c(tmp_path / "prog", SOURCE)
    whole = path.read_bytes()
    addresses = [address for address, *_ in rows(path)]
    section = re.search(r" \.eh_frame +PROGBITS +[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+)", run("readelf", "-SW", path).stdout)
    assert section is not None
    begin, size = (int(word, 16) for word in section.groups())
    kind = whole.index(PT_GNU_EH_FRAME.to_bytes(4, "little"), 64)
    changed = tmp_path / "broken"
    for byte in (0x00, 0x04, 0x41, 0x7F, 0x80, 0xFF):
        for start in range(begin, begin + size, 3):
            data = bytearray(whole)
            data[start] = byte
            data[kind] ^= 0 if header else 1
            changed.write_bytes(data)
            known = unwind.of(str(changed), FileIdentity(0, 0, start, byte))
            if known is not None:
                for address in addresses[:: len(addresses) // 4]:
                    known.rules(address)
