"""On which processors templates run, and what of that their clones have: nothing."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shell_template import SHELL, warm

from reflective import Template

ENOUGH = 64  # starts after which a template has long decided
CPUSET = Path("/sys/fs/cgroup/cpuset")


@pytest.fixture
def busy() -> Iterator[None]:
    """A machine all of whose processors are in use."""
    spinning = [subprocess.Popen([SHELL, "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1)]
    yield
    for one in spinning:
        one.kill()
        one.wait()


def processors(template: Template) -> set[int]:
    (one,) = warm(template)
    return os.sched_getaffinity(one.process.pid)


def becomes(template: Template, count: int) -> bool:
    """Whether it may run on so many processors after some more starts: it does not stay where its caller never is."""
    deadline = time.monotonic() + 5
    while len(processors(template)) != count and time.monotonic() < deadline:
        started(template)
    return len(processors(template)) == count


def many(template: Template) -> None:
    for _ in range(ENOUGH):
        os.waitpid(template.spawn(["cat", "/dev/null"]), 0)


def started(template: Template) -> str:
    """The processors of a program, as it sees them."""
    words = ["cat", "/proc/self/status"]
    ours, native = template.run(words, capture_output=True), subprocess.run(words, capture_output=True, check=True)
    lists = [re.findall(rb"Cpus_allowed_list:\t(.*)", done.stdout) for done in (ours, native)]
    assert lists[0] == lists[1]
    return str(lists[0][0], "ascii")


@pytest.mark.parametrize("pool", [0, 4])
@pytest.mark.usefixtures("busy")
def test_near_its_caller(pool: int) -> None:
    """One start after another, on a machine in use: the template stays on one processor; its clones are free all the same."""
    several = os.sched_getaffinity(0)
    if len(several) == 1:
        pytest.skip("with a single processor there is nothing to choose")
    with Template("/bin/cat", pool=pool) as template:
        many(template)
        assert becomes(template, 1)
        started(template)
        with (
            template.Popen(["cat"], stdin=subprocess.PIPE) as one,
            template.Popen(["cat"], stdin=subprocess.PIPE) as two,
        ):
            started(template)
            assert becomes(template, len(several))  # all three shall run at once
            one.communicate()
            two.communicate()


@pytest.mark.usefixtures("busy")
def test_bound_caller() -> None:
    """Who is bound has clones that are."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        with Template("/bin/cat") as template:
            many(template)
            assert started(template) == str(max(before))
            assert processors(template) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def cpuset() -> Iterator[Path]:
    """A set of one processor with this process in it."""
    if os.geteuid():
        pytest.skip("sets of processors are for root")
    if not (CPUSET / "tasks").exists():
        pytest.skip("no hierarchy of cgroups for processors here (cgroup v1)")
    before = os.sched_getaffinity(0)
    group = CPUSET / f"reflective-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpuset.mems").write_text((CPUSET / "cpuset.mems").read_text())
        (group / "cpuset.cpus").write_text("0")
        (group / "tasks").write_text(str(os.getpid()))
        yield group
    finally:
        (CPUSET / "tasks").write_text(str(os.getpid()))
        os.sched_setaffinity(0, before)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                group.rmdir()
                break


@pytest.mark.parametrize("bound", [False, True])
def test_set_that_grows(cpuset: Path, bound: bool) -> None:
    """A program has every processor that its set gets, unless its caller is bound to some."""
    every = (CPUSET / "cpuset.cpus").read_text()
    if bound:
        (cpuset / "cpuset.cpus").write_text(every)
        os.sched_setaffinity(0, {0})
    with Template("/bin/cat") as template:
        many(template)
        started(template)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        with template.Popen(["cat"], **pipes) as ours, subprocess.Popen(["cat"], **pipes) as native:
            for cat in (ours, native):
                assert cat.stdin is not None
                assert cat.stdout is not None
                cat.stdin.write(b"x")
                assert cat.stdout.read(1) == b"x"  # it has begun
            (cpuset / "cpuset.cpus").write_text("0")
            (cpuset / "cpuset.cpus").write_text(every)
            assert os.sched_getaffinity(ours.pid) == os.sched_getaffinity(native.pid)
            assert (len(os.sched_getaffinity(ours.pid)) == 1) == bound
            ours.communicate()
            native.communicate()
