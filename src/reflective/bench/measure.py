"""Orders for workers, and their answers as samples."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ReflectiveError
from ..observe.bench import Comparison, Throughput, compare
from .ways import REFERENCE, RUNS

HELLO = '#include <iostream>\nint main() { std::cout << "hello\\n"; }\n'
COMMANDS = {
    "true": ("true",),
    "c++": (),  # compiled
    "bash": ("bash", "-c", ":"),
    "ls": ("ls", "/"),
    "git": ("git", "--version"),
    "perl": ("perl", "-e", "1"),
    "cmake": ("cmake", "--version"),
    "python": ("python3", "-c", "pass"),
}
WORKER = (sys.executable, "-m", "reflective.bench.worker")
SECONDS, ROUNDS = 0.5, 3  # of throughput, for each way
SYSTEM_PATH = "/usr/bin:/bin:/usr/local/bin"  # a wrapper in PATH, as pyenv's python3, would be what is measured


def command(name: str, directory: Path) -> tuple[str, ...]:
    """The words that start a program of COMMANDS, with its path. Raises ReflectiveError if it is not installed."""
    if name == "c++":
        compiler = shutil.which("g++") or shutil.which("c++")
        if not compiler:
            raise ReflectiveError("c++: there is no compiler: apt-get install g++")
        target = directory / "hello"
        if not target.exists():
            subprocess.run([compiler, "-O1", "-x", "c++", "-", "-o", target], input=HELLO, text=True, check=True)
        return (str(target),)
    words = COMMANDS[name]
    path = shutil.which(words[0], path=SYSTEM_PATH) or shutil.which(words[0])
    if not path:
        raise ReflectiveError(f"{name}: not installed")
    return (path, *words[1:])


def comparisons(program: str, words: Sequence[str], ways: Sequence[str], megabytes: int, runs: int) -> Iterator[Comparison]:
    """Every way against the reference, from a process of that size; the reference comes once. Raises ReflectiveError."""
    told = False
    for run in RUNS:
        chosen = [way for way in run if way in ways]
        if not chosen or (told and chosen == [REFERENCE]):
            continue
        order = {"words": words, "ways": list(dict.fromkeys((REFERENCE, *chosen))), "megabytes": megabytes, "runs": runs}
        with _worker({**order, "seconds": None}) as worker:
            answer = _answer(worker)
        for one in compare(program, megabytes, answer["resident"], answer["samples"], REFERENCE):
            if one.way in chosen and not (told and one.way == REFERENCE):
                yield one
        told = True


def throughput(program: str, words: Sequence[str], ways: Sequence[str], clients: int) -> list[Throughput]:
    """Starts a second of several processes at once, each one after another; ways in turn, ROUNDS times."""
    made = dict.fromkeys((REFERENCE, *ways), 0)
    for _ in range(ROUNDS):
        for way in made:
            made[way] += _together({"words": words, "ways": [way], "megabytes": 0, "runs": 0, "seconds": SECONDS}, clients)
    rates = {way: number / (ROUNDS * SECONDS) for way, number in made.items()}
    return [Throughput(program, way, clients, rate, rate / rates[REFERENCE]) for way, rate in rates.items()]


def _together(order: dict[str, object], clients: int) -> int:
    workers = [_worker(order) for _ in range(clients)]
    try:
        for worker in workers:
            if worker.stdout is None or worker.stdout.readline() != "ready\n":
                raise ReflectiveError(f"no measurement: {_complaint(worker)}")
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(_answer(worker)["count"] for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _worker(order: dict[str, object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WORKER, json.dumps(order)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        output, errors = worker.communicate()
    except BaseException:
        worker.kill()
        raise
    if worker.returncode or not output:
        raise ReflectiveError(f"no measurement: {(errors.strip().splitlines() or ['the worker ended early'])[-1]}")
    found: dict[str, Any] = json.loads(output)
    return found


def _complaint(worker: subprocess.Popen[str]) -> str:
    lines = worker.stderr.read().strip().splitlines() if worker.stderr else []
    return lines[-1] if lines else "the worker ended early"
