"""What `reflective trace` decodes, held against strace line by line; tests/programs/calls.c makes the calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from skips import needs
from support import PROGRAMS

FAMILIES = (
    "files", "terminal", "addresses", "options", "messages", "waiting", "clocks", "processes", "controls", "locks", "memory",
    "rare",
)  # fmt: skip
TRACE = [sys.executable, "-m", "reflective", "trace", "--no-pin"]
# What differs between two runs of strace, too: addresses, numbers of processes and ports, free space, times
CHANGING = (
    (r"0x[0-9a-f]{6,}", "ADDRESS"), (r"htons\([1-9]\d*\)", "PORT"), (r'sa_data="[^"]*"', "DATA"),
    (r"f_(b?free|bavail|ffree|files|blocks)=\d+", r"f_\1"), (r"tv_(sec|usec|nsec)=\d{4,}", r"tv_\1"),
    (r"\d{4}-\d\d-\d\dT[\d:]+", "DATE"),
    (r"(tms_\w+)=[^,}]*", r"\1"), (r"usec=\d+", "usec"), (r"(si_[us]time)=\d+( /\* [\d.]+ s \*/)?", r"\1"),
    (r"(uptime|loads|freeram|sharedram|bufferram|procs|freeswap)=(\[[^]]*\]|\d+)", r"\1"), (r"left \{[^}]*\}", "left"),
    (r'getrandom\("[^"]*"', "getrandom("), (r"\b\d{10}\b", "TIME"),
)  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("strace", "strace")
    target = tmp_path_factory.mktemp("calls") / "calls"
    command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Wno-unused-result", "-Wno-unused-value", "-Wno-nonnull"]
    subprocess.run([*command, PROGRAMS / "calls.c", PROGRAMS / "calls_files.c", "-o", target], check=True)
    return target


def lines(tracer: list[str], program: Path, family: str, folder: Path) -> list[str]:
    """From the program's own first call on: what C's start does before is in other tests."""
    folder.mkdir()
    out = folder.parent / f"{folder.name}.txt"
    subprocess.run(
        ["setarch", "-R", *tracer, "-o", out, program, family], cwd=folder, stdin=subprocess.DEVNULL, timeout=60, check=True
    )
    text = out.read_text()
    pid = re.search(r"set_tid_address\(.*= (\d+)", text)
    assert pid
    for at in range(3):  # the program's own number, and those of its children
        text = re.sub(rf"\b{int(pid[1]) + at}\b", f"PID{at}", text)
    text = re.sub(r"(clone\(.*= |wait4\(|waitid\(P_PID, |si_pid=)(\d{2,}|PID\d)", r"\1", text)
    text = re.sub(r"(wait4\(.*\) = )(\d{2,}|PID\d)", r"\1", re.sub(r"\) +=", ") =", text))
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text)
    found = text.splitlines()
    return found[next(at for at, line in enumerate(found) if line.startswith("mprotect")) + 1 :]


@pytest.mark.parametrize("family", FAMILIES)
def test_lines_are_those_of_strace(family: str, program: Path, tmp_path: Path) -> None:
    theirs = lines(["strace"], program, family, tmp_path / "theirs")
    ours = lines(TRACE, program, family, tmp_path / "ours")
    assert ours == theirs
    assert len(ours) > 13
    assert len(set(ours)) > 12
