"""The little that is known of machine code: lengths as objdump finds them, and what displaced instructions do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from reflective.native.got import JUMP_TO, PUSH, RETURN, SET, SKIP, Step
from reflective.observe.got import code

LINKER = Path("/lib64/ld-linux-x86-64.so.2").resolve()
FWAIT = b"\x9b"
LINE = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *(?:\t(.*))?$")


def disassembled(path: Path) -> list[tuple[bytes, str]]:
    text = subprocess.run(["objdump", "-d", "-w", "-z", path], capture_output=True, text=True, check=True).stdout
    rows = [match for match in map(LINE.match, text.splitlines()) if match]
    return [(bytes.fromhex(row[2]), row[3] or "") for row in rows]


@pytest.mark.parametrize("path", [LINKER, LINKER.with_name("libm.so.6")], ids=lambda path: path.name)
def test_lengths_are_those_of_objdump(path: Path) -> None:
    wrong = []
    rows = disassembled(path)
    for bytes_, text in rows:
        if "(bad)" in text or bytes_.startswith(FWAIT):  # no code; or an instruction that objdump puts together with the next
            continue
        try:
            size = code.length(bytes_ + bytes(16))
        except ValueError:
            size = 0
        if size != len(bytes_):
            wrong.append((bytes_.hex(), text, size))
    assert wrong[:5] == []
    assert len(rows) > 20000


@pytest.mark.parametrize(
    ("bytes_", "expected"),
    [
        ("53", Step(PUSH, b"\x53", 3)),
        ("4157", Step(PUSH, b"\x41\x57", 15)),
        ("f30f1efa53", Step(SKIP, b"\xf3\x0f\x1e\xfa")),
        ("b80a0000000f05", Step(SET, b"\xb8\x0a\0\0\0", 0, 10)),
        ("41ffe3", Step(JUMP_TO, b"\x41\xff\xe3", 11)),
        ("f241ffe3", Step(JUMP_TO, b"\xf2\x41\xff\xe3", 11)),
        ("3e41ffe3", Step(JUMP_TO, b"\x3e\x41\xff\xe3", 11)),
        ("c3", Step(RETURN, b"\xc3")),
        ("0f1f4000", Step(SKIP, b"\x0f\x1f\x40\0")),
        ("4889e3", None),
        ("", None),
    ],
)
def test_only_what_can_be_carried_out_is_displaced(bytes_: str, expected: Step | None) -> None:
    assert code.step(bytes.fromhex(bytes_)) == expected


def test_the_resolvers_jump_is_the_one_that_objdump_shows() -> None:
    text = subprocess.run(["objdump", "-d", "-w", LINKER], capture_output=True, text=True, check=True).stdout
    data = LINKER.read_bytes()
    jumps = [int(line.split(":")[0], 16) for line in text.splitlines() if re.search(r"jmp +\*%r11$", line)]
    assert jumps
    saves = [int(line.split(":")[0], 16) for line in text.splitlines() if re.search(r"\txsavec? |\tfxsave ", line)]
    for save in saves:
        after = min((jump for jump in jumps if jump > save), default=None)
        assert after is not None
        assert code.resolver_jump(data[save : save + 1024]) == after - save


def test_code_that_leaves_in_another_way_has_no_jump() -> None:
    assert code.resolver_jump(bytes.fromhex("534889e3c3") + b"\x06" * 8) is None
    assert code.resolver_jump(b"\x90" * 5000) is None
