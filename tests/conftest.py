"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import skips
from shell_template import SHELL, warm

from reflective import Template
from reflective.conform.variants import Compiler

# From Python 3.13 on it would start programs with posix_spawn, when the path has a slash: glibc's leaves signals 32 and 33
# ignored, which execve does not.
subprocess._USE_POSIX_SPAWN = False  # type: ignore[misc]

# A shell without job control ignores these two for what it starts with "&", nohup the third; programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _children() -> set[str]:
    """The children of this process, of whichever thread: pids, and what each runs; zombies too."""
    pids = (pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split())
    return {f"{pid} {Path(f'/proc/{pid}/stat').read_text().split(') ')[0].split('(')[1]}" for pid in pids}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test ends the processes that it starts, another's might wait for any child; and stays on the processors it was on."""
    children, processors = _children(), os.sched_getaffinity(0)
    yield
    assert not _children() - children
    assert os.sched_getaffinity(0) == processors


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Compiles the programs of tests/programs, each variant once a session."""
    return Compiler(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """A process that makes system calls until it is killed."""
    code = "import time, sys\nwhile True: sys.stdout.write('.'); sys.stdout.flush(); time.sleep(0.02)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        yield process
        process.kill()


@pytest.fixture(params=[0, 2], ids=["template", "pool"])
def shell(request: pytest.FixtureRequest) -> Iterator[Template]:
    """A template of the shell that has already been used; whatever it was used for, it is a template until the end."""
    with Template(SHELL, pool=request.param) as template:
        assert template.run(["sh", "-c", "exit 3"]).returncode == 3
        yield template
        assert warm(template), "not from a template"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, a test that is skipped has failed."""
    report = yield
    skips.refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, so has a module."""
    report = yield
    skips.refuse(report)
    return report
