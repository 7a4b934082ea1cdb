"""`reflective trace --perfetto`: valid in the Trace Event Format, and the same calls as --json."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

TRACE = [sys.executable, "-m", "reflective", "trace"]
# The format's required members of each kind of event, besides name and ph ("Trace Event Format", Google, 2016)
MEMBERS = {
    "X": {"cat", "pid", "tid", "ts", "dur", "args"},
    "b": {"cat", "id", "pid", "tid", "ts"}, "e": {"cat", "id", "pid", "tid", "ts"},
    "i": {"cat", "s", "pid", "tid", "ts"}, "M": {"pid", "tid", "args"},
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("perfetto") / "out.json"
    command = [*TRACE, "-f", "--perfetto", str(out), "sh", "-c", "/bin/true; exit 3"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    whole = json.loads(out.read_text())
    assert whole.keys() == {"displayTimeUnit", "traceEvents"}
    return list(whole["traceEvents"])


def test_every_event_has_what_the_format_asks(drawn: list[dict[str, Any]]) -> None:
    for event in drawn:
        assert event.keys() == MEMBERS[event["ph"]] | {"name", "ph"}
        assert all(isinstance(event[key], int) for key in ("pid", "tid"))
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    assert {event["name"] for event in drawn if event["ph"] == "M"} == {"process_name", "thread_name"}


def test_calls_of_a_thread_do_not_overlap(drawn: list[dict[str, Any]]) -> None:
    for tid in {event["tid"] for event in drawn}:
        calls = sorted((event["ts"], event["dur"]) for event in drawn if event["ph"] == "X" and event["tid"] == tid)
        assert all(first + length <= second + 1e-3 for (first, length), (second, _) in pairwise(calls))


def test_phases_follow_each_other(drawn: list[dict[str, Any]]) -> None:
    pids = list(dict.fromkeys(event["pid"] for event in drawn))
    assert len(pids) == 2
    for pid, first in zip(pids, (["loader"], ["program"]), strict=True):
        phases = [event for event in drawn if event["ph"] in "be" and event["pid"] == pid]
        begun = [event["name"] for event in phases if event["ph"] == "b"]
        assert begun == [*first, "interpreter", "startup", "program", "exit"]
        assert [event["name"] for event in phases if event["ph"] == "e"] == begun
        assert [event["ph"] for event in phases] == ["b", "e"] * len(begun)
        ends, begins = phases[1:-1:2], phases[2::2]
        assert [event["ts"] for event in ends] == [event["ts"] for event in begins]


def test_the_calls_are_those_of_json(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    subprocess.run([*TRACE, "--perfetto", out, "true"], timeout=60, check=True)
    done = subprocess.run([*TRACE, "--json", "true"], capture_output=True, text=True, timeout=60, check=True)
    drawn = Counter(event["name"] for event in json.loads(out.read_text())["traceEvents"] if event["ph"] == "X")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert drawn == Counter(event["name"] for event in told if event["event"] == "syscall")


def test_an_interrupted_picture_is_whole(sleeper: subprocess.Popen[str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    subprocess.run(["timeout", "-s", "INT", "1", *TRACE, "--perfetto", out, "-p", str(sleeper.pid)], timeout=60, check=False)
    events = json.loads(out.read_text())["traceEvents"]
    assert [event["ph"] for event in events if event["ph"] in "be"] == ["b", "e"]


def test_it_is_an_output_of_its_own() -> None:
    done = subprocess.run(
        [*TRACE, "--perfetto", "x", "--json", "true"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
