"""The generator of mutated files is pure, and its code is that of tests/programs/probe.S."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mutate import PROBE, Case
from mutations import generate
from support import PROGRAMS


def test_the_probe_is_assembled_from_its_source(tmp_path: Path) -> None:
    subprocess.run(["gcc", "-c", PROGRAMS / "probe.S", "-o", tmp_path / "probe.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "probe.o", tmp_path / "probe"], check=True)
    assert (tmp_path / "probe").read_bytes() == PROBE


def test_a_seed_and_a_number_are_always_the_same_case() -> None:
    for number in range(200):
        first, again = generate("seed", number), generate("seed", number)
        assert first == again
        assert first.encode() == again.encode()


def test_cases_differ() -> None:
    assert len({str(generate(1, number)) for number in range(500)}) > 450
    assert generate(1, 0) != generate(2, 0)


def test_every_change_can_be_left_out() -> None:
    for number in range(200):
        case = generate("seed", number)
        for change in case.changes:
            Case(case.name, case.mode, case.files, tuple(one for one in case.changes if one is not change)).encode()
