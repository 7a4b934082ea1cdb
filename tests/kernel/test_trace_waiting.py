"""A call in which a program waits is seen while it waits, and its line is in the end what it would have been without."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "reflective", "trace")
ENGINES = ("c", "python")
LONG = 30.0


def until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(params=ENGINES)
def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """cat, traced, in read; and the trace."""
    out = tmp_path / "out"
    command = [*COMMAND, "--engine", request.param, "-o", out, "-e", "read,close", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracing:
        assert until(lambda: out.exists() and out.read_text().endswith("\nread(0, ")), out.read_text()
        yield tracing, out
        tracing.kill()


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def test_it_is_completed_when_it_returns(waiting: tuple[subprocess.Popen[bytes], Path]) -> None:
    tracing, out = waiting
    tracing.communicate(b"abc\n")
    assert tracing.returncode == 0
    size = re.findall(r"read\(0, .*, (\d+)\) +=", out.read_text())[-1]
    calls = {rf'read(0, "abc\n", {size}) ': 4, f'read(0, "", {size}) ': 0, **{f"close({fd}) ": 0 for fd in range(3)}}
    lines = [f"{call:40}= {result}" for call, result in calls.items()]
    assert out.read_text().splitlines()[-6:] == [*lines, "+++ exited with 0 +++"]
    assert "unfinished" not in out.read_text()


def test_a_signal_cuts_it(waiting: tuple[subprocess.Popen[bytes], Path]) -> None:
    tracing, out = waiting
    os.kill(child_of(tracing.pid), signal.SIGTERM)
    assert tracing.wait(LONG) == -signal.SIGTERM
    read, told, end = out.read_text().splitlines()[-3:]
    assert re.fullmatch(r"read\(0, 0x[0-9a-f]+, \d+\) +=\ \? ERESTARTSYS \(To be restarted if SA_RESTART is set\)", read)
    assert read.index("= ?") == 40
    assert told.startswith("--- SIGTERM {")
    assert end == "+++ killed by SIGTERM +++"


def test_an_end_cuts_it(waiting: tuple[subprocess.Popen[bytes], Path]) -> None:
    tracing, out = waiting
    os.kill(child_of(tracing.pid), signal.SIGKILL)
    assert tracing.wait(LONG) == -signal.SIGKILL
    assert out.read_text().splitlines()[-2:] == [f"{'read(0,  <unfinished ...>) ':40}= ?", "+++ killed by SIGKILL +++"]


@pytest.mark.parametrize("engine", ENGINES)
def test_another_task_cuts_it(engine: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, "--engine", engine, "-f", "-o", str(out), "-e", "wait4,exit_group", "sh", "-c", "(sleep 0.5); exit 3"]
    assert subprocess.run(command, check=False, timeout=LONG).returncode == 3
    lines = [re.sub(r"^\d+ +", "", line) for line in out.read_text().splitlines()]
    assert lines[0] == "wait4(-1,  <unfinished ...>"
    assert lines[3].startswith("<... wait4 resumed>[{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = ")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_detaching_cuts_it_and_gives_back_what_was_taken(engine: str, number: signal.Signals, tmp_path: Path) -> None:
    """Also when the tracer is asked to end by another signal than ^C: a terminal that is closed, a service that is stopped."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        before, out = os.sched_getaffinity(cat.pid), tmp_path / "out"
        command = [*COMMAND, "--engine", engine, "-p", str(cat.pid)]
        with out.open("wb") as file, subprocess.Popen(command, stderr=file) as tracing:
            assert until(lambda: out.read_text().endswith("\nread(0, ")), out.read_text()
            assert len(before) == 1 or len(os.sched_getaffinity(cat.pid)) == 1
            tracing.send_signal(number)
            assert tracing.wait(LONG) == (0 if number == signal.SIGINT else -number)
        assert out.read_text().splitlines()[-2:] == [
            "read(0,  <detached ...>",
            f"reflective: Process {cat.pid} detached",
        ]
        assert os.sched_getaffinity(cat.pid) == before
        assert cat.communicate(b"abc\n")[0] == b"abc\n"
    assert cat.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_was_started_gets_the_signal(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(int(sys.argv[1]), lambda *_: sys.exit(5)); print(flush=True); time.sleep(60)"
    )
    command = [*COMMAND, "-o", str(tmp_path / "out"), sys.executable, "-c", code, str(int(number))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tracing:
        assert tracing.stdout is not None
        tracing.stdout.read(1)
        pid = child_of(tracing.pid)
        tracing.send_signal(number)
        assert tracing.wait(LONG) == -number
    assert until(lambda: not Path(f"/proc/{pid}").exists())
