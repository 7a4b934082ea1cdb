"""Every system call that a child makes on its way to the program, made to fail in turn (tests/core/inject.c).

The parent gets an exception with that errno which names the step and the call; no child, no descriptor is left. What may fail
(it resets what may not be there) does not stop the start. After the report pipe is closed nobody can be told any more.
"""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    EIO,
    EMFILE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSYS,
    ENOTDIR,
    EOVERFLOW,
    EPERM,
    ESRCH,
    ETXTBSY,
)
from pathlib import Path
from typing import Any

import pytest
from elfwriter import exit_program

HERE = Path(__file__).parents[1]

# asm/unistd_64.h, for what a child calls
NAMES = {
    2: "open", 3: "close", 9: "mmap", 11: "munmap", 13: "rt_sigaction", 15: "rt_sigreturn", 25: "mremap", 33: "dup2",
    72: "fcntl", 80: "chdir", 95: "umask", 112: "setsid", 113: "setreuid", 114: "setregid", 116: "setgroups",
    117: "setresuid", 119: "setresgid", 126: "capset", 135: "personality", 157: "prctl", 158: "arch_prctl",
    205: "set_thread_area", 217: "getdents64", 218: "set_tid_address", 273: "set_robust_list", 302: "prlimit64",
    334: "rseq", 436: "close_range",
}  # fmt: skip

# What each may give: its manual page, and ENOSYS and EPERM, which a seccomp filter gives.
ERRNOS: dict[str, tuple[int, ...]] = {
    "open": (EACCES, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTDIR),
    "getdents64": (EBADF, EFAULT, EINVAL, ENOENT),
    "close": (EINTR, EIO),
    "mmap": (EACCES, EAGAIN, EEXIST, EINVAL, ENFILE, ENODEV, ENOMEM, EOVERFLOW, ETXTBSY),
    "munmap": (EINVAL, ENOMEM),
    "mremap": (EAGAIN, EFAULT, EINVAL, ENOMEM),
    "rt_sigaction": (EFAULT, EINVAL),
    "dup2": (EBADF, EBUSY, EINTR, EMFILE),
    "fcntl": (EBADF, EINVAL),
    "chdir": (EACCES, EFAULT, EIO, ENOENT, ENOMEM, ENOTDIR),
    "setgroups": (EFAULT, EINVAL, ENOMEM),
    "setreuid": (EAGAIN, EINVAL),
    "setregid": (EINVAL,),
    "capset": (EFAULT, EINVAL, ESRCH),
    "prctl": (EACCES, EBUSY, EFAULT, EINVAL, ENODEV, ENOMEM, E2BIG),
    "arch_prctl": (EFAULT, EINVAL, ENODEV),
    "set_thread_area": (EFAULT, EINVAL, ESRCH),
    "rseq": (EBUSY, EFAULT, EINVAL),
    "close_range": (EINVAL, EMFILE, ENOMEM),
}
FILTERED = (ENOSYS, EPERM)

LOOPS = {"rt_sigaction": "reset-signals", "munmap": "unmap-old"}  # steps of more than one call, named instead of it

# Whose failure changes nothing: there was nothing to reset, or it is done another way.
HARMLESS = {"set_thread_area", "close", "open", "getdents64"}


@dataclass(frozen=True)
class Injected:
    """One start: which call of the child failed, and what came of it."""

    number: int
    call: str
    error: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Injector:
    binary: Path
    directory: Path

    def run(self, kind: str, program: Path, faults: list[tuple[int, int]]) -> tuple[list[list[str]], list[dict[str, Any]]]:
        """The calls of each child, and what its parent made of it."""
        wanted, calls = self.directory / "faults", self.directory / "calls"
        wanted.write_text("".join(f"{number} {error}\n" for number, error in faults))
        host = [sys.executable, str(HERE / "faulty_host.py"), kind, str(program), str(len(faults))]
        command = [str(self.binary), str(wanted), str(calls), *host]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        names = [[NAMES.get(int(word), word) for word in line.split()] for line in calls.read_text().splitlines()]
        return names, [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def errors(name: str, before: list[str]) -> tuple[int, ...]:
        """How the call may fail; one error will do for those of a loop that are not its first."""
        known = tuple(dict.fromkeys((*ERRNOS.get(name, ()), *FILTERED)))
        return known[:1] if before.count(name) > 2 and name in ("rt_sigaction", "fcntl") else known

    def every_fault(self, kind: str, program: Path) -> Iterator[Injected]:
        (calls,), (good,) = self.run(kind, program, [(-1, 0)])
        assert "status" in good
        faults = [(n, e) for n, name in enumerate(calls) for e in self.errors(name, calls[:n])]
        _, results = self.run(kind, program, faults)
        assert len(results) == len(faults)
        for (number, error), result in zip(faults, results, strict=True):
            assert result.pop("descriptors") == good["descriptors"], (calls[number], number, error)
            assert "left" not in result, (calls[number], number, error)
            yield Injected(number, calls[number], error, result)


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Injector:
    directory = tmp_path_factory.mktemp("inject")
    binary = directory / "inject"
    warnings = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror")
    subprocess.run(["gcc", *warnings, "-o", binary, HERE / "core" / "inject.c"], check=True)
    return Injector(binary, directory)


def wrong(fault: Injected, status: int, last: bool) -> str:
    """What is wrong with what came of a fault; "" if nothing. `last`: nobody listens any more."""
    result = fault.result
    if fault.call == "rt_sigreturn":  # it never fails; the child must not run on
        return "" if result == {"status": -signal.SIGSEGV} else "the child lives"
    if last or fault.call in HARMLESS:
        return "" if result == {"status": status} else "the program should run"
    if result == {"status": status}:
        return "" if fault.call in ("prctl", "arch_prctl", "fcntl") else "the program runs although the call failed"
    if result.get("errno") == errno.ETXTBSY and (fault.call, fault.error) == ("prctl", EACCES):
        return "" if "open for writing" in result["reason"] else "another reason"
    if result.get("errno") != fault.error:
        return "another errno"
    named = LOOPS.get(fault.call, fault.call) in result["reason"] and result["reason"].startswith("step ")
    return "" if named else "the call is not named"


def check(injector: Injector, kind: str, program: Path, status: int) -> None:
    faults = list(injector.every_fault(kind, program))
    end = max(fault.number for fault in faults)
    problems = [(fault, problem) for fault in faults if (problem := wrong(fault, status, fault.number == end))]
    assert not problems, "\n".join(f"{problem}: {fault}" for fault, problem in problems)
    assert len({fault.call for fault in faults}) > 12
    # what may fail is little: naming memory, and what older kernels or other processors do not have
    harmless = {(fault.number, fault.call) for fault in faults if fault.result == {"status": status}}
    assert len([call for _, call in harmless if call == "prctl"]) <= 2
    assert len([call for _, call in harmless if call == "arch_prctl"]) <= 1


@pytest.mark.slow
def test_static(injector: Injector, tmp_path: Path) -> None:
    check(injector, "plain", exit_program(42).write(tmp_path / "program"), 42)


@pytest.mark.slow
def test_dynamic(injector: Injector) -> None:
    check(injector, "plain", Path("/bin/true"), 0)


@pytest.mark.slow
def test_with_all_that_a_caller_may_wish(injector: Injector) -> None:
    check(injector, "everything", Path("/bin/true"), 0)
