"""`reflective trace -f` on tasks that do unusual things, by both engines: execve by a thread that does not lead its group."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from skips import needs
from support import PROGRAMS

# Which thread comes first is a matter of chance, in every run of either.
pytestmark = pytest.mark.flaky(reruns=3)

TRACE = [sys.executable, "-m", "reflective", "trace"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tasks") / "thread_exec"
    subprocess.run(["gcc", "-static", "-pthread", PROGRAMS / "thread_exec.c", "-o", target], check=True)
    return target


def after_execve(tracer: list[str], program: Path, out: Path) -> list[str]:
    """From the thread's execve on, tasks by number; without the other thread, which is ended wherever it is."""
    done = subprocess.run([*tracer, "-f", "-o", out, program], timeout=60, check=False)
    assert done.returncode == 3
    lines = out.read_text().splitlines()
    leader = lines[0].split()[0]
    at = next(at for at, line in enumerate(lines) if 'execve("/bin/sh"' in line)
    caller = lines[at].split()[0]
    assert caller != leader
    text = "\n".join(line for line in lines[at:] if line.split()[0] in (leader, caller) and "clone3" not in line)
    for pattern, word in (
        (rf"\b{caller}\b", "CALLER"), (rf"\b{leader}\b", "LEADER"), (r"0x[0-9a-f]{6,}", "ADDRESS"),
        (r" +=", " ="), (r"(?m)^(\w+) +", r"\1 "),
        (r'getrandom\(".*?"', "getrandom("), (r"(getppid\(\)) = .*", r"\1"),
    ):  # fmt: skip
        text = re.sub(pattern, word, text)
    return [line for line in text.splitlines() if "futex" not in line]


@pytest.mark.parametrize("engine", ["c", "python"])
def test_a_thread_that_becomes_another_program_takes_the_leaders_number(engine: str, program: Path, tmp_path: Path) -> None:
    needs("strace", "strace")
    theirs = after_execve(["strace"], program, tmp_path / "theirs")
    ours = after_execve([*TRACE, "--engine", engine], program, tmp_path / "ours")
    assert ours == theirs
    assert "LEADER +++ superseded by execve in pid CALLER +++" in ours
    assert ours[-1] == "LEADER +++ exited with 3 +++"


def test_the_last_task_has_no_number_on_the_screen(program: Path) -> None:
    done = subprocess.run([*TRACE, "-f", program], capture_output=True, text=True, timeout=60, check=False)
    assert re.search(r"^\+\+\+ superseded by execve in pid \d+ \+\+\+$", done.stderr, re.M)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to choose the number of a child")
def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    target, out = tmp_path / "pid_reused", tmp_path / "out"
    subprocess.run(["gcc", PROGRAMS / "pid_reused.c", "-o", target], check=True)
    done = subprocess.run([*TRACE, "-f", "--json", "-o", out, target], timeout=60, check=False)
    assert done.returncode == 0
    events = [json.loads(line) for line in out.read_text().splitlines()]
    [call] = [event for event in events if event["event"] == "syscall" and event["name"] == "getppid"]
    assert sum(event["event"] == "start" and event["pid"] == call["pid"] for event in events) == 2
    assert (call["phase"], Path(call["object"]).name.partition(".")[0]) == ("program", "libc")
