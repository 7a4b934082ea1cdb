"""The C loop of got-watch under sanitizers, with random breakpoints, tables and guards (core/got_harness.c)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from test_core_sanitized import ROOT, SANITIZERS, WARNINGS, run

SEED, ROUNDS = 20_261_128, 60
PROGRAMS = {"threads": 7, "thread_exec": 3, "forks": 6}
OWN = re.compile(r"run|main|child|parent|sum|become|wait_forever")
LIBC = re.compile(r"malloc|free|fork|clone|pthread_create|pthread_join|barrier_wait|snprintf|strtoul|waitpid|_exit|exec|mmap")
OFTEN = 8  # the program's own functions are drawn more often


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("got")
    sources = [ROOT / "tests/core/got_harness.c", ROOT / "csrc/host/attend.c"]
    sources += [path for room in ("tracer", "got") for path in (ROOT / "csrc" / room).glob("*.c")]
    command = ["gcc", *WARNINGS, *SANITIZERS, f"-I{ROOT / 'csrc'}", "-pthread"]
    subprocess.run([*command, *map(str, sources), "-o", folder / "harness"], check=True)
    return folder / "harness"


def functions(program: Path) -> list[str]:
    """Their addresses: breakpoints are set where they begin with a push."""
    rows = [
        line.split()
        for line in subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout.splitlines()
    ]
    code = [(row[0], row[2]) for row in rows if len(row) == 3 and row[1] in "TtWw"]
    return [at for at, name in code if OWN.fullmatch(name)] * OFTEN + [at for at, name in code if LIBC.search(name)]


@pytest.mark.parametrize(("name", "status"), PROGRAMS.items())
def test_records_are_whole_and_programs_end_as_alone(name: str, status: int, harness: Path, tmp_path: Path) -> None:
    program = tmp_path / name
    flags = ("-static", "-no-pie", "-O0", "-fno-omit-frame-pointer", "-pthread", "-w")
    subprocess.run(["gcc", *flags, ROOT / "tests" / "programs" / f"{name}.c", "-o", program], check=True)
    said = run(harness, str(SEED), str(ROUNDS), str(status), str(program), *functions(program))
    records, questions = map(int, said.split())
    assert records > questions > 2 * ROUNDS
