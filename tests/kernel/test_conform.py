"""`reflective conform`: what it says of reflective, of loaders that are none, and of bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from reflective.conform.documented import EVERY, table, why
from reflective.conform.meaning import kind, meaning
from reflective.conform.measure import Outcome, measure, starts
from reflective.conform.report import summarise
from reflective.conform.start import Difference
from reflective.conform.variants import Compiler

COMMAND = [sys.executable, "-m", "reflective", "conform"]


def conform(*words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, JSON lines, stderr."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_reflective_conforms() -> None:
    """100 %: only documented rows."""
    status, lines, _ = conform("--json")
    total = lines[-1]
    assert total["different"] == []
    assert [line for line in lines[:-1] if line.get("failed")] == []
    assert (status, total["failed"], total["conforms"]) == (0, 0, True)
    assert total["starts"] + total["skipped"] == len(starts()) == len(lines) - 1
    assert total["same"] == total["properties"] > 50_000
    assert {row["kind"] for row in total["documented"]} >= {"stat.flags.PF_FORKNOEXEC", "maps.own"}


def test_the_kernel_conforms_to_itself(tmp_path: Path) -> None:
    """`env` executes the program by execve: nothing may differ, and no exception is needed."""
    found = measure(["/usr/bin/env", "--", "{}"], Compiler(tmp_path), exceptions=False)
    outcomes = [one for one in islice(found, 40) if isinstance(one, Outcome)]
    report = summarise("env", outcomes)
    assert report.conforms
    assert report.same == report.properties
    assert report.starts == len(outcomes) > 20


def test_ld_so_is_told_apart(tmp_path: Path) -> None:
    """The dynamic linker run as a command: /proc/self/exe, comm and the kernel's record are its own, and it is said."""
    first = next(iter(measure(["/lib64/ld-linux-x86-64.so.2", "{}"], Compiler(tmp_path))))
    assert isinstance(first, Outcome)
    assert first.variant == "dynamic"
    found = {difference.name: difference for difference in first.different}
    assert {"proc.exe", "proc.comm", "auxv.BASE", "stat.startcode", "proc.cmdline"} <= found.keys()
    assert os.path.realpath("/lib64/ld-linux-x86-64.so.2") == str(found["proc.exe"].loader)
    assert "stack.arguments" not in found
    assert all(meaning(name) for name in found)


def test_a_loader_that_does_nothing(tmp_path: Path) -> None:
    """A start that tells nothing has failed, and counts as different in every property."""
    first = next(iter(measure(["/bin/false", "{}"], Compiler(tmp_path))))
    assert isinstance(first, Outcome)
    assert (first.failed, first.same) == ("exit status 1", 0)
    assert not summarise("false", [first]).conforms


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ("ulexecve", "there is no {}"),
        ("/nonexistent/loader {}", "is not found"),
        ("'unclosed {}", "No closing quotation"),
    ],
)
def test_bad_loader(loader: str, said: str) -> None:
    status, lines, error = conform("--loader", loader)
    assert (status, lines) == (2, [])
    assert said in error
    assert error.count("\n") == 1


def test_kinds() -> None:
    assert kind("maps[[stack]#0].perms") == "maps[].perms"
    assert kind("maps[dynamic#3].touches dynamic#2") == "maps[].touches"
    assert kind("signals.action 13") == "signals.action"
    assert kind("descriptors[200].target") == "descriptors[].target"


def test_documented_only_with_its_value() -> None:
    assert why(Difference("registers.rflags.ZF", 0, 1), table())
    assert not why(Difference("registers.rflags.ZF", 1, 0), table())
    assert not why(Difference("proc.exe", "a", "b"), EVERY)
    assert why(Difference("proc.exe", "a", os.path.realpath(sys.executable)), EVERY)
